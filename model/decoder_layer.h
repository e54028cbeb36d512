// One decoder layer: attention and gated feed-forward, each between two norms, then the layer
// scalar (gemma4-12b.md 3.5, 3.6).
#ifndef LAPIDARY_MODEL_DECODER_LAYER_H_
#define LAPIDARY_MODEL_DECODER_LAYER_H_

#include <memory>
#include <vector>

#include "model/transformer.h"

namespace lapidary {

// What all layers of a forward pass share.
struct LayerContext {
  LinearContext linear;
  float rms_norm_eps = 1e-6f;
  int64_t num_attention_heads = 0;
  std::vector<int64_t> step_positions;                  // [N], what linear.step_positions names
  std::vector<int32_t> positions;                       // [N]
  std::shared_ptr<const AttentionSpans> sliding, full;  // by kind of layer; with a cache: unused
  AttentionCache* cache = nullptr;                      // set for generation
  bool last_only = false;                               // give the last token's row alone
  int64_t past = 0;                                     // tokens in the cache before this pass
  int64_t window = 0;
  const ModelInput* input = nullptr;  // for spans over the cache
  bool hf_rule = false;
  bool int8_kv_cache = false;  // keys and values are fake-quantized (model/qat.h)
};

// A context for rows [first, first + count) of the pass: dropout counts tokens by their place in
// the step.
class RowsContext {
 public:
  RowsContext(const LinearContext& whole, int64_t first, int64_t count);
  RowsContext(const RowsContext&) = delete;
  RowsContext& operator=(const RowsContext&) = delete;
  const LinearContext& linear() const { return linear_; }

 private:
  LinearContext linear_;
  std::vector<int64_t> positions_;
};

// A layer is two stages, h [N, C] -> [N, C] each: attention with its norms and residual, then the
// feed-forward stage with its own, the layer scalar and, in bf16 compute, the rounding of the
// result to bf16 (what a checkpoint keeps of it then loses nothing).
Var AttentionStage(Layer& layer, Var h, const LayerContext& context);
// The attention stage after attention itself: `o` [N, heads x width] are the heads' outputs. Row by
// row: `h` and `o` are rows [first, first + h.shape()[0]) of the pass.
Var OutputStage(Layer& layer, Var h, Var o, int64_t first, const LayerContext& context);
// Row by row: `h` are rows [first, first + h.shape()[0]) of the pass.
Var FeedForwardStage(Layer& layer, Var h, int64_t first, const LayerContext& context);
// Attention stage and feed-forward stage in one piece, what generation runs and layer_op.h is
// tested against; [1, C], the last row, if last_only.
Var Forward(Layer& layer, Var h, const LayerContext& context);

}  // namespace lapidary

#endif  // LAPIDARY_MODEL_DECODER_LAYER_H_
