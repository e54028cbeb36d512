#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "autograd/base/dry_run.h"
#include "autograd/base/error.h"
#include "autograd/stash.h"

namespace lapidary {
namespace {

constexpr size_t kMostWaiting = 1;  // records on their way to the disk
constexpr char kTry[] = "; try another offload_dir, or activation_offload: \"memory\"";

int OpenUnnamed(const std::string& folder) {
  const int fd = ::open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL)) return fd;
  std::string name = folder + "/activations-XXXXXX";
  const int named = ::mkostemp(name.data(), O_CLOEXEC);
  if (named >= 0) ::unlink(name.c_str());
  return named;
}

// The whole of `bytes` to or from `offset`; 0 or an errno.
template <class Byte, class Call>
int Transfer(int fd, Byte* bytes, int64_t size, int64_t offset, const Call& call) {
  for (int64_t done = 0; done < size;) {
    const ssize_t n = call(fd, bytes + done, static_cast<size_t>(size - done), offset + done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return n < 0 ? errno : EIO;
    done += n;
  }
  return 0;
}

}  // namespace

struct StashFile::State {
  struct Record {
    enum { kWriting, kStored, kReading, kRead } phase = kWriting;
    int64_t offset = 0;
    Tensor tensor;  // the bytes while they are in memory
    Shape shape;
    DType dtype = DType::kF32;
    int64_t bytes = 0;
  };

  std::string folder;
  int fd = -1;
  std::mutex mutex;
  std::condition_variable changed;
  std::map<int64_t, Record> records;
  std::deque<int64_t> work;  // records to write or read, in order
  int64_t busy = -1;         // the record that the thread is at
  int64_t next = 0;
  int error = 0;
  bool stop = false;
  std::thread thread;

  void Check(int code, const char* what) const {
    LAPIDARY_CHECK(code == 0, folder, ": a file for activations must be ", what, "; got ",
                   std::strerror(code), kTry);
  }

  void Work() {
    std::unique_lock<std::mutex> lock(mutex);
    for (;;) {
      changed.wait(lock, [&] { return stop || !work.empty(); });
      if (stop) return;
      busy = work.front();
      work.pop_front();
      Record& record = records.at(busy);
      const bool writing = record.phase == Record::kWriting;
      const Tensor tensor = record.tensor;
      const int64_t offset = record.offset;
      lock.unlock();
      uint8_t* bytes = tensor.data<uint8_t>();
      const int code = writing ? Transfer(fd, bytes, tensor.byte_size(), offset, ::pwrite)
                               : Transfer(fd, bytes, tensor.byte_size(), offset, ::pread);
      lock.lock();
      if (code != 0 && error == 0) error = code;
      record.phase = writing ? Record::kStored : Record::kRead;
      if (writing) record.tensor = Tensor();
      busy = -1;
      changed.notify_all();
    }
  }

  // Takes `id` out of the queue, or waits until the thread is done with it.
  void Settle(int64_t id, std::unique_lock<std::mutex>& lock) {
    for (auto it = work.begin(); it != work.end(); ++it) {
      if (*it != id) continue;
      work.erase(it);
      return;
    }
    changed.wait(lock, [&] { return busy != id; });
  }

  // In a dry run, what is on its way arrives when the next record comes.
  void StoreAll() {
    work.clear();
    for (auto& [id, record] : records) {
      if (record.phase != Record::kWriting) continue;
      record.phase = Record::kStored;
      record.tensor = Tensor();
    }
  }

  size_t Waiting() const {
    size_t count = 0;
    for (const auto& [id, record] : records) count += record.phase == Record::kWriting;
    return count;
  }
};

StashFile::StashFile(const std::string& folder, int64_t bytes) : state_(std::make_unique<State>()) {
  State& s = *state_;
  s.folder = folder;
  if (DryRun()) return;
  s.fd = OpenUnnamed(folder);
  s.Check(s.fd < 0 ? errno : 0, "writable");
  const int code = bytes > 0 ? ::posix_fallocate(s.fd, 0, bytes) : 0;
  if (code != 0) ::close(s.fd);
  s.Check(code, "as large as the run needs");
  s.thread = std::thread([&s] { s.Work(); });
}

StashFile::~StashFile() {
  if (state_->fd < 0) return;
  {
    std::lock_guard<std::mutex> lock(state_->mutex);
    state_->stop = true;
  }
  state_->changed.notify_all();
  state_->thread.join();
  ::close(state_->fd);
}

int64_t StashFile::Push(Tensor bytes) {
  State& s = *state_;
  std::unique_lock<std::mutex> lock(s.mutex);
  if (DryRun()) s.StoreAll();
  s.changed.wait(lock, [&] { return s.error != 0 || s.Waiting() < kMostWaiting; });
  s.Check(s.error, "writable");
  State::Record record;
  if (!s.records.empty()) {
    const State::Record& last = s.records.rbegin()->second;
    record.offset = last.offset + last.bytes;
  }
  record.shape = bytes.shape();
  record.dtype = bytes.dtype();
  record.bytes = bytes.byte_size();
  record.tensor = std::move(bytes);
  const int64_t id = s.next++;
  s.records.emplace(id, std::move(record));
  s.work.push_back(id);
  s.changed.notify_all();
  return id;
}

Tensor StashFile::Pop(int64_t id) {
  State& s = *state_;
  std::unique_lock<std::mutex> lock(s.mutex);
  State::Record& record = s.records.at(id);
  if (DryRun() && !record.tensor.defined()) {
    record.tensor = Tensor(record.shape, record.dtype);
    record.phase = State::Record::kRead;
  }
  if (record.phase == State::Record::kWriting) {
    // Not on its way yet: the bytes are still here.
    if (s.busy != id) s.Settle(id, lock);
  }
  s.changed.wait(lock, [&] { return s.busy != id && record.phase != State::Record::kReading; });
  if (!record.tensor.defined()) {  // stored, and nobody read ahead
    record.tensor = Tensor(record.shape, record.dtype);
    record.phase = State::Record::kReading;
    s.work.push_front(id);
    s.changed.notify_all();
    s.changed.wait(lock, [&] { return record.phase == State::Record::kRead; });
  }
  s.Check(s.error, "readable and writable");
  Tensor tensor = std::move(record.tensor);
  const auto next = s.records.erase(s.records.find(id));
  if (next != s.records.begin()) {
    const auto before = std::prev(next);
    State::Record& ahead = before->second;
    if (ahead.phase == State::Record::kStored) {
      ahead.tensor = Tensor(ahead.shape, ahead.dtype);
      ahead.phase = DryRun() ? State::Record::kRead : State::Record::kReading;
      if (!DryRun()) s.work.push_back(before->first);
      s.changed.notify_all();
    }
  }
  return tensor;
}

void StashFile::Drop(int64_t id) {
  State& s = *state_;
  std::unique_lock<std::mutex> lock(s.mutex);
  s.Settle(id, lock);
  s.records.erase(id);
  s.changed.notify_all();
}

}  // namespace lapidary
