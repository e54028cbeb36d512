#include "data/rows.h"

#include <filesystem>
#include <nlohmann/json.hpp>

#include "autograd/base/error.h"
#include "data/rows_media.h"
#include "data/spool.h"

namespace lapidary {
namespace {

bool EndsWith(const std::string& path, std::string_view extension) {
  return PlainName(path).ends_with(extension);
}

bool IsFolder(const std::string& path, std::string_view) {
  return std::filesystem::is_directory(path);
}
bool IsTar(const std::string& path, std::string_view head) {
  return EndsWith(path, ".tar") || EndsWith(path, ".tgz") ||
         (head.size() > 262 && head.substr(257, 5) == "ustar");
}
bool IsArrow(const std::string& path, std::string_view head) {
  return head.starts_with("PAR1") || head.starts_with("ARROW1") || EndsWith(path, ".parquet") ||
         EndsWith(path, ".arrow") || EndsWith(path, ".feather");
}
bool IsCsv(const std::string& path, std::string_view) { return EndsWith(path, ".csv"); }
bool IsTsv(const std::string& path, std::string_view) { return EndsWith(path, ".tsv"); }
bool IsJsonArray(const std::string& path, std::string_view head) {
  if (EndsWith(path, ".jsonl") || EndsWith(path, ".ndjson")) return false;
  const size_t at = head.find_first_not_of(" \t\r\n\xef\xbb\xbf");
  return at != std::string_view::npos && head[at] == '[';
}
bool IsJsonLines(const std::string&, std::string_view) { return true; }

}  // namespace

std::string PlainName(const std::string& path) {
  std::string name = LowerAscii(path);
  for (const std::string_view extension : {".gz", ".zst", ".xz", ".bz2"}) {
    if (name.ends_with(extension)) return name.substr(0, name.size() - extension.size());
  }
  return name;
}

const std::vector<Container>& Containers() {
  static const std::vector<Container> containers = {
      {"folder", "pictures or sounds with metadata.jsonl, metadata.csv or captions", IsFolder,
       OpenMediaFolder},
      {"arrow", "Parquet or Arrow IPC (.parquet, .arrow)", IsArrow, OpenArrow},
      {"tar", "WebDataset shard (.tar, also compressed)", IsTar, OpenTar},
      {"csv", "comma-separated values with names in the first line", IsCsv, OpenCsv},
      {"tsv", "tab-separated values with names in the first line", IsTsv, OpenTsv},
      {"json", "one JSON list of objects", IsJsonArray, OpenJsonArray},
      {"jsonl", "JSON Lines: an object a line (also .gz, .zst, .xz, .bz2)", IsJsonLines,
       OpenJsonLines},
  };
  return containers;
}

std::unique_ptr<RowSource> OpenRows(const std::string& path, const std::string& name) {
  if (name != "auto") {
    std::string known = "auto";
    for (const Container& container : Containers()) {
      if (name == container.name) return container.open(path);
      known += StrCat(", ", container.name);
    }
    throw Error(StrCat(path, ": container must be one of ", known, "; got '", name, "'"));
  }
  std::string head;
  std::shared_ptr<const SpooledFile> compressed;
  if (!std::filesystem::is_directory(path)) {
    const auto file = MappedFile::Open(path);
    const std::string_view all(reinterpret_cast<const char*>(file->data()), file->size());
    head = all.substr(0, 512);
    // What is inside a compressed file shows once it is inflated.
    if (IsCompressed(head) && !EndsWith(path, ".jsonl") && !IsTar(path, "")) {
      compressed = SpooledFile::Open(path);
      head = compressed->bytes().substr(0, 512);
    }
  }
  for (const Container& container : Containers()) {
    if (container.fits(path, head)) return container.open(path);
  }
  throw Error(StrCat(path, ": must be data in a known container; got something else"));
}

}  // namespace lapidary
