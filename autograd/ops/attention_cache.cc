#include "autograd/ops/attention_cache.h"

#include <algorithm>

#include "autograd/base/error.h"
#include "autograd/base/parallel.h"
#include "autograd/kernels/kernels.h"
#include "autograd/ops/attention_plan.h"
#include "autograd/profile.h"

namespace lapidary {

void AttentionCache::Append(const Tensor& k, const Tensor& v) {
  const Shape ks = k.shape();
  LAPIDARY_CHECK(ks.rank == 3 && v.shape() == ks && ks[1] >= 1 && ks[2] >= 1,
                 "attention cache: keys and values must be [n, G, D]; got ", ks, " and ",
                 v.shape());
  LAPIDARY_CHECK(length_ == 0 || (ks[1] == groups_ && ks[2] == width_),
                 "attention cache: keys must be [n, ", groups_, ", ", width_, "]; got ", ks);
  groups_ = ks[1];
  width_ = ks[2];
  AttentionArgs a = {};
  a.groups = groups_;
  a.width = width_;
  a.k = k.data();
  a.v = v.data();
  std::vector<AttentionKeyBlock> fill;
  std::vector<float*> to;
  for (int64_t row = 0; row < ks[0];) {
    const int64_t at = length_ - first_, filled = at % kAttentionKeys;
    if (filled == 0) {
      if (spare_.empty()) {
        blocks_.emplace_back(Shape{groups_, BlockFloats(a)});
      } else {
        blocks_.push_back(std::move(spare_.back()));
        spare_.pop_back();
      }
    }
    const int64_t keys = std::min(kAttentionKeys - filled, ks[0] - row);
    fill.push_back({.key = row, .keys = keys, .query = 0, .query_end = 0, .filled = filled});
    to.push_back(blocks_.back().data());
    row += keys;
    length_ += keys;
  }
  a.key_blocks = fill.data();
  a.key_block_count = static_cast<int64_t>(fill.size());
  a.blocks = to.data();
  // One token's worth is too little to wake a thread for.
  ParallelFor(
      groups_ * a.key_block_count, [&](Range r) { ActiveKernels().AttentionPack(a, r); },
      ks[0] == 1 ? groups_ : 1);
}

void AttentionCache::Forget(int64_t key) {
  while (!blocks_.empty() && first_ + kAttentionKeys <= std::min(key, length_)) {
    if (first_ >= shared_) spare_.push_back(std::move(blocks_.front()));
    blocks_.pop_front();
    first_ += kAttentionKeys;
  }
}

void AttentionCache::Truncate(int64_t length) {
  LAPIDARY_CHECK(length >= first_ && length <= length_,
                 "attention cache: the new length must be from ", first_, " to ", length_, "; got ",
                 length);
  const auto keep = static_cast<size_t>((length - first_ + kAttentionKeys - 1) / kAttentionKeys);
  blocks_.resize(keep);
  length_ = length;
  const int64_t whole = first_ + (length - first_) / kAttentionKeys * kAttentionKeys;
  if (shared_ <= whole) return;
  if (whole < length) blocks_.back() = blocks_.back().Clone();  // will be written to
  shared_ = whole;
}

AttentionCache AttentionCache::Snapshot() {
  AttentionCache copy;
  copy.groups_ = groups_;
  copy.width_ = width_;
  copy.first_ = first_;
  copy.length_ = length_;
  copy.blocks_ = blocks_;
  const int64_t whole = first_ + (length_ - first_) / kAttentionKeys * kAttentionKeys;
  if (whole < length_) copy.blocks_.back() = blocks_.back().Clone();
  shared_ = copy.shared_ = whole;
  return copy;
}

int64_t AttentionCache::bytes() const {
  int64_t bytes = 0;
  for (const Tensor& block : blocks_) bytes += block.byte_size();
  for (const Tensor& block : spare_) bytes += block.byte_size();
  return bytes;
}

Tensor AttentionCache::Attend(const Tensor& q, const AttentionSpans& spans, float scale) const {
  const ProfileScope scope("attention");
  const Shape qs = q.shape();
  LAPIDARY_CHECK(qs.rank == 3 && groups_ >= 1 && qs[1] % groups_ == 0 && qs[2] == width_,
                 "attention cache: q must be [N, H, ", width_, "], H a multiple of ", groups_,
                 "; got ", qs);
  CheckSpans(spans, qs[0], length_);
  Tensor o(qs);
  if (qs[0] == 0) return o;
  LAPIDARY_CHECK(spans.begin.back() == 0 && spans.lo[0] >= first_,
                 "attention cache: spans must count from the start of the document and begin at ",
                 first_, " or later; got begin ", spans.begin.back(), ", lo ", spans.lo[0]);
  const AttentionPlan plan = MakeAttentionPlan(spans, qs[1] / groups_);
  AttentionArgs a = MakeAttentionArgs(plan, spans, qs[1], groups_, width_, scale);
  std::vector<float*> blocks;
  for (const AttentionKeyBlock& block : plan.keys) {
    blocks.push_back(blocks_[(block.key - first_) / kAttentionKeys].data());
  }
  const Tensor lse({qs[0], qs[1]});
  a.blocks = blocks.data();
  a.q = q.data();
  a.o = o.data();
  a.lse = lse.data();
  if (a.row_block_count > 1) {
    ForAttentionItems(groups_ * a.row_block_count, a, ActiveKernels().AttentionForward);
    return o;
  }
  const Tensor few({FewFloats(a)});
  a.few = few.data();
  const int64_t rows = groups_ * a.row_blocks[0].rows,
                scores = rows * kAttentionKeys * a.key_block_count;
  const auto run = [&](int64_t items, AttentionKernel kernel, int64_t work) {
    ForAttentionItems(items, a, kernel, 0, work);
  };
  run(groups_ * a.key_block_count, ActiveKernels().AttentionScores, scores * width_);
  run(rows, ActiveKernels().AttentionSoftmax, scores * 16);  // an exponential: some 16
  run(groups_ * PanelCount(a), ActiveKernels().AttentionValues, scores * width_);
  return o;
}

}  // namespace lapidary
