#include "quant/file_writer.h"

#include "autograd/base/error.h"
#include "quant/safetensors.h"

namespace lapidary {
namespace {

constexpr FileType kTypes[] = {
    {"safetensors",
     [](const FileManifest& manifest) {
       return SafetensorsLayout(manifest.tensors, manifest.metadata);
     }},
    {"gguf",
     [](const FileManifest& manifest) { return GgufFileLayout(manifest.keys, manifest.tensors); }},
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

FileWriter::FileWriter(const std::string& path, FileLayout layout)
    : file_(path), path_(path), layout_(std::move(layout)), appended_(layout_.bytes.size()) {
  file_.Write(layout_.head);
  file_.Reserve(layout_.total);
}

void FileWriter::Append(size_t tensor, const void* data, uint64_t bytes) {
  LAPIDARY_CHECK(bytes <= layout_.bytes[tensor] - appended_[tensor], path_, ": tensor ", tensor,
                 " must get its declared ", layout_.bytes[tensor], " bytes; got ", bytes, " after ",
                 appended_[tensor]);
  file_.WriteAt(layout_.offsets[tensor] + appended_[tensor], data, bytes);
  appended_[tensor] += bytes;
}

void FileWriter::Commit() {
  for (size_t i = 0; i < appended_.size(); ++i) {
    LAPIDARY_CHECK(appended_[i] == layout_.bytes[i], path_, ": tensor ", i,
                   " must get its declared ", layout_.bytes[i], " bytes; got ", appended_[i]);
  }
  file_.Commit();
}

}  // namespace lapidary
