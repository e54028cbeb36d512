#include "quant/imatrix.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "autograd/base/error.h"
#include "autograd/base/file.h"
#include "quant/gguf.h"

namespace lapidary {
namespace {

constexpr const char* kSums = ".in_sum2";
constexpr const char* kCounts = ".counts";
constexpr const char* kDatasets = "imatrix.datasets";
constexpr const char* kChunkCount = "imatrix.chunk_count";
constexpr const char* kChunkSize = "imatrix.chunk_size";

bool CutSuffix(std::string& name, std::string_view suffix) {
  if (name.size() <= suffix.size() || !name.ends_with(suffix)) return false;
  name.resize(name.size() - suffix.size());
  return true;
}

void CheckEntry(const ImportanceEntry& entry, const std::string& where, const std::string& name) {
  for (const float sum : entry.sums) {
    LAPIDARY_CHECK(std::isfinite(sum) && sum >= 0, where, ": sums of squares of '", name,
                   "' must be finite and not negative; got ", sum);
  }
  LAPIDARY_CHECK(
      !entry.sums.empty() && !entry.counts.empty() && entry.sums.size() % entry.counts.size() == 0,
      where, ": '", name, "' must have sums for each count; got ", entry.sums.size(), " and ",
      entry.counts.size());
}

// Counts are whole numbers in float32 files.
int64_t CountOf(float value, const std::string& where, const std::string& name) {
  LAPIDARY_CHECK(value >= 0 && value < 9e18f && value == std::floor(value), where, ": counts of '",
                 name, "' must be whole numbers from 0; got ", value);
  return static_cast<int64_t>(value);
}

int64_t IntKey(const GgufFile& file, const char* key) {
  if (!file.Find(key)) return 0;
  const int64_t value = file.GetInt(key);
  LAPIDARY_CHECK(value >= 0 && value < int64_t{1} << 32, file.path(), ": ", key,
                 " must be from 0 to 2^32 - 1; got ", value);
  return value;
}

ImportanceMatrix FromGguf(const GgufFile& file) {
  ImportanceMatrix matrix;
  const std::string& where = file.path();
  if (file.Find(kDatasets)) matrix.datasets = file.GetStrings(kDatasets);
  matrix.chunk_count = IntKey(file, kChunkCount);
  matrix.chunk_size = IntKey(file, kChunkSize);
  for (const StoredTensor& tensor : file.tensors().tensors()) {
    std::string name = tensor.name;
    const bool sums = CutSuffix(name, kSums);
    if (!sums && !CutSuffix(name, kCounts)) continue;
    LAPIDARY_CHECK(tensor.dtype == "F32", where, ": '", tensor.name, "' must be F32; got ",
                   tensor.dtype);
    const std::vector<float> values = tensor.ReadAll();
    ImportanceEntry& entry = matrix.entries[name];
    if (sums) {
      entry.sums = values;
    } else {
      for (const float value : values) entry.counts.push_back(CountOf(value, where, name));
    }
  }
  return matrix;
}

// Legacy files, front to back.
class Cursor {
 public:
  Cursor(const uint8_t* bytes, uint64_t size, const std::string& where)
      : bytes_(bytes), left_(size), where_(where) {}
  bool done() const { return left_ == 0; }
  const uint8_t* Take(uint64_t bytes, const char* what) {
    LAPIDARY_CHECK(bytes <= left_, where_, ": must be an importance matrix of llama.cpp; got ",
                   left_, " bytes where ", what, " needs ", bytes,
                   "; try a file of lapidary imatrix");
    const uint8_t* at = bytes_;
    bytes_ += bytes;
    left_ -= bytes;
    return at;
  }
  int64_t Int(const char* what, int64_t least) {
    int32_t value;
    std::memcpy(&value, Take(4, what), 4);
    LAPIDARY_CHECK(value >= least, where_, ": must be an importance matrix of llama.cpp; got ",
                   value, " for ", what, "; try a file of lapidary imatrix");
    return value;
  }
  std::string Text(const char* what, int64_t least) {
    const uint64_t length = static_cast<uint64_t>(Int(what, least));
    return std::string(reinterpret_cast<const char*>(Take(length, what)), length);
  }

 private:
  const uint8_t* bytes_;
  uint64_t left_;
  const std::string& where_;
};

ImportanceMatrix FromLegacy(const uint8_t* bytes, uint64_t size, const std::string& where) {
  ImportanceMatrix matrix;
  matrix.legacy = true;
  Cursor cursor(bytes, size, where);
  const int64_t count = cursor.Int("the number of matrices", 1);
  for (int64_t i = 0; i < count; ++i) {
    const std::string name = cursor.Text("a matrix's name", 1);
    ImportanceEntry entry;
    entry.counts = {cursor.Int("a number of chunks", 0)};
    const uint64_t values = static_cast<uint64_t>(cursor.Int("a number of values", 1));
    const uint8_t* at = cursor.Take(values * 4, "a matrix's values");
    entry.sums.resize(values);
    std::memcpy(entry.sums.data(), at, values * 4);
    LAPIDARY_CHECK(matrix.entries.emplace(name, std::move(entry)).second, where,
                   ": every matrix must come once; got '", name, "' twice");
  }
  if (cursor.done()) return matrix;  // old files end here
  matrix.chunk_count = cursor.Int("the number of chunks", 0);
  if (cursor.done()) return matrix;
  const std::string dataset = cursor.Text("the data set's name", 0);
  if (!dataset.empty()) matrix.datasets = {dataset};
  return matrix;
}

int64_t MaxCount(const ImportanceEntry& entry) {
  return *std::max_element(entry.counts.begin(), entry.counts.end());
}

std::string LegacyBytes(const ImportanceMatrix& matrix) {
  std::string out;
  const auto put = [&](int64_t value) {
    const int32_t narrow = static_cast<int32_t>(value);
    out.append(reinterpret_cast<const char*>(&narrow), 4);
  };
  put(static_cast<int64_t>(matrix.entries.size()));
  for (const auto& [name, entry] : matrix.entries) {
    const int64_t chunks = matrix.legacy
                               ? MaxCount(entry)
                               : (MaxCount(entry) + matrix.chunk_size - 1) / matrix.chunk_size;
    put(static_cast<int64_t>(name.size()));
    out += name;
    put(chunks);
    put(static_cast<int64_t>(entry.sums.size()));
    const std::vector<float> means = matrix.Means(name);
    for (size_t i = 0; i < means.size(); ++i) {
      const float value = matrix.legacy ? entry.sums[i] : means[i] * static_cast<float>(chunks);
      out.append(reinterpret_cast<const char*>(&value), 4);
    }
  }
  put(matrix.chunk_count);
  const std::string dataset = matrix.datasets.empty() ? "" : matrix.datasets.back();
  put(static_cast<int64_t>(dataset.size()));
  return out + dataset;
}

}  // namespace

std::vector<float> ImportanceMatrix::Means(const std::string& name) const {
  const auto found = entries.find(name);
  if (found == entries.end()) return {};
  const ImportanceEntry& entry = found->second;
  std::vector<float> means = entry.sums;
  const size_t cols = means.size() / entry.counts.size();
  for (size_t i = 0; i < means.size(); ++i) {
    const int64_t count = entry.counts[i / cols];
    if (count > 0) {
      means[i] /= static_cast<float>(count);
    } else if (!legacy) {
      means[i] = 1;
    }
  }
  return means;
}

ImportanceMatrix ParseImportanceMatrix(const uint8_t* bytes, uint64_t size,
                                       const std::string& where) {
  const bool gguf = size >= 4 && std::memcmp(bytes, "GGUF", 4) == 0;
  ImportanceMatrix matrix =
      gguf ? FromGguf(GgufFile::Parse(bytes, size, where)) : FromLegacy(bytes, size, where);
  LAPIDARY_CHECK(!matrix.entries.empty(), where,
                 ": must hold an importance matrix; got no tensor NAME", kSums,
                 "; try a file of lapidary imatrix");
  for (const auto& [name, entry] : matrix.entries) CheckEntry(entry, where, name);
  return matrix;
}

ImportanceMatrix ReadImportanceMatrix(const std::string& path) {
  const std::shared_ptr<const MappedFile> file = MappedFile::Open(path);
  return ParseImportanceMatrix(file->data(), file->size(), path);
}

void WriteImportanceMatrix(const ImportanceMatrix& matrix, const std::string& path) {
  LAPIDARY_CHECK(!matrix.entries.empty(), path,
                 ": an importance matrix must have a matrix; got none");
  for (const auto& [name, entry] : matrix.entries) {
    CheckEntry(entry, path, name);
    LAPIDARY_CHECK(MaxCount(entry) > 0, path, ": '", name, "' must have seen a token; got none");
  }
  if (path.ends_with(".dat")) {
    LAPIDARY_CHECK(matrix.legacy || matrix.chunk_size > 0, path,
                   ": the legacy kind must have a chunk size; got none; try *.gguf");
    WriteFile(path, LegacyBytes(matrix));
    return;
  }
  LAPIDARY_CHECK(!matrix.legacy, path,
                 ": a GGUF importance matrix must have counts of tokens; got a legacy one, which "
                 "counts chunks; try *.dat");
  const GgufKeys keys = {{"general.type", GgufValue::String("imatrix")},
                         {kDatasets, GgufValue::Strings(matrix.datasets)},
                         {kChunkCount, GgufValue::U32(matrix.chunk_count)},
                         {kChunkSize, GgufValue::U32(matrix.chunk_size)}};
  std::vector<TensorSpec> specs;
  for (const auto& [name, entry] : matrix.entries) {
    const int64_t experts = static_cast<int64_t>(entry.counts.size());
    const int64_t cols = static_cast<int64_t>(entry.sums.size()) / experts;
    const bool dense = experts == 1;
    specs.push_back({name + kSums, "F32", dense ? TensorShape{cols} : TensorShape{experts, cols}});
    specs.push_back({name + kCounts, "F32", dense ? TensorShape{1} : TensorShape{experts, 1}});
  }
  GgufWriter writer(path, keys, specs);
  for (const auto& [name, entry] : matrix.entries) {
    writer.Append(entry.sums.data(), entry.sums.size() * sizeof(float));
    const std::vector<float> counts(entry.counts.begin(), entry.counts.end());
    writer.Append(counts.data(), counts.size() * sizeof(float));
  }
  writer.Commit();
}

}  // namespace lapidary
