// Sampling against its definition: a full sort, then the cumulated probabilities.
#include "model/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <string>
#include <vector>

#include "autograd/base/random.h"

namespace lapidary {
namespace {

int32_t BySorting(const std::vector<float>& logits, const GenerateOptions& options, int64_t step) {
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
  if (options.top_k > 0 && options.top_k < static_cast<int64_t>(order.size()))
    order.resize(options.top_k);
  double sum = 0, kept = 0;
  std::vector<double> p;
  for (int32_t id : order) {
    p.push_back(
        std::exp((static_cast<double>(logits[id]) - logits[order[0]]) / options.temperature));
    sum += p.back();
  }
  size_t count = 0;
  while (count < p.size() && (count == 0 || kept < options.top_p * sum)) kept += p[count++];
  double target =
      kept * static_cast<double>(RandomUniform(
                 {options.seed, static_cast<uint64_t>(step), HashName(std::string("sample"))}, 0));
  for (size_t i = 0; i < count; ++i) {
    target -= p[i];
    if (target < 0) return order[i];
  }
  return order[count - 1];
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
        for (const double p : {0.05, 0.95, 1.0}) {
          GenerateOptions options;
          options.top_k = k;
          options.top_p = p;
          options.temperature = 0.7;
          for (int64_t step = 0; step < 5; ++step) {
            EXPECT_EQ(SampleToken(logits.data(), n, options, step),
                      BySorting(logits, options, step))
                << "n " << n << " k " << k << " p " << p << " spread " << spread;
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

TEST(Sampler, ArgMaxIsTheLowestId) {
  const std::vector<float> logits = {1, 3, 2, 3};
  EXPECT_EQ(ArgMax(logits.data(), 4), 1);
}

}  // namespace
}  // namespace lapidary
