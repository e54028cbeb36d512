#include "autograd/base/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <map>
#include <mutex>

#include "autograd/base/error.h"

namespace lapidary {
namespace {

FileHook file_hook = nullptr;

void Hook(const char* action, const std::string& path) {
  if (file_hook) file_hook(action, path);
}

[[noreturn]] void Fail(const std::string& path, const char* action) {
  const int code = errno;
  throw Error(StrCat(path, ": cannot ", action, "; got ", std::strerror(code),
                     code == ENOSPC ? "; try freeing disk space" : ""));
}

std::string FolderOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

void WriteAll(int fd, const std::string& path, const char* data, uint64_t bytes, uint64_t offset) {
  Hook("write", path);
  while (bytes > 0) {
    const ssize_t n = ::pwrite(fd, data, bytes, static_cast<off_t>(offset));
    if (n < 0) {
      if (errno == EINTR) continue;
      Fail(path, "write");
    }
    data += n;
    offset += static_cast<uint64_t>(n);
    bytes -= static_cast<uint64_t>(n);
  }
}

constexpr uint64_t kBufferBytes = 1 << 20;

// The maps of this process, by address.
std::mutex maps_mutex;
std::map<const uint8_t*, uint64_t>& Maps() {
  static auto* maps = new std::map<const uint8_t*, uint64_t>;
  return *maps;
}

}  // namespace

std::shared_ptr<const MappedFile> MappedFile::Open(const std::string& path) {
  std::shared_ptr<MappedFile> file(new MappedFile);
  file->path_ = path;
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) Fail(path, "open");
  struct stat info;
  if (::fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    ::close(fd);
    throw Error(StrCat(path, ": must be a regular file"));
  }
  file->size_ = static_cast<uint64_t>(info.st_size);
  if (file->size_ > 0) {
    void* data = ::mmap(nullptr, file->size_, PROT_READ, MAP_PRIVATE, fd, 0);
    if (data == MAP_FAILED) {
      const int code = errno;
      ::close(fd);
      errno = code;
      Fail(path, "map into memory");
    }
    file->data_ = static_cast<const uint8_t*>(data);
    std::lock_guard<std::mutex> lock(maps_mutex);
    Maps()[file->data_] = file->size_;
  }
  ::close(fd);
  return file;
}

MappedFile::~MappedFile() {
  if (!data_) return;
  {
    std::lock_guard<std::mutex> lock(maps_mutex);
    Maps().erase(data_);
  }
  ::munmap(const_cast<uint8_t*>(data_), size_);
}

void MappedFile::DropPages(uint64_t offset, uint64_t bytes) const {
  const uint64_t page = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
  const uint64_t begin = (offset + page - 1) / page * page;
  const uint64_t end = offset + bytes >= size_ ? size_ : (offset + bytes) / page * page;
  if (begin < end) ::madvise(const_cast<uint8_t*>(data_) + begin, end - begin, MADV_DONTNEED);
}

bool DropMappedPages(const void* data, uint64_t bytes) {
  const uint8_t* begin = static_cast<const uint8_t*>(data);
  std::lock_guard<std::mutex> lock(maps_mutex);
  const auto after = Maps().upper_bound(begin);
  if (after == Maps().begin()) return false;
  const auto& [start, size] = *std::prev(after);
  if (begin + bytes > start + size) return false;
  // A page that holds the end of something else is read again when that is used.
  const uintptr_t page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const uintptr_t first = reinterpret_cast<uintptr_t>(begin) / page * page;
  const uintptr_t last = reinterpret_cast<uintptr_t>(begin + bytes);
  ::madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED);
  return true;
}

AtomicFile::AtomicFile(std::string path) : path_(std::move(path)) {
  static std::atomic<int> counter{0};
  temporary_ = StrCat(path_, ".tmp-", ::getpid(), "-", counter.fetch_add(1));
  fd_ = ::open(temporary_.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (fd_ < 0) Fail(path_, "create");
}

AtomicFile::~AtomicFile() {
  if (fd_ < 0) return;
  ::close(fd_);
  ::unlink(temporary_.c_str());
}

void AtomicFile::Flush() {
  if (buffer_.empty()) return;
  WriteAll(fd_, path_, buffer_.data(), buffer_.size(), size_ - buffer_.size());
  buffer_.clear();
}

void AtomicFile::Write(const void* data, uint64_t bytes) {
  if (buffer_.size() + bytes > kBufferBytes) Flush();
  if (bytes >= kBufferBytes) {
    WriteAll(fd_, path_, static_cast<const char*>(data), bytes, size_);
  } else {
    buffer_.append(static_cast<const char*>(data), bytes);
  }
  size_ += bytes;
}

void AtomicFile::WriteAt(uint64_t offset, const void* data, uint64_t bytes) {
  LAPIDARY_CHECK(offset <= size_ && bytes <= size_ - offset, path_,
                 ": WriteAt must stay inside what was written; got offset ", offset, " + ", bytes,
                 " of ", size_);
  Flush();
  WriteAll(fd_, path_, static_cast<const char*>(data), bytes, offset);
}

void AtomicFile::Reserve(uint64_t bytes) {
  Flush();
  if (bytes <= size_) return;
  Hook("write", path_);
  const auto from = static_cast<off_t>(size_), n = static_cast<off_t>(bytes - size_);
  if (::fallocate(fd_, 0, from, n) != 0) {
    if (errno != EOPNOTSUPP && errno != EINTR && errno != ENOSYS) Fail(path_, "write");
    if (::ftruncate(fd_, static_cast<off_t>(bytes)) != 0) Fail(path_, "write");
  }
  size_ = bytes;
}

void AtomicFile::Commit() {
  Flush();
  Hook("sync", path_);
  if (::fsync(fd_) != 0) Fail(path_, "sync");
  if (::close(fd_) != 0) {
    fd_ = -1;
    ::unlink(temporary_.c_str());
    Fail(path_, "close");
  }
  fd_ = -1;
  Hook("rename", path_);
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) {
    const int code = errno;
    ::unlink(temporary_.c_str());
    errno = code;
    Fail(path_, "rename into place");
  }
  SyncFolder(FolderOf(path_));
}

std::string ReadFile(const std::string& path, uint64_t limit) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) Fail(path, "open");
  std::string bytes;
  char chunk[1 << 16];
  for (;;) {
    const ssize_t n = ::read(fd, chunk, sizeof(chunk));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      const int code = errno;
      ::close(fd);
      errno = code;
      Fail(path, "read");
    }
    if (n == 0) break;
    bytes.append(chunk, static_cast<size_t>(n));
    if (bytes.size() > limit) {
      ::close(fd);
      throw Error(StrCat(path, ": must be at most ", limit, " bytes; got more"));
    }
  }
  ::close(fd);
  return bytes;
}

void WriteFile(const std::string& path, std::string_view bytes) {
  AtomicFile file(path);
  file.Write(bytes);
  file.Commit();
}

void SyncFolder(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) Fail(path, "open");
  Hook("sync", path);
  const int result = ::fsync(fd);
  ::close(fd);
  if (result != 0 && errno != EINVAL) Fail(path, "sync");
}

void SetFileHook(FileHook hook) { file_hook = hook; }

void CallFileHook(const char* action, const std::string& path) { Hook(action, path); }

}  // namespace lapidary
