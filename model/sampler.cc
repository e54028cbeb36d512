#include "model/sampler.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include "autograd/base/random.h"

namespace lapidary {
namespace {

struct Candidate {
  float logit;
  int32_t id;
};
bool Better(const Candidate& a, const Candidate& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
}

// The k best, best first. A heap with the worst of them on top: after the first few thousand ids
// hardly any gets past it.
std::vector<Candidate> Best(const float* logits, int64_t n, int64_t k) {
  std::vector<Candidate> best;
  best.reserve(static_cast<size_t>(k));
  for (int64_t i = 0; i < k; ++i) best.push_back({logits[i], static_cast<int32_t>(i)});
  std::make_heap(best.begin(), best.end(), Better);
  for (int64_t i = k; i < n; ++i) {
    if (!(logits[i] > best.front().logit)) continue;
    std::pop_heap(best.begin(), best.end(), Better);
    best.back() = {logits[i], static_cast<int32_t>(i)};
    std::push_heap(best.begin(), best.end(), Better);
  }
  std::sort_heap(best.begin(), best.end(), Better);
  return best;
}

}  // namespace

int32_t ArgMax(const float* logits, int64_t n) {
  return static_cast<int32_t>(std::max_element(logits, logits + n) - logits);
}

std::vector<std::pair<int32_t, float>> LargestLogits(const float* logits, int64_t n, int64_t k) {
  std::vector<std::pair<int32_t, float>> largest;
  if (k <= 0) return largest;
  for (const Candidate& c : Best(logits, n, std::min(k, n))) largest.emplace_back(c.id, c.logit);
  return largest;
}

void PenalizeRepetition(float* logits, int64_t n, std::span<const int32_t> ids, double penalty) {
  if (penalty == 1) return;
  std::vector<int32_t> once(ids.begin(), ids.end());
  std::sort(once.begin(), once.end());
  once.erase(std::unique(once.begin(), once.end()), once.end());
  const auto by = static_cast<float>(penalty);
  for (const int32_t id : once) {
    if (id < 0 || id >= n) continue;
    logits[id] = logits[id] < 0 ? logits[id] * by : logits[id] / by;
  }
}

std::vector<std::pair<int32_t, double>> SamplingDistribution(const float* logits, int64_t n,
                                                             const GenerateOptions& options) {
  std::vector<int32_t> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
  if (options.top_k > 0 && options.top_k < n) order.resize(static_cast<size_t>(options.top_k));
  std::vector<double> weights;
  double sum = 0;
  for (const int32_t id : order) {
    weights.push_back(
        std::exp((static_cast<double>(logits[id]) - static_cast<double>(logits[order[0]])) /
                 options.temperature));
    sum += weights.back();
  }
  std::vector<std::pair<int32_t, double>> kept;
  double mass = 0;
  for (size_t i = 0; i < order.size(); ++i) {
    const bool enough = options.top_p < 1 && mass >= options.top_p * sum;
    if (i > 0 && (enough || weights[i] < options.min_p)) break;
    kept.emplace_back(order[i], weights[i]);
    mass += weights[i];
  }
  for (auto& [id, weight] : kept) weight /= mass;
  return kept;
}

int32_t SampleToken(const float* logits, int64_t n, const GenerateOptions& options, int64_t step) {
  const bool all = options.top_k <= 0 || options.top_k >= n;
  // Without top_k, few candidates carry most of the probability: more are sorted only on demand.
  constexpr int64_t kFirst = 1024, kMore = 8;
  std::vector<Candidate> best = Best(logits, n, all ? std::min(kFirst, n) : options.top_k);
  const auto weight = [&, top = static_cast<double>(best[0].logit)](float logit) {
    return std::exp((static_cast<double>(logit) - top) / options.temperature);
  };
  double sum = 0;
  if (all) {
    for (int64_t i = 0; i < n; ++i) sum += weight(logits[i]);
  } else {
    for (const Candidate& c : best) sum += weight(c.logit);
  }
  // How many of the best, one after the other, it takes to reach `mass`, and what they have; it
  // ends before the first with less weight than min_p (the best one has 1).
  struct Prefix {
    size_t count;
    double mass;
  };
  const auto reach = [&](double mass) {
    Prefix p = {0, 0};
    while (p.count == 0 || p.mass < mass) {
      if (p.count == best.size()) {
        if (!all || static_cast<int64_t>(best.size()) == n) break;
        best = Best(logits, n, std::min(n, kMore * static_cast<int64_t>(best.size())));
      }
      const double next = weight(best[p.count].logit);
      if (p.count > 0 && next < options.min_p) break;
      p.mass += next;
      ++p.count;
    }
    return p;
  };
  const bool cut = options.top_p < 1 || options.min_p > 0;
  const double kept = cut ? reach(options.top_p < 1 ? options.top_p * sum : sum).mass : sum;
  const RandomKey key = {options.seed, static_cast<uint64_t>(step),
                         HashName(std::string("sample"))};
  const double target = static_cast<double>(RandomUniform(key, options.sample)) * kept;
  // The first whose cumulated weight exceeds the draw.
  return best[reach(std::nextafter(target, kept)).count - 1].id;
}

double LogProbability(const float* logits, int64_t n, int32_t id) {
  return LogSoftmax(logits, n)(logits[id]);
}

LogSoftmax::LogSoftmax(const float* logits, int64_t n)
    : top_(*std::max_element(logits, logits + n)) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += std::exp(static_cast<double>(logits[i]) - top_);
  log_sum_ = std::log(sum);
}

}  // namespace lapidary
