#include "quant/adapter.h"

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <regex>

#include "autograd/base/error.h"
#include "autograd/base/file.h"
#include "quant/safetensors.h"
#include "quant/strict_json.h"

namespace lapidary {
namespace {

using nlohmann::json;

// Options that change what the adapter means. Absent, null, false, 0, empty or the value here means
// "not used".
struct Unsupported {
  const char* field;
  const char* meaning;
};
constexpr Unsupported kUnsupported[] = {
    {"lora_bias", "biases of lora_B"},
    {"fan_in_fan_out", "transposed weights"},
    {"layer_replication", "replicated layers"},
    {"trainable_token_indices", "single trained embedding rows"},
    {"target_parameters", "adapters on bare parameters"},
    {"alora_invocation_tokens", "activated LoRA"},
    {"arrow_config", "Arrow routing"},
    {"use_qalora", "QALoRA"},
    {"use_bdlora", "BD-LoRA"},
    {"kasa_config", "KaSA"},
    {"monteclora_config", "MonteCLoRA"},
    {"velora_config", "VeLoRA"},
};

bool IsUnused(const json& value) {
  return value.is_null() || (value.is_boolean() && !value.get<bool>()) ||
         (value.is_structured() && value.empty());
}

class Reader {
 public:
  Reader(const json& object, const std::string& where) : object_(object), where_(where) {}

  // Null if the field is absent or null.
  const json* Find(const char* field) const {
    const auto found = object_.find(field);
    return found == object_.end() || found->is_null() ? nullptr : &*found;
  }
  [[noreturn]] void Fail(const char* field, const char* rule, const json& value) const {
    throw Error(
        StrCat(where_, ": ", field, " must be ", rule, "; got ", value.dump().substr(0, 80)));
  }
  void Bool(const char* field, bool& out) const {
    if (const json* value = Find(field)) {
      if (!value->is_boolean()) Fail(field, "true or false", *value);
      out = value->get<bool>();
    }
  }
  void Number(const char* field, double& out) const {
    if (const json* value = Find(field)) out = AsNumber(field, *value);
  }
  void Text(const char* field, std::string& out) const {
    if (const json* value = Find(field)) {
      if (!value->is_string()) Fail(field, "a string", *value);
      out = value->get<std::string>();
    }
  }
  void Names(const char* field, std::vector<std::string>& out) const {
    const json* value = Find(field);
    if (!value) return;
    if (!value->is_array()) Fail(field, "a list of strings", *value);
    for (const json& name : *value) {
      if (!name.is_string()) Fail(field, "a list of strings", *value);
      out.push_back(name.get<std::string>());
    }
  }
  void Pattern(const char* field, ModulePattern& out) const {
    const json* value = Find(field);
    if (!value) return;
    if (!value->is_string()) return Names(field, out.names);
    out.is_regex = true;
    out.names = {value->get<std::string>()};
  }
  int64_t AsRank(const char* field, const json& value) const {
    if (!value.is_number_integer() || value.get<int64_t>() < 1 ||
        value.get<int64_t>() > (1 << 20)) {
      Fail(field, "an integer from 1 to 1048576", value);
    }
    return value.get<int64_t>();
  }
  double AsNumber(const char* field, const json& value) const {
    if (!value.is_number() || !std::isfinite(value.get<double>()))
      Fail(field, "a finite number", value);
    return value.get<double>();
  }
  const json* Object(const char* field) const {
    const json* value = Find(field);
    if (value && !value->is_object()) Fail(field, "an object", *value);
    return value;
  }

 private:
  const json& object_;
  const std::string& where_;
};

// Whether PEFT would apply a rank or alpha pattern to a module.
bool Matches(const std::string& pattern, const std::string& module) {
  LAPIDARY_CHECK(pattern.size() <= 4096,
                 "adapter_config.json: patterns must have at most 4096 characters; got ",
                 pattern.size());
  try {
    const std::regex regex("(.*\\.)?(" + pattern + ")");
    return std::regex_match(module, regex);
  } catch (const std::regex_error& e) {
    throw Error(StrCat("adapter_config.json: patterns must be regular expressions; got '", pattern,
                       "': ", e.what()));
  }
}

json PatternJson(const ModulePattern& pattern) {
  if (pattern.empty()) return nullptr;
  if (pattern.is_regex) return pattern.names[0];
  return pattern.names;
}

constexpr char kFingerprintKey[] = "lapidary_base_fingerprint";

template <class List>
json ListOrNull(const List& list) {
  return list.empty() ? json(nullptr) : json(list);
}

// PEFT writes lora_alpha as the user gave it; integers stay integers.
json Number(double value) {
  if (value == std::floor(value) && std::fabs(value) < 1e15) return static_cast<int64_t>(value);
  return value;
}

}  // namespace

AdapterConfig ParseAdapterConfig(const std::string& json_text, const std::string& where) {
  const json object = ParseStrictJson(json_text, where);
  LAPIDARY_CHECK(object.is_object(), where, ": must be a JSON object");
  const Reader in(object, where);
  std::string peft_type = "LORA";
  in.Text("peft_type", peft_type);
  LAPIDARY_CHECK(peft_type == "LORA", where, ": peft_type must be LORA; got ", peft_type);
  for (const Unsupported& option : kUnsupported) {
    const json* value = in.Find(option.field);
    LAPIDARY_CHECK(!value || IsUnused(*value), where, ": ", option.field, " must not be used (",
                   option.meaning, "); got ", value->dump().substr(0, 80),
                   "; try merging the adapter with PEFT");
  }
  // PiSSA, OLoRA and the like subtract their start from the base weights when PEFT loads them.
  if (const json* start = in.Find("init_lora_weights")) {
    LAPIDARY_CHECK(
        start->is_boolean() || *start == "gaussian" || *start == "eva" || *start == "orthogonal",
        where, ": init_lora_weights must leave the base weights as they are; got ",
        start->dump().substr(0, 80), "; try converting the adapter to plain LoRA with PEFT");
  }
  AdapterConfig config;
  if (const json* r = in.Find("r")) config.r = in.AsRank("r", *r);
  in.Number("lora_alpha", config.lora_alpha);
  in.Number("lora_dropout", config.lora_dropout);
  LAPIDARY_CHECK(config.lora_dropout >= 0 && config.lora_dropout < 1, where,
                 ": lora_dropout must be in [0, 1); got ", config.lora_dropout);
  in.Bool("use_rslora", config.use_rslora);
  in.Bool("use_dora", config.use_dora);
  in.Bool("inference_mode", config.inference_mode);
  in.Text("bias", config.bias);
  LAPIDARY_CHECK(config.bias == "none", where, ": bias must be none; got ", config.bias,
                 "; try merging the adapter with PEFT");
  in.Text("task_type", config.task_type);
  in.Pattern("target_modules", config.target_modules);
  in.Pattern("exclude_modules", config.exclude_modules);
  in.Names("modules_to_save", config.modules_to_save);
  if (const json* pattern = in.Find("layers_pattern")) {
    if (pattern->is_string()) {
      config.layers_pattern = {pattern->get<std::string>()};
    } else {
      in.Names("layers_pattern", config.layers_pattern);
    }
  }
  if (const json* layers = in.Find("layers_to_transform")) {
    const json list = layers->is_array() ? *layers : json::array({*layers});
    for (const json& layer : list) {
      if (!layer.is_number_integer() || layer.get<int64_t>() < 0)
        in.Fail("layers_to_transform", "layer numbers", *layers);
      config.layers_to_transform.push_back(layer.get<int64_t>());
    }
  }
  // The library's object sorts its keys; the order of the file decides which pattern wins, so it is
  // read again with order.
  if (in.Object("rank_pattern") || in.Object("alpha_pattern")) {
    const nlohmann::ordered_json ordered = nlohmann::ordered_json::parse(json_text);
    if (in.Object("rank_pattern")) {
      for (const auto& [name, value] : ordered["rank_pattern"].items()) {
        config.rank_pattern.emplace_back(name, in.AsRank("rank_pattern", value));
      }
    }
    if (in.Object("alpha_pattern")) {
      for (const auto& [name, value] : ordered["alpha_pattern"].items()) {
        config.alpha_pattern.emplace_back(name, in.AsNumber("alpha_pattern", value));
      }
    }
  }
  if (in.Find("base_model_name_or_path")) {
    std::string name;
    in.Text("base_model_name_or_path", name);
    config.base_model_name_or_path = name;
  }
  return config;
}

std::string AdapterConfigText(const AdapterConfig& config) {
  json object = {
      {"alora_invocation_tokens", nullptr},
      {"arrow_config", nullptr},
      {"auto_mapping", nullptr},
      {"corda_config", nullptr},
      {"ensure_weight_tying", false},
      {"eva_config", nullptr},
      {"fan_in_fan_out", false},
      {"init_lora_weights", true},
      {"kasa_config", nullptr},
      {"layer_replication", nullptr},
      {"loftq_config", json::object()},
      {"lora_bias", false},
      {"lora_ga_config", nullptr},
      {"megatron_config", nullptr},
      {"megatron_core", "megatron.core"},
      {"monteclora_config", nullptr},
      {"peft_type", "LORA"},
      {"peft_version", "0.21.2"},
      {"qalora_group_size", 16},
      {"revision", nullptr},
      {"target_parameters", nullptr},
      {"trainable_token_indices", nullptr},
      {"use_bdlora", nullptr},
      {"use_qalora", false},
      {"velora_config", nullptr},
  };
  object["base_model_name_or_path"] =
      config.base_model_name_or_path ? json(*config.base_model_name_or_path) : json(nullptr);
  object["bias"] = config.bias;
  object["exclude_modules"] = PatternJson(config.exclude_modules);
  object["inference_mode"] = config.inference_mode;
  object["layers_pattern"] = ListOrNull(config.layers_pattern);
  object["layers_to_transform"] = ListOrNull(config.layers_to_transform);
  object["lora_alpha"] = Number(config.lora_alpha);
  object["lora_dropout"] = config.lora_dropout;
  object["modules_to_save"] = ListOrNull(config.modules_to_save);
  object["r"] = config.r;
  object["target_modules"] = PatternJson(config.target_modules);
  object["task_type"] = config.task_type;
  object["use_dora"] = config.use_dora;
  object["use_rslora"] = config.use_rslora;
  nlohmann::ordered_json ordered = nlohmann::ordered_json::object();
  object["rank_pattern"] =
      nullptr;  // places in the sorted order, filled below in the order of the patterns
  object["alpha_pattern"] = nullptr;
  for (const auto& [key, value] : object.items()) {
    nlohmann::ordered_json patterns = nlohmann::ordered_json::object();
    if (key == "rank_pattern") {
      for (const auto& [name, rank] : config.rank_pattern) patterns[name] = rank;
      ordered[key] = patterns;
    } else if (key == "alpha_pattern") {
      for (const auto& [name, alpha] : config.alpha_pattern)
        patterns[name] = nlohmann::ordered_json(Number(alpha));
      ordered[key] = patterns;
    } else {
      ordered[key] = nlohmann::ordered_json(value);
    }
  }
  return ordered.dump(2, ' ', true);
}

int64_t AdapterRank(const AdapterConfig& config, const std::string& module) {
  for (const auto& [pattern, rank] : config.rank_pattern) {
    if (Matches(pattern, module)) return rank;
  }
  return config.r;
}

double AdapterAlpha(const AdapterConfig& config, const std::string& module) {
  for (const auto& [pattern, alpha] : config.alpha_pattern) {
    if (Matches(pattern, module)) return alpha;
  }
  return config.lora_alpha;
}

double AdapterScale(const AdapterConfig& config, const std::string& module) {
  const double r = static_cast<double>(AdapterRank(config, module));
  return AdapterAlpha(config, module) / (config.use_rslora ? std::sqrt(r) : r);
}

Adapter OpenAdapter(const std::string& folder) {
  const std::filesystem::path base(folder);
  const std::string config_path = (base / "adapter_config.json").string();
  const std::string model_path = (base / "adapter_model.safetensors").string();
  Adapter adapter;
  adapter.folder = folder;
  adapter.config = ParseAdapterConfig(ReadFile(config_path, uint64_t{16} << 20), config_path);
  adapter.tensors = OpenCheckpoint(model_path);
  const SafetensorsFile file = SafetensorsFile::Open(model_path);
  const auto base_hash = file.metadata().find(kFingerprintKey);
  if (base_hash != file.metadata().end()) adapter.config.base_fingerprint = base_hash->second;
  LAPIDARY_CHECK(!adapter.tensors.tensors().empty(), model_path, ": must hold tensors; got none");
  return adapter;
}

void WriteAdapter(const std::string& folder, const AdapterConfig& config,
                  const std::vector<NamedTensor>& tensors, const std::string& dtype) {
  LAPIDARY_CHECK(dtype == "F32" || dtype == "BF16", folder,
                 ": an adapter's dtype must be F32 or BF16; got ", dtype);
  std::error_code failure;
  std::filesystem::create_directories(folder, failure);
  LAPIDARY_CHECK(!failure, folder, ": must be a folder that can be created; got ",
                 failure.message());
  const std::filesystem::path base(folder);
  std::map<std::string, std::string> metadata = {{"format", "pt"}};
  if (config.base_fingerprint) metadata[kFingerprintKey] = *config.base_fingerprint;
  WriteSafetensors((base / "adapter_model.safetensors").string(), tensors, dtype, metadata);
  WriteFile((base / "adapter_config.json").string(), AdapterConfigText(config));
}

}  // namespace lapidary
