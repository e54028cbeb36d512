// The writer half of gguf.h.
#include <cstring>
#include <unordered_set>

#include "autograd/base/error.h"
#include "quant/gguf.h"

namespace lapidary {
namespace {

constexpr uint64_t kAlignment = 32;

uint64_t Padded(uint64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

uint64_t TensorBytes(const TensorSpec& tensor) {
  const Format& format = GetFormat(tensor.dtype);
  const int64_t cols = tensor.shape.empty() ? 1 : tensor.shape.back();
  LAPIDARY_CHECK(cols % format.block_size == 0, "'", tensor.name,
                 "': rows must be whole blocks of ", format.block_size, " (", format.name,
                 "); got ", cols, " columns");
  return static_cast<uint64_t>(
      FormatBytes(format, ElementCount(tensor.shape, "'" + tensor.name + "'")));
}

template <class T>
void Put(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof(T));
}

void PutString(std::string& out, const std::string& text) {
  Put<uint64_t>(out, text.size());
  out += text;
}

void PutInt(std::string& out, GgufType type, int64_t value, const std::string& key) {
  const auto put = [&]<class T>(T) {
    LAPIDARY_CHECK(std::in_range<T>(value), key, ": must fit ", GgufTypeName(type), "; got ",
                   value);
    Put<T>(out, static_cast<T>(value));
  };
  switch (type) {
    case GgufType::kU8:
      return put(uint8_t{});
    case GgufType::kI8:
      return put(int8_t{});
    case GgufType::kU16:
      return put(uint16_t{});
    case GgufType::kI16:
      return put(int16_t{});
    case GgufType::kU32:
      return put(uint32_t{});
    case GgufType::kI32:
      return put(int32_t{});
    case GgufType::kU64:
      return put(uint64_t{});
    case GgufType::kI64:
      return put(int64_t{});
    default:
      return Put<uint8_t>(out, value != 0);
  }
}

void PutValue(std::string& out, const std::string& key, const GgufValue& value) {
  if (value.is_array) {
    Put<uint32_t>(out, static_cast<uint32_t>(GgufType::kArray));
    Put<uint32_t>(out, static_cast<uint32_t>(value.type));
    Put<uint64_t>(out, value.size());
  } else {
    LAPIDARY_CHECK(value.size() == 1, key, ": a scalar must have one value; got ", value.size());
    Put<uint32_t>(out, static_cast<uint32_t>(value.type));
  }
  for (const std::string& text : value.strings) PutString(out, text);
  for (const double number : value.floats) {
    if (value.type == GgufType::kF32) {
      Put<float>(out, static_cast<float>(number));
    } else {
      Put<double>(out, number);
    }
  }
  for (const int64_t number : value.ints) PutInt(out, value.type, number, key);
}

// gguf-py drops what is empty; llama.cpp does not expect empty arrays.
bool IsEmpty(const GgufValue& value) {
  return value.is_array ? value.size() == 0 : value.is_string() && value.strings[0].empty();
}

// Everything before the data section, padded.
std::string BuildHead(const GgufKeys& keys, const std::vector<TensorSpec>& tensors) {
  std::string body;
  int64_t n_keys = 0;
  std::unordered_set<std::string> names;
  for (const auto& [key, value] : keys) {
    LAPIDARY_CHECK(!key.empty() && names.insert(key).second,
                   "GGUF: keys must be unique and not empty; got '", key, "'");
    LAPIDARY_CHECK(key != "general.alignment",
                   "GGUF: general.alignment is the writer's; got a value for it");
    if (IsEmpty(value)) continue;
    PutString(body, key);
    PutValue(body, key, value);
    ++n_keys;
  }
  names.clear();
  uint64_t offset = 0;
  for (const TensorSpec& tensor : tensors) {
    LAPIDARY_CHECK(
        !tensor.name.empty() && tensor.name.size() <= 63 && names.insert(tensor.name).second,
        "GGUF: tensor names must be unique and have 1 to 63 bytes; got '", tensor.name, "'");
    LAPIDARY_CHECK(tensor.shape.size() <= 4, "'", tensor.name, "': must have at most 4 axes; got ",
                   ShapeText(tensor.shape));
    PutString(body, tensor.name);
    Put<uint32_t>(body, static_cast<uint32_t>(tensor.shape.size()));
    for (size_t i = tensor.shape.size(); i-- > 0;) Put<int64_t>(body, tensor.shape[i]);
    Put<uint32_t>(body, static_cast<uint32_t>(GetFormat(tensor.dtype).id));
    Put<uint64_t>(body, offset);
    LAPIDARY_CHECK(!__builtin_add_overflow(offset, Padded(TensorBytes(tensor)), &offset), "'",
                   tensor.name, "': the file must fit 64 bits");
  }
  std::string head = "GGUF";
  Put<uint32_t>(head, 3);
  Put<int64_t>(head, static_cast<int64_t>(tensors.size()));
  Put<int64_t>(head, n_keys);
  head += body;
  head.resize(Padded(head.size()), '\0');
  return head;
}

}  // namespace

GgufWriter::GgufWriter(const std::string& path, const GgufKeys& keys,
                       std::vector<TensorSpec> tensors)
    : file_(path), path_(path), tensors_(std::move(tensors)) {
  file_.Write(BuildHead(keys, tensors_));
  FinishTensors();
}

// Pads and leaves every tensor that is complete (empty ones too).
void GgufWriter::FinishTensors() {
  static constexpr char kZeros[kAlignment] = {};
  while (current_ < tensors_.size() && appended_ == TensorBytes(tensors_[current_])) {
    file_.Write(kZeros, Padded(appended_) - appended_);
    ++current_;
    appended_ = 0;
  }
}

void GgufWriter::Append(const void* data, uint64_t bytes) {
  const char* from = static_cast<const char*>(data);
  while (bytes > 0) {
    LAPIDARY_CHECK(current_ < tensors_.size(), path_, ": must get the declared tensors; got ",
                   bytes, " bytes more");
    const uint64_t n = std::min(bytes, TensorBytes(tensors_[current_]) - appended_);
    file_.Write(from, n);
    appended_ += n;
    from += n;
    bytes -= n;
    FinishTensors();
  }
}

void GgufWriter::Commit() {
  LAPIDARY_CHECK(current_ == tensors_.size(), path_, ": must get every declared tensor; got ",
                 current_, " of ", tensors_.size());
  file_.Commit();
}

uint64_t GgufFileBytes(const GgufKeys& keys, const std::vector<TensorSpec>& tensors) {
  return GgufFileLayout(keys, tensors).total;
}

FileLayout GgufFileLayout(const GgufKeys& keys, const std::vector<TensorSpec>& tensors) {
  FileLayout layout;
  layout.head = BuildHead(keys, tensors);
  layout.total = layout.head.size();
  for (const TensorSpec& tensor : tensors) {
    layout.offsets.push_back(layout.total);
    layout.bytes.push_back(TensorBytes(tensor));
    layout.total += Padded(layout.bytes.back());
  }
  return layout;
}

}  // namespace lapidary
