// Text generation with a key-value cache: greedy or sampled (temperature, top-k, top-p), stop ids,
// suppressed ids.
#ifndef LAPIDARY_MODEL_GENERATE_H_
#define LAPIDARY_MODEL_GENERATE_H_

#include <cstdint>
#include <functional>
#include <vector>

#include "model/transformer.h"

namespace lapidary {

struct GenerateOptions {
  int64_t max_new_tokens = 256;
  bool do_sample = false;  // else the arg max
  double temperature = 1.0;
  int64_t top_k = 64;   // 0: all
  double top_p = 0.95;  // 1: all
  uint64_t seed = 0;
  std::vector<int32_t> stop_ids = {1, 106, 50};
  std::vector<int32_t> suppress_ids;  // never produced; their logits are -inf before anything else
  int64_t prefill_chunk = 1024;  // tokens at a time; never splits an image; does not change bits
  const ActivationPolicy* activations = nullptr;  // asked whether the base is streamed; null: no
  Compute compute = Compute::kBfloat16;
  ImageMask image_mask = ImageMask::kSlidingOnly;
};

struct GenerateResult {
  std::vector<int32_t> ids;  // new tokens, the stop id included
  bool stopped = false;      // by a stop id
  double prefill_seconds = 0, decode_seconds = 0;
};

// Continues `prompt` (one document). `on_token` may be empty; returning false ends the generation.
GenerateResult Generate(Transformer& model, const ModelInput& prompt,
                        const GenerateOptions& options,
                        const std::function<bool(int32_t)>& on_token);

}  // namespace lapidary

#endif  // LAPIDARY_MODEL_GENERATE_H_
