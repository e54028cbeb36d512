// Step memory: every tensor's bytes come from here. Freed blocks are kept by size and handed out
// again, so that a step asks the system for little that an earlier step had; the high-water mark
// of live bytes is what a step needs. Thread-safe. Blocks are 64-byte aligned.
#ifndef LAPIDARY_AUTOGRAD_ARENA_H_
#define LAPIDARY_AUTOGRAD_ARENA_H_

#include <cstdint>
#include <functional>
#include <memory>

#include "autograd/base/dry_run.h"

namespace lapidary {

// A block that returns to the arena when the last holder drops it. Contents are undefined. Throws
// Error if memory runs out.
std::shared_ptr<uint8_t[]> AllocateBytes(int64_t bytes);

struct ArenaStats {
  int64_t live_bytes = 0;        // handed out now
  int64_t high_water_bytes = 0;  // the most that was handed out at once since ResetHighWater
  int64_t reserved_bytes = 0;    // obtained from the system: live and free blocks
};
ArenaStats GetArenaStats();
void ResetHighWater();
// Returns all free blocks to the system.
void TrimArena();
// Free blocks are given back as soon as live and free ones together would exceed `bytes` (or what
// is live alone, if that is more). 0, as at the start: a tenth above the high-water mark.
void SetArenaBudget(int64_t bytes);

// Runs `body` as a dry run on a thread of its own and returns what it would take; tensors that it
// makes must not outlive it. Throws what the body throws.
DryRunCounts CountMemory(const std::function<void()>& body);

}  // namespace lapidary

#endif  // LAPIDARY_AUTOGRAD_ARENA_H_
