// Checks of a PEFT LoRA folder.
#include <algorithm>
#include <filesystem>
#include <regex>

#include "autograd/base/error.h"
#include "model/base_fingerprint.h"
#include "model/tensor_names.h"
#include "quant/adapter.h"
#include "train/doctor/subject.h"

namespace lapidary {
namespace {

constexpr std::string_view kPrefix = "base_model.model.";

// "model.language_model.layers.3.self_attn.q_proj", "lora_A" of a tensor's name in PEFT's spelling.
struct LoraName {
  std::string module, part;
  int64_t layer = -1;  // none
  std::string kind;    // what follows the layer's number
};

// Spellings that other tools leave: the adapter's name inside, no prefix, a prefix of
// torch.compile.
std::string PeftSpelling(const std::string& name) {
  std::string s = name;
  for (const char* wrapper : {"_orig_mod.", "module."}) {
    while (s.rfind(wrapper, 0) == 0) s = s.substr(std::string_view(wrapper).size());
  }
  static const std::regex inner("\\.(lora_[AB]|lora_magnitude_vector)\\.default(\\.weight)?$");
  s = std::regex_replace(s, inner, ".$1$2");
  if (s.rfind(kPrefix, 0) != 0) s = std::string(kPrefix) + s;
  return s;
}

LoraName ParseName(const std::string& spelled) {
  LoraName n;
  std::string rest = spelled.substr(kPrefix.size());
  static const std::regex tail("^(.*)\\.(lora_A|lora_B|lora_magnitude_vector)(\\.weight)?$");
  std::smatch match;
  if (std::regex_match(rest, match, tail)) {
    n.module = match[1];
    n.part = match[2];
  } else {
    n.module = rest;
  }
  static const std::regex layer("^(?:.*\\.)?layers\\.([0-9]{1,6})\\.(.+)$");
  if (std::regex_match(n.module, match, layer)) {
    n.layer = std::stoll(match[1]);
    n.kind = match[2];
  }
  return n;
}

// `folder`: where it was found.
std::optional<ModelConfig> BaseConfig(const Subject& s, const DoctorOptions& options,
                                      std::string* folder) {
  std::string base = options.base;
  if (base.empty()) {
    const nlohmann::ordered_json config = s.Json("adapter_config.json");
    if (config.is_object() && config.contains("base_model_name_or_path") &&
        config["base_model_name_or_path"].is_string()) {
      base = config["base_model_name_or_path"].get<std::string>();
    }
  }
  std::error_code ignored;
  const bool there = std::filesystem::exists(base + "/config.json", ignored);
  if (options.base.empty() && (base.empty() || !there)) return std::nullopt;
  const ModelConfig config = ReadBaseConfig(base);
  *folder = base;
  return config;
}

// Layers that a kind of module should have an adapter in, and has not.
std::vector<std::string> MissingLayers(const std::map<std::string, std::set<int64_t>>& layers,
                                       const std::optional<ModelConfig>& base,
                                       const std::vector<int64_t>& only) {
  int64_t count = base ? base->num_layers() : 0;
  if (!base) {
    for (const auto& [kind, set] : layers) count = std::max(count, *set.rbegin() + 1);
  }
  std::vector<std::string> missing;
  for (const auto& [kind, have] : layers) {
    const bool value = kind == "self_attn.v_proj";
    for (int64_t i = 0; i < count; ++i) {
      if (have.count(i)) continue;
      if (!only.empty() && std::find(only.begin(), only.end(), i) == only.end()) continue;
      // Full layers have no v_proj: every sixth of the 12B.
      if (value && (base ? base->text.layers[static_cast<size_t>(i)].k_is_v : i % 6 == 5)) continue;
      missing.push_back(StrCat("layers.", i, ".", kind));
    }
  }
  return missing;
}

// A and B by module.
using Matrices = std::map<std::string, std::pair<const StoredTensor*, const StoredTensor*>>;

void ExamineRanks(Subject* s, const AdapterConfig& config, const Matrices& matrices,
                  const std::optional<ModelConfig>& base) {
  std::map<std::string, std::vector<int64_t>> shapes;  // by canonical module
  if (base) {
    for (const CatalogTensor& t : ExpectedTensors(*base)) {
      if (t.linear) shapes[t.name] = t.shape;
    }
  }
  std::vector<std::string> misshapen, ranks;
  for (const auto& [module, pair] : matrices) {
    const auto [a, b] = pair;
    if (!a || !b) continue;
    const auto known = shapes.find(CanonicalTensorName(module + ".weight"));
    const bool fits = a->shape.size() == 2 && b->shape.size() == 2 && a->shape[0] == b->shape[1] &&
                      (known == shapes.end() ||
                       (a->shape[1] == known->second[1] && b->shape[0] == known->second[0]));
    if (!fits) {
      misshapen.push_back(StrCat(module, ": ", ShapeText(a->shape), " and ", ShapeText(b->shape)));
    } else if (a->shape[0] != AdapterRank(config, module)) {
      ranks.push_back(StrCat(module, ": rank ", a->shape[0], ", adapter_config.json says ",
                             AdapterRank(config, module)));
    }
  }
  if (!misshapen.empty()) s->Add("adapter-shape", misshapen[0], misshapen);
  if (!ranks.empty()) s->Add("adapter-rank", ranks[0], ranks);
}

// Whether the base that was found is the one that the adapter was trained on.
void ExamineBase(Subject* s, const std::string& folder) {
  AdapterConfig recorded;
  for (const SafetensorsFile& file : s->files) {
    const auto print = file.metadata().find("lapidary_base_fingerprint");
    if (print != file.metadata().end()) recorded.base_fingerprint = print->second;
  }
  if (!recorded.base_fingerprint) return;
  try {
    const auto other = OtherBaseWarning(recorded, s->path, OpenCheckpointFiles(folder), folder);
    if (other) s->Add("adapter-base", *other);
  } catch (const Error&) {
    return;  // the base's own faults are found by looking at the base
  }
}

}  // namespace

void ExamineAdapter(Subject* s, const DoctorOptions& options) {
  std::optional<AdapterConfig> config;
  const auto text = s->texts.find("adapter_config.json");
  const nlohmann::ordered_json raw = s->Json("adapter_config.json");
  if (text == s->texts.end()) {
    s->Add("adapter-config", "there is no adapter_config.json");
  } else {
    try {
      config = ParseAdapterConfig(text->second, s->path + "/adapter_config.json");
    } catch (const Error& error) {
      s->Add("adapter-config", error.what());
    }
  }
  if (s->weight_files.empty()) {
    s->Add("missing-tensors", "the folder has no adapter_model.safetensors");
  }
  std::map<std::string, std::set<std::string>> parts;  // module -> lora_A, lora_B, ...
  std::map<std::string, std::set<int64_t>> layers;     // kind -> layers
  Matrices matrices;
  std::vector<std::string> odd;
  std::vector<const StoredTensor*> tensors;
  int64_t up = 0, zero = 0;
  std::set<std::string> heads;
  for (const NamedPart& p : s->parts) {
    const StoredTensor& t = *p.tensor;
    tensors.push_back(&t);
    const std::string spelled = PeftSpelling(t.name);
    if (spelled != t.name) odd.push_back(t.name);
    const LoraName name = ParseName(spelled);
    for (const char* word : {"lm_head", "embed_tokens"}) {
      if (name.module.find(word) != std::string::npos) heads.insert(name.module);
    }
    if (name.part.empty()) continue;
    parts[name.module].insert(name.part);
    if (name.part == "lora_A") matrices[name.module].first = &t;
    if (name.part == "lora_B") matrices[name.module].second = &t;
    if (name.layer >= 0) layers[name.kind].insert(name.layer);
    if (name.part == "lora_B" && t.format) {
      ++up;
      const std::vector<float> values = t.ReadAll();
      zero += std::all_of(values.begin(), values.end(), [](float v) { return v == 0; });
    }
  }
  if (!odd.empty()) {
    s->Add("adapter-names",
           StrCat(odd.size(), " tensors; the first is ", odd[0], ", which PEFT calls ",
                  PeftSpelling(odd[0])),
           odd, true);
  }
  std::vector<std::string> single;
  for (const auto& [module, have] : parts) {
    if (have.count("lora_A") != have.count("lora_B")) single.push_back(module);
  }
  if (!single.empty()) {
    s->Add("adapter-pair",
           StrCat(single.size(), " modules have only one of lora_A and lora_B: ", single[0]),
           single);
  }
  std::optional<ModelConfig> base;
  std::string base_folder;
  try {
    base = BaseConfig(*s, options, &base_folder);
  } catch (const Error& error) {
    s->Add("config", error.what());
  }
  if (config) ExamineRanks(s, *config, matrices, base);
  if (!base_folder.empty()) ExamineBase(s, base_folder);
  if (s->all_read && !layers.empty()) {
    const std::vector<std::string> missing =
        MissingLayers(layers, base, config ? config->layers_to_transform : std::vector<int64_t>());
    if (!missing.empty()) {
      s->Add("adapter-layers",
             StrCat(missing.size(), " modules have no adapter that others of their kind have: ",
                    missing[0], missing.size() > 1 ? ", ..." : "",
                    base ? "" : " (without the base's config.json: --base)"),
             missing);
    }
  }
  if (up > 0 && up == zero) {
    s->Add("adapter-zero", StrCat("every lora_B (", up, ") is zero"));
  }
  if (!heads.empty()) {
    s->Add("adapter-head",
           StrCat("it changes ", *heads.begin(), ", one of two names of a tied matrix"),
           {heads.begin(), heads.end()});
  }
  if (raw.is_object() && (!raw.contains("target_modules") || raw["target_modules"].is_null() ||
                          (raw["target_modules"].is_array() && raw["target_modules"].empty()))) {
    std::set<std::string> kinds;
    for (const auto& [kind, set] : layers) kinds.insert(kind.substr(kind.rfind('.') + 1));
    s->Add("adapter-targets", "adapter_config.json names no target_modules",
           {kinds.begin(), kinds.end()}, !kinds.empty());
  }
  CheckFinite(s, tensors);
}

std::string AdapterTensorSpelling(const std::string& name) { return PeftSpelling(name); }

}  // namespace lapidary
