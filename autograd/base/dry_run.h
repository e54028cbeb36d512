// A dry run: code that runs as ever, but computes nothing and only counts the memory that it would
// take. ParallelFor passes over its body, tensors have no bytes of their own, matrix products
// return at once; what a plan says is then what the code itself asks for (autograd/arena.h,
// CountMemory). A property of a thread.
#ifndef LAPIDARY_AUTOGRAD_BASE_DRY_RUN_H_
#define LAPIDARY_AUTOGRAD_BASE_DRY_RUN_H_

#include <cstdint>

namespace lapidary {

// What a dry run has counted.
struct DryRunCounts {
  int64_t live_bytes = 0;        // of tensors
  int64_t high_water_bytes = 0;  // the most at once
  int64_t scratch_bytes = 0;     // the largest buffer of a matrix product beside them
};

// The counts of this thread's dry run; null: this thread computes.
inline DryRunCounts*& DryRunSlot() {
  static thread_local DryRunCounts* counts = nullptr;
  return counts;
}
inline bool DryRun() { return DryRunSlot() != nullptr; }

}  // namespace lapidary

#endif  // LAPIDARY_AUTOGRAD_BASE_DRY_RUN_H_
