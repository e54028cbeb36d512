// Files: read-only memory maps, and writes that are either whole or absent (temporary name in the
// same folder, fsync, rename). Every error names the path. Not thread-safe per object.
#ifndef LAPIDARY_AUTOGRAD_BASE_FILE_H_
#define LAPIDARY_AUTOGRAD_BASE_FILE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace lapidary {

// A whole file mapped read-only (private). Empty files map to size 0. The bytes stay valid while
// the object lives.
class MappedFile {
 public:
  // Throws Error if `path` cannot be opened or is not a regular file.
  static std::shared_ptr<const MappedFile> Open(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::string& path() const { return path_; }
  const uint8_t* data() const { return data_; }
  uint64_t size() const { return size_; }
  // Tells the kernel that these bytes are not needed any more (they can be read again).
  void DropPages(uint64_t offset, uint64_t bytes) const;

 private:
  MappedFile() = default;
  std::string path_;
  const uint8_t* data_ = nullptr;
  uint64_t size_ = 0;
};

// Tells the system that these bytes need not stay resident: they are read again from the file (or
// its cached pages) when used. False, and nothing happens, unless they lie in a MappedFile.
bool DropMappedPages(const void* data, uint64_t bytes);

// Writes a file so that `path` is only ever absent, its old self, or complete. Destroyed without
// Commit, nothing is left behind.
class AtomicFile {
 public:
  // Creates `path`.tmp-<pid>-<n> beside the target. Throws Error if the folder does not exist or
  // cannot be written.
  explicit AtomicFile(std::string path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  // Appends. Throws Error with the reason (disk full, say) and the file's name.
  void Write(const void* data, uint64_t bytes);
  void Write(std::string_view text) { Write(text.data(), text.size()); }
  // Overwrites bytes already appended (a header whose contents are known only at the end).
  void WriteAt(uint64_t offset, const void* data, uint64_t bytes);
  // Grows the file to `bytes` of zeros for WriteAt, and reserves the room on disk where the file
  // system can (Error if there is none).
  void Reserve(uint64_t bytes);
  uint64_t size() const { return size_; }
  // Flushes, syncs file and folder, renames. Call once, last.
  void Commit();

 private:
  void Flush();
  std::string path_;
  std::string temporary_;
  int fd_ = -1;
  uint64_t size_ = 0;  // including what is buffered
  std::string buffer_;
};

// The whole file as a string; throws Error if it is unreadable or larger than `limit` bytes.
std::string ReadFile(const std::string& path, uint64_t limit = uint64_t{1} << 32);
// AtomicFile in one call.
void WriteFile(const std::string& path, std::string_view bytes);
// fsync of a folder, after renames or removals in it.
void SyncFolder(const std::string& path);

// For tests of crash safety: called with "write", "sync" or "rename" and the path before each such
// system call.
using FileHook = void (*)(const char* action, const std::string& path);
void SetFileHook(FileHook hook);
// For code that makes such a system call itself (renames of folders): calls the hook, if one is
// set.
void CallFileHook(const char* action, const std::string& path);

}  // namespace lapidary

#endif  // LAPIDARY_AUTOGRAD_BASE_FILE_H_
