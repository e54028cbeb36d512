#include "data/dataset.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <utility>

#include "autograd/base/error.h"
#include "autograd/base/random.h"
#include "data/json.h"
#include "data/readers.h"

namespace lapidary {
namespace {

// Records that are looked at to tell the format.
constexpr int64_t kProbed = 16;

bool IsBlank(std::string_view line) {
  return line.find_first_not_of(" \t\r") == std::string_view::npos;
}

std::string KnownShapes() {
  std::string shapes;
  for (const RecordFormat& format : RecordFormats()) {
    shapes += StrCat(shapes.empty() ? "" : ", ", format.name, " ", format.shape);
  }
  return shapes;
}

std::string Keys(const nlohmann::ordered_json& row) {
  std::string keys;
  for (const auto& [key, value] : row.items()) {
    keys += (keys.empty() ? "" : ", ") + key;
    if (keys.size() > 80) return keys + ", ...";
  }
  return keys;
}

}  // namespace

std::shared_ptr<const Dataset> Dataset::Open(const std::vector<std::string>& paths,
                                             const DatasetOptions& options) {
  LAPIDARY_CHECK(!paths.empty(), "data set: there must be at least one file; got none");
  std::shared_ptr<Dataset> dataset(new Dataset);
  for (const std::string& path : paths) {
    dataset->files_.push_back(MappedFile::Open(path));
    dataset->IndexFile(static_cast<int32_t>(dataset->files_.size() - 1));
  }
  LAPIDARY_CHECK(dataset->size() > 0, paths[0], ": must have at least one record; got ",
                 paths.size(), " file(s) of blank lines");
  dataset->ChooseFormat(options.format);
  return dataset;
}

void Dataset::IndexFile(int32_t file) {
  const auto* bytes = reinterpret_cast<const char*>(files_[file]->data());
  const auto size = static_cast<int64_t>(files_[file]->size());
  int64_t begin = 0;
  if (size >= 3 && std::memcmp(bytes, "\xef\xbb\xbf", 3) == 0) begin = 3;  // byte order mark
  for (int64_t number = 1; begin < size; ++number) {
    const void* found = std::memchr(bytes + begin, '\n', static_cast<size_t>(size - begin));
    const int64_t end = found == nullptr ? size : static_cast<const char*>(found) - bytes;
    if (!IsBlank({bytes + begin, static_cast<size_t>(end - begin)})) {
      lines_.push_back({file, number, begin, end});
    }
    begin = end + 1;
  }
}

void Dataset::ChooseFormat(const std::string& name) {
  if (name != "auto") {
    std::string known = "auto";
    for (const RecordFormat& format : RecordFormats()) {
      if (name == format.name) format_ = &format;
      known += StrCat(" ", format.name);
    }
    LAPIDARY_CHECK(format_ != nullptr, "data set: format must be one of ", known, "; got '", name,
                   "'");
    return;
  }
  std::vector<nlohmann::ordered_json> rows;
  std::string first_error;
  int64_t first_row = -1;
  for (int64_t i = 0; i < std::min(size(), kProbed); ++i) {
    try {
      nlohmann::ordered_json row = ParseJson(LineText(i), Where(i));
      LAPIDARY_CHECK(row.is_object(), Where(i), ": must be a JSON object; got ",
                     DumpJson(row).substr(0, 40));
      if (first_row < 0) first_row = i;
      rows.push_back(std::move(row));
    } catch (const Error& e) {
      if (first_error.empty()) first_error = e.what();
    }
  }
  LAPIDARY_CHECK(!rows.empty(), first_error, "; try a file with one JSON object a line");
  // The format that fits most of the records looked at; of equals the earlier in the table.
  int64_t most = 0;
  for (const RecordFormat& format : RecordFormats()) {
    const int64_t fitting = std::count_if(rows.begin(), rows.end(), format.fits);
    if (fitting > most) format_ = &format;
    most = std::max(most, fitting);
  }
  if (format_ != nullptr) return;
  throw Error(StrCat(Where(first_row), ": a record must be one of ", KnownShapes(),
                     "; got an object with the keys ", Keys(rows[0])));
}

std::string_view Dataset::LineText(int64_t index) const {
  const Line& line = lines_[index];
  const auto* bytes = reinterpret_cast<const char*>(files_[line.file]->data());
  return {bytes + line.begin, static_cast<size_t>(line.end - line.begin)};
}

std::string Dataset::format() const { return format_->name; }

std::string Dataset::Where(int64_t index) const {
  return StrCat(files_[lines_[index].file]->path(), ":", lines_[index].number);
}

Record Dataset::Read(int64_t index) const {
  LAPIDARY_CHECK(index >= 0 && index < size(), "data set: a record must be in [0, ", size(),
                 "); got ", index);
  const std::string where = Where(index);
  nlohmann::ordered_json row = ParseJson(LineText(index), where);
  LAPIDARY_CHECK(row.is_object(), where, ": must be a JSON object; got ",
                 DumpJson(row).substr(0, 40));
  const std::string& path = files_[lines_[index].file]->path();
  return format_->read(std::move(row), {where, std::filesystem::path(path).parent_path().string()});
}

uint64_t Dataset::Fingerprint() const {
  uint64_t hash = static_cast<uint64_t>(size());
  for (const Line& line : lines_) {
    hash = (hash ^ static_cast<uint64_t>(line.end - line.begin)) * 0x100000001b3u;
    hash ^= hash >> 29;
  }
  for (int64_t i : {int64_t{0}, size() / 2, size() - 1}) {
    hash = (hash ^ HashName(LineText(i))) * 0x100000001b3u;
  }
  return hash;
}

}  // namespace lapidary
