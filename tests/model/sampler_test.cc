// Sampling against its definition: a full sort, then the cumulated probabilities.
#include "model/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>
#include <string>
#include <vector>

#include "autograd/base/random.h"

namespace lapidary {
namespace {

int32_t BySorting(const std::vector<float>& logits, const GenerateOptions& options, int64_t step) {
  const auto kept =
      SamplingDistribution(logits.data(), static_cast<int64_t>(logits.size()), options);
  double target = RandomUniform(
      {options.seed, static_cast<uint64_t>(step), HashName(std::string("sample"))}, options.sample);
  for (const auto& [id, p] : kept) {
    target -= p;
    if (target < 0) return id;
  }
  return kept.back().first;
}

std::vector<float> Logits(int64_t n, float spread) {
  std::vector<float> logits(n);
  for (int64_t i = 0; i < n; ++i) {
    // Rounded, so that many are equal.
    logits[i] = std::round(spread * RandomNormal({3, 0, 0}, static_cast<uint64_t>(i)) * 8) / 8;
  }
  return logits;
}

TEST(Sampler, DrawsWhatSortingDraws) {
  for (const float spread : {0.01f, 1.0f, 6.0f}) {
    for (const int64_t n : {1, 7, 5000, 40000}) {
      const std::vector<float> logits = Logits(n, spread);
      for (const int64_t k : {0, 1, 64, 100000}) {
        for (const auto& [p, least] :
             {std::pair{0.05, 0.0}, {0.95, 0.0}, {1.0, 0.0}, {0.95, 0.1}, {1.0, 0.01}}) {
          GenerateOptions options;
          options.top_k = k;
          options.top_p = p;
          options.min_p = least;
          options.temperature = 0.7;
          options.sample = static_cast<uint64_t>(k % 3);
          for (int64_t step = 0; step < 5; ++step) {
            EXPECT_EQ(SampleToken(logits.data(), n, options, step),
                      BySorting(logits, options, step))
                << "n " << n << " k " << k << " p " << p << " min_p " << least << " spread "
                << spread;
          }
        }
      }
    }
  }
}

TEST(Sampler, FollowsTheProbabilities) {
  const std::vector<float> logits = {std::log(0.2f), std::log(0.5f), std::log(0.3f), -INFINITY};
  GenerateOptions options;
  options.top_k = 0;
  options.top_p = 1;
  std::map<int32_t, int> seen;
  for (int64_t step = 0; step < 10000; ++step) ++seen[SampleToken(logits.data(), 4, options, step)];
  EXPECT_NEAR(seen[0], 2000, 200);
  EXPECT_NEAR(seen[1], 5000, 250);
  EXPECT_NEAR(seen[2], 3000, 230);
  EXPECT_EQ(seen.count(3), 0u);
}

// tests/oracle/make_sampler_golden.py
TEST(Sampler, EqualsTransformers) {
  std::ifstream in(LAPIDARY_SOURCE_DIR "/tests/model/sampler_cases.json");
  const nlohmann::json cases = nlohmann::json::parse(in);
  for (const nlohmann::json& c : cases) {
    std::vector<float> logits = c["logits"];
    const auto n = static_cast<int64_t>(logits.size());
    const std::vector<int32_t> seen = c["seen"], suppress = c["suppress"];
    GenerateOptions options;
    options.temperature = c["temperature"];
    options.top_k = c["top_k"];
    options.top_p = c["top_p"];
    options.min_p = c["min_p"];
    for (const int32_t id : suppress) logits[id] = -INFINITY;
    PenalizeRepetition(logits.data(), n, seen, c["repetition_penalty"]);
    const auto got = SamplingDistribution(logits.data(), n, options);
    const auto& want = c["expected"];
    size_t drawable = 0;
    for (const auto& [id, p] : got) {
      if (p == 0) continue;  // suppressed, where top_k is larger than what is left
      ++drawable;
      ASSERT_TRUE(want.contains(std::to_string(id))) << c.dump();
      EXPECT_NEAR(p, want[std::to_string(id)].get<double>(), 1e-6) << c.dump();
    }
    EXPECT_EQ(drawable, want.size()) << c.dump();
  }
  EXPECT_GE(cases.size(), 50u);
}

// Other samples and seeds draw other tokens; the same ones the same.
TEST(Sampler, DrawsAreAFunctionOfSeedSampleAndStep) {
  const std::vector<float> logits = Logits(1000, 1);
  const auto draw = [&](uint64_t seed, uint64_t sample) {
    GenerateOptions options;
    options.seed = seed;
    options.sample = sample;
    std::vector<int32_t> ids;
    for (int64_t step = 0; step < 8; ++step)
      ids.push_back(SampleToken(logits.data(), 1000, options, step));
    return ids;
  };
  EXPECT_EQ(draw(1, 2), draw(1, 2));
  EXPECT_NE(draw(1, 2), draw(1, 3));
  EXPECT_NE(draw(1, 2), draw(2, 2));
}

TEST(Sampler, LogprobsSumToOne) {
  const std::vector<float> logits = Logits(300, 3);
  double sum = 0;
  for (int32_t id = 0; id < 300; ++id) sum += std::exp(LogProbability(logits.data(), 300, id));
  EXPECT_NEAR(sum, 1, 1e-12);
  const auto best = LargestLogits(logits.data(), 300, 4);
  EXPECT_EQ(best.size(), 4u);
  EXPECT_EQ(best[0].first, ArgMax(logits.data(), 300));
  EXPECT_TRUE(LargestLogits(logits.data(), 300, 0).empty());
}

TEST(Sampler, ArgMaxIsTheLowestId) {
  const std::vector<float> logits = {1, 3, 2, 3};
  EXPECT_EQ(ArgMax(logits.data(), 4), 1);
}

}  // namespace
}  // namespace lapidary
