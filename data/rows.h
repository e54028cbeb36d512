// Containers of rows: files and folders that hold one JSON object after the other (formats.md 8.3).
// Cells of bytes are RawBytes values (json.h). The table of containers is in rows.cc; to add one,
// write a RowSource and a function that opens it, and add a row.
#ifndef LAPIDARY_DATA_ROWS_H_
#define LAPIDARY_DATA_ROWS_H_

#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace lapidary {

// Const and thread-safe.
class RowSource {
 public:
  virtual ~RowSource() = default;
  virtual int64_t size() const = 0;
  // Row `row`, an object. Throws Error beginning with Where(row).
  virtual nlohmann::ordered_json Read(int64_t row) const = 0;
  // "file:line", or what names a row there.
  virtual std::string Where(int64_t row) const = 0;
  // Where relative media paths start.
  virtual std::string folder() const = 0;
  // Changes whenever the rows do (a sample of their bytes and all their sizes).
  virtual uint64_t Fingerprint() const = 0;
};

struct Container {
  const char* name;
  const char* what;  // one line for the user
  // Whether `path` (a folder, or a file that begins with `head`) is one. Compression of the whole
  // file is undone before.
  bool (*fits)(const std::string& path, std::string_view head);
  std::unique_ptr<RowSource> (*open)(const std::string& path);
};

// In the order in which they are tried.
const std::vector<Container>& Containers();

// Opens a file or folder with the container `name`, or the one that fits ("auto"). Throws Error
// naming the path when none fits, or it is broken.
std::unique_ptr<RowSource> OpenRows(const std::string& path, const std::string& name = "auto");

// `path` without .gz, .zst, .xz or .bz2, in lower case: what the kind is told from.
std::string PlainName(const std::string& path);

// The openers, each in the file rows_NAME.cc.
std::unique_ptr<RowSource> OpenJsonLines(const std::string& path);
std::unique_ptr<RowSource> OpenJsonArray(const std::string& path);
std::unique_ptr<RowSource> OpenCsv(const std::string& path);
std::unique_ptr<RowSource> OpenTsv(const std::string& path);
std::unique_ptr<RowSource> OpenTar(const std::string& path);
std::unique_ptr<RowSource> OpenMediaFolder(const std::string& path);
std::unique_ptr<RowSource> OpenArrow(const std::string& path);

// Mixes `value` into a running fingerprint.
inline uint64_t MixFingerprint(uint64_t hash, uint64_t value) {
  hash = (hash ^ value) * 0x100000001b3u;
  return hash ^ hash >> 29;
}

}  // namespace lapidary

#endif  // LAPIDARY_DATA_ROWS_H_
