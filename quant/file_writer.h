// The neutral interface between an exporter, which knows a model, and the writers of file types,
// which know none: a manifest says what the file will hold, then the bytes of its tensors come in
// pieces, several tensors at a time if need be, so that one pass over a checkpoint can feed any
// number of files. A new file type is one row in the table of FindFileType.
#ifndef LAPIDARY_QUANT_FILE_WRITER_H_
#define LAPIDARY_QUANT_FILE_WRITER_H_

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "autograd/base/file.h"
#include "quant/gguf.h"
#include "quant/tensor_file.h"

namespace lapidary {

struct FileManifest {
  std::vector<TensorSpec> tensors;                                   // any order; GGUF keeps it
  GgufKeys keys;                                                     // typed metadata (GGUF)
  std::map<std::string, std::string> metadata = {{"format", "pt"}};  // safetensors
};

struct FileType {
  const char* name = "";  // "safetensors", "gguf"
  // Throws Error for a manifest that the type cannot hold.
  FileLayout (*layout)(const FileManifest& manifest) = nullptr;
};

// Throws Error listing the types that exist.
const FileType& FindFileType(std::string_view name);

// One file being written: under its name only after Commit, nothing of it if destroyed before.
class FileWriter {
 public:
  // Creates the temporary file, full size, and writes its head. Throws Error if the folder cannot
  // be written or the disk is full.
  FileWriter(const std::string& path, FileLayout layout);
  // The next bytes of one tensor of the manifest, any split. Throws Error beyond its end.
  void Append(size_t tensor, const void* data, uint64_t bytes);
  // Throws Error unless every tensor is complete.
  void Commit();

 private:
  AtomicFile file_;
  std::string path_;
  FileLayout layout_;
  std::vector<uint64_t> appended_;  // bytes of each tensor
};

}  // namespace lapidary

#endif  // LAPIDARY_QUANT_FILE_WRITER_H_
