// How much memory this process has and may have.
#ifndef LAPIDARY_AUTOGRAD_BASE_MEMORY_INFO_H_
#define LAPIDARY_AUTOGRAD_BASE_MEMORY_INFO_H_

#include <cstdint>
#include <string>

namespace lapidary {

struct MemoryRoom {
  int64_t bytes = 0;  // that this process may have resident in all
  std::string from;   // what says so: "MemAvailable", "cgroup memory.max", "RLIMIT_DATA"
};

// The least of: what the system calls available, what the control group of this process still
// allows, and the process's own limits; each counted with what the process has already.
MemoryRoom AvailableMemory();

// Resident bytes of this process now; 0 where unknown.
int64_t ResidentBytes();

// Settles how the C library holds small blocks, so that what is freed goes back: large blocks are
// mapped one by one, and few threads have heaps of their own. Called by programs, first.
void TuneHeap();
// Gives freed small blocks back to the system.
void TrimHeap();

}  // namespace lapidary

#endif  // LAPIDARY_AUTOGRAD_BASE_MEMORY_INFO_H_
