#include "model/sampler.h"

#include <algorithm>
#include <cmath>
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
  // How many of the best, one after the other, it takes to reach `mass`, and what they have.
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
      p.mass += weight(best[p.count++].logit);
    }
    return p;
  };
  const double kept = options.top_p < 1 ? reach(options.top_p * sum).mass : sum;
  const RandomKey key = {options.seed, static_cast<uint64_t>(step),
                         HashName(std::string("sample"))};
  const double target = static_cast<double>(RandomUniform(key, 0)) * kept;
  // The first whose cumulated weight exceeds the draw.
  return best[reach(std::nextafter(target, kept)).count - 1].id;
}

}  // namespace lapidary
