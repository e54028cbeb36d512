// Folders of pictures, sounds or clips, as the imagefolder and audiofolder of Hugging Face: with a
// metadata.jsonl or metadata.csv whose column file_name names the medium of each row, or with a
// text file of the same name beside every medium (a.jpg + a.txt).
#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <utility>

#include "autograd/base/error.h"
#include "autograd/base/file.h"
#include "autograd/base/random.h"
#include "data/json.h"
#include "data/media_ref.h"
#include "data/rows.h"
#include "data/rows_media.h"

namespace lapidary {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

// A caption may have so many bytes.
constexpr uint64_t kMaxCaption = uint64_t{1} << 24;

std::string ExtensionOf(const fs::path& path) {
  const std::string dotted = path.extension().string();
  return LowerAscii(dotted.empty() ? "" : dotted.substr(1));
}

// The column of the medium that a row names, by the extension.
const char* OneOf(const char* column) {
  const std::string_view name = column;
  return name == "images" ? "image" : name == "audios" ? "audio" : "video";
}

class MetadataRows : public RowSource {
 public:
  MetadataRows(std::string folder, std::unique_ptr<RowSource> rows)
      : folder_(std::move(folder)), rows_(std::move(rows)) {}
  int64_t size() const override { return rows_->size(); }
  std::string Where(int64_t row) const override { return rows_->Where(row); }
  std::string folder() const override { return folder_; }
  uint64_t Fingerprint() const override { return rows_->Fingerprint(); }
  Json Read(int64_t row) const override {
    Json object = rows_->Read(row);
    // file_name, or NAME_file_name for the column NAME.
    Json out = Json::object();
    bool named = false;
    for (auto& [key, value] : object.items()) {
      constexpr std::string_view suffix = "file_name";
      if (!key.ends_with(suffix) || !value.is_string()) {
        out[key] = std::move(value);
        continue;
      }
      named = true;
      const std::string name = value.get<std::string>();
      const char* column = MediaColumnOf(ExtensionOf(name));
      LAPIDARY_CHECK(column != nullptr, Where(row), ": ", key,
                     " must name a picture, a sound or a clip; got '", name, "'");
      const bool own = key.size() > suffix.size() + 1;
      out[own ? key.substr(0, key.size() - suffix.size() - 1) : OneOf(column)] = name;
    }
    LAPIDARY_CHECK(named, Where(row), ": must have the column file_name; got none");
    return out;
  }

 private:
  std::string folder_;
  std::unique_ptr<RowSource> rows_;
};

class CaptionRows : public RowSource {
 public:
  explicit CaptionRows(std::string folder) : folder_(std::move(folder)) {
    for (const auto& entry : fs::recursive_directory_iterator(folder_)) {
      if (!entry.is_regular_file() || MediaColumnOf(ExtensionOf(entry.path())) == nullptr) continue;
      files_.push_back(fs::relative(entry.path(), folder_).string());
    }
    std::sort(files_.begin(), files_.end());
    LAPIDARY_CHECK(!files_.empty(), folder_,
                   ": a folder of data must hold pictures, sounds or clips with a metadata.jsonl, "
                   "a metadata.csv, or a text file beside each; got none of them");
  }
  int64_t size() const override { return static_cast<int64_t>(files_.size()); }
  std::string Where(int64_t row) const override { return folder_ + "/" + files_[row]; }
  std::string folder() const override { return folder_; }
  uint64_t Fingerprint() const override {
    uint64_t hash = static_cast<uint64_t>(size());
    for (int64_t i = 0; i < size(); ++i) {
      std::error_code ignored;
      hash = MixFingerprint(hash, HashName(files_[i]));
      hash = MixFingerprint(hash, fs::file_size(Where(i), ignored));
    }
    return hash;
  }
  Json Read(int64_t row) const override {
    const fs::path caption = fs::path(Where(row)).replace_extension(".txt");
    LAPIDARY_CHECK(fs::is_regular_file(caption), Where(row), ": must have its text in ",
                   caption.filename().string(),
                   "; got no such file; try a metadata.jsonl in the folder");
    LAPIDARY_CHECK(!LeavesFolder(caption, folder_), Where(row), ": its text ",
                   caption.filename().string(), " must lie in the folder; got a link out of it");
    std::string text = ReadFile(caption.string(), kMaxCaption);
    while (!text.empty() && (text.back() == '\n' || text.back() == '\r')) text.pop_back();
    return {{OneOf(MediaColumnOf(ExtensionOf(files_[row]))), files_[row]},
            {"text", std::move(text)}};
  }

 private:
  std::string folder_;
  std::vector<std::string> files_;
};

}  // namespace

std::unique_ptr<RowSource> OpenMediaFolder(const std::string& path) {
  const std::string base = path.ends_with('/') ? path.substr(0, path.size() - 1) : path;
  if (fs::is_regular_file(base + "/metadata.jsonl")) {
    return std::make_unique<MetadataRows>(base, OpenJsonLines(base + "/metadata.jsonl"));
  }
  if (fs::is_regular_file(base + "/metadata.csv")) {
    return std::make_unique<MetadataRows>(base, OpenCsv(base + "/metadata.csv"));
  }
  return std::make_unique<CaptionRows>(base);
}

}  // namespace lapidary
