#include "autograd/base/parallel.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
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

// Workers spin for a short while between jobs (a step issues thousands of them), then sleep.
class Pool {
 public:
  explicit Pool(int threads) : threads_(threads) {
    for (int t = 1; t < threads_; ++t) workers_.emplace_back([this, t] { Work(t); });
  }
  ~Pool() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      stop_ = true;
      generation_.fetch_add(1);
    }
    wake_.notify_all();
    for (std::thread& w : workers_) w.join();
  }
  int threads() const { return threads_; }

  // Runs job(t) for t in [0, threads) and rethrows the first exception.
  void Run(const std::function<void(int)>& job) {
    std::lock_guard<std::mutex> serial(run_mutex_);
    job_ = &job;
    error_ = nullptr;
    pending_.store(threads_ - 1, std::memory_order_relaxed);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      generation_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    in_parallel = true;
    Call(0);
    in_parallel = false;
    // On a machine with other work the last worker may not be running: spin a little, then sleep.
    for (int spin = 0; spin < kSpins && pending_.load(std::memory_order_acquire) != 0; ++spin)
      CpuPause();
    for (int left = pending_.load(std::memory_order_acquire); left != 0;
         left = pending_.load(std::memory_order_acquire)) {
      pending_.wait(left, std::memory_order_acquire);
    }
    if (error_) std::rethrow_exception(error_);
  }

 private:
  static constexpr int kSpins = 20000;

  void Call(int t) {
    try {
      (*job_)(t);
    } catch (...) {
      std::lock_guard<std::mutex> lock(mutex_);
      if (!error_) error_ = std::current_exception();
    }
  }

  void Work(int t) {
    in_parallel = true;
    uint64_t seen = 0;
    for (;;) {
      for (int spin = 0; spin < kSpins && generation_.load(std::memory_order_acquire) == seen;
           ++spin) {
        CpuPause();
      }
      if (generation_.load(std::memory_order_acquire) == seen) {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, [&] { return generation_.load(std::memory_order_relaxed) != seen; });
      }
      seen = generation_.load(std::memory_order_acquire);
      if (stop_) return;
      Call(t);
      pending_.fetch_sub(1, std::memory_order_release);
      pending_.notify_one();
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
  std::mutex run_mutex_;  // one job at a time, from whichever thread
  std::mutex mutex_;
  std::condition_variable wake_;
  std::atomic<uint64_t> generation_{0};
  std::atomic<int> pending_{0};
  const std::function<void(int)>* job_ = nullptr;
  std::exception_ptr error_;
  bool stop_ = false;
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
  PoolSlot()->Run([&](int t) {
    if (t < parts) body({n * t / parts, n * (t + 1) / parts});
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

}  // namespace lapidary
