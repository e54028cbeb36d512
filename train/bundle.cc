#include "train/bundle.h"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string_view>
#include <unordered_set>

#include "autograd/base/error.h"
#include "autograd/base/file.h"
#include "data/chat_template.h"
#include "model/adapt.h"
#include "model/base_fingerprint.h"
#include "model/load.h"
#include "model/qat.h"

namespace lapidary {
namespace {

using Json = nlohmann::json;

constexpr uint64_t kSideFileLimit = uint64_t{1} << 28;

bool IsGguf(const std::string& path) {
  return path.size() > 5 && path.compare(path.size() - 5, 5, ".gguf") == 0;
}

std::string ReadIfExists(const std::string& path) {
  return std::filesystem::exists(path) ? ReadFile(path, kSideFileLimit) : std::string();
}

// GGUF writes a merge as "left right" and a space inside a part as U+0120. A part that is a token
// as it stands is left alone.
constexpr std::string_view kSpaceInMerge = "\xc4\xa0";

std::string MergePart(std::string_view part, const std::unordered_set<std::string_view>& marked) {
  std::string out(part);
  if (marked.count(part)) return out;
  for (size_t at = out.find(kSpaceInMerge); at != std::string::npos;
       at = out.find(kSpaceInMerge, at + 1))
    out.replace(at, kSpaceInMerge.size(), " ");
  return out;
}

TokenizerSpec SpecFromGguf(GgufTokenizer gguf, const std::string& where) {
  TokenizerSpec spec;
  spec.tokens = std::move(gguf.tokens);
  std::unordered_set<std::string_view> marked;  // the few tokens with U+0120 in them
  for (const std::string& token : spec.tokens) {
    if (token.find(kSpaceInMerge) != std::string::npos) marked.insert(token);
  }
  spec.merges.reserve(gguf.merges.size());
  for (const std::string& merge : gguf.merges) {
    const size_t space = merge.find(' ', 1);
    LAPIDARY_CHECK(space != std::string::npos, where, ": a merge must be two parts; got '", merge,
                   "'");
    const std::string_view text = merge;
    spec.merges.emplace_back(MergePart(text.substr(0, space), marked),
                             MergePart(text.substr(space + 1), marked));
  }
  for (size_t id = 0; id < gguf.token_types.size() && id < spec.tokens.size(); ++id) {
    const int32_t type =
        gguf.token_types[id];  // 2 unknown, 3 control, 4 user-defined: cut out of the text first
    if (type == 2 || type == 3 || type == 4)
      spec.added.push_back({static_cast<int32_t>(id), spec.tokens[id], true, false});
  }
  return spec;
}

std::vector<int32_t> Ids(const Json& json, const char* key) {
  std::vector<int32_t> ids;
  if (!json.contains(key)) return ids;
  const Json& v = json[key];
  if (v.is_number_integer()) ids.push_back(v.get<int32_t>());
  if (v.is_array()) {
    for (const Json& id : v) {
      if (id.is_number_integer()) ids.push_back(id.get<int32_t>());
    }
  }
  return ids;
}

double NumberIn(const Json& json, const char* key, double fallback, double low, double high,
                const std::string& where) {
  if (!json.contains(key) || json[key].is_null()) return fallback;
  LAPIDARY_CHECK(
      json[key].is_number() && json[key].get<double>() >= low && json[key].get<double>() <= high,
      where, ": '", key, "' must be a number from ", low, " to ", high, "; got ", json[key].dump());
  return json[key].get<double>();
}

GenerationDefaults ParseGeneration(const std::string& text, const std::string& where,
                                   const Tokenizer* tokenizer, const ModelConfig& config) {
  GenerationDefaults defaults;
  if (!text.empty()) {
    const Json json = Json::parse(text, nullptr, false);
    LAPIDARY_CHECK(json.is_object(), where, ": must be a JSON object; got something else");
    defaults.stop_ids = Ids(json, "eos_token_id");
    defaults.suppress_ids = Ids(json, "suppress_tokens");
    if (json.contains("do_sample") && json["do_sample"].is_boolean())
      defaults.do_sample = json["do_sample"].get<bool>();
    defaults.temperature = NumberIn(json, "temperature", defaults.temperature, 1e-6, 1e6, where);
    defaults.top_k = static_cast<int64_t>(
        NumberIn(json, "top_k", static_cast<double>(defaults.top_k), 0, 1e9, where));
    defaults.top_p = NumberIn(json, "top_p", defaults.top_p, 1e-9, 1.0, where);
  } else {
    for (int32_t id : {config.eoa_token_id, config.eoi_token_id}) {
      if (id >= 0) defaults.suppress_ids.push_back(id);
    }
  }
  if (tokenizer) {
    for (const char* name : {"<eos>", "<turn|>", "<|tool_response>"}) {
      if (const auto id = tokenizer->Find(name)) defaults.stop_ids.push_back(*id);
    }
  }
  std::sort(defaults.stop_ids.begin(), defaults.stop_ids.end());
  defaults.stop_ids.erase(std::unique(defaults.stop_ids.begin(), defaults.stop_ids.end()),
                          defaults.stop_ids.end());
  return defaults;
}

// The chat template of a folder: its own file, or the field of tokenizer_config.json.
std::string FolderTemplate(const std::string& path) {
  std::string text = ReadIfExists(path + "/chat_template.jinja");
  if (!text.empty()) return text;
  const Json json = Json::parse(ReadIfExists(path + "/tokenizer_config.json"), nullptr, false);
  if (json.is_object() && json.contains("chat_template") && json["chat_template"].is_string()) {
    return json["chat_template"].get<std::string>();
  }
  return "";
}

// A model or adapter that was trained on a grid is run on it.
void AttachRecordedQat(const std::string& folder, Bundle* bundle) {
  const std::optional<QatRecord> record = ReadQatRecord(folder);
  if (!record || record->projected) return;
  const std::string scales = folder + "/" + kQatScalesFile;
  LAPIDARY_CHECK(record->scales != "learned" || std::filesystem::exists(scales), scales,
                 ": must hold the learned scales; got no file; try copying it from the run");
  AttachQat(bundle->model, *record, std::filesystem::exists(scales) ? scales : "");
}

}  // namespace

const Tokenizer& Bundle::RequireTokenizer() const {
  LAPIDARY_CHECK(
      tokenizer, path,
      "/tokenizer.json: must exist; got nothing; try copying it from the original checkpoint");
  return *tokenizer;
}

std::unique_ptr<Tokenizer> OpenTokenizer(const std::string& path) {
  if (IsGguf(path))
    return std::make_unique<Tokenizer>(SpecFromGguf(OpenGgufSource(path).tokenizer, path));
  const std::string file = path + "/tokenizer.json";
  LAPIDARY_CHECK(std::filesystem::exists(file), file,
                 ": must exist; got nothing; try copying it from the original checkpoint");
  return std::make_unique<Tokenizer>(ParseTokenizerJson(ReadFile(file, kSideFileLimit), file));
}

Bundle OpenBundle(const std::string& path, const std::string& adapter, const BaseFormat& base) {
  LoadedModel loaded = LoadModel(path, base);
  Bundle bundle;
  bundle.path = path;
  bundle.warnings = std::move(loaded.warnings);
  bundle.model = std::move(loaded.model);
  const ModelConfig& config = bundle.model.config;
  std::string chat_template, generation, where = path;
  if (loaded.tokenizer) {
    bundle.tokenizer = std::make_unique<Tokenizer>(SpecFromGguf(*loaded.tokenizer, path));
    bundle.media = ParseMediaConfig(loaded.processor_json, config.json, path);
    chat_template = loaded.tokenizer->chat_template;
  } else {
    if (std::filesystem::exists(path + "/tokenizer.json")) bundle.tokenizer = OpenTokenizer(path);
    bundle.media = LoadMediaConfig(path);
    chat_template = FolderTemplate(path);
    where = path + "/generation_config.json";
    generation = ReadIfExists(where);
  }
  if (bundle.tokenizer) {
    LAPIDARY_CHECK(bundle.tokenizer->size() <= config.text.vocab_size, path,
                   ": the tokenizer must fit the vocabulary of ", config.text.vocab_size, "; got ",
                   bundle.tokenizer->size(), " ids; try the tokenizer.json saved with the model");
  }
  bundle.generation = ParseGeneration(generation, where, bundle.tokenizer.get(), config);
  if (loaded.tokenizer && !loaded.tokenizer->suppress_tokens.empty())
    bundle.generation.suppress_ids = loaded.tokenizer->suppress_tokens;
  if (!chat_template.empty()) {
    if (const auto warning = CheckTemplateRevision(chat_template))
      bundle.warnings.push_back(StrCat(path, ": ", *warning));
  }
  if (!adapter.empty()) {
    const AdapterConfig attached = LoadAdapter(bundle.model, adapter, /*trainable=*/false);
    if (attached.base_fingerprint) {
      const auto warning = OtherBaseWarning(attached, adapter, OpenCheckpointFiles(path), path);
      if (warning) bundle.warnings.push_back(*warning);
    }
  }
  AttachRecordedQat(adapter.empty() ? path : adapter, &bundle);
  return bundle;
}

}  // namespace lapidary
