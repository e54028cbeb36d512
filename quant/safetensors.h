// safetensors files (formats.md 1): a memory-mapped reader that checks everything before it hands
// out a byte, the opener for a folder or file with or without shards, and a streaming writer.
#ifndef LAPIDARY_QUANT_SAFETENSORS_H_
#define LAPIDARY_QUANT_SAFETENSORS_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "autograd/base/file.h"
#include "quant/tensor_file.h"

namespace lapidary {

// Bits of one element by dtype name (formats.md 1.2: "BF16", "F32", "U8", ...); 0 if the name is
// unknown.
int SafetensorsBits(std::string_view dtype);

class SafetensorsFile {
 public:
  // Throws Error unless every rule of formats.md 1.3 holds: header length and JSON, unique keys,
  // known dtypes, sizes that equal shape x dtype, data without hole, overlap or trailing byte.
  static SafetensorsFile Open(const std::string& path);
  // The same checks on bytes in memory that outlive the object (tests, fuzzing); `where` names them
  // in messages.
  static SafetensorsFile Parse(const uint8_t* bytes, uint64_t size, const std::string& where);

  const std::string& path() const { return path_; }
  // In the order of the data.
  const std::vector<StoredTensor>& tensors() const { return tensors_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

 private:
  std::string path_;
  std::vector<StoredTensor> tensors_;
  std::map<std::string, std::string> metadata_;
};

// All tensors of a model. `path` is a .safetensors file, an index (*.safetensors.index.json), or a
// folder with model.safetensors, or model.safetensors.index.json and shards (formats.md 1.5), or
// shards alone. Rules: every tensor of the index stands in the shard it names and the reverse; if
// the index names shards that do not exist, all *.safetensors files of the folder are used instead,
// with a warning in TensorSet::warnings(). Throws Error otherwise.
TensorSet OpenCheckpoint(const std::string& path);

// Streams one file: every tensor is declared up front, then bytes are appended in order().
class SafetensorsWriter {
 public:
  // Writes the header. Throws Error on duplicate names, unknown dtypes or sizes that overflow.
  SafetensorsWriter(const std::string& path, std::vector<TensorSpec> tensors,
                    std::map<std::string, std::string> metadata = {{"format", "pt"}});

  // The reference order (formats.md 1.4): wider element types first, then names byte-wise. An
  // all-BF16 file is in name order.
  const std::vector<TensorSpec>& order() const { return order_; }
  // The next bytes of the data, any split. Throws Error beyond the declared end.
  void Append(const void* data, uint64_t bytes);
  // Throws Error unless exactly the declared bytes were appended; then the file appears under its
  // name.
  void Commit();
  // Size of the whole file.
  uint64_t total_bytes() const { return header_bytes_ + data_bytes_; }

 private:
  AtomicFile file_;
  std::string path_;
  std::vector<TensorSpec> order_;
  uint64_t header_bytes_ = 0;
  uint64_t data_bytes_ = 0;
};

// Bytes of the file that SafetensorsWriter would write, for planning.
uint64_t SafetensorsFileBytes(const std::vector<TensorSpec>& tensors,
                              const std::map<std::string, std::string>& metadata = {
                                  {"format", "pt"}});

// The file that SafetensorsWriter would write, for writers that do not append in its order: offsets
// in the order of `tensors`.
FileLayout SafetensorsLayout(const std::vector<TensorSpec>& tensors,
                             const std::map<std::string, std::string>& metadata = {
                                 {"format", "pt"}});

// A small file in one call. dtype is F32, F16, BF16 or F64 for every tensor.
void WriteSafetensors(const std::string& path, const std::vector<NamedTensor>& tensors,
                      const std::string& dtype = "F32",
                      const std::map<std::string, std::string>& metadata = {{"format", "pt"}});

}  // namespace lapidary

#endif  // LAPIDARY_QUANT_SAFETENSORS_H_
