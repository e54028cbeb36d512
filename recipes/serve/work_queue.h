// One thread that does jobs in the order in which they came, for callers that wait: the model and
// its kernels are used by one request at a time.
#ifndef LAPIDARY_RECIPES_SERVE_WORK_QUEUE_H_
#define LAPIDARY_RECIPES_SERVE_WORK_QUEUE_H_

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>

namespace lapidary {

class WorkQueue {
 public:
  // `most`: jobs that may wait.
  explicit WorkQueue(size_t most) : most_(most), thread_([this] { Work(); }) {}
  ~WorkQueue() {
    {
      const std::lock_guard lock(mutex_);
      ending_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }

  // Does `job` on the queue's thread and returns when it is done; what it throws is thrown here.
  // False, and nothing is done, if too many wait already.
  bool Run(const std::function<void()>& job) {
    Item item{&job, false, nullptr};
    std::unique_lock lock(mutex_);
    if (ending_ || items_.size() >= most_) return false;
    items_.push_back(&item);
    changed_.notify_all();
    changed_.wait(lock, [&] { return item.done; });
    if (item.error) std::rethrow_exception(item.error);
    return true;
  }
  // Jobs waiting and running.
  size_t size() const {
    const std::lock_guard lock(mutex_);
    return items_.size();
  }

 private:
  struct Item {
    const std::function<void()>* job;
    bool done;
    std::exception_ptr error;
  };

  void Work() {
    std::unique_lock lock(mutex_);
    for (;;) {
      changed_.wait(lock, [&] { return ending_ || !items_.empty(); });
      if (items_.empty()) return;
      Item* const item = items_.front();
      lock.unlock();
      std::exception_ptr error;
      try {
        (*item->job)();
      } catch (...) {
        error = std::current_exception();
      }
      lock.lock();
      items_.pop_front();
      item->error = error;
      item->done = true;
      changed_.notify_all();
    }
  }

  const size_t most_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Item*> items_;  // the first one is running
  bool ending_ = false;
  std::thread thread_;
};

}  // namespace lapidary

#endif  // LAPIDARY_RECIPES_SERVE_WORK_QUEUE_H_
