#include "model/adapt.h"

#include <cmath>
#include <cstring>
#include <regex>
#include <set>

#include "autograd/base/parallel.h"
#include "autograd/base/random.h"
#include "model/module_match.h"
#include "model/tensor_names.h"

namespace lapidary {
namespace {

constexpr const char* kPeftPrefix = "base_model.model.";
bool EndsWith(const std::string& s, const std::string& suffix) {
  return s.size() >= suffix.size() &&
         s.compare(s.size() - suffix.size(), suffix.size(), suffix) == 0;
}

std::string CanonicalModulePath(const std::string& path) {
  const std::string name = CanonicalTensorName(path + ".weight");
  return name.substr(0, name.size() - std::strlen(".weight"));
}

// PEFT's layers_to_transform: the number after the layers' list must be in it. Modules without a
// number are left out.
bool LayerSelected(const AdapterConfig& config, const std::string& path) {
  if (config.layers_to_transform.empty()) return true;
  std::smatch match;
  static const std::regex kLayer(R"((?:^|.*\.)layers\.(\d+)\..*)");
  if (!std::regex_match(path, match, kLayer)) return false;
  const int64_t layer = std::stoll(match[1]);
  for (int64_t wanted : config.layers_to_transform) {
    if (wanted == layer) return true;
  }
  return false;
}

AdapterConfig ResolveWords(AdapterConfig config, bool text_only) {
  config.target_modules = ResolveModuleWords(config.target_modules, text_only);
  return config;
}

// Every trainable-as-a-whole parameter with its canonical name; visits weights that are still
// frozen too.
template <class VisitWeight, class VisitParam>
void ForEachStored(Transformer& model, VisitWeight&& weight, VisitParam&& param) {
  weight(model.embed_tokens);
  if (model.lm_head) weight(*model.lm_head);
  ForEachLinear(model, [&](Linear& l) { weight(l.w); });
  ForEachParam(model, [&](Param& p) { param(p); });
}

bool IsLoraParam(const std::string& name) { return name.find(".lora_") != std::string::npos; }

// Whether `parameter` (canonical) lies in a module that modules_to_save names.
bool InSavedModule(const std::string& parameter, const std::vector<std::string>& modules,
                   std::set<std::string>* used) {
  bool inside = false;
  const std::string leaf = parameter.substr(
      parameter.rfind('.'));  // the module path decides, not the parameter's own name
  for (std::string path : {InMemoryModulePath(parameter), parameter}) {
    path.resize(path.size() - leaf.size());
    while (!path.empty()) {
      for (const std::string& name : modules) {
        if (path == name || EndsWith(path, "." + name)) {
          inside = true;
          if (used) used->insert(name);
        }
      }
      const size_t dot = path.rfind('.');
      path.resize(dot == std::string::npos ? 0 : dot);
    }
  }
  return inside;
}

void MakeSavedModulesTrainable(Transformer& model, const std::vector<std::string>& modules) {
  if (modules.empty()) return;
  std::set<std::string> used;
  ForEachStored(
      model,
      [&](Weight& w) {
        if (!InSavedModule(w.name, modules, &used)) return;
        w.MakeTrainable();
      },
      [&](Param& p) {
        if (!IsLoraParam(p.name) && InSavedModule(p.name, modules, &used)) p.trainable = true;
      });
  for (const std::string& name : modules) {
    LAPIDARY_CHECK(used.count(name),
                   "lora: every entry of modules_to_save must match a module; got '", name,
                   "', which matches none; try embed_vision, embed_audio, embedding_projection");
  }
}

void Freeze(Transformer& model) {
  ForEachParam(model, [](Param& p) { p.trainable = false; });
  ForEachLinear(model, [](Linear& l) { l.lora.reset(); });
}

// An adapter with undefined values.
void AddLora(Linear& linear, const AdapterConfig& config) {
  const std::string path = InMemoryModulePath(linear.path);
  const int64_t r = AdapterRank(config, path);
  LAPIDARY_CHECK(r >= 1 && r <= 1 << 16, "lora: r must be from 1 to 65536; got ", r, " for ", path);
  linear.lora = std::make_unique<Lora>();
  Lora& lora = *linear.lora;
  lora.scale = static_cast<float>(AdapterScale(config, path));
  lora.alpha = static_cast<float>(AdapterAlpha(config, path));
  lora.dropout = static_cast<float>(config.lora_dropout);
  const std::string prefix = kPeftPrefix + path;
  lora.a = {prefix + ".lora_A.weight", Tensor::Zeros({r, linear.in_features()}), Tensor(), true};
  lora.b = {prefix + ".lora_B.weight", Tensor::Zeros({linear.out_features(), r}), Tensor(), true};
}

// The Linears that the configuration targets.
std::vector<Linear*> Targets(Transformer& model, const AdapterConfig& config) {
  for (const std::string& name : config.target_modules.names) {
    LAPIDARY_CHECK(name != "embed_tokens" && name != "lm_head",
                   "lora: target_modules must name Linear modules; got ", name,
                   ", which is tied to the embedding; try modules_to_save");
  }
  LAPIDARY_CHECK(!config.target_modules.empty(),
                 "lora: target_modules must be given; got nothing; try all-linear or text-linear");
  const bool text_only = model.config.text_only;
  ModuleMatcher targets(config.target_modules, "lora: target_modules", text_only);
  ModuleMatcher excluded(config.exclude_modules, "lora: exclude_modules", text_only);
  std::vector<Linear*> found;
  ForEachLinear(model, [&](Linear& l) {
    if (!targets.Matches(l.path)) return;
    if (!config.exclude_modules.empty() && excluded.Matches(l.path)) return;
    if (!LayerSelected(config, l.path) || InSavedModule(l.w.name, config.modules_to_save, nullptr))
      return;
    found.push_back(&l);
  });
  targets.CheckAllUsed();
  LAPIDARY_CHECK(!found.empty(),
                 "lora: target_modules must select at least one module; got none after "
                 "exclude_modules, layers_to_transform and modules_to_save");
  return found;
}

void CopyInto(Param& p, const StoredTensor& t, const Shape& shape) {
  LAPIDARY_CHECK(t.elements() == shape.size() && t.format, t.name, ": must be ", shape, "; got ",
                 ShapeText(t.shape), " ", t.dtype,
                 "; try the base model that the adapter was made for");
  for (int i = 0; i < static_cast<int>(t.shape.size()) && i < shape.rank; ++i) {
    LAPIDARY_CHECK(t.shape[i] == shape.dims[i], t.name, ": must be ", shape, "; got ",
                   ShapeText(t.shape), "; try the base model that the adapter was made for");
  }
  const std::vector<float> values = t.ReadAll();
  for (float v : values)
    LAPIDARY_CHECK(std::isfinite(v), t.name, ": values must be finite; got ", v);
  p.value = Tensor::FromFloats(shape, values.data());
}

}  // namespace

AdapterConfig AttachLora(Transformer& model, const AdapterConfig& given, uint64_t seed) {
  const AdapterConfig config = ResolveWords(given, model.config.text_only);
  Freeze(model);
  for (Linear* linear : Targets(model, config)) {
    AddLora(*linear, config);
    Lora& lora = *linear->lora;
    const RandomKey key{seed, 0, HashName(lora.a.name)};
    const float bound =
        1.0f /
        std::sqrt(static_cast<float>(linear->in_features()));  // Kaiming-uniform with a = sqrt(5)
    float* a = lora.a.value.data();
    ParallelFor(
        lora.a.value.size(),
        [&](Range r) {
          for (int64_t i = r.begin; i < r.end; ++i)
            a[i] = (2.0f * RandomUniform(key, static_cast<uint64_t>(i)) - 1.0f) * bound;
        },
        1 << 12);
    if (config.use_dora) {
      lora.magnitude = std::make_unique<Param>(
          Param{kPeftPrefix + InMemoryModulePath(linear->path) + ".lora_magnitude_vector",
                AdaptedRowNorms(*linear), Tensor(), true});
    }
  }
  MakeSavedModulesTrainable(model, config.modules_to_save);
  return config;
}

AdapterConfig LoadAdapter(Transformer& model, const std::string& folder, bool trainable) {
  const Adapter adapter = OpenAdapter(folder);
  AdapterConfig config = ResolveWords(adapter.config, model.config.text_only);
  Freeze(model);
  std::map<std::string, Linear*> linears;
  ForEachLinear(model, [&](Linear& l) { linears[l.path] = &l; });
  // What the file holds decides; the pattern of the configuration must agree with it.
  std::map<std::string, std::map<std::string, const StoredTensor*>>
      parts;                                         // module -> suffix -> tensor
  std::map<std::string, const StoredTensor*> whole;  // canonical parameter -> tensor
  static const std::vector<std::string> kSuffixes = {".lora_A.weight", ".lora_B.weight",
                                                     ".lora_magnitude_vector.weight",
                                                     ".lora_magnitude_vector"};
  for (const StoredTensor& t : adapter.tensors.tensors()) {
    std::string name = t.name;
    if (name.compare(0, std::strlen(kPeftPrefix), kPeftPrefix) == 0)
      name = name.substr(std::strlen(kPeftPrefix));
    bool low_rank = false;
    for (const std::string& suffix : kSuffixes) {
      if (!EndsWith(name, suffix)) continue;
      const std::string path = CanonicalModulePath(name.substr(0, name.size() - suffix.size()));
      LAPIDARY_CHECK(linears.count(path), folder,
                     ": every tensor must belong to a Linear of the model; got ", t.name,
                     "; try the base model that the adapter was made for");
      parts[path][suffix.substr(0, 7) == ".lora_m" ? ".lora_magnitude_vector" : suffix] = &t;
      low_rank = true;
      break;
    }
    if (low_rank) continue;
    LAPIDARY_CHECK(!IsLoraParam(name), folder,
                   ": adapters of this kind of tensor are not supported; got ", t.name);
    whole[CanonicalTensorName(name)] = &t;
  }
  for (const auto& [path, by_suffix] : parts) {
    Linear& linear = *linears.at(path);
    LAPIDARY_CHECK(by_suffix.count(".lora_A.weight") && by_suffix.count(".lora_B.weight"), folder,
                   ": ", path, " must have lora_A and lora_B; got only one");
    AddLora(linear, config);
    Lora& lora = *linear.lora;
    CopyInto(lora.a, *by_suffix.at(".lora_A.weight"), lora.a.value.shape());
    CopyInto(lora.b, *by_suffix.at(".lora_B.weight"), lora.b.value.shape());
    LAPIDARY_CHECK(config.use_dora == (by_suffix.count(".lora_magnitude_vector") > 0), folder, ": ",
                   path, " must have a magnitude vector exactly if use_dora is true");
    if (config.use_dora) {
      lora.magnitude = std::make_unique<Param>(
          Param{kPeftPrefix + InMemoryModulePath(path) + ".lora_magnitude_vector", Tensor(),
                Tensor(), true});
      CopyInto(*lora.magnitude, *by_suffix.at(".lora_magnitude_vector"),
               Shape{linear.out_features()});
    }
  }
  for (const Linear* l : Targets(model, config)) {
    LAPIDARY_CHECK(l->lora, folder, ": adapter_config.json targets ", l->path,
                   "; got no tensors for it");
  }
  MakeSavedModulesTrainable(model, config.modules_to_save);
  ForEachParam(model, [&](Param& p) {
    if (IsLoraParam(p.name) || !p.trainable) return;
    const auto it = whole.find(p.name);
    LAPIDARY_CHECK(it != whole.end(), folder, ": modules_to_save names the module of ", p.name,
                   "; got no tensor for it");
    CopyInto(p, *it->second, p.value.shape());
    whole.erase(it);
  });
  LAPIDARY_CHECK(whole.empty(), folder,
                 ": every tensor must belong to the adapter or to modules_to_save; got ",
                 whole.begin()->second->name);
  if (!trainable) ForEachParam(model, [](Param& p) { p.trainable = false; });
  return config;
}

std::vector<NamedTensor> AdapterTensors(Transformer& model) {
  std::vector<NamedTensor> tensors;
  ForEachParam(model, [&](Param& p) {
    if (!p.trainable && !IsLoraParam(p.name)) return;  // an adapter's may be frozen
    NamedTensor t;
    const std::string path = IsLoraParam(p.name) ? p.name.substr(std::strlen(kPeftPrefix)) : p.name;
    t.name = kPeftPrefix + InMemoryModulePath(CanonicalTensorName(path), model.config.text_only);
    const Shape& shape = p.value.shape();
    t.shape.assign(shape.dims, shape.dims + shape.rank);
    t.values.assign(p.value.data(), p.value.data() + p.value.size());
    tensors.push_back(std::move(t));
  });
  return tensors;
}

void SaveAdapter(Transformer& model, const AdapterConfig& config, const std::string& folder,
                 const std::string& dtype) {
  WriteAdapter(folder, config, AdapterTensors(model), dtype);
}

}  // namespace lapidary
