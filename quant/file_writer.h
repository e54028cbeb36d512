// The neutral interface between an exporter, which knows a model, and the writers of file types,
// which know none: a manifest says what the file will hold, then bytes are appended in the
// manifest's order, so that one pass over a checkpoint can feed any number of files. A new file
// type is one row in the table of FindFileType.
#ifndef LAPIDARY_QUANT_FILE_WRITER_H_
#define LAPIDARY_QUANT_FILE_WRITER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "quant/gguf.h"
#include "quant/tensor_file.h"

namespace lapidary {

struct FileManifest {
  std::vector<TensorSpec> tensors;  // in the order in which their bytes will be appended
  GgufKeys keys;                    // typed metadata, for the types that have it
};

// One file being written: under its name only after Commit, nothing of it if destroyed before.
class FileWriter {
 public:
  virtual ~FileWriter() = default;
  // The next bytes of the tensors in the manifest's order, any split.
  virtual void Append(const void* data, uint64_t bytes) = 0;
  virtual void Commit() = 0;
};

struct FileType {
  const char* name = "";  // "safetensors", "gguf"
  // Size of the file. Throws Error for a manifest that the type cannot hold.
  uint64_t (*bytes)(const FileManifest& manifest) = nullptr;
  // Creates the temporary file and writes its head. Throws Error like `bytes`, or if the folder
  // cannot be written. safetensors: the manifest must be in the reference order
  // (SafetensorsWriter::order()).
  std::unique_ptr<FileWriter> (*open)(const std::string& path,
                                      const FileManifest& manifest) = nullptr;
};

// Throws Error listing the types that exist.
const FileType& FindFileType(std::string_view name);

}  // namespace lapidary

#endif  // LAPIDARY_QUANT_FILE_WRITER_H_
