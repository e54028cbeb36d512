#include "autograd/base/parallel.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <exception>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "autograd/base/dry_run.h"
#include "autograd/base/error.h"

namespace lapidary {
namespace {

thread_local bool in_parallel = false;

int DefaultThreads() {
  if (const char* want = std::getenv("LAPIDARY_THREADS"); want && *want) {
    char* end = nullptr;
    const long n = std::strtol(want, &end, 10);
    LAPIDARY_CHECK(*end == 0 && n >= 1 && n <= 1024,
                   "LAPIDARY_THREADS: must be a whole number from 1 to 1024; got ", want);
    return static_cast<int>(n);
  }
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

// A job is open while its caller works on it. Workers that find it open join in and take pieces of
// it; the caller takes pieces too, and when none are left it closes the job and waits for those who
// joined, never for a worker that sleeps or that the system does not run: on a machine with other
// work that would be a time slice for every small loop. Idle workers look for a job for a short
// while (a step issues thousands), then sleep.
class Pool {
 public:
  explicit Pool(int threads) : threads_(threads) {
    for (int t = 1; t < threads_; ++t) workers_.emplace_back([this, t] { Work(t); });
  }
  ~Pool() {
    stop_ = true;
    generation_.fetch_add(1);
    generation_.notify_all();
    for (std::thread& w : workers_) w.join();
  }
  int threads() const { return threads_; }

  // Runs job(0) here and job(t) on the workers t that come in time; returns when all have
  // returned, and rethrows the first exception. Pieces of work must be claimed inside the job.
  void Run(const std::function<void(int)>& job) {
    std::lock_guard<std::mutex> serial(run_mutex_);
    job_ = &job;
    error_ = nullptr;
    open_ = true;
    generation_.fetch_add(1);
    generation_.notify_all();
    in_parallel = true;
    Call(0);
    in_parallel = false;
    // Sequentially consistent, as in Work: either a worker sees that the job is closed, or it is
    // counted below.
    open_ = false;
    for (int spin = 0; spin < kSpins && joined_.load() != 0; ++spin) CpuPause();
    for (int left = joined_.load(); left != 0; left = joined_.load()) joined_.wait(left);
    if (error_) std::rethrow_exception(error_);
  }

 private:
  static constexpr int kSpins = 2000;  // some 30 us

  void Call(int t) {
    try {
      (*job_)(t);
    } catch (...) {
      std::lock_guard<std::mutex> lock(error_mutex_);
      if (!error_) error_ = std::current_exception();
    }
  }

  void Work(int t) {
    in_parallel = true;
    uint32_t seen = 0;
    for (;;) {
      for (int spin = 0; spin < kSpins && generation_.load() == seen; ++spin) CpuPause();
      generation_.wait(seen);
      seen = generation_.load();
      if (stop_) return;
      joined_.fetch_add(1);
      if (open_) Call(t);
      if (joined_.fetch_sub(1) == 1) joined_.notify_one();
    }
  }

  static void CpuPause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
  }

  const int threads_;
  std::vector<std::thread> workers_;
  std::mutex run_mutex_;                 // one job at a time, from whichever thread
  std::atomic<uint32_t> generation_{0};  // of jobs; workers sleep on it
  std::atomic<bool> open_{false};
  std::atomic<int> joined_{0};  // workers that may be inside the job
  std::atomic<bool> stop_{false};
  const std::function<void(int)>* job_ = nullptr;
  std::mutex error_mutex_;
  std::exception_ptr error_;
};

std::unique_ptr<Pool>& PoolSlot() {
  static std::unique_ptr<Pool> pool = std::make_unique<Pool>(DefaultThreads());
  return pool;
}

}  // namespace

int Threads() { return PoolSlot()->threads(); }

void SetThreads(int threads) {
  LAPIDARY_CHECK(threads >= 1 && threads <= 1024, "SetThreads: must be from 1 to 1024; got ",
                 threads);
  if (threads != Threads()) PoolSlot() = std::make_unique<Pool>(threads);
}

void ParallelFor(int64_t n, const std::function<void(Range)>& body, int64_t grain) {
  if (n <= 0 || DryRun()) return;
  const int64_t parts = in_parallel
                            ? 1
                            : std::min<int64_t>(Threads(), (n + std::max<int64_t>(grain, 1) - 1) /
                                                               std::max<int64_t>(grain, 1));
  if (parts == 1) {
    body({0, n});
    return;
  }
  std::atomic<int64_t> next{0};
  PoolSlot()->Run([&](int) {
    for (int64_t p = next.fetch_add(1); p < parts; p = next.fetch_add(1)) {
      body({n * p / parts, n * (p + 1) / parts});
    }
  });
}

void ParallelForDynamic(int64_t n, const std::function<void(int64_t, int)>& body) {
  if (n <= 0 || DryRun()) return;
  if (in_parallel || n == 1 || Threads() == 1) {
    for (int64_t i = 0; i < n; ++i) body(i, 0);
    return;
  }
  std::atomic<int64_t> next{0};
  PoolSlot()->Run([&](int t) {
    for (int64_t i = next.fetch_add(1); i < n; i = next.fetch_add(1)) body(i, t);
  });
}

void ParallelForRuns(int64_t n, const std::function<void(int64_t)>& body) {
  if (n <= 0 || DryRun()) return;
  LAPIDARY_CHECK(n <= int64_t{1} << 31, "ParallelForRuns: must be at most 2^31 items; got ", n);
  const int threads = Threads();
  if (in_parallel || n == 1 || threads == 1) {
    for (int64_t i = 0; i < n; ++i) body(i);
    return;
  }
  // A thread's run is what is left of it: its first item in the upper half, its end in the lower.
  struct alignas(64) Run {
    std::atomic<uint64_t> left;
  };
  const std::unique_ptr<Run[]> runs(new Run[static_cast<size_t>(threads)]);
  for (int t = 0; t < threads; ++t) {
    runs[static_cast<size_t>(t)].left =
        static_cast<uint64_t>(n * t / threads) << 32 | static_cast<uint64_t>(n * (t + 1) / threads);
  }
  const auto claim = [&](int t, bool from_front, int64_t* item) {
    std::atomic<uint64_t>& left = runs[static_cast<size_t>(t)].left;
    for (uint64_t now = left.load();;) {
      const uint64_t first = now >> 32, end = now & 0xffffffff;
      if (first == end) return false;
      *item = static_cast<int64_t>(from_front ? first : end - 1);
      if (left.compare_exchange_weak(
              now, from_front ? (first + 1) << 32 | end : first << 32 | (end - 1)))
        return true;
    }
  };
  PoolSlot()->Run([&](int t) {
    int64_t item;
    while (claim(t, true, &item)) body(item);
    for (int other = 1; other < threads; ++other) {
      while (claim((t + other) % threads, false, &item)) body(item);
    }
  });
}

}  // namespace lapidary
