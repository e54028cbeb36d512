// What the layers keep between the forward and the backward pass, layer by layer. Every choice but
// int8 gives the same bits.
#ifndef LAPIDARY_MODEL_ACTIVATION_POLICY_H_
#define LAPIDARY_MODEL_ACTIVATION_POLICY_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "autograd/stash.h"

namespace lapidary {

enum class LayerKeep {
  kInput,       // the layer's input: both stages are computed again
  kAttention,   // what the attention stage computed: the feed-forward stage is computed again
  kEverything,  // nothing is computed again
};

struct LayerPolicy {
  LayerKeep keep = LayerKeep::kInput;
  bool on_disk = false;  // the input of kInput goes to ActivationPolicy::file
};

struct ActivationPolicy {
  std::vector<LayerPolicy> layers;  // empty: LayerPolicy{} for all
  bool int8 = false;    // inputs as int8 with a scale per row (lossy); else bf16 in bfloat16
                        // compute, float32 in float32 compute
  int64_t chunk = 512;  // tokens at a time of what is row by row, a multiple of 64
  bool split_attention = false;  // attention group by group (attention_core.h)
  bool stream_base = false;  // the weights of layers do not stay resident when others are computed
  std::shared_ptr<StashFile> file;  // where inputs on disk go; must be set if a layer says so

  LayerPolicy Of(size_t layer) const {
    return layer < layers.size() ? layers[layer] : LayerPolicy{};
  }
};

}  // namespace lapidary

#endif  // LAPIDARY_MODEL_ACTIVATION_POLICY_H_
