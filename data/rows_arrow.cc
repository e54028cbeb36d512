// Parquet and Arrow files through the plug-in of data/arrow, which is loaded when the first one is
// opened. The rows are read once, in order, into a temporary file: columns are stored a row group
// at a time, and reading one row of a shuffled data set would decode a whole group.
#include <dlfcn.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "autograd/base/error.h"
#include "autograd/base/random.h"
#include "data/arrow/arrow_plugin.h"
#include "data/rows.h"
#include "data/spool.h"

namespace lapidary {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kPluginFile = "liblapidary_arrow.so";

// Beside the program, in ../lib/lapidary, and where the build has put it.
std::vector<std::string> PluginPlaces() {
  std::error_code ignored;
  const std::filesystem::path program =
      std::filesystem::read_symlink("/proc/self/exe", ignored).parent_path();
  return {(program / kPluginFile).string(),
          (program / ".." / "lib" / "lapidary" / kPluginFile).string(),
          std::string(LAPIDARY_ARROW_FOLDER "/") + kPluginFile};
}

ReadArrowFunction LoadPlugin(const std::string& path) {
  static const ReadArrowFunction loaded = []() -> ReadArrowFunction {
    for (const std::string& place : PluginPlaces()) {
      void* library = ::dlopen(place.c_str(), RTLD_NOW | RTLD_LOCAL);
      if (library == nullptr) continue;
      void* symbol = ::dlsym(library, kReadArrowSymbol);
      if (symbol != nullptr) return reinterpret_cast<ReadArrowFunction>(symbol);
    }
    return nullptr;
  }();
  LAPIDARY_CHECK(loaded != nullptr, path, ": Parquet and Arrow files need the plug-in ",
                 kPluginFile,
                 "; got none; try installing pyarrow (pip install pyarrow) and building again with "
                 "-DLAPIDARY_PYTHON=its python, or converting the file to JSON Lines");
  return loaded;
}

struct Writer {
  RowSpool* spool;
  std::string error;
};

bool WriteRow(void* context, Json&& row) {
  Writer& writer = *static_cast<Writer*>(context);
  try {
    std::string bytes;
    Json::to_cbor(row, bytes);
    writer.spool->Append(bytes);
    return true;
  } catch (const std::exception& e) {
    writer.error = e.what();
    return false;
  }
}

class ArrowRows : public RowSource {
 public:
  explicit ArrowRows(const std::string& path) : path_(path), spool_(path) {
    const ReadArrowFunction read = LoadPlugin(path);
    Writer writer = {&spool_, ""};
    std::string error;
    const bool whole = read(path.c_str(), WriteRow, &writer, &error);
    LAPIDARY_CHECK(writer.error.empty(), path, ": ", writer.error);
    LAPIDARY_CHECK(whole, path, ": must be a whole Parquet or Arrow file; got ", error);
    spool_.Finish();
  }
  int64_t size() const override { return spool_.size(); }
  std::string Where(int64_t row) const override { return StrCat(path_, ":", row + 1); }
  std::string folder() const override {
    return std::filesystem::path(path_).parent_path().string();
  }
  Json Read(int64_t row) const override {
    const std::string_view bytes = spool_[row];
    return Json::from_cbor(bytes.begin(), bytes.end(), true, true, Json::cbor_tag_handler_t::store);
  }
  uint64_t Fingerprint() const override {
    uint64_t hash = static_cast<uint64_t>(size());
    for (int64_t i = 0; i < size(); ++i) hash = MixFingerprint(hash, spool_[i].size());
    for (const int64_t i : {int64_t{0}, size() / 2, size() - 1}) {
      if (size() > 0) hash = MixFingerprint(hash, HashName(spool_[i]));
    }
    return hash;
  }

 private:
  std::string path_;
  RowSpool spool_;
};

}  // namespace

std::unique_ptr<RowSource> OpenArrow(const std::string& path) {
  return std::make_unique<ArrowRows>(path);
}

}  // namespace lapidary
