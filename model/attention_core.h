// Attention of a decoder layer up to the heads' outputs, and its gradient, without ever holding
// queries, keys, values and their gradients of all tokens and heads at once: key/value groups (keys
// and values with the query heads that share them) come one after the other, or all together where
// memory is plenty, and queries come in runs of tokens. What must cover all tokens are the keys
// and values of the groups at hand with their gradients, and the heads' outputs, which are kept as
// the next product reads them (bf16 in bfloat16 compute) and give their room to their gradient and
// then to that of the query projection.
//
// Bits depend on none of this, nor on threads: groups have nothing in common but the gradient of
// the input, which one product over all of them forms at the end; sums over tokens go on from run
// to run; and where norms of queries and keys are trained, their gradients are summed group by
// group in every case.
#ifndef LAPIDARY_MODEL_ATTENTION_CORE_H_
#define LAPIDARY_MODEL_ATTENTION_CORE_H_

#include <cstdint>
#include <functional>
#include <vector>

#include "autograd/tensor.h"
#include "model/decoder_layer.h"

namespace lapidary {

// Rows [first, first + count) of the layer's input, f32 [count, C].
using InputRows = std::function<Tensor(int64_t first, int64_t count)>;

struct AttentionState {
  Tensor o;        // [N, H D] heads' outputs, bf16 in bfloat16 compute, else f32
  Tensor lse;      // [N, H] log-sum-exp, f32
  Tensor q, k, v;  // projections [N, H D], [N, G D] twice, f32, before norms and rotation; v
                   // undefined where k serves as v; all undefined: to be computed again
};

// Where a pass over runs of tokens begins: at the first. A dry run passes over all but the runs of
// the last 16,384 tokens or so, which take as much memory as those before them, or more.
int64_t FirstRunOf(int64_t run, int64_t tokens);

struct AttentionCut {
  bool split = false;   // see HeadOutputs
  int64_t chunk = 512;  // tokens that are row by row at a time, a multiple of 64; runs of queries
                        // are twice as long at most
};

// `cut.split`: projections are computed group by group, and again for the gradient, instead of
// being kept: a third less of memory at the peak, for a third time of q, k and v's products (4 % of
// a step). Weights that cannot be cut (RowsApart in linear.h: trainable, DoRA, dropout) are
// multiplied whole. `keep`: leave projections in the state, if they are not split.
AttentionState HeadOutputs(Layer& layer, const InputRows& x, int64_t tokens,
                           const LayerContext& context, const AttentionCut& cut, bool keep);

// From the gradient of o, which state.o holds by now, and delta[n, h], the products of rows of o
// with it: adds to the gradients of the layer's parameters (`params`: those that train) and to dx
// [N, C], if defined. Uses up the state.
void HeadOutputsGradient(Layer& layer, const InputRows& x, AttentionState state,
                         const Tensor& delta, const LayerContext& context, const AttentionCut& cut,
                         const std::vector<Param*>& params, const Tensor& dx);

}  // namespace lapidary

#endif  // LAPIDARY_MODEL_ATTENTION_CORE_H_
