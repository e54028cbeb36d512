// How the work of attention is cut, the same for every table, direction and source of keys.
#ifndef LAPIDARY_AUTOGRAD_OPS_ATTENTION_PLAN_H_
#define LAPIDARY_AUTOGRAD_OPS_ATTENTION_PLAN_H_

#include <cstdint>
#include <vector>

#include "autograd/base/parallel.h"
#include "autograd/kernels/attention_args.h"
#include "autograd/ops/attention.h"

namespace lapidary {

struct AttentionPlan {
  std::vector<AttentionRowBlock> rows;
  std::vector<AttentionKeyBlock> keys;
};

// Throws Error unless the spans are as attention.h says, for this many queries and keys.
void CheckSpans(const AttentionSpans& spans, int64_t queries, int64_t keys);

// Blocks never cross documents: rows are cut into runs of kAttentionRows and keys into runs of
// kAttentionKeys, both counted from the document, so its results do not depend on its neighbours.
// Only key blocks that some query sees are in it. `share`: heads per key/value group.
AttentionPlan MakeAttentionPlan(const AttentionSpans& spans, int64_t share);

// Arguments without operands; plan and spans must outlive them.
AttentionArgs MakeAttentionArgs(const AttentionPlan& plan, const AttentionSpans& spans,
                                int64_t heads, int64_t groups, int64_t width, float scale);

// kernel(args, {i, i + 1}) for every i in [0, items), on any thread, each with its own scratch (and
// `group_floats` of group_memory). `work`, if known: multiplications of the whole, below some of
// which no other thread is woken.
using AttentionKernel = void (*)(const AttentionArgs&, Range) noexcept;
void ForAttentionItems(int64_t items, const AttentionArgs& a, AttentionKernel kernel,
                       int64_t group_floats = 0, int64_t work = INT64_MAX);

}  // namespace lapidary

#endif  // LAPIDARY_AUTOGRAD_OPS_ATTENTION_PLAN_H_
