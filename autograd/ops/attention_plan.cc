#include "autograd/ops/attention_plan.h"

#include <algorithm>

#include "autograd/base/error.h"
#include "autograd/base/parallel.h"
#include "autograd/tensor.h"

namespace lapidary {

void CheckSpans(const AttentionSpans& spans, int64_t queries, int64_t keys) {
  const size_t n = static_cast<size_t>(queries);
  LAPIDARY_CHECK(spans.lo.size() == n && spans.hi.size() == n && spans.begin.size() == n,
                 "attention: spans must hold one lo, hi and begin per query; got ", spans.lo.size(),
                 ", ", spans.hi.size(), " and ", spans.begin.size(), " for ", queries, " queries");
  for (size_t i = 0; i < n; ++i) {
    const int64_t lo = spans.lo[i], hi = spans.hi[i], begin = spans.begin[i];
    LAPIDARY_CHECK(0 <= begin && begin <= lo && lo < hi && hi <= keys,
                   "attention: spans must satisfy 0 <= begin <= lo < hi <= ", keys, "; got begin ",
                   begin, ", lo ", lo, ", hi ", hi, " for query ", i);
    if (i == 0) continue;
    LAPIDARY_CHECK(lo >= spans.lo[i - 1] && hi >= spans.hi[i - 1] && begin >= spans.begin[i - 1],
                   "attention: spans must not decrease; got query ", i, " before query ", i - 1);
    LAPIDARY_CHECK(begin == spans.begin[i - 1] || begin >= spans.hi[i - 1],
                   "attention: documents must not share keys; got a document from ", begin,
                   " before the last one's end ", spans.hi[i - 1]);
  }
}

AttentionPlan MakeAttentionPlan(const AttentionSpans& spans, int64_t share) {
  AttentionPlan plan;
  const std::vector<int32_t>&lo = spans.lo, &hi = spans.hi, &begin = spans.begin;
  const int64_t queries = static_cast<int64_t>(lo.size());
  for (int64_t n0 = 0, n1; n0 < queries; n0 = n1) {
    n1 = std::upper_bound(begin.begin() + n0, begin.end(), begin[n0]) - begin.begin();
    const int64_t start = begin[n0], end = hi[n1 - 1];
    const int64_t first_block = (lo[n0] - start) / kAttentionKeys;
    const int64_t first_index = static_cast<int64_t>(plan.keys.size());
    for (int64_t key = start + first_block * kAttentionKeys; key < end; key += kAttentionKeys) {
      const int64_t key_end = std::min(key + kAttentionKeys, end);
      // lo and hi never decrease, so the queries that see a block are contiguous.
      const int64_t query = std::upper_bound(hi.begin() + n0, hi.begin() + n1, key) - hi.begin();
      const int64_t query_end =
          std::lower_bound(lo.begin() + n0, lo.begin() + n1, key_end) - lo.begin();
      plan.keys.push_back({key, key_end - key, query, std::max(query, query_end)});
    }
    for (int64_t row = n0 * share; row < n1 * share; row += kAttentionRows) {
      const int64_t rows = std::min(kAttentionRows, n1 * share - row);
      const int64_t low = lo[row / share], high = hi[(row + rows - 1) / share];
      const int64_t key_block = first_index + (low - start) / kAttentionKeys - first_block;
      const int64_t key_end =
          first_index + (high - start + kAttentionKeys - 1) / kAttentionKeys - first_block;
      plan.rows.push_back({row, rows, key_block, key_end});
    }
  }
  return plan;
}

AttentionArgs MakeAttentionArgs(const AttentionPlan& plan, const AttentionSpans& spans,
                                int64_t heads, int64_t groups, int64_t width, float scale) {
  AttentionArgs a = {};
  a.lo = spans.lo.data();
  a.hi = spans.hi.data();
  a.row_blocks = plan.rows.data();
  a.key_blocks = plan.keys.data();
  a.row_block_count = static_cast<int64_t>(plan.rows.size());
  a.key_block_count = static_cast<int64_t>(plan.keys.size());
  a.queries = static_cast<int64_t>(spans.lo.size());
  a.heads = heads;
  a.groups = groups;
  a.width = width;
  a.scale = scale;
  return a;
}

void ForAttentionItems(int64_t items, const AttentionArgs& a, AttentionKernel kernel,
                       int64_t group_floats, int64_t work) {
  constexpr int64_t kSerialWork = 1 << 17;  // some 10 us: what waking a thread costs
  const bool serial = work < kSerialWork;
  const int64_t threads = serial ? 1 : Threads();
  const Tensor scratch({threads, ScratchFloats(a)}), group_memory({threads, group_floats});
  const auto call = [&](Range range, int thread) {
    AttentionArgs mine = a;
    mine.scratch = scratch.data() + thread * ScratchFloats(a);
    mine.group_memory = group_memory.data() + thread * group_floats;
    kernel(mine, range);
  };
  if (serial) {
    call({0, items}, 0);
  } else {
    ParallelForDynamic(items, [&](int64_t i, int thread) { call({i, i + 1}, thread); });
  }
}

}  // namespace lapidary
