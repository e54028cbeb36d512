// The reader half of gguf.h.
#include <bit>
#include <cstdio>
#include <cstring>
#include <unordered_set>

#include "autograd/base/error.h"
#include "quant/gguf.h"

namespace lapidary {
namespace {

constexpr uint64_t kMaxString = uint64_t{1} << 30;
constexpr uint64_t kMaxArray = uint64_t{1} << 30;
constexpr uint64_t kMaxName = 63;

// Every live type of ggml (formats.md 2.2): enough to check sizes and offsets of files whose
// tensors we cannot all read.
struct GgmlType {
  int32_t id;
  const char* name;
  int64_t block_size;
  int64_t block_bytes;
};
constexpr GgmlType kGgmlTypes[] = {
    {0, "F32", 1, 4},         {1, "F16", 1, 2},         {2, "Q4_0", 32, 18},
    {3, "Q4_1", 32, 20},      {6, "Q5_0", 32, 22},      {7, "Q5_1", 32, 24},
    {8, "Q8_0", 32, 34},      {9, "Q8_1", 32, 36},      {10, "Q2_K", 256, 84},
    {11, "Q3_K", 256, 110},   {12, "Q4_K", 256, 144},   {13, "Q5_K", 256, 176},
    {14, "Q6_K", 256, 210},   {15, "Q8_K", 256, 292},   {16, "IQ2_XXS", 256, 66},
    {17, "IQ2_XS", 256, 74},  {18, "IQ3_XXS", 256, 98}, {19, "IQ1_S", 256, 50},
    {20, "IQ4_NL", 32, 18},   {21, "IQ3_S", 256, 110},  {22, "IQ2_S", 256, 82},
    {23, "IQ4_XS", 256, 136}, {24, "I8", 1, 1},         {25, "I16", 1, 2},
    {26, "I32", 1, 4},        {27, "I64", 1, 8},        {28, "F64", 1, 8},
    {29, "IQ1_M", 256, 56},   {30, "BF16", 1, 2},       {34, "TQ1_0", 256, 54},
    {35, "TQ2_0", 256, 66},   {39, "MXFP4", 32, 17},    {40, "NVFP4", 64, 36},
};

const GgmlType* FindGgmlType(uint32_t id) {
  for (const GgmlType& type : kGgmlTypes) {
    if (static_cast<uint32_t>(type.id) == id) return &type;
  }
  return nullptr;
}

// Bytes of one element of a fixed-size type; 0 for strings, arrays and unknown ids.
uint64_t ElementBytes(GgufType type) {
  switch (type) {
    case GgufType::kU8:
    case GgufType::kI8:
    case GgufType::kBool:
      return 1;
    case GgufType::kU16:
    case GgufType::kI16:
      return 2;
    case GgufType::kU32:
    case GgufType::kI32:
    case GgufType::kF32:
      return 4;
    case GgufType::kU64:
    case GgufType::kI64:
    case GgufType::kF64:
      return 8;
    default:
      return 0;
  }
}

// Reads forward through bytes; every read is checked against the end.
class Cursor {
 public:
  Cursor(const uint8_t* bytes, uint64_t size, const std::string& where)
      : bytes_(bytes), size_(size), where_(where) {}

  uint64_t position() const { return position_; }
  uint64_t left() const { return size_ - position_; }

  const uint8_t* Take(uint64_t n, const char* what) {
    LAPIDARY_CHECK(n <= left(), where_, ": ", what, " must lie inside the file; got ", n,
                   " bytes where ", left(), " are left; try downloading it again");
    const uint8_t* out = bytes_ + position_;
    position_ += n;
    return out;
  }

  template <class T>
  T Read(const char* what) {
    T value;
    std::memcpy(&value, Take(sizeof(T), what), sizeof(T));
    return value;
  }

  std::string String(const char* what) {
    const uint64_t n = Read<uint64_t>(what);
    LAPIDARY_CHECK(n <= kMaxString && n <= left(), where_, ": ", what,
                   " must lie inside the file; got a string of ", n, " bytes where ", left(),
                   " are left; try downloading it again");
    return std::string(reinterpret_cast<const char*>(Take(n, what)), n);
  }

 private:
  const uint8_t* bytes_;
  uint64_t size_;
  uint64_t position_ = 0;
  const std::string& where_;
};

int64_t ReadInt(Cursor& in, GgufType type, const std::string& where, const std::string& key) {
  const char* what = "a key's value";
  switch (type) {
    case GgufType::kU8:
      return in.Read<uint8_t>(what);
    case GgufType::kI8:
      return in.Read<int8_t>(what);
    case GgufType::kU16:
      return in.Read<uint16_t>(what);
    case GgufType::kI16:
      return in.Read<int16_t>(what);
    case GgufType::kU32:
      return in.Read<uint32_t>(what);
    case GgufType::kI32:
      return in.Read<int32_t>(what);
    case GgufType::kI64:
      return in.Read<int64_t>(what);
    case GgufType::kBool: {
      const uint8_t value = in.Read<uint8_t>(what);
      LAPIDARY_CHECK(value <= 1, where, ": ", key, " must be 0 or 1 (bool); got ",
                     static_cast<int>(value));
      return value;
    }
    default: {
      const uint64_t value = in.Read<uint64_t>(what);
      LAPIDARY_CHECK(value <= static_cast<uint64_t>(INT64_MAX), where, ": ", key,
                     " must fit 63 bits; got ", value);
      return static_cast<int64_t>(value);
    }
  }
}

void ReadElement(Cursor& in, const std::string& where, const std::string& key, GgufValue& value) {
  if (value.type == GgufType::kString) {
    value.strings.push_back(in.String("a key's string"));
  } else if (value.type == GgufType::kF32) {
    value.floats.push_back(in.Read<float>("a key's value"));
  } else if (value.type == GgufType::kF64) {
    value.floats.push_back(in.Read<double>("a key's value"));
  } else {
    value.ints.push_back(ReadInt(in, value.type, where, key));
  }
}

GgufValue ReadValue(Cursor& in, const std::string& where, const std::string& key) {
  GgufValue value;
  uint32_t type = in.Read<uint32_t>("a key's type");
  uint64_t count = 1;
  if (type == static_cast<uint32_t>(GgufType::kArray)) {
    value.is_array = true;
    type = in.Read<uint32_t>("an array's type");
    count = in.Read<uint64_t>("an array's length");
  }
  value.type = static_cast<GgufType>(type);
  LAPIDARY_CHECK(type <= static_cast<uint32_t>(GgufType::kF64) && value.type != GgufType::kArray,
                 where, ": ", key, " must have a known type (arrays hold no arrays); got type ",
                 type);
  const uint64_t least = value.type == GgufType::kString ? 8 : ElementBytes(value.type);
  LAPIDARY_CHECK(count <= kMaxArray && count <= in.left() / least, where, ": ", key,
                 " must lie inside the file; got ", count, " elements where ", in.left(),
                 " bytes are left; try downloading it again");
  if (value.is_string()) {
    value.strings.reserve(count);
  } else if (value.is_float()) {
    value.floats.reserve(count);
  } else {
    value.ints.reserve(count);
  }
  for (uint64_t i = 0; i < count; ++i) ReadElement(in, where, key, value);
  return value;
}

// Keys and names must be text: valid UTF-8 (no overlong forms, no surrogates) without NUL.
bool IsText(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const uint8_t lead = static_cast<uint8_t>(text[i]);
    const size_t n = lead < 0x80                   ? 1
                     : lead >= 0xc2 && lead < 0xe0 ? 2
                     : lead >= 0xe0 && lead < 0xf0 ? 3
                     : lead >= 0xf0 && lead < 0xf5 ? 4
                                                   : 0;
    if (lead == 0 || n == 0 || n > text.size() - i) return false;
    uint32_t point = n == 1 ? lead : lead & (0xffu >> (n + 1));
    for (size_t k = 1; k < n; ++k) {
      const uint8_t next = static_cast<uint8_t>(text[i + k]);
      if ((next & 0xc0) != 0x80) return false;
      point = point << 6 | (next & 0x3fu);
    }
    if ((n == 3 && (point < 0x800 || (point >= 0xd800 && point < 0xe000))) ||
        (n == 4 && (point < 0x10000 || point > 0x10ffff))) {
      return false;
    }
    i += n;
  }
  return true;
}

struct Info {
  StoredTensor tensor;
  uint64_t offset = 0;
};

Info ReadInfo(Cursor& in, const std::string& where) {
  Info info;
  info.tensor.name = in.String("a tensor's name");
  LAPIDARY_CHECK(IsText(info.tensor.name), where, ": tensor names must be UTF-8 without NUL");
  const std::string at = StrCat(where, ": '", info.tensor.name.substr(0, kMaxName), "'");
  LAPIDARY_CHECK(!info.tensor.name.empty() && info.tensor.name.size() <= kMaxName, at,
                 ": names must have 1 to ", kMaxName, " bytes; got ", info.tensor.name.size());
  const uint32_t axes = in.Read<uint32_t>("a tensor's axes");
  LAPIDARY_CHECK(axes <= 4, at, ": must have at most 4 axes; got ", axes);
  for (uint32_t i = 0; i < axes; ++i) {
    const int64_t axis = in.Read<int64_t>("a tensor's axes");
    LAPIDARY_CHECK(axis >= 0, at, ": axes must not be negative; got ", axis);
    info.tensor.shape.insert(info.tensor.shape.begin(), axis);
  }
  const uint32_t id = in.Read<uint32_t>("a tensor's type");
  const GgmlType* type = FindGgmlType(id);
  LAPIDARY_CHECK(type, at, ": must have a known type; got type id ", id);
  info.offset = in.Read<uint64_t>("a tensor's offset");
  info.tensor.dtype = type->name;
  info.tensor.format = FindFormat(type->id);
  const int64_t count = ElementCount(info.tensor.shape, at);
  LAPIDARY_CHECK(info.tensor.cols() % type->block_size == 0, at, ": rows must be whole blocks of ",
                 type->block_size, " (", type->name, "); got ", info.tensor.cols(), " columns");
  int64_t bytes = 0;
  LAPIDARY_CHECK(!__builtin_mul_overflow(count / type->block_size, type->block_bytes, &bytes), at,
                 ": the size must fit 63 bits; got shape ", ShapeText(info.tensor.shape));
  info.tensor.bytes = static_cast<uint64_t>(bytes);
  return info;
}

// Offsets must be the running sum of padded sizes; data must lie inside the file. Padding of the
// last tensor may be missing.
std::vector<StoredTensor> PlaceTensors(std::vector<Info> infos, const uint8_t* data,
                                       uint64_t data_bytes, uint64_t alignment,
                                       const std::string& where) {
  std::vector<StoredTensor> tensors;
  uint64_t expected = 0;
  for (Info& info : infos) {
    LAPIDARY_CHECK(info.offset == expected, where, ": '", info.tensor.name,
                   "' must stand at offset ", expected, "; got ", info.offset);
    LAPIDARY_CHECK(expected <= data_bytes && info.tensor.bytes <= data_bytes - expected, where,
                   ": '", info.tensor.name, "' must lie inside the file; got ", info.tensor.bytes,
                   " bytes at ", expected, " of ", data_bytes, "; try downloading it again");
    info.tensor.data = data + expected;
    expected += (info.tensor.bytes + alignment - 1) / alignment * alignment;
    tensors.push_back(std::move(info.tensor));
  }
  return tensors;
}

}  // namespace

const char* GgufTypeName(GgufType type) {
  static constexpr const char* kNames[] = {"uint8",  "int8",    "uint16", "int16",  "uint32",
                                           "int32",  "float32", "bool",   "string", "array",
                                           "uint64", "int64",   "float64"};
  const uint32_t id = static_cast<uint32_t>(type);
  return id < std::size(kNames) ? kNames[id] : "unknown";
}

GgufFile GgufFile::Parse(const uint8_t* bytes, uint64_t size, const std::string& where) {
  Cursor in(bytes, size, where);
  LAPIDARY_CHECK(size >= 4 && std::memcmp(in.Take(4, "the magic"), "GGUF", 4) == 0, where,
                 ": must be a GGUF file (first bytes 'GGUF'); got ", size,
                 " bytes of something else");
  GgufFile out;
  out.version_ = in.Read<uint32_t>("the version");
  LAPIDARY_CHECK((out.version_ & 0xffff) != 0, where, ": must be little-endian; got version ",
                 out.version_, "; try a file made on another machine");
  LAPIDARY_CHECK(out.version_ == 2 || out.version_ == 3, where,
                 ": GGUF version must be 2 or 3; got ", out.version_);
  const int64_t n_tensors = in.Read<int64_t>("the number of tensors");
  const int64_t n_keys = in.Read<int64_t>("the number of keys");
  // The shortest tensor info has 24 bytes, the shortest key 13: larger counts cannot be in the
  // file.
  LAPIDARY_CHECK(n_tensors >= 0 && static_cast<uint64_t>(n_tensors) <= in.left() / 24, where,
                 ": the number of tensors must fit the file; got ", n_tensors,
                 "; try downloading it again");
  LAPIDARY_CHECK(n_keys >= 0 && static_cast<uint64_t>(n_keys) <= in.left() / 13, where,
                 ": the number of keys must fit the file; got ", n_keys,
                 "; try downloading it again");
  std::unordered_set<std::string> names;
  for (int64_t i = 0; i < n_keys; ++i) {
    std::string key = in.String("a key");
    LAPIDARY_CHECK(IsText(key), where, ": keys must be UTF-8 without NUL");
    LAPIDARY_CHECK(!key.empty() && names.insert(key).second, where,
                   ": keys must be unique and not empty; got '", key.substr(0, 80), "'");
    GgufValue value = ReadValue(in, where, key.substr(0, 80));
    out.keys_.emplace_back(std::move(key), std::move(value));
  }
  if (const GgufValue* value = out.Find("general.alignment")) {
    LAPIDARY_CHECK(value->type == GgufType::kU32 && !value->is_array, where,
                   ": general.alignment must be uint32");
    out.alignment_ = value->ints[0];
    LAPIDARY_CHECK(out.alignment_ > 0 && std::has_single_bit(static_cast<uint64_t>(out.alignment_)),
                   where, ": general.alignment must be a power of two; got ", out.alignment_);
  }
  const uint64_t alignment = static_cast<uint64_t>(out.alignment_);
  std::vector<Info> infos;
  for (int64_t i = 0; i < n_tensors; ++i) infos.push_back(ReadInfo(in, where));
  const uint64_t begin = (in.position() + alignment - 1) / alignment * alignment;
  LAPIDARY_CHECK(begin <= size || infos.empty(), where,
                 ": tensor data must lie inside the file; got ", size,
                 " bytes; try downloading it again");
  const uint64_t start = std::min(begin, size);
  out.tensors_ = TensorSet(
      where, PlaceTensors(std::move(infos), bytes + start, size - start, alignment, where));
  return out;
}

GgufFile GgufFile::OpenPart(const std::string& path) {
  std::shared_ptr<const MappedFile> mapped = MappedFile::Open(path);
  GgufFile out = Parse(mapped->data(), mapped->size(), path);
  std::vector<StoredTensor> tensors = out.tensors_.tensors();
  for (StoredTensor& tensor : tensors) tensor.file = mapped;
  out.tensors_ = TensorSet(path, std::move(tensors), {}, {mapped});
  return out;
}

GgufFile GgufFile::Open(const std::string& path) {
  GgufFile out = OpenPart(path);
  if (!out.Find("split.count")) return out;
  const int64_t count = out.GetInt("split.count"), no = out.GetInt("split.no");
  if (count == 1) return out;
  const GgufPartName name = ParseGgufPartName(path);
  LAPIDARY_CHECK(count >= 2 && count <= 99999 && name.count == count && name.no == no + 1, path,
                 ": part ", no + 1, " of a model in ", count, " must be named ",
                 GgufPartPath("NAME", no + 1, count), "; got another name");
  LAPIDARY_CHECK(no == 0, path, ": must be the first part of a split model; got part ", no + 1,
                 "; try ", GgufPartPath(name.stem, 1, count));
  std::vector<StoredTensor> tensors = out.tensors_.tensors();
  for (int64_t i = 1; i < count; ++i) {
    const GgufFile part = OpenPart(GgufPartPath(name.stem, i + 1, count));
    LAPIDARY_CHECK(part.GetInt("split.count") == count && part.GetInt("split.no") == i, part.path(),
                   ": must be part ", i + 1, " of ", count, "; got another");
    tensors.insert(tensors.end(), part.tensors().tensors().begin(), part.tensors().tensors().end());
  }
  LAPIDARY_CHECK(static_cast<int64_t>(tensors.size()) == out.GetInt("split.tensors.count"), path,
                 ": the parts must hold ", out.GetInt("split.tensors.count"), " tensors; got ",
                 tensors.size());
  out.tensors_ = TensorSet(path, std::move(tensors));  // every tensor keeps its file open
  return out;
}

GgufPartName ParseGgufPartName(const std::string& path) {
  // STEM-00001-of-00003.gguf
  constexpr size_t kTail = 20;  // "-00001-of-00003.gguf"
  if (path.size() <= kTail) return {};
  const std::string tail = path.substr(path.size() - kTail);
  const std::string shape = "-#####-of-#####.gguf";
  for (size_t i = 0; i < kTail; ++i) {
    if (shape[i] == '#' ? tail[i] < '0' || tail[i] > '9' : tail[i] != shape[i]) return {};
  }
  return {path.substr(0, path.size() - kTail), std::stoll(tail.substr(1, 5)),
          std::stoll(tail.substr(10, 5))};
}

std::string GgufPartPath(const std::string& stem, int64_t no, int64_t count) {
  char tail[64];
  std::snprintf(tail, sizeof(tail), "-%05lld-of-%05lld.gguf", static_cast<long long>(no),
                static_cast<long long>(count));
  return stem + tail;
}

const GgufValue* GgufFile::Find(std::string_view key) const {
  for (const auto& [name, value] : keys_) {
    if (name == key) return &value;
  }
  return nullptr;
}

const GgufValue& GgufFile::Need(std::string_view key, const char* what, bool array,
                                bool (GgufValue::*kind)() const) const {
  const GgufValue* value = Find(key);
  LAPIDARY_CHECK(value, path(), ": ", key, " must be ", what, "; got none");
  LAPIDARY_CHECK(value->is_array == array && (value->*kind)(), path(), ": ", key, " must be ", what,
                 "; got ", value->is_array ? "an array of " : "", GgufTypeName(value->type));
  return *value;
}

const std::string& GgufFile::GetString(std::string_view key) const {
  return Need(key, "a string", false, &GgufValue::is_string).strings[0];
}
int64_t GgufFile::GetInt(std::string_view key) const {
  return Need(key, "an integer", false, &GgufValue::is_int).ints[0];
}
double GgufFile::GetFloat(std::string_view key) const {
  return Need(key, "a float", false, &GgufValue::is_float).floats[0];
}
bool GgufFile::GetBool(std::string_view key) const {
  return Need(key, "a bool", false, &GgufValue::is_int).ints[0] != 0;
}
const std::vector<int64_t>& GgufFile::GetInts(std::string_view key) const {
  return Need(key, "an array of integers", true, &GgufValue::is_int).ints;
}
const std::vector<double>& GgufFile::GetFloats(std::string_view key) const {
  return Need(key, "an array of floats", true, &GgufValue::is_float).floats;
}
const std::vector<std::string>& GgufFile::GetStrings(std::string_view key) const {
  return Need(key, "an array of strings", true, &GgufValue::is_string).strings;
}

}  // namespace lapidary
