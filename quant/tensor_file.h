// Named tensors as they lie in files: what the safetensors and GGUF readers return, what loaders
// and exporters consume, and the manifest that the writers take. A tensor here is a name, a shape
// and a span of a memory-mapped file; nothing is copied. Thread-safety: const objects may be shared
// between threads.
#ifndef LAPIDARY_QUANT_TENSOR_FILE_H_
#define LAPIDARY_QUANT_TENSOR_FILE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "autograd/base/file.h"
#include "quant/format.h"

namespace lapidary {

// Row-major, slowest axis first: Hugging Face's order in every file type.
using TensorShape = std::vector<int64_t>;
std::string ShapeText(const TensorShape& shape);  // "[2, 3]"
// Product of the axes (1 for a scalar). Throws Error naming `where` on a negative axis or overflow
// of 63 bits.
int64_t ElementCount(const TensorShape& shape, const std::string& where);

// Valid while its file is open (`file`, or whoever owns `data`, keeps it so), or a tensor that lies
// nowhere and whose rows are made when they are read (`make_rows`).
struct StoredTensor {
  std::string name;
  std::string dtype;               // as the file spells it: "BF16", "Q4_0", "I64"
  const Format* format = nullptr;  // how to read it as float32; null if it cannot be (integers,
                                   // formats not in the table)
  TensorShape shape;
  const uint8_t* data = nullptr;  // not necessarily aligned
  uint64_t bytes = 0;
  std::shared_ptr<const MappedFile> file;  // null if `data` is not a mapped file
  // Set: `data` is null, and this writes rows [row, row + count) to out[count * cols()].
  // Thread-safe.
  std::function<void(int64_t row, int64_t count, float* out)> make_rows;

  int64_t elements() const;
  // A tensor is rows() x cols(): cols is the last axis (1 for a scalar), rows the product of the
  // others.
  int64_t rows() const;
  int64_t cols() const { return shape.empty() ? 1 : shape.back(); }

  // Rows [row, row + count) as float32 out[count * cols()]; not parallel. Throws Error if the
  // tensor has no format or the range lies outside.
  void ReadRows(int64_t row, int64_t count, float* out) const;
  // The whole tensor as float32, in parallel over rows.
  std::vector<float> ReadAll() const;
  // Tells the system that these rows will not be needed soon, so that a pass over a large file
  // stays small in memory.
  void DropRows(int64_t row, int64_t count) const;
};

// A set of tensors with unique names, in file order. Copies share the tensors.
class TensorSet {
 public:
  TensorSet() = default;
  // Throws Error naming `where` if a name occurs twice. `owners` are kept alive as long as any copy
  // lives.
  TensorSet(std::string where, std::vector<StoredTensor> tensors,
            std::vector<std::string> warnings = {},
            std::vector<std::shared_ptr<const void>> owners = {});

  // The folder or file, for messages.
  const std::string& where() const { return state_->where; }
  const std::vector<StoredTensor>& tensors() const { return state_->tensors; }
  // What the user should know although it was not an error. Library code never prints.
  const std::vector<std::string>& warnings() const { return state_->warnings; }
  const StoredTensor* Find(std::string_view name) const;  // null if absent
  const StoredTensor& Get(std::string_view name) const;   // throws Error if absent
  // Get, and throws Error unless it has this shape and can be read as float32.
  const StoredTensor& Get(std::string_view name, const TensorShape& shape) const;

 private:
  struct State {
    std::string where;
    std::vector<StoredTensor> tensors;
    std::vector<std::string> warnings;
    std::vector<std::shared_ptr<const void>> owners;
    std::unordered_map<std::string, size_t> index;
  };
  std::shared_ptr<const State> state_ = std::make_shared<State>();
};

// A line of the manifest that a writer is given up front: what will be appended, in which encoding.
struct TensorSpec {
  std::string name;
  std::string dtype;  // safetensors: "BF16", "I64", ...; GGUF: a name of the format table
  TensorShape shape;
};

// Where everything lies in a file whose contents are declared up front.
struct FileLayout {
  std::string head;                      // the bytes before the data
  std::vector<uint64_t> offsets, bytes;  // of each declared tensor, offsets from the file's start
  uint64_t total = 0;                    // size of the file; what no tensor covers is zero
};

// A small tensor in memory, float32.
struct NamedTensor {
  std::string name;
  TensorShape shape;
  std::vector<float> values;
};

}  // namespace lapidary

#endif  // LAPIDARY_QUANT_TENSOR_FILE_H_
