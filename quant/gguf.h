// GGUF files (formats.md 2): a memory-mapped reader of versions 2 and 3, and a streaming writer of
// version 3.
#ifndef LAPIDARY_QUANT_GGUF_H_
#define LAPIDARY_QUANT_GGUF_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "autograd/base/file.h"
#include "quant/tensor_file.h"

namespace lapidary {

// Ids of the file format.
enum class GgufType : uint32_t {
  kU8 = 0,
  kI8 = 1,
  kU16 = 2,
  kI16 = 3,
  kU32 = 4,
  kI32 = 5,
  kF32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kU64 = 10,
  kI64 = 11,
  kF64 = 12,
};
const char* GgufTypeName(GgufType type);  // "uint32"

// A typed value or a one-dimensional array of such. Exactly one of the vectors is used, by type:
// `ints` for integers and bools (u64 above 2^63 - 1 is an error when read), `floats` for f32 and
// f64, `strings`. A scalar is a vector of one.
struct GgufValue {
  GgufType type = GgufType::kU32;  // of the elements
  bool is_array = false;
  std::vector<int64_t> ints;
  std::vector<double> floats;
  std::vector<std::string> strings;

  static GgufValue U32(int64_t value) { return {GgufType::kU32, false, {value}, {}, {}}; }
  static GgufValue I32(int64_t value) { return {GgufType::kI32, false, {value}, {}, {}}; }
  static GgufValue F32(double value) {
    return {GgufType::kF32, false, {}, {static_cast<double>(static_cast<float>(value))}, {}};
  }
  static GgufValue Bool(bool value) { return {GgufType::kBool, false, {value ? 1 : 0}, {}, {}}; }
  static GgufValue String(std::string value) {
    return {GgufType::kString, false, {}, {}, {std::move(value)}};
  }
  static GgufValue I32s(std::vector<int64_t> values) {
    return {GgufType::kI32, true, std::move(values), {}, {}};
  }
  static GgufValue Bools(std::vector<int64_t> values) {
    return {GgufType::kBool, true, std::move(values), {}, {}};
  }
  static GgufValue F32s(std::vector<double> values) {
    return {GgufType::kF32, true, {}, std::move(values), {}};
  }
  static GgufValue Strings(std::vector<std::string> values) {
    return {GgufType::kString, true, {}, {}, std::move(values)};
  }

  bool is_string() const { return type == GgufType::kString; }
  bool is_float() const { return type == GgufType::kF32 || type == GgufType::kF64; }
  bool is_int() const { return !is_string() && !is_float(); }
  size_t size() const {
    return is_string() ? strings.size() : is_float() ? floats.size() : ints.size();
  }
  bool operator==(const GgufValue&) const = default;
};

// Keys in the order of the file.
using GgufKeys = std::vector<std::pair<std::string, GgufValue>>;

// A part of a split model: "dir/m-00002-of-00003.gguf" is {"dir/m", 2, 3}. count = 0: no such name.
struct GgufPartName {
  std::string stem;
  int64_t no = 0, count = 0;
};
GgufPartName ParseGgufPartName(const std::string& path);
std::string GgufPartPath(const std::string& stem, int64_t no, int64_t count);

class GgufFile {
 public:
  // Throws Error unless every rule of formats.md 2.1 holds: magic, version, counts, string and
  // array lengths inside the file, unique keys and names, at most 4 axes, whole blocks, live types,
  // offsets equal to the running sum, data inside the file. Of a split model (split.count) `path`
  // is the first part, and all parts are opened: its keys, everybody's tensors.
  static GgufFile Open(const std::string& path);
  // The same checks on bytes in memory that outlive the object (tests, fuzzing).
  static GgufFile Parse(const uint8_t* bytes, uint64_t size, const std::string& where);

  const std::string& path() const { return tensors_.where(); }
  uint32_t version() const { return version_; }
  int64_t alignment() const { return alignment_; }
  const GgufKeys& keys() const { return keys_; }
  // Tensors with shapes in row-major order (the reverse of the file's dimensions). Types that exist
  // in ggml but not in the format table are listed with format = null.
  const TensorSet& tensors() const { return tensors_; }

  const GgufValue* Find(std::string_view key) const;  // null if absent
  // Typed look-ups; throw Error "PATH: KEY must be ..." if the key is absent or of another kind.
  // Any integer type is accepted where an integer is asked for, f32 or f64 for a float.
  const std::string& GetString(std::string_view key) const;
  int64_t GetInt(std::string_view key) const;
  double GetFloat(std::string_view key) const;
  bool GetBool(std::string_view key) const;
  const std::vector<int64_t>& GetInts(std::string_view key) const;  // arrays of integers or bools
  const std::vector<double>& GetFloats(std::string_view key) const;
  const std::vector<std::string>& GetStrings(std::string_view key) const;

 private:
  static GgufFile OpenPart(const std::string& path);
  const GgufValue& Need(std::string_view key, const char* what, bool array,
                        bool (GgufValue::*kind)() const) const;
  uint32_t version_ = 0;
  int64_t alignment_ = 32;
  GgufKeys keys_;
  TensorSet tensors_;
};

// Streams one GGUF v3 file with alignment 32.
class GgufWriter {
 public:
  // Writes header, keys and tensor infos. Empty strings and empty arrays are left out, as gguf-py
  // does. Throws Error on a duplicate or empty key, a name above 63 bytes, more than 4 axes, an
  // unknown format or rows that are not whole blocks.
  GgufWriter(const std::string& path, const GgufKeys& keys, std::vector<TensorSpec> tensors);

  // The next bytes of the tensors in declared order, any split; padding between tensors is the
  // writer's. Throws Error beyond the declared end.
  void Append(const void* data, uint64_t bytes);
  // Throws Error unless every tensor is complete; then the file appears under its name.
  void Commit();

 private:
  void FinishTensors();
  AtomicFile file_;
  std::string path_;
  std::vector<TensorSpec> tensors_;
  size_t current_ = 0;     // the tensor being appended
  uint64_t appended_ = 0;  // bytes of it
};

// Bytes of the file that GgufWriter would write, for planning.
uint64_t GgufFileBytes(const GgufKeys& keys, const std::vector<TensorSpec>& tensors);

// The same file for writers that do not append in its order.
FileLayout GgufFileLayout(const GgufKeys& keys, const std::vector<TensorSpec>& tensors);

}  // namespace lapidary

#endif  // LAPIDARY_QUANT_GGUF_H_
