#include "data/spool.h"

#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <vector>

#include "autograd/base/error.h"

namespace lapidary {
namespace {

using Archive = std::unique_ptr<archive, int (*)(archive*)>;

// A file without a name.
int OpenTemporary(const std::string& name) {
  const int fd = ::open(kSpoolFolder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  LAPIDARY_CHECK(fd >= 0, name, ": needs a temporary file in ", kSpoolFolder, "; got ",
                 std::strerror(errno), "; try a file that is not compressed");
  return fd;
}

void WriteAll(int fd, const std::string& name, const char* data, size_t size) {
  for (size_t done = 0; done < size;) {
    const ssize_t n = ::write(fd, data + done, size - done);
    LAPIDARY_CHECK(n > 0 || (n < 0 && errno == EINTR), name, ": needs room in ", kSpoolFolder,
                   "; got ", std::strerror(errno));
    if (n > 0) done += static_cast<size_t>(n);
  }
}

void* Map(int fd, const std::string& name, uint64_t size) {
  void* data = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, fd, 0);
  LAPIDARY_CHECK(data != MAP_FAILED, name, ": cannot map a temporary file; got ",
                 std::strerror(errno));
  return data;
}

std::string Reason(archive* a) {
  const char* text = archive_error_string(a);
  return text == nullptr ? "unknown" : text;
}

}  // namespace

bool IsCompressed(std::string_view head) {
  return head.starts_with("\x1f\x8b") || head.starts_with("\x28\xb5\x2f\xfd") ||
         head.starts_with(std::string_view("\xfd"
                                           "7zXZ\0",
                                           6)) ||
         head.starts_with("BZh");
}

std::shared_ptr<const SpooledFile> SpooledFile::Open(const std::string& path) {
  std::shared_ptr<SpooledFile> file(new SpooledFile);
  file->path_ = path;
  file->file_ = MappedFile::Open(path);
  file->bytes_ = {reinterpret_cast<const char*>(file->file_->data()), file->file_->size()};
  if (IsCompressed(file->bytes_)) file->Inflate();
  return file;
}

SpooledFile::~SpooledFile() {
  if (spool_ != nullptr) ::munmap(spool_, bytes_.size());
}

void SpooledFile::Inflate() {
  const Archive a(archive_read_new(), archive_read_free);
  LAPIDARY_CHECK(a != nullptr, path_, ": must have memory to inflate; got none");
  archive_read_support_filter_gzip(a.get());
  archive_read_support_filter_zstd(a.get());
  archive_read_support_filter_xz(a.get());
  archive_read_support_filter_bzip2(a.get());
  archive_read_support_format_raw(a.get());
  archive_entry* entry = nullptr;
  LAPIDARY_CHECK(archive_read_open_memory(a.get(), bytes_.data(), bytes_.size()) == ARCHIVE_OK &&
                     archive_read_next_header(a.get(), &entry) == ARCHIVE_OK,
                 path_, ": must be a whole compressed file; got broken data (", Reason(a.get()),
                 ")");
  RowSpool out(path_);
  std::vector<char> buffer(size_t{1} << 20);
  uint64_t size = 0;
  for (;;) {
    const la_ssize_t got = archive_read_data(a.get(), buffer.data(), buffer.size());
    LAPIDARY_CHECK(got >= 0, path_, ": must be a whole compressed file; got broken data after ",
                   size, " bytes (", Reason(a.get()), ")");
    if (got == 0) break;
    size += static_cast<uint64_t>(got);
    LAPIDARY_CHECK(size <= kMaxSpoolBytes &&
                       (size <= (uint64_t{1} << 20) || size / kMaxSpoolRatio <= bytes_.size()),
                   path_, ": a compressed file may inflate to ", kMaxSpoolRatio,
                   " times its size; got more; try decompressing it first if that is right");
    out.Append({buffer.data(), static_cast<size_t>(got)});
  }
  out.Finish();
  file_.reset();
  bytes_ = {};
  if (size > 0) bytes_ = {static_cast<const char*>(out.Release()), size};
  spool_ = size > 0 ? const_cast<char*>(bytes_.data()) : nullptr;
}

RowSpool::RowSpool(std::string name) : name_(std::move(name)), fd_(OpenTemporary(name_)) {}

RowSpool::~RowSpool() {
  if (map_ != nullptr) ::munmap(map_, written_);
  if (fd_ >= 0) ::close(fd_);
}

void RowSpool::Append(std::string_view row) {
  buffer_ += row;
  ends_.push_back((ends_.empty() ? 0 : ends_.back()) + row.size());
  LAPIDARY_CHECK(ends_.back() <= kMaxSpoolBytes, name_, ": may hold at most ", kMaxSpoolBytes,
                 " bytes; got more");
  if (buffer_.size() >= (size_t{1} << 20)) Flush();
}

void RowSpool::Flush() {
  WriteAll(fd_, name_, buffer_.data(), buffer_.size());
  written_ += buffer_.size();
  buffer_.clear();
}

void RowSpool::Finish() {
  Flush();
  if (written_ > 0) map_ = Map(fd_, name_, written_);
  ::close(fd_);
  fd_ = -1;
}

void* RowSpool::Release() {
  void* data = map_;
  map_ = nullptr;
  return data;
}

std::string_view RowSpool::operator[](int64_t row) const {
  const uint64_t begin = row == 0 ? 0 : ends_[row - 1];
  return {static_cast<const char*>(map_) + begin, ends_[row] - begin};
}

}  // namespace lapidary
