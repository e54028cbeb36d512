// ParallelFor: a fixed partition of outputs over a process-wide thread pool. Threads own outputs,
// never shares of a sum, so results do not depend on the number of threads. LAPIDARY_THREADS (or
// SetThreads) sets the number; default: the CPUs that this process may run on.
#ifndef LAPIDARY_AUTOGRAD_BASE_PARALLEL_H_
#define LAPIDARY_AUTOGRAD_BASE_PARALLEL_H_

#include <cstdint>
#include <functional>

namespace lapidary {

struct Range {
  int64_t begin = 0;
  int64_t end = 0;
};

// Number of threads that ParallelFor uses (>= 1).
int Threads();
// Changes it; not while a ParallelFor runs. Throws Error unless 1 <= threads <= 1024.
void SetThreads(int threads);

// Calls body(range) on contiguous ranges that partition [0, n), each at least `grain` long (but the
// last), as many as threads at most; a thread that is free takes the next one. Returns when all are
// done; an exception of the body is rethrown. A nested call runs serially. In a dry run (dry_run.h)
// the bodies are passed over.
void ParallelFor(int64_t n, const std::function<void(Range)>& body, int64_t grain = 1);

// Calls body(i, thread) for every i in [0, n), claimed one by one from a counter (for items of
// uneven cost). `thread` is in [0, Threads()). What is computed for an item must not depend on who
// computes it.
void ParallelForDynamic(int64_t n, const std::function<void(int64_t, int)>& body);

// The same for items that lie one after the other in memory: a thread works through a run of them
// in order, and takes from the ends of the others' runs when its own is done. At most 2^31 items.
void ParallelForRuns(int64_t n, const std::function<void(int64_t)>& body);

}  // namespace lapidary

#endif  // LAPIDARY_AUTOGRAD_BASE_PARALLEL_H_
