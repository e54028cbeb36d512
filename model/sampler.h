// Choosing the next token from logits.
#ifndef LAPIDARY_MODEL_SAMPLER_H_
#define LAPIDARY_MODEL_SAMPLER_H_

#include <cstdint>

#include "model/generate.h"

namespace lapidary {

// The lowest id with the largest of n logits.
int32_t ArgMax(const float* logits, int64_t n);

// Temperature, then the top_k largest logits (equal ones by id), then the smallest set of them
// whose probability reaches top_p, as Transformers orders its warpers. A function of the logits,
// options.seed and step. Costs one pass over the vocabulary and a sort of few candidates.
int32_t SampleToken(const float* logits, int64_t n, const GenerateOptions& options, int64_t step);

}  // namespace lapidary

#endif  // LAPIDARY_MODEL_SAMPLER_H_
