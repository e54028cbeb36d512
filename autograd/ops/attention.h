// Attention whose mask gives every query one contiguous range of keys: causal, sliding window,
// image blocks, packed documents.
#ifndef LAPIDARY_AUTOGRAD_OPS_ATTENTION_H_
#define LAPIDARY_AUTOGRAD_OPS_ATTENTION_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "autograd/tape.h"

namespace lapidary {

// Query n sees the keys [lo[n], hi[n]), which lie inside its document; begin[n] is the first key of
// the document. Keys are summed in blocks of 64 counted from begin[n], so a document's result does
// not depend on what is packed around it. lo, hi and begin never decrease with n, and lo[n] <
// hi[n].
struct AttentionSpans {
  std::vector<int32_t> lo, hi, begin;
};

// o[n, h] = sum over k of softmax_k(scale * q[n, h] . k[k, g]) v[k, g],  g = h / (H / G).
//   q [N, H, D], k and v [M, G, D], H a multiple of G; o [N, H, D]. Keys and queries are numbered
//   apart (M != N with a cache).
// Never forms an N x M matrix: works on blocks of queries and 64 keys with a running maximum and
// sum; saves q, k, v, o and the log-sum-exp [N, H], and recomputes the probabilities in the
// gradient. compute bfloat16: the operands of the four products are rounded to bf16 (q, k, v,
// probabilities, do, ds); sums, softmax in float32. Source: Dao 2023, arXiv:2307.08691, algorithms
// 1 and 2.
Var Attention(Var q, Var k, Var v, std::shared_ptr<const AttentionSpans> spans, float scale,
              bool round_to_bf16);

// The parts of it, for callers who keep or compute again what its gradient needs.
// o [N, H, D] and lse [N, H] are written.
void AttentionForward(const Tensor& q, const Tensor& k, const Tensor& v,
                      const AttentionSpans& spans, float scale, bool round_to_bf16, Tensor* o,
                      Tensor* lse);
// delta[n, h] = sum over d of dout[n, h, d] o[n, h, d], both [N, H, D].
void AttentionDelta(const Tensor& dout, const Tensor& o, Tensor* delta);
// Adds to dq [N, H, D], dk and dv [M, G, D]. Every element is one chain of additions over the keys
// or the rows, in order, from what is there: calls on runs of queries in order have the bits of
// one call on all. Of very long sequences a part of the keys is laid out at a time (64 MB).
struct AttentionGradient {
  float *dq, *dk, *dv;  // null if not wanted
};
void AttentionBackward(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& dout,
                       const Tensor& lse, const Tensor& delta, const AttentionSpans& spans,
                       float scale, bool round_to_bf16, const AttentionGradient& gradient);

// Spans of the queries [first, first + count).
AttentionSpans SpansOf(const AttentionSpans& spans, int64_t first, int64_t count);

}  // namespace lapidary

#endif  // LAPIDARY_AUTOGRAD_OPS_ATTENTION_H_
