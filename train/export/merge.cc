#include "train/export/merge.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "autograd/base/error.h"
#include "autograd/weight_map.h"
#include "model/tensor_names.h"

namespace lapidary {
namespace {

constexpr const char* kTryBase = "; try the base model that the adapter was made for";

bool EndsWith(const std::string& text, const std::string& tail) {
  return text.size() >= tail.size() &&
         text.compare(text.size() - tail.size(), tail.size(), tail) == 0;
}

bool AllZero(const std::vector<float>& values) {
  return std::all_of(values.begin(), values.end(), [](float v) { return v == 0; });
}

std::vector<float> ReadFinite(const StoredTensor& tensor, const std::string& folder,
                              const TensorShape& shape) {
  LAPIDARY_CHECK(tensor.shape == shape, folder, ": '", tensor.name, "' must be ", ShapeText(shape),
                 "; got ", ShapeText(tensor.shape), kTryBase);
  std::vector<float> values = tensor.ReadAll();
  for (const float v : values) {
    LAPIDARY_CHECK(std::isfinite(v), folder, ": '", tensor.name, "' must be finite; got ", v);
  }
  return values;
}

// The parts of one adapted module in the file.
struct Parts {
  const StoredTensor* a = nullptr;
  const StoredTensor* b = nullptr;
  const StoredTensor* magnitude = nullptr;
};

// Whether a canonical tensor name lies in a module that modules_to_save names, in either spelling.
bool IsSavedModule(const std::string& canonical, const std::vector<std::string>& modules) {
  for (std::string path : {canonical, InMemoryModulePath(canonical)}) {
    path.resize(path.rfind('.'));
    const std::string dotted = "." + path + ".";
    for (const std::string& name : modules) {
      if (dotted.find("." + name + ".") != std::string::npos) return true;
    }
  }
  return false;
}

}  // namespace

AdapterMerge::AdapterMerge(const std::vector<AdapterUse>& adapters,
                           const std::map<std::string, StoredTensor>& base) {
  for (size_t i = 0; i < adapters.size(); ++i) Add(adapters[i], i, base);
}

void AdapterMerge::Add(const AdapterUse& use, size_t index,
                       const std::map<std::string, StoredTensor>& base) {
  const Adapter& adapter = use.adapter;
  keep_open_.push_back(adapter.tensors);
  const AdapterConfig& config = adapter.config;
  std::map<std::string, StoredTensor> saved_here;
  const std::string& folder = adapter.folder;
  std::map<std::string, Parts> modules;  // by canonical module path
  const std::string prefix = "base_model.model.";
  for (const StoredTensor& tensor : adapter.tensors.tensors()) {
    std::string name = tensor.name;
    if (name.rfind(prefix, 0) == 0) name = name.substr(prefix.size());
    const std::pair<const char*, const StoredTensor * Parts::*> suffixes[] = {
        {".lora_A.weight", &Parts::a},
        {".lora_B.weight", &Parts::b},
        {".lora_magnitude_vector.weight", &Parts::magnitude},
        {".lora_magnitude_vector", &Parts::magnitude}};
    bool paired = false;
    for (const auto& [suffix, part] : suffixes) {
      if (!EndsWith(name, suffix)) continue;
      const std::string weight =
          CanonicalTensorName(name.substr(0, name.size() - std::strlen(suffix)) + ".weight");
      const auto found = base.find(weight);
      LAPIDARY_CHECK(found != base.end() && found->second.shape.size() == 2, folder, ": '",
                     tensor.name, "' must belong to a matrix of the base model; got none named ",
                     weight, kTryBase);
      modules[weight].*part = &tensor;
      paired = true;
      break;
    }
    if (paired) continue;
    const std::string canonical = CanonicalTensorName(name);
    const auto found = base.find(canonical);
    LAPIDARY_CHECK(found != base.end() && IsSavedModule(canonical, config.modules_to_save), folder,
                   ": '", tensor.name,
                   "' must be a LoRA matrix or a tensor of modules_to_save; got neither", kTryBase);
    LAPIDARY_CHECK(tensor.shape == found->second.shape && tensor.format, folder, ": '", tensor.name,
                   "' must be ", ShapeText(found->second.shape), "; got ", ShapeText(tensor.shape),
                   " ", tensor.dtype, kTryBase);
    saved_here[canonical] = tensor;
  }
  for (const std::string& module : config.modules_to_save) {
    const bool any = std::any_of(saved_here.begin(), saved_here.end(), [&](const auto& entry) {
      return IsSavedModule(entry.first, {module});
    });
    LAPIDARY_CHECK(any, folder, ": modules_to_save '", module, "' must have tensors; got none");
  }
  for (auto& [name, tensor] : saved_here) {
    LAPIDARY_CHECK(saved_.emplace(name, tensor).second, folder, ": '", name,
                   "' must be saved by one adapter; got two; try merging them one at a time");
  }
  bool changes = !saved_here.empty();
  for (const auto& [weight, parts] : modules) {
    LAPIDARY_CHECK(parts.a && parts.b, folder, ": '",
                   (parts.a   ? parts.a
                    : parts.b ? parts.b
                              : parts.magnitude)
                       ->name,
                   "' must have both lora_A and lora_B; got only a part");
    LAPIDARY_CHECK(config.use_dora == (parts.magnitude != nullptr), folder, ": ", weight,
                   " must have a magnitude vector exactly if use_dora is true");
    const std::string module =
        InMemoryModulePath(weight.substr(0, weight.size() - std::strlen(".weight")));
    const int64_t out = base.at(weight).shape[0], in = base.at(weight).shape[1],
                  r = AdapterRank(config, module);
    Pair pair{index,
              *parts.a,
              *parts.b,
              {},
              static_cast<float>(use.weight * AdapterScale(config, module))};
    const bool zero = AllZero(ReadFinite(pair.a, folder, {r, in})) ||
                      AllZero(ReadFinite(pair.b, folder, {out, r}));
    if (parts.magnitude) {
      pair.magnitude = *parts.magnitude;
      ReadFinite(pair.magnitude, folder, {out});
    }
    changes = changes || config.use_dora || (!zero && pair.scale != 0);
    pairs_[weight].push_back(std::move(pair));
  }
  LAPIDARY_CHECK(
      changes, folder,
      ": the adapter must change the model; got only zero deltas; try a later checkpoint");
}

TensorMerge AdapterMerge::ForTensor(const std::string& name) const {
  TensorMerge merge;
  merge.name_ = name;
  if (const auto saved = saved_.find(name); saved != saved_.end())
    merge.changes_.push_back({&saved->second, 0, 0, 0, {}, {}, {}});
  const auto found = pairs_.find(name);
  if (found == pairs_.end()) return merge;
  for (const Pair& pair : found->second) {
    merge.changes_.push_back(
        {nullptr, pair.a.shape[0], pair.a.shape[1], pair.scale, pair.a.ReadAll(), pair.b.ReadAll(),
         pair.magnitude.data ? pair.magnitude.ReadAll() : std::vector<float>()});
  }
  return merge;
}

void TensorMerge::Row(int64_t row, float* values) const {
  for (const Change& change : changes_) {
    if (change.saved) {
      change.saved->ReadRows(row, 1, values);
      continue;
    }
    const float* b = change.b.data() + row * change.r;
    // The arithmetic of training on the merged weight (autograd/weight_map.h).
    AddLowRank(change.a.data(), change.in, b, change.r, change.scale, 1, change.in, values,
               change.in);
    if (change.magnitude.empty()) continue;
    double squares = 0;
    for (int64_t i = 0; i < change.in; ++i)
      squares += static_cast<double>(values[i]) * static_cast<double>(values[i]);
    LAPIDARY_CHECK(squares > 0, "'", name_,
                   "': a row of W + s B A must not be zero under DoRA; got row ", row);
    const float factor =
        change.magnitude[static_cast<size_t>(row)] / static_cast<float>(std::sqrt(squares));
    for (int64_t i = 0; i < change.in; ++i) values[i] *= factor;
  }
}

}  // namespace lapidary
