// The bytes of a file, uncompressed: mapped as they are, or, for .gz, .zst, .xz and .bz2, inflated
// once into a temporary file without a name, so that any part can be read at any time and memory
// holds only what is in use.
#ifndef LAPIDARY_DATA_SPOOL_H_
#define LAPIDARY_DATA_SPOOL_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "autograd/base/file.h"

namespace lapidary {

// Where inflated files go: big temporary files, on disk.
inline constexpr const char* kSpoolFolder = "/var/tmp";
// A file that inflates to more throws Error, and so does one that grows more than this often once
// it is larger than a megabyte: text compresses to a tenth, a bomb to a thousandth.
inline constexpr uint64_t kMaxSpoolBytes = uint64_t{1} << 40;
inline constexpr uint64_t kMaxSpoolRatio = 500;

// Const and thread-safe. Bytes stay where they are while the object lives.
class SpooledFile {
 public:
  // Throws Error naming `path` for files that cannot be read, are cut off or broken, or are bombs.
  static std::shared_ptr<const SpooledFile> Open(const std::string& path);
  ~SpooledFile();
  SpooledFile(const SpooledFile&) = delete;
  SpooledFile& operator=(const SpooledFile&) = delete;

  const std::string& path() const { return path_; }
  std::string_view bytes() const { return bytes_; }

 private:
  SpooledFile() = default;
  void Inflate();
  std::string path_;
  std::shared_ptr<const MappedFile> file_;
  void* spool_ = nullptr;
  std::string_view bytes_;
};

// Rows written one after the other into a temporary file, then read in any order. Written by one
// thread; const and thread-safe after Finish.
class RowSpool {
 public:
  // `name` goes into messages.
  explicit RowSpool(std::string name);
  ~RowSpool();
  RowSpool(const RowSpool&) = delete;
  RowSpool& operator=(const RowSpool&) = delete;

  void Append(std::string_view row);
  void Finish();
  int64_t size() const { return static_cast<int64_t>(ends_.size()); }
  std::string_view operator[](int64_t row) const;
  // Gives the mapping (null if it is empty) to the caller, who unmaps it.
  void* Release();

 private:
  void Flush();
  std::string name_;
  int fd_ = -1;
  std::string buffer_;
  std::vector<uint64_t> ends_;
  uint64_t written_ = 0;
  void* map_ = nullptr;
};

// Whether the bytes begin like a compressed file that SpooledFile inflates.
bool IsCompressed(std::string_view head);

}  // namespace lapidary

#endif  // LAPIDARY_DATA_SPOOL_H_
