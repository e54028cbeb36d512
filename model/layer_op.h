// A decoder layer as one op of the tape, which keeps for its gradient what a policy says and
// computes the rest again, once. Row by row it works on runs of tokens, so that what it needs in
// between is that of a run; the only part that mixes tokens, attention, is in attention_core.h.
#ifndef LAPIDARY_MODEL_LAYER_OP_H_
#define LAPIDARY_MODEL_LAYER_OP_H_

#include <functional>
#include <memory>

#include "model/activation_policy.h"
#include "model/decoder_layer.h"

namespace lapidary {

struct LayerPass {
  Layer* layer = nullptr;                       // must outlive the tape, as its parameters
  std::shared_ptr<const LayerContext> context;  // without a cache
  LayerKeep keep = LayerKeep::kInput;
  StashPolicy stash;            // how the input waits (kInt8 loses, in all keeps)
  int64_t chunk = 512;          // tokens of a run, a multiple of 64
  bool split = false;           // attention group by group (attention_core.h)
  std::function<void()> enter;  // called before the layer is computed, forward and again; or null
};

// h [N, C] -> [N, C]. On a tape that records nothing, nothing is kept. The same bits for every
// `keep`, `chunk`, `split` and stash but int8. Every parameter of the layer that trains gets its
// gradient, whether h needs one or not.
Var RunLayer(LayerPass pass, Var h);

}  // namespace lapidary

#endif  // LAPIDARY_MODEL_LAYER_OP_H_
