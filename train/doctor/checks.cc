#include "train/doctor/checks.h"

#include <algorithm>
#include <string>

#include "autograd/base/error.h"
#include "data/chat_template.h"
#include "model/tensor_names.h"
#include "train/doctor/subject.h"
#include "train/make_model.h"

namespace lapidary {

const std::array<const char*, kDoctorRuntimes> kDoctorRuntimeNames = {
    "Transformers", "vLLM", "SGLang", "llama.cpp", "Ollama", "LM Studio", "MLX"};

namespace {

using OrderedJson = nlohmann::ordered_json;

// --- what mends it

void RenameTensors(const Subject& s, const DoctorFinding& f, RepairPlan* plan) {
  for (const std::string& name : f.items) {
    const auto [stem, part] = SplitPart(name, s.layout);
    const std::string to = ExpectedSpelling(s, CanonicalTensorName(stem));
    plan->rename[name] =
        part.empty() ? to : to.substr(0, to.size() - std::string_view(".weight").size()) + part;
  }
}

void DropTensors(const Subject&, const DoctorFinding& f, RepairPlan* plan) {
  plan->drop.insert(f.items.begin(), f.items.end());
}

void WriteIndex(const Subject&, const DoctorFinding&, RepairPlan* plan) {
  plan->write_index = true;
}

void SetDtype(const Subject& s, const DoctorFinding& f, RepairPlan* plan) {
  OrderedJson& config = plan->Json(s, "config.json");
  config.erase("torch_dtype");
  config["dtype"] = f.items.at(0);
}

void DropSecondTemplate(const Subject& s, const DoctorFinding&, RepairPlan* plan) {
  plan->Json(s, "tokenizer_config.json").erase("chat_template");
}

void SetTemplate(const Subject& s, const DoctorFinding& f, RepairPlan* plan) {
  if (s.kind == SubjectKind::kGguf) {
    plan->keys.emplace_back("tokenizer.chat_template", GgufValue::String(CanonicalChatTemplate()));
    return;
  }
  plan->text["chat_template.jinja"] = CanonicalChatTemplate();
  if (s.Json("tokenizer_config.json").is_object()) DropSecondTemplate(s, f, plan);
}

// `ids` behind those that `list` (a number, a list, nothing) has.
void AppendIds(OrderedJson* list, const std::vector<int64_t>& ids) {
  OrderedJson all = list->is_array() ? *list : OrderedJson::array();
  if (list->is_number_integer()) all.push_back(*list);
  for (const int64_t id : ids) {
    if (std::find(all.begin(), all.end(), OrderedJson(id)) == all.end()) all.push_back(id);
  }
  *list = all;
}

void SetStopIds(const Subject& s, const DoctorFinding& f, RepairPlan* plan) {
  if (s.kind == SubjectKind::kGguf) {
    plan->keys.emplace_back("tokenizer.ggml.eos_token_id",
                            GgufValue::U32(std::stoll(f.items.at(0))));
    return;
  }
  OrderedJson& generation = plan->Json(s, "generation_config.json");
  if (s.config && !generation.contains("bos_token_id")) {
    generation["bos_token_id"] = s.config->text.bos_token_id;
    generation["pad_token_id"] = s.config->text.pad_token_id;
  }
  std::vector<int64_t> ids;
  for (const char* name : {"<eos>", "<turn|>", "<|tool_response>"}) {
    const auto id = s.tokenizer ? s.tokenizer->Find(name) : std::nullopt;
    if (id && (!s.Template().empty() || std::string_view(name) == "<eos>")) ids.push_back(*id);
  }
  AppendIds(&generation["eos_token_id"], ids);
}

void SetSuppressIds(const Subject& s, const DoctorFinding& f, RepairPlan* plan) {
  std::vector<int64_t> ids;
  for (const std::string& item : f.items) ids.push_back(std::stoll(item));
  if (s.kind != SubjectKind::kGguf) {
    AppendIds(&plan->Json(s, "generation_config.json")["suppress_tokens"], ids);
    return;
  }
  const GgufValue* old = s.gguf->Find("tokenizer.ggml.suppress_tokens");
  std::vector<int64_t> all = old && old->is_int() ? old->ints : std::vector<int64_t>();
  for (const int64_t id : ids) {
    if (std::find(all.begin(), all.end(), id) == all.end()) all.push_back(id);
  }
  plan->keys.emplace_back("tokenizer.ggml.suppress_tokens", GgufValue::I32s(all));
}

void DropBos(const Subject& s, const DoctorFinding&, RepairPlan* plan) {
  OrderedJson& tokenizer = plan->Json(s, "tokenizer.json");
  const auto clean = [](OrderedJson& processor) {
    for (const char* form : {"single", "pair"}) {
      if (!processor.contains(form) || !processor[form].is_array()) continue;
      OrderedJson kept = OrderedJson::array();
      for (const OrderedJson& piece : processor[form]) {
        const bool bos = piece.contains("SpecialToken") &&
                         piece["SpecialToken"].value("id", std::string()) == "<bos>";
        if (!bos) kept.push_back(piece);
      }
      processor[form] = kept;
    }
  };
  OrderedJson& processor = tokenizer["post_processor"];
  if (processor.contains("processors") && processor["processors"].is_array()) {
    for (OrderedJson& one : processor["processors"]) clean(one);
  }
  clean(processor);
}

void SetProcessor(const Subject& s, const DoctorFinding&, RepairPlan* plan) {
  plan->text["processor_config.json"] = StandardProcessorConfig(*s.config);
}

void SetFlatKeys(const Subject& s, const DoctorFinding&, RepairPlan* plan) {
  OrderedJson& config = plan->Json(s, "config.json");
  OrderedJson& text = config.contains("text_config") ? config["text_config"] : config;
  for (const LayerConfig& layer : s.config->text.layers) {
    text[layer.full_attention ? "global_head_dim" : "head_dim"] = layer.head_dim;
    text[layer.full_attention ? "num_global_key_value_heads" : "num_key_value_heads"] =
        layer.num_key_value_heads;
  }
}

void RenameAdapter(const Subject&, const DoctorFinding& f, RepairPlan* plan) {
  for (const std::string& name : f.items) plan->rename[name] = AdapterTensorSpelling(name);
}

void SetTargets(const Subject& s, const DoctorFinding& f, RepairPlan* plan) {
  plan->Json(s, "adapter_config.json")["target_modules"] = f.items;
}

void SetLoraConfig(const Subject& s, const DoctorFinding&, RepairPlan* plan) {
  if (s.kind == SubjectKind::kGgufLora) {
    for (const auto& [key, value] : GgufLoraKeys())
      plan->keys.emplace_back(key, GgufValue::String(value));
    return;
  }
  OrderedJson& config = plan->Json(s, "adapter_config.json");
  config["num_layers"] = -1;  // all; without "keys" all linears: mlx-lm takes what the file has
  config["lora_parameters"].erase("keys");
}

void SetMlxRank(const Subject& s, const DoctorFinding& f, RepairPlan* plan) {
  plan->Json(s, "adapter_config.json")["lora_parameters"]["rank"] = std::stoll(f.items.at(0));
}

void RenameLora(const Subject&, const DoctorFinding& f, RepairPlan* plan) {
  for (const std::string& name : f.items) {
    const size_t dot = name.rfind('.');
    plan->rename[name] = MlxModuleSpelling(name.substr(0, dot)) + name.substr(dot);
  }
}

void SetTokenTypes(const Subject& s, const DoctorFinding&, RepairPlan* plan) {
  GgufValue types = *s.gguf->Find("tokenizer.ggml.token_type");
  const auto& tokens = s.gguf->GetStrings("tokenizer.ggml.tokens");
  for (size_t id = 0; id < tokens.size(); ++id) {
    for (const char* name : {"<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>",
                             "<|tool_response>", "<tool_response|>", "<|\"|>"}) {
      if (tokens[id] == name) types.ints[id] = 4;
    }
  }
  plan->keys.emplace_back("tokenizer.ggml.token_type", types);
}

// --- the table
//
// Where the effects come from: runs of Transformers 5.23, mlx-vlm 0.7.10 and llama.cpp 0c1e57098
// (2026-11) on small altered checkpoints; the sources of vLLM and SGLang (models/gemma4_unified.py,
// gemma4.py) and Ollama (server/create.go) of autumn 2026. "llama.cpp" means its converter where
// the subject is a folder. LM Studio has llama.cpp for GGUF and mlx-vlm for MLX folders inside; its
// own code is not public, so only that is said. "not known": neither run nor found.

constexpr char kAsEngine[] = "as llama.cpp (GGUF) or MLX (folder)";
constexpr char kUnknown[] = "not known";

const std::vector<DoctorCheck> kChecks = {
    {"broken-file",
     Severity::kError,
     "a file that is cut short or is not what its header says",
     {"refuses it", "refuses it", "refuses it", "refuses it", kUnknown, kAsEngine, "refuses it"},
     nullptr},
    {"config",
     Severity::kError,
     "config.json, or a GGUF's keys, do not describe a Gemma 4 Unified",
     {"refuses it, or builds another model", kUnknown, kUnknown, "refuses it", kUnknown, kAsEngine,
      kUnknown},
     nullptr},
    {"shard-index",
     Severity::kError,
     "model.safetensors.index.json and the weight files disagree",
     {"fails, or takes tensors for missing", kUnknown, kUnknown, "its converter fails", kUnknown,
      kAsEngine, kUnknown},
     WriteIndex},
    {"names-memory",
     Severity::kError,
     "media tensors are named as Transformers' modules are in memory",
     {"loads it", "refuses it: no such parameter",
      "skips them without a word: pictures become noise",
      "its converter makes the text model; --mmproj fails: cannot map tensor", kUnknown, kAsEngine,
      "refuses it: parameters not in model"},
     RenameTensors},
    {"names-mlx",
     Severity::kError,
     "tensors are named as in MLX folders, without the leading model.",
     {"starts with random text layers, after a report of missing ones", "loads it",
      "skips the text layers without a word",
      "its converter makes the text model; --mmproj fails: cannot map tensor", kUnknown,
      "loads it (MLX folder)", "loads it"},
     RenameTensors},
    {"names-text",
     Severity::kError,
     "text tensors are named for the text-only class, config.json names the whole model",
     {"starts with random text layers, after a report of missing ones", "loads it",
      "skips the text layers without a word",
      "its converter makes the text model; --mmproj fails: cannot map tensor", kUnknown, kAsEngine,
      "refuses it: parameters not in model"},
     RenameTensors},
    {"names-doubled",
     Severity::kError,
     "text tensors have one \"model.\" too many",
     {"loads it", "refuses it: no such parameter", "skips the text layers without a word",
      "its converter fails: cannot map tensor", kUnknown, "loads it (MLX folder)", "loads it"},
     RenameTensors},
    {"missing-tensors",
     Severity::kError,
     "tensors of the text model, or all of the weights, are missing",
     {"starts with random values, after a report", "refuses it: weights not initialized", kUnknown,
      "refuses it, but runs with wrong numbers without attn_v, layer_output_scale or rope_freqs",
      kUnknown, kAsEngine, "refuses it"},
     nullptr},
    {"missing-media",
     Severity::kError,
     "tensors of the picture or sound embedders are missing",
     {"starts with random ones: pictures and sounds become noise",
      "refuses it: weights not initialized", "builds random ones without a word",
      "refuses the mmproj, or crashes", kUnknown, kAsEngine, "refuses it"},
     nullptr},
    {"mmproj",
     Severity::kWarning,
     "a GGUF without its mmproj: text only",
     {"", "", "", "takes no pictures or sounds", "takes no pictures or sounds",
      "takes no pictures or sounds", ""},
     nullptr},
    {"gguf-keys",
     Severity::kError,
     "keys that llama.cpp needs are absent",
     {"", "", "", "refuses it or aborts; without rope.freq_base it runs with wrong numbers",
      kUnknown, kAsEngine, ""},
     nullptr},
    {"shape",
     Severity::kError,
     "tensors have other shapes than config.json says",
     {"refuses it: size mismatch", "refuses it", kUnknown, "refuses it, or runs wrong", kUnknown,
      kAsEngine, "refuses it: expected shape"},
     nullptr},
    {"extra-tensors",
     Severity::kWarning,
     "tensors that Gemma 4 Unified does not have (a v_proj on a full layer comes of a broken "
     "merge)",
     {"ignores them, after a report", "refuses it: no such parameter", "ignores them",
      "its converter fails: cannot map tensor", kUnknown, kAsEngine,
      "refuses it: parameters not in model"},
     DropTensors},
    {"stored-head",
     Severity::kWarning,
     "the tied head is stored a second time",
     {"loads it", "ignores it", "ignores it",
      "its converter writes it as output.weight: a larger file, the same numbers", kUnknown,
      kAsEngine, "ignores it"},
     DropTensors},
    {"untied-head",
     Severity::kError,
     "a head that differs from the embedding it is tied to",
     {"unties the two and uses the head", "ignores it and uses the embedding",
      "ignores it and uses the embedding",
      "its converter writes it as output.weight, and it is used", kUnknown, kAsEngine,
      "ignores it and uses the embedding"},
     nullptr},
    {"not-finite",
     Severity::kError,
     "weights that are NaN or infinite",
     {"computes NaN", "computes NaN", "computes NaN", "computes NaN; llama-quantize refuses it",
      "computes NaN", "computes NaN", "computes NaN"},
     nullptr},
    {"dtype",
     Severity::kWarning,
     "types of weights that surprise",
     {"loads in the type that config.json says", "loads in the type that config.json says",
      kUnknown, "a folder: converts to one type; a GGUF whose vectors are not F32 aborts", kUnknown,
      kAsEngine, "keeps the types of the file"},
     SetDtype},
    {"off-grid",
     Severity::kWarning,
     "some matrices of a QAT checkpoint have left their 4-bit grid (a merged LoRA does that)",
     {"loads it", "loads it", "loads it",
      "Q4_0 rounds those matrices anew: what was trained for them is lost", kUnknown, kAsEngine,
      "4-bit rounds those matrices anew"},
     nullptr},
    {"template",
     Severity::kWarning,
     "the chat template is absent, or not Google's of 2026-07-09",
     {"formats turns by it", "formats turns by it", "formats turns by it", "formats turns by it",
      "has its own renderer for gemma4", kUnknown, "formats turns by it"},
     SetTemplate},
    {"template-twice",
     Severity::kWarning,
     "two chat templates that differ",
     {"takes chat_template.jinja", "takes chat_template.jinja", kUnknown, kUnknown, kUnknown,
      kUnknown, kUnknown},
     DropSecondTemplate},
    {"stop-ids",
     Severity::kWarning,
     "ids that end an answer are not among the stop ids",
     {"goes on talking after the end of its turn", "goes on talking after the end of its turn",
      kUnknown, "stops: it knows the ends of Gemma 4's turns by name", "stops at <turn|>",
      kAsEngine, kUnknown},
     SetStopIds},
    {"suppress-ids",
     Severity::kWarning,
     "the ends of pictures and sounds may be generated as words (rarely, even greedily)",
     {"may say <image|>", "may say <image|>", "suppresses them whatever the file says",
      "may say <image|>", kUnknown, kAsEngine, kUnknown},
     SetSuppressIds},
    {"double-bos",
     Severity::kWarning,
     "template and tokenizer both begin with <bos>",
     {"chat is right; rendered text that is tokenized again has two",
      "chat is right; rendered text that is tokenized again has two", kUnknown,
      "removes the second", kUnknown, kAsEngine, "chat is right"},
     DropBos},
    {"tokenizer",
     Severity::kError,
     "the tokenizer is absent, broken, or does not fit the model",
     {"fails, or puts media at the wrong ids", "fails, or puts media at the wrong ids", kUnknown,
      "its converter fails; a GGUF is refused", kUnknown, kAsEngine, kUnknown},
     nullptr},
    {"token-types",
     Severity::kWarning,
     "markers of thoughts and tool calls have the wrong token type",
     {"", "", "", "hides them from its parser of tool calls", kUnknown, kAsEngine, ""},
     SetTokenTypes},
    {"processor",
     Severity::kWarning,
     "no settings for pictures and sounds",
     {"cannot build its processor", "cannot build its processor", kUnknown,
      "--mmproj fails: image_mean and image_std are needed", kUnknown, kAsEngine, kUnknown},
     SetProcessor},
    {"flat-keys",
     Severity::kWarning,
     "head sizes only in the newer spelling of Transformers 5.15",
     {"reads it from 5.15 on", "reads the older spelling", kUnknown, "reads both", kUnknown,
      kAsEngine, kUnknown},
     SetFlatKeys},
    {"adapter-config",
     Severity::kError,
     "adapter_config.json is absent, broken, or asks for what is not LoRA",
     {"refuses it", "refuses it", kUnknown, "its converter fails", "takes no adapters", kUnknown,
      ""},
     nullptr},
    {"adapter-names",
     Severity::kError,
     "adapter tensors are not named as PEFT writes them",
     {"ignores them, after a warning", "may ignore them without a word", kUnknown,
      "its converter fails", "takes no adapters", kUnknown, ""},
     RenameAdapter},
    {"adapter-pair",
     Severity::kError,
     "modules with only one half of an adapter",
     {"leaves the other half as it was initialized, after a warning", kUnknown, kUnknown,
      "refuses it", "takes no adapters", kUnknown, "leaves the other half as it was initialized"},
     nullptr},
    {"adapter-layers",
     Severity::kWarning,
     "layers without an adapter that the others have",
     {"runs them without one, after a warning", "runs them without one", kUnknown,
      "runs them without one", "takes no adapters", kUnknown, "runs them without one"},
     nullptr},
    {"adapter-zero",
     Severity::kWarning,
     "an adapter that changes nothing",
     {"answers as the base does", "answers as the base does", "answers as the base does",
      "answers as the base does", "takes no adapters", kUnknown, "answers as the base does"},
     nullptr},
    {"adapter-head",
     Severity::kWarning,
     "an adapter on the tied embedding or head",
     {"applies it to one of the two; merging loses it or changes both", kUnknown, kUnknown,
      "its converter refuses lm_head and whole embeddings", "takes no adapters", kUnknown, ""},
     nullptr},
    {"adapter-targets",
     Severity::kWarning,
     "target_modules is not named, and PEFT has no default for gemma4_unified",
     {"refuses it", kUnknown, kUnknown, "does not look", "takes no adapters", kUnknown, ""},
     SetTargets},
    {"adapter-shape",
     Severity::kError,
     "matrices of an adapter whose shapes fit neither each other nor the base",
     {"refuses it: size mismatch", "refuses it", kUnknown, "refuses it", kUnknown, kUnknown,
      "refuses it: adapter shape does not match"},
     nullptr},
    {"adapter-rank",
     Severity::kError,
     "adapter_config.json names another rank than the matrices have",
     {"refuses it: size mismatch", kUnknown, kUnknown,
      "its converter takes the matrices' rank: alpha / rank is another factor", kUnknown, kUnknown,
      "refuses it: adapter shape does not match"},
     SetMlxRank},
    {"adapter-base",
     Severity::kWarning,
     "the adapter was trained on another base than the one it names",
     {"applies it: not what was trained", "applies it: not what was trained",
      "applies it: not what was trained", "applies it: not what was trained", kUnknown, kUnknown,
      "applies it: not what was trained"},
     nullptr},
    {"lora-config",
     Severity::kError,
     "keys that a GGUF adapter needs, or adapter_config.json of an MLX adapter, are absent or "
     "wrong",
     {"", "", "", "refuses it", kUnknown, kAsEngine, "refuses it"},
     SetLoraConfig},
    {"lora-names",
     Severity::kError,
     "tensors of a GGUF or MLX adapter whose names mean no matrix of the model",
     {"", "", "", "refuses it", kUnknown, kAsEngine, "refuses it: not an adapter parameter"},
     RenameLora},
    {"lora-scale",
     Severity::kError,
     "a GGUF adapter without alpha, or an MLX adapter without scale",
     {"", "", "", "multiplies by 1 instead of alpha / rank, without a word", kUnknown, kAsEngine,
      "refuses it; with 0 it answers as the base does"},
     nullptr},
};

}  // namespace

const std::vector<DoctorCheck>& DoctorChecks() { return kChecks; }

const DoctorCheck& FindDoctorCheck(std::string_view id) {
  for (const DoctorCheck& check : kChecks) {
    if (id == check.id) return check;
  }
  throw Error(StrCat("doctor: a check must be in the table; got ", id));
}

}  // namespace lapidary
