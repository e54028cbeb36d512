// Attention kernels of the reference table (autograd/kernels/kernels.h).
#ifndef LAPIDARY_AUTOGRAD_KERNELS_ATTENTION_SCALAR_H_
#define LAPIDARY_AUTOGRAD_KERNELS_ATTENTION_SCALAR_H_

#include "autograd/base/parallel.h"
#include "autograd/kernels/attention_args.h"

namespace lapidary::scalar {

void AttentionPack(const AttentionArgs& a, Range units) noexcept;
void AttentionForward(const AttentionArgs& a, Range items) noexcept;
void AttentionScores(const AttentionArgs& a, Range items) noexcept;
void AttentionSoftmax(const AttentionArgs& a, Range items) noexcept;
void AttentionValues(const AttentionArgs& a, Range items) noexcept;
void AttentionDelta(const AttentionArgs& a, Range rows) noexcept;
void AttentionGradQ(const AttentionArgs& a, Range items) noexcept;
void AttentionGradKV(const AttentionArgs& a, Range items) noexcept;
void AttentionGradGroup(const AttentionArgs& a, Range groups) noexcept;

}  // namespace lapidary::scalar

#endif  // LAPIDARY_AUTOGRAD_KERNELS_ATTENTION_SCALAR_H_
