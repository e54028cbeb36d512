// Choosing the next token from logits, in the order of Transformers' logits processors: repetition
// penalty, (a constraint's mask,) temperature, top_k, top_p, min_p, then one draw.
#ifndef LAPIDARY_MODEL_SAMPLER_H_
#define LAPIDARY_MODEL_SAMPLER_H_

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "model/generate.h"

namespace lapidary {

// The lowest id with the largest of n logits.
int32_t ArgMax(const float* logits, int64_t n);

// The k largest logits, best first (equal ones by id). k <= n.
std::vector<std::pair<int32_t, float>> LargestLogits(const float* logits, int64_t n, int64_t k);

// Divides positive logits of `ids` by `penalty` and multiplies negative ones, each id once however
// often it stands there (Keskar et al. 2019, arXiv:1909.05858, in Transformers' form). Ids outside
// [0, n) are passed over.
void PenalizeRepetition(float* logits, int64_t n, std::span<const int32_t> ids, double penalty);

// What SampleToken draws from: ids with their probabilities, best first, sum 1. The definition,
// with a full sort; SampleToken finds the same without one.
std::vector<std::pair<int32_t, double>> SamplingDistribution(const float* logits, int64_t n,
                                                             const GenerateOptions& options);

// Temperature, then the top_k largest logits (equal ones by id), then the smallest set of them
// whose probability reaches top_p, then those at least min_p times as probable as the best. A
// function of the logits, options.seed, options.sample and step. Costs one pass over the vocabulary
// and a sort of few candidates.
int32_t SampleToken(const float* logits, int64_t n, const GenerateOptions& options, int64_t step);

// Log-probabilities of n logits, sums in double; equal logits have equal ones.
class LogSoftmax {
 public:
  LogSoftmax(const float* logits, int64_t n);
  double operator()(float logit) const { return static_cast<double>(logit) - top_ - log_sum_; }

 private:
  double top_, log_sum_ = 0;
};
// That of `id`.
double LogProbability(const float* logits, int64_t n, int32_t id);

}  // namespace lapidary

#endif  // LAPIDARY_MODEL_SAMPLER_H_
