#include "quant/safetensors.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "autograd/base/error.h"
#include "quant/strict_json.h"

namespace lapidary {
namespace {

using nlohmann::json;

constexpr uint64_t kMaxHeader = 100'000'000;

// In the order of the reference's alignment rank (formats.md 1.2).
struct DtypeRow {
  const char* name;
  int bits;
};
constexpr std::array<DtypeRow, 22> kDtypes = {{
    {"BOOL", 8},        {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"U8", 8},
    {"I8", 8},          {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8},
    {"F8_E5M2FNUZ", 8}, {"I16", 16},    {"U16", 16},    {"F16", 16},    {"BF16", 16},
    {"I32", 32},        {"U32", 32},    {"F32", 32},    {"C64", 64},    {"F64", 64},
    {"I64", 64},        {"U64", 64},
}};

// -1 if unknown.
int DtypeRank(std::string_view dtype) {
  for (size_t i = 0; i < kDtypes.size(); ++i) {
    if (dtype == kDtypes[i].name) return static_cast<int>(i);
  }
  return -1;
}

// Bytes of a tensor; throws Error on an unknown dtype, overflow, or a size that is not whole bytes.
uint64_t TensorBytes(const std::string& dtype, const TensorShape& shape, const std::string& where) {
  const int bits = SafetensorsBits(dtype);
  LAPIDARY_CHECK(bits > 0, where, ": dtype must be known; got '", dtype, "'; try F32, F16 or BF16");
  const int64_t count = ElementCount(shape, where);
  int64_t total = 0;
  LAPIDARY_CHECK(!__builtin_mul_overflow(count, static_cast<int64_t>(bits), &total), where,
                 ": the size must fit 63 bits; got shape ", ShapeText(shape));
  LAPIDARY_CHECK(total % 8 == 0, where, ": the size must be whole bytes; got ", total, " bits");
  return static_cast<uint64_t>(total) / 8;
}

uint64_t Unsigned(const json& value, const std::string& where, const char* what) {
  LAPIDARY_CHECK(value.is_number_unsigned(), where, ": ", what,
                 " must be non-negative integers; got ", value.dump());
  const uint64_t number = value.get<uint64_t>();
  LAPIDARY_CHECK(number <= static_cast<uint64_t>(INT64_MAX), where, ": ", what,
                 " must fit 63 bits; got ", number);
  return number;
}

struct Span {
  StoredTensor tensor;
  uint64_t begin = 0;
  uint64_t end = 0;
};

Span ParseEntry(const std::string& name, const json& entry, const std::string& file) {
  const std::string where = StrCat(file, ": '", name, "'");
  LAPIDARY_CHECK(entry.is_object() && entry.contains("dtype") && entry.contains("shape") &&
                     entry.contains("data_offsets"),
                 where, " must have dtype, shape and data_offsets; got ",
                 entry.dump().substr(0, 80));
  LAPIDARY_CHECK(entry["dtype"].is_string(), where, ": dtype must be a string; got ",
                 entry["dtype"].dump().substr(0, 80));
  LAPIDARY_CHECK(entry["shape"].is_array() && entry["shape"].size() <= 16, where,
                 ": shape must be a list of at most 16");
  const json& offsets = entry["data_offsets"];
  LAPIDARY_CHECK(offsets.is_array() && offsets.size() == 2, where,
                 ": data_offsets must be [begin, end]");
  Span span;
  span.tensor.name = name;
  span.tensor.dtype = entry["dtype"].get<std::string>();
  for (const json& axis : entry["shape"])
    span.tensor.shape.push_back(static_cast<int64_t>(Unsigned(axis, where, "shape")));
  span.begin = Unsigned(offsets[0], where, "data_offsets");
  span.end = Unsigned(offsets[1], where, "data_offsets");
  LAPIDARY_CHECK(span.end >= span.begin, where, ": data_offsets must not run backwards; got [",
                 span.begin, ", ", span.end, "]");
  const uint64_t bytes = TensorBytes(span.tensor.dtype, span.tensor.shape, where);
  LAPIDARY_CHECK(span.end - span.begin == bytes, where, ": data_offsets must span ", bytes,
                 " bytes (", span.tensor.dtype, " ", ShapeText(span.tensor.shape), "); got ",
                 span.end - span.begin);
  span.tensor.bytes = bytes;
  span.tensor.format = FindFormat(span.tensor.dtype);
  return span;
}

// The header as the reference writer lays it out, padded so that the data starts at a multiple
// of 8.
std::string BuildHeader(const std::vector<TensorSpec>& order,
                        const std::map<std::string, std::string>& metadata, uint64_t* data_bytes) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  uint64_t offset = 0;
  for (const TensorSpec& tensor : order) {
    const uint64_t bytes = TensorBytes(tensor.dtype, tensor.shape, "'" + tensor.name + "'");
    uint64_t end = 0;
    LAPIDARY_CHECK(
        !__builtin_add_overflow(offset, bytes, &end) && end <= static_cast<uint64_t>(INT64_MAX),
        "'", tensor.name, "': the data must fit 63 bits; got ", offset, " + ", bytes);
    nlohmann::ordered_json entry = nlohmann::ordered_json::object();
    entry["dtype"] = tensor.dtype;
    entry["shape"] = tensor.shape;
    entry["data_offsets"] = {offset, end};
    header[tensor.name] = std::move(entry);
    offset = end;
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  LAPIDARY_CHECK(text.size() <= kMaxHeader, "safetensors header: must be at most ", kMaxHeader,
                 " bytes; got ", text.size());
  *data_bytes = offset;
  std::string out(8, '\0');
  const uint64_t n = text.size();
  for (int i = 0; i < 8; ++i) out[static_cast<size_t>(i)] = static_cast<char>(n >> (8 * i) & 0xff);
  return out + text;
}

std::vector<TensorSpec> ReferenceOrder(std::vector<TensorSpec> tensors) {
  std::set<std::string> names;
  for (const TensorSpec& tensor : tensors) {
    LAPIDARY_CHECK(tensor.name != "__metadata__" && names.insert(tensor.name).second,
                   "safetensors: tensor names must be unique and not __metadata__; got '",
                   tensor.name, "'");
    LAPIDARY_CHECK(DtypeRank(tensor.dtype) >= 0, "'", tensor.name, "': dtype must be known; got '",
                   tensor.dtype, "'");
  }
  std::sort(tensors.begin(), tensors.end(), [](const TensorSpec& a, const TensorSpec& b) {
    return std::make_pair(-DtypeRank(a.dtype), std::string_view(a.name)) <
           std::make_pair(-DtypeRank(b.dtype), std::string_view(b.name));
  });
  return tensors;
}

}  // namespace

int SafetensorsBits(std::string_view dtype) {
  const int rank = DtypeRank(dtype);
  return rank < 0 ? 0 : kDtypes[static_cast<size_t>(rank)].bits;
}

SafetensorsFile SafetensorsFile::Parse(const uint8_t* bytes, uint64_t size,
                                       const std::string& where) {
  LAPIDARY_CHECK(size >= 8, where, ": a safetensors file must have at least 8 bytes; got ", size,
                 "; try downloading it again");
  uint64_t n = 0;
  for (int i = 7; i >= 0; --i) n = n << 8 | bytes[i];
  LAPIDARY_CHECK(n <= kMaxHeader, where, ": the header must be at most ", kMaxHeader,
                 " bytes; got ", n);
  LAPIDARY_CHECK(n <= size - 8, where, ": the header must lie inside the file; got ", n,
                 " header bytes in a file of ", size, "; try downloading it again");
  LAPIDARY_CHECK(n >= 2 && bytes[8] == '{', where, ": the header must be a JSON object");
  const json header = ParseStrictJson({reinterpret_cast<const char*>(bytes) + 8, n}, where);
  LAPIDARY_CHECK(header.is_object(), where, ": the header must be a JSON object");

  SafetensorsFile out;
  out.path_ = where;
  std::vector<Span> spans;
  for (const auto& [name, entry] : header.items()) {
    if (name != "__metadata__") {
      spans.push_back(ParseEntry(name, entry, where));
      continue;
    }
    LAPIDARY_CHECK(entry.is_object(), where, ": __metadata__ must be an object of strings");
    for (const auto& [key, value] : entry.items()) {
      LAPIDARY_CHECK(value.is_string(), where, ": __metadata__ must hold strings; got ",
                     value.dump().substr(0, 80), " for '", key, "'");
      out.metadata_[key] = value.get<std::string>();
    }
  }
  std::sort(spans.begin(), spans.end(), [](const Span& a, const Span& b) {
    return std::tie(a.begin, a.end, a.tensor.name) < std::tie(b.begin, b.end, b.tensor.name);
  });
  const uint64_t data_bytes = size - 8 - n;
  uint64_t position = 0;
  for (Span& span : spans) {
    LAPIDARY_CHECK(span.begin == position, where, ": '", span.tensor.name,
                   "' must begin where the tensor before it ends (", position, "); got ",
                   span.begin, span.begin > position ? " (a hole)" : " (an overlap)");
    LAPIDARY_CHECK(span.end <= data_bytes, where, ": '", span.tensor.name,
                   "' must lie inside the data (", data_bytes, " bytes); got end ", span.end,
                   "; try downloading it again");
    position = span.end;
    span.tensor.data = bytes + 8 + n + span.begin;
    out.tensors_.push_back(std::move(span.tensor));
  }
  LAPIDARY_CHECK(position == data_bytes, where, ": the data must end with the last tensor (",
                 position, " bytes); got ", data_bytes, " bytes");
  return out;
}

SafetensorsFile SafetensorsFile::Open(const std::string& path) {
  std::shared_ptr<const MappedFile> mapped = MappedFile::Open(path);
  SafetensorsFile out = Parse(mapped->data(), mapped->size(), path);
  for (StoredTensor& tensor : out.tensors_) tensor.file = mapped;
  return out;
}

SafetensorsWriter::SafetensorsWriter(const std::string& path, std::vector<TensorSpec> tensors,
                                     std::map<std::string, std::string> metadata)
    : file_(path), path_(path), order_(ReferenceOrder(std::move(tensors))) {
  const std::string header = BuildHeader(order_, metadata, &data_bytes_);
  header_bytes_ = header.size();
  file_.Write(header);
}

void SafetensorsWriter::Append(const void* data, uint64_t bytes) {
  LAPIDARY_CHECK(bytes <= total_bytes() - file_.size(), path_, ": must get the declared ",
                 data_bytes_, " bytes of data; got more");
  file_.Write(data, bytes);
}

void SafetensorsWriter::Commit() {
  LAPIDARY_CHECK(file_.size() == total_bytes(), path_, ": must get the declared ", data_bytes_,
                 " bytes of data; got ", file_.size() - header_bytes_);
  file_.Commit();
}

uint64_t SafetensorsFileBytes(const std::vector<TensorSpec>& tensors,
                              const std::map<std::string, std::string>& metadata) {
  uint64_t data_bytes = 0;
  const std::string header = BuildHeader(ReferenceOrder(tensors), metadata, &data_bytes);
  return header.size() + data_bytes;
}

FileLayout SafetensorsLayout(const std::vector<TensorSpec>& tensors,
                             const std::map<std::string, std::string>& metadata) {
  const std::vector<TensorSpec> order = ReferenceOrder(tensors);
  FileLayout layout;
  uint64_t data_bytes = 0;
  layout.head = BuildHeader(order, metadata, &data_bytes);
  layout.total = layout.head.size() + data_bytes;
  std::map<std::string_view, uint64_t> offsets;
  uint64_t offset = layout.head.size();
  for (const TensorSpec& tensor : order) {
    offsets[tensor.name] = offset;
    offset += TensorBytes(tensor.dtype, tensor.shape, tensor.name);
  }
  for (const TensorSpec& tensor : tensors) {
    layout.offsets.push_back(offsets.at(tensor.name));
    layout.bytes.push_back(TensorBytes(tensor.dtype, tensor.shape, tensor.name));
  }
  return layout;
}

void WriteSafetensors(const std::string& path, const std::vector<NamedTensor>& tensors,
                      const std::string& dtype,
                      const std::map<std::string, std::string>& metadata) {
  const Format& format = GetFormat(dtype);
  std::vector<TensorSpec> specs;
  std::map<std::string, const NamedTensor*> by_name;
  for (const NamedTensor& tensor : tensors) {
    LAPIDARY_CHECK(
        ElementCount(tensor.shape, tensor.name) == static_cast<int64_t>(tensor.values.size()), path,
        ": '", tensor.name, "' must have as many values as its shape ", ShapeText(tensor.shape),
        "; got ", tensor.values.size());
    specs.push_back({tensor.name, format.name, tensor.shape});
    by_name[tensor.name] = &tensor;
  }
  SafetensorsWriter writer(path, specs, metadata);
  std::vector<uint8_t> bytes;
  for (const TensorSpec& spec : writer.order()) {
    const std::vector<float>& values = by_name[spec.name]->values;
    bytes.resize(static_cast<size_t>(FormatBytes(format, static_cast<int64_t>(values.size()))));
    QuantizeRows(format, format.rules[0], values.data(), 1, static_cast<int64_t>(values.size()),
                 bytes.data());
    writer.Append(bytes.data(), bytes.size());
  }
  writer.Commit();
}

}  // namespace lapidary
