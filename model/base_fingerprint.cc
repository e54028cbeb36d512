#include "model/base_fingerprint.h"

#include <algorithm>
#include <vector>

#include "autograd/base/error.h"
#include "autograd/base/file.h"
#include "autograd/base/sha256.h"

namespace lapidary {
namespace {

constexpr uint64_t kSample = 4096;
constexpr size_t kDigits = 32;

void AddSamples(const StoredTensor& tensor, Sha256* hash) {
  if (!tensor.data) {  // its rows are made on reading
    if (tensor.rows() == 0) return;
    std::vector<float> row(static_cast<size_t>(tensor.cols()));
    tensor.ReadRows(0, 1, row.data());
    hash->Add(row.data(), row.size() * sizeof(float));
    return;
  }
  if (tensor.bytes <= 3 * kSample) {
    hash->Add(tensor.data, tensor.bytes);
  } else {
    for (const uint64_t at : {uint64_t{0}, tensor.bytes / 2, tensor.bytes - kSample})
      hash->Add(tensor.data + at, kSample);
  }
  DropMappedPages(tensor.data, tensor.bytes);
}

}  // namespace

std::string BaseFingerprint(const CheckpointFiles& files) {
  Sha256 hash;
  for (const auto& [name, tensor] : files.tensors) {
    hash.Add(StrCat(name, " ", tensor.dtype, " ", ShapeText(tensor.shape), "\n"));
    AddSamples(tensor, &hash);
  }
  return hash.Hex().substr(0, kDigits);
}

std::optional<std::string> OtherBaseWarning(const AdapterConfig& adapter, const std::string& folder,
                                            const CheckpointFiles& files, const std::string& path) {
  if (!adapter.base_fingerprint) return std::nullopt;
  const std::string here = BaseFingerprint(files);
  if (here == *adapter.base_fingerprint) return std::nullopt;
  return StrCat(folder, ": was trained on another base than ", path, " (fingerprint ",
                adapter.base_fingerprint->substr(0, 12), ", this one ", here.substr(0, 12),
                adapter.base_model_name_or_path
                    ? StrCat("; it was ", *adapter.base_model_name_or_path)
                    : std::string(),
                ")");
}

}  // namespace lapidary
