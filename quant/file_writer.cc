#include "quant/file_writer.h"

#include "autograd/base/error.h"
#include "quant/safetensors.h"

namespace lapidary {
namespace {

class SafetensorsFileWriter : public FileWriter {
 public:
  SafetensorsFileWriter(const std::string& path, const FileManifest& manifest)
      : writer_(path, manifest.tensors) {
    for (size_t i = 0; i < manifest.tensors.size(); ++i) {
      LAPIDARY_CHECK(writer_.order()[i].name == manifest.tensors[i].name, path,
                     ": tensors must come in the order of safetensors; got '",
                     manifest.tensors[i].name, "' where '", writer_.order()[i].name, "' belongs");
    }
  }
  void Append(const void* data, uint64_t bytes) override { writer_.Append(data, bytes); }
  void Commit() override { writer_.Commit(); }

 private:
  SafetensorsWriter writer_;
};

class GgufFileWriter : public FileWriter {
 public:
  GgufFileWriter(const std::string& path, const FileManifest& manifest)
      : writer_(path, manifest.keys, manifest.tensors) {}
  void Append(const void* data, uint64_t bytes) override { writer_.Append(data, bytes); }
  void Commit() override { writer_.Commit(); }

 private:
  GgufWriter writer_;
};

template <class Writer>
std::unique_ptr<FileWriter> Open(const std::string& path, const FileManifest& manifest) {
  return std::make_unique<Writer>(path, manifest);
}

constexpr FileType kTypes[] = {
    {"safetensors",
     [](const FileManifest& manifest) { return SafetensorsFileBytes(manifest.tensors); },
     Open<SafetensorsFileWriter>},
    {"gguf",
     [](const FileManifest& manifest) { return GgufFileBytes(manifest.keys, manifest.tensors); },
     Open<GgufFileWriter>},
};

}  // namespace

const FileType& FindFileType(std::string_view name) {
  std::string names;
  for (const FileType& type : kTypes) {
    if (name == type.name) return type;
    names += StrCat(" ", type.name);
  }
  throw Error(StrCat("file type: must be known; got '", name, "'; try one of", names));
}

}  // namespace lapidary
