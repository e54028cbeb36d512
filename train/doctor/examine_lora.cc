// Checks of LoRA adapters in the forms of two runtimes: a GGUF for llama.cpp, a folder for MLX
// (formats.md 5.3, 5.4).
#include <algorithm>
#include <cmath>
#include <filesystem>

#include "autograd/base/error.h"
#include "model/gguf_names.h"
#include "model/tensor_names.h"
#include "train/doctor/subject.h"

namespace lapidary {
namespace {

using OrderedJson = nlohmann::ordered_json;

constexpr std::string_view kLanguage = "model.language_model.";
constexpr std::string_view kMlxLanguage = "language_model.model.";

struct Halves {
  const StoredTensor *a = nullptr, *b = nullptr;
};

// Shapes [out, in] by the module's name in the adapter's form; empty without a base.
std::map<std::string, std::vector<int64_t>> BaseShapes(const Subject& s,
                                                       const DoctorOptions& options) {
  std::map<std::string, std::vector<int64_t>> shapes;
  if (options.base.empty()) return shapes;
  const ModelConfig base = ReadBaseConfig(options.base);
  for (const CatalogTensor& t : ExpectedTensors(base)) {
    if (!t.linear || t.name.rfind(kLanguage, 0) != 0) continue;
    if (s.kind == SubjectKind::kGgufLora) {
      if (const auto place = FindGgufPlace(t.name)) shapes[place->name] = t.shape;
    } else {
      const std::string module =
          t.name.substr(0, t.name.size() - std::string_view(".weight").size());
      shapes[MlxModuleSpelling(module)] = t.shape;
    }
  }
  return shapes;
}

// {layer, kind}: {3, "self_attn.q_proj"} or {3, "attn_q.weight"}; layer -1: none.
std::pair<int64_t, std::string> PlaceOf(const std::string& module) {
  const size_t mlx = module.find(".layers."), gguf = module.rfind("blk.", 0);
  size_t at = mlx != std::string::npos ? mlx + 8 : gguf == 0 ? 4 : std::string::npos;
  if (at == std::string::npos) return {-1, module};
  const size_t dot = module.find('.', at);
  const std::string number = module.substr(at, dot == std::string::npos ? dot : dot - at);
  const bool digits = !number.empty() && number.size() <= 6 &&
                      number.find_first_not_of("0123456789") == std::string::npos;
  if (!digits || dot == std::string::npos) return {-1, module};
  return {std::stoll(number), module.substr(dot + 1)};
}

void ExamineKeys(Subject* s) {
  const auto lacks = [&](const char* key, const char* want) {
    const GgufValue* value = s->gguf->Find(key);
    return !value || !value->is_string() || value->is_array || value->strings[0] != want;
  };
  std::vector<std::string> wrong;
  for (const auto& [key, want] : GgufLoraKeys()) {
    if (lacks(key.c_str(), want.c_str())) wrong.push_back(StrCat(key, " must be ", want));
  }
  if (!wrong.empty()) s->Add("lora-config", wrong[0], wrong, true);
  const GgufValue* alpha = s->gguf->Find("adapter.lora.alpha");
  const bool number = alpha && alpha->is_float() && !alpha->is_array;
  if (!number || !std::isfinite(alpha->floats[0]) || alpha->floats[0] == 0) {
    s->Add("lora-scale", StrCat("adapter.lora.alpha is ", !alpha    ? std::string("absent")
                                                          : !number ? std::string("no number")
                                                                    : StrCat(alpha->floats[0])));
  }
}

// `kinds`: of the matrices that the file adapts, with their lowest layer.
void ExamineMlxConfig(Subject* s, const std::map<std::string, int64_t>& kinds, int64_t layers,
                      const std::set<int64_t>& ranks) {
  const OrderedJson config = s->Json("adapter_config.json");
  if (!config.is_object()) {
    s->Add("lora-config", "adapter_config.json is absent or no object");
    return;
  }
  const OrderedJson parameters = config.value("lora_parameters", OrderedJson());
  const std::string type = config.value("fine_tune_type", OrderedJson("lora")).is_string()
                               ? config.value("fine_tune_type", std::string("lora"))
                               : "";
  if ((type != "lora" && type != "dora") || !parameters.is_object()) {
    s->Add("lora-config",
           "adapter_config.json must have fine_tune_type lora or dora, and lora_parameters");
    return;
  }
  std::vector<std::string> wrong;
  const OrderedJson count = config.value("num_layers", OrderedJson());
  int64_t lowest = layers;
  for (const auto& [kind, layer] : kinds) lowest = std::min(lowest, layer);
  const int64_t said = count.is_number_integer() ? count.get<int64_t>() : 0;
  if (!count.is_number_integer() || (said > 0 && said < layers - lowest))
    wrong.push_back(StrCat("num_layers must cover the last ", layers - lowest, " layers; it is ",
                           count.is_null() ? "absent" : count.dump()));
  const OrderedJson keys = parameters.value("keys", OrderedJson());
  for (const auto& [kind, layer] : kinds) {
    const bool named =
        !keys.is_array() || std::find(keys.begin(), keys.end(), OrderedJson(kind)) != keys.end();
    if (!named) wrong.push_back("lora_parameters.keys must name " + kind);
  }
  if (!wrong.empty()) s->Add("lora-config", wrong[0], wrong, true);
  const OrderedJson scale = parameters.value("scale", OrderedJson());
  if (!scale.is_number() || !std::isfinite(scale.get<double>()) || scale.get<double>() == 0)
    s->Add("lora-scale",
           "lora_parameters.scale is " + (scale.is_null() ? std::string("absent") : scale.dump()));
  const OrderedJson rank = parameters.value("rank", OrderedJson());
  if (!ranks.empty() && (ranks.size() > 1 || rank != OrderedJson(*ranks.begin()))) {
    s->Add("adapter-rank",
           StrCat("lora_parameters.rank is ", rank.is_null() ? "absent" : rank.dump(),
                  ", the matrices have ", *ranks.begin(), ranks.size() > 1 ? " and others" : ""),
           {StrCat(*ranks.begin())}, ranks.size() == 1);
  }
}

}  // namespace

const std::vector<std::pair<std::string, std::string>>& GgufLoraKeys() {
  static const std::vector<std::pair<std::string, std::string>> keys = {
      {"general.architecture", "gemma4"}, {"general.type", "adapter"}, {"adapter.type", "lora"}};
  return keys;
}

std::string MlxModuleSpelling(const std::string& module) {
  const std::string canonical = CanonicalTensorName(module);
  return canonical.rfind(kLanguage, 0) == 0
             ? std::string(kMlxLanguage) + canonical.substr(kLanguage.size())
             : canonical;
}

void ExamineLora(Subject* s, const DoctorOptions& options) {
  const bool gguf = s->kind == SubjectKind::kGgufLora;
  std::vector<const StoredTensor*> tensors;
  if (gguf) {
    for (const StoredTensor& t : s->gguf->tensors().tensors()) tensors.push_back(&t);
  } else {
    for (const NamedPart& p : s->parts) tensors.push_back(p.tensor);
  }
  std::map<std::string, std::vector<int64_t>> base;
  try {
    base = BaseShapes(*s, options);
  } catch (const Error& error) {
    s->Add("config", error.what());
  }
  std::map<std::string, Halves> modules;
  std::vector<std::string> odd, spelled;
  for (const StoredTensor* t : tensors) {
    const size_t dot = t->name.rfind('.');
    const std::string module = t->name.substr(0, dot),
                      part = dot == std::string::npos ? "" : t->name.substr(dot + 1);
    if (gguf && t->name.ends_with("_norm.weight")) continue;  // llama.cpp passes over them
    if (part != "lora_a" && part != "lora_b" && (gguf || part != "m")) {
      odd.push_back(t->name);
      continue;
    }
    const std::string name = gguf ? module : MlxModuleSpelling(module);
    if (name != module) spelled.push_back(t->name);
    if (!base.empty() && !base.count(name) && name != "token_embd.weight") odd.push_back(t->name);
    if (part == "lora_a") modules[name].a = t;
    if (part == "lora_b") modules[name].b = t;
  }
  if (!odd.empty()) {
    s->Add("lora-names", StrCat(odd.size(), " tensors mean no matrix; the first is ", odd[0]), odd);
  } else if (!spelled.empty()) {
    s->Add("lora-names",
           StrCat(spelled.size(), " tensors; the first is ", spelled[0],
                  ", which should begin with ", kMlxLanguage),
           spelled, true);
  }
  std::vector<std::string> single, misshapen;
  std::map<std::string, std::set<int64_t>> layers;  // kind -> layers
  std::map<std::string, int64_t> lowest;            // kind -> its lowest layer
  std::set<int64_t> ranks;
  int64_t up = 0, zero = 0, count = 0;
  for (const auto& [module, halves] : modules) {
    const auto [layer, kind] = PlaceOf(module);
    if (layer >= 0) {
      layers[kind].insert(layer);
      lowest[kind] = *layers[kind].begin();
      count = std::max(count, layer + 1);
    }
    if (!halves.a || !halves.b) {
      single.push_back(module);
      continue;
    }
    const TensorShape &a = halves.a->shape, &b = halves.b->shape;
    // As matrices A [r, in] and B [out, r]; MLX holds both the other way round.
    const bool flat = a.size() == 2 && b.size() == 2;
    const int64_t rank = flat ? (gguf ? a[0] : a[1]) : 0, other = flat ? (gguf ? b[1] : b[0]) : 0;
    const auto known = base.find(module);
    const bool fits = flat && rank == other &&
                      (known == base.end() || ((gguf ? a[1] : a[0]) == known->second[1] &&
                                               (gguf ? b[0] : b[1]) == known->second[0]));
    if (!fits && module != "token_embd.weight") {
      misshapen.push_back(StrCat(module, ": ", ShapeText(a), " and ", ShapeText(b)));
    } else {
      ranks.insert(rank);
    }
    if (halves.b->format) {
      ++up;
      const std::vector<float> values = halves.b->ReadAll();
      zero += std::all_of(values.begin(), values.end(), [](float v) { return v == 0; });
    }
  }
  if (!single.empty())
    s->Add("adapter-pair",
           StrCat(single.size(), " modules have only one of lora_a and lora_b: ", single[0]),
           single);
  if (!misshapen.empty()) s->Add("adapter-shape", misshapen[0], misshapen);
  if (!base.empty()) {
    count = 0;
    for (const auto& [name, shape] : base) count = std::max(count, PlaceOf(name).first + 1);
  }
  std::vector<std::string> missing;
  for (const auto& [kind, have] : layers) {
    for (int64_t i = 0; i < count; ++i) {
      // Full layers have no v_proj: every sixth of the 12B.
      const bool value = kind == "attn_v.weight" || kind == "self_attn.v_proj";
      const std::string name =
          gguf ? StrCat("blk.", i, ".", kind) : StrCat(kMlxLanguage, "layers.", i, ".", kind);
      if (have.count(i) || (value && (base.empty() ? i % 6 == 5 : !base.count(name)))) continue;
      missing.push_back(name);
    }
  }
  if (s->all_read && !missing.empty())
    s->Add("adapter-layers",
           StrCat(missing.size(), " modules have no adapter that others of their kind have: ",
                  missing[0], missing.size() > 1 ? ", ..." : "",
                  base.empty() ? " (without the base's config.json: --base)" : ""),
           missing);
  if (up > 0 && up == zero) s->Add("adapter-zero", StrCat("every lora_b (", up, ") is zero"));
  if (tensors.empty() && s->all_read) s->Add("missing-tensors", "the adapter has no tensors");
  if (gguf) {
    ExamineKeys(s);
  } else {
    ExamineMlxConfig(s, lowest, count, ranks);
  }
  CheckFinite(s, tensors);
}

}  // namespace lapidary
