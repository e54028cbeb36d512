// Keys and values of one document for inference, in the order that attention's kernels read them:
// blocks of 64 keys that are filled in place, so a new token moves only its own key and value, and
// decoding reads every kept key once. Values stay float32: what a cache gives has the bits of
// attention over the whole document.
#ifndef LAPIDARY_AUTOGRAD_OPS_ATTENTION_CACHE_H_
#define LAPIDARY_AUTOGRAD_OPS_ATTENTION_CACHE_H_

#include <cstdint>
#include <deque>
#include <vector>

#include "autograd/ops/attention.h"
#include "autograd/tensor.h"

namespace lapidary {

class AttentionCache {
 public:
  // Adds the keys and values of the next n tokens, [n, G, D] each; G and D never change.
  void Append(const Tensor& k, const Tensor& v);
  // Forgets whole blocks of keys before position `key`; their memory serves blocks to come.
  void Forget(int64_t key);

  // Forgets the keys from position `length` on: Append goes on there. Only while no key before it
  // that is still wanted was forgotten: first() tells.
  void Truncate(int64_t length);
  // A second cache of the same keys and values. Whole blocks are shared: neither of the two writes
  // to them again.
  AttentionCache Snapshot();

  int64_t length() const { return length_; }  // tokens seen
  int64_t first() const { return first_; }    // position of the first kept key, a multiple of 64
  int64_t bytes() const;                      // of memory held

  // Attention (attention.h) of queries [N, H, D] over the cache, without gradients. Spans count
  // positions from the start of the document: begin is 0, first() <= lo, hi <= length(). The bits
  // are those of Attention over the whole document, for any N and any number of threads.
  Tensor Attend(const Tensor& q, const AttentionSpans& spans, float scale) const;

 private:
  int64_t groups_ = 0, width_ = 0, first_ = 0, length_ = 0;
  int64_t shared_ = 0;         // blocks before this position may be those of a snapshot, too
  std::deque<Tensor> blocks_;  // of 64 keys each: for every group keys transposed, then values
  std::vector<Tensor> spare_;
};

}  // namespace lapidary

#endif  // LAPIDARY_AUTOGRAD_OPS_ATTENTION_CACHE_H_
