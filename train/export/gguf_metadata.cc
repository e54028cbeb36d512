#include "train/export/gguf_metadata.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "autograd/base/error.h"
#include "autograd/base/file.h"
#include "data/tokenizer.h"
#include "quant/strict_json.h"

namespace lapidary {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

// An empty object if the file is absent.
json ReadOptional(const fs::path& path) {
  if (!fs::exists(path)) return json::object();
  json out = ReadJsonFile(path.string());
  LAPIDARY_CHECK(out.is_object(), path.string(), ": must be a JSON object");
  return out;
}

// "gemma-4-it" -> "Gemma 4 It": words in lower case get a capital, as gguf-py makes titles of
// folder names.
std::string Title(const std::string& folder) {
  std::string out;
  std::string name = fs::weakly_canonical(folder).filename().string();
  std::replace(name.begin(), name.end(), '-', ' ');
  std::istringstream words(name);
  for (std::string word; words >> word;) {
    const bool lower =
        std::none_of(word.begin(), word.end(), [](char c) { return c >= 'A' && c <= 'Z'; });
    const bool version = (word[0] >= '0' && word[0] <= '9') ||
                         (word.size() > 1 && word[0] == 'v' && word[1] >= '0' && word[1] <= '9');
    if (lower && !version && word[0] >= 'a' && word[0] <= 'z')
      word[0] = static_cast<char>(word[0] - 'a' + 'A');
    out += (out.empty() ? "" : " ") + word;
  }
  return out;
}

// A token given as "<eos>" or {"content": "<eos>", ...}; empty if neither.
std::string TokenText(const json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_object() && value.contains("content") && value["content"].is_string())
    return value["content"].get<std::string>();
  return "";
}

// The texts that Transformers counts as special: every "*_token" of tokenizer_config.json and its
// extra tokens.
std::set<std::string> SpecialTexts(const json& tokenizer_config) {
  std::set<std::string> out;
  for (const auto& [key, value] : tokenizer_config.items()) {
    if (key.size() > 6 && key.compare(key.size() - 6, 6, "_token") == 0)
      out.insert(TokenText(value));
    if (key == "extra_special_tokens" || key == "additional_special_tokens") {
      for (const auto& item : value.items()) out.insert(TokenText(item.value()));
    }
  }
  out.erase("");
  return out;
}

bool IsByteToken(const std::string& token) {
  const auto hex = [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'F') || (c >= 'a' && c <= 'f');
  };
  return token.size() == 6 && token.compare(0, 3, "<0x") == 0 && hex(token[3]) && hex(token[4]) &&
         token[5] == '>';
}

enum : int64_t { kNormal = 1, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6 };

// formats.md 2.5: rendered as text, so that the chat parser sees them.
const std::set<std::string>& VisibleTokens() {
  static const std::set<std::string> tokens = {
      "<|channel>",       "<channel|>",       "<|tool_call>", "<tool_call|>",
      "<|tool_response>", "<tool_response|>", "<|\"|>"};
  return tokens;
}

// A merge's part in GGUF's spelling: a space becomes U+0120.
std::string MergePart(const std::string& part) {
  std::string out;
  for (const char c : part) {
    if (c == ' ') {
      out += "\xc4\xa0";
    } else {
      out += c;
    }
  }
  return out;
}

void AddTokenizerKeys(const fs::path& folder, const ModelConfig& config, GgufKeys& keys) {
  const fs::path path = folder / "tokenizer.json";
  LAPIDARY_CHECK(fs::exists(path), path.string(),
                 ": must exist for a GGUF export; got nothing; try copying it into the folder");
  const TokenizerSpec spec = ParseTokenizerJson(ReadFile(path.string()), path.string());
  const json tokenizer_config = ReadOptional(folder / "tokenizer_config.json");
  std::vector<std::string> tokens = spec.tokens;
  for (const AddedToken& added : spec.added) {
    if (static_cast<size_t>(added.id) >= tokens.size())
      tokens.resize(static_cast<size_t>(added.id) + 1);
    tokens[static_cast<size_t>(added.id)] = added.content;
  }
  const int64_t size = static_cast<int64_t>(tokens.size());
  LAPIDARY_CHECK(size <= config.text.vocab_size, path.string(),
                 ": must hold at most as many tokens as the embedding has rows (",
                 config.text.vocab_size, "); got ", size);
  std::map<std::string, int64_t> ids;
  for (int64_t id = 0; id < size; ++id) {
    const std::string& token = tokens[static_cast<size_t>(id)];
    LAPIDARY_CHECK(!token.empty(), path.string(), ": ids must have no gaps; got no token ", id);
    ids.emplace(token, id);
  }
  const std::set<std::string> special = SpecialTexts(tokenizer_config);
  std::vector<int64_t> types;
  for (const std::string& token : tokens) {
    types.push_back(VisibleTokens().count(token) ? kUserDefined
                    : IsByteToken(token)         ? kByte
                    : special.count(token)       ? kControl
                                                 : kNormal);
  }
  // Rows of the embedding beyond the vocabulary: the reader wants a token for each.
  for (int64_t id = size; id < config.text.vocab_size; ++id) {
    tokens.push_back(StrCat("[PAD", id, "]"));
    types.push_back(kUnused);
  }
  std::vector<std::string> merges;
  for (const auto& [left, right] : spec.merges)
    merges.push_back(MergePart(left) + " " + MergePart(right));
  keys.emplace_back("tokenizer.ggml.model", GgufValue::String("gemma4"));
  keys.emplace_back("tokenizer.ggml.scores",
                    GgufValue::F32s(std::vector<double>(tokens.size(), -1000.0)));
  keys.emplace_back("tokenizer.ggml.tokens", GgufValue::Strings(std::move(tokens)));
  std::swap(keys[keys.size() - 1], keys[keys.size() - 2]);  // the converter's order
  keys.emplace_back("tokenizer.ggml.token_type", GgufValue::I32s(std::move(types)));
  keys.emplace_back("tokenizer.ggml.merges", GgufValue::Strings(std::move(merges)));
  const json model_config = json::parse(config.json);
  const auto add_id = [&](const char* key, const char* token_key, const char* id_key) {
    const auto found = ids.find(
        tokenizer_config.contains(token_key) ? TokenText(tokenizer_config[token_key]) : "");
    if (found != ids.end()) {
      keys.emplace_back(key, GgufValue::U32(found->second));
    } else if (model_config.contains("text_config") &&
               model_config["text_config"].value(id_key, json()).is_number_unsigned()) {
      keys.emplace_back(key, GgufValue::U32(model_config["text_config"][id_key].get<int64_t>()));
    }
  };
  add_id("tokenizer.ggml.bos_token_id", "bos_token", "bos_token_id");
  add_id("tokenizer.ggml.eos_token_id", "eos_token", "eos_token_id");
  add_id("tokenizer.ggml.unknown_token_id", "unk_token", "unk_token_id");
  add_id("tokenizer.ggml.padding_token_id", "pad_token", "pad_token_id");
  add_id("tokenizer.ggml.mask_token_id", "mask_token", "mask_token_id");
  if (const auto turn = ids.find("<turn|>"); turn != ids.end()) {
    keys.emplace_back("tokenizer.ggml.eot_token_id", GgufValue::U32(turn->second));
  }
  keys.emplace_back("tokenizer.ggml.add_bos_token", GgufValue::Bool(true));
  if (fs::exists(folder / "chat_template.jinja")) {
    keys.emplace_back("tokenizer.chat_template",
                      GgufValue::String(ReadFile((folder / "chat_template.jinja").string())));
  } else if (tokenizer_config.contains("chat_template") &&
             tokenizer_config["chat_template"].is_string()) {
    keys.emplace_back("tokenizer.chat_template",
                      GgufValue::String(tokenizer_config["chat_template"].get<std::string>()));
  }
  keys.emplace_back("tokenizer.ggml.add_space_prefix", GgufValue::Bool(false));
}

GgufValue Triple(const json& processor, const char* key, double fallback) {
  std::vector<double> values(3, fallback);
  const json section =
      processor.contains("image_processor") ? processor["image_processor"] : processor;
  if (section.is_object() && section.contains(key) && section[key].is_array() &&
      section[key].size() == 3) {
    for (size_t i = 0; i < 3; ++i) {
      if (section[key][i].is_number()) values[i] = section[key][i].get<double>();
    }
  }
  return GgufValue::F32s(std::move(values));
}

// How the processor cuts media, where that is not how the 12B's does.
GgufKeys MediaKeys(const json& processor) {
  struct Row {
    const char *key, *section, *field;
    int64_t usual;
  };
  constexpr Row kRows[] = {
      {"lapidary.image_max_soft_tokens", "image_processor", "max_soft_tokens", 280},
      {"lapidary.video_max_soft_tokens", "video_processor", "max_soft_tokens", 70},
      {"lapidary.video_num_frames", "video_processor", "num_frames", 32}};
  GgufKeys keys;
  for (const Row& row : kRows) {
    if (!processor.contains(row.section) || !processor[row.section].is_object()) continue;
    const json& section = processor[row.section];
    if (!section.contains(row.field) || !section[row.field].is_number_unsigned()) continue;
    const int64_t value = section[row.field].get<int64_t>();
    if (value != row.usual) keys.emplace_back(row.key, GgufValue::U32(value));
  }
  return keys;
}

void Append(GgufKeys& keys, const GgufKeys& more) {
  keys.insert(keys.end(), more.begin(), more.end());
}

}  // namespace

GgufMetadata ReadGgufMetadata(const std::string& folder, const ModelConfig& config) {
  const fs::path base(folder);
  GgufMetadata out;
  const json generation = ReadOptional(base / "generation_config.json");
  if (generation.contains("top_k") && generation["top_k"].is_number_integer()) {
    out.general.emplace_back("general.sampling.top_k",
                             GgufValue::I32(generation["top_k"].get<int64_t>()));
  }
  for (const auto& [key, field] :
       {std::pair{"general.sampling.top_p", "top_p"}, {"general.sampling.temp", "temperature"}}) {
    if (generation.contains(field) && generation[field].is_number()) {
      out.general.emplace_back(key, GgufValue::F32(generation[field].get<double>()));
    }
  }
  out.general.emplace_back("general.name", GgufValue::String(Title(folder)));
  if (generation.contains("suppress_tokens") && generation["suppress_tokens"].is_array()) {
    std::vector<int64_t> ids;
    for (const json& id : generation["suppress_tokens"]) {
      LAPIDARY_CHECK(id.is_number_unsigned() && id.get<int64_t>() < config.text.vocab_size,
                     (base / "generation_config.json").string(),
                     ": suppress_tokens must hold token ids; got ", id.dump());
      ids.push_back(id.get<int64_t>());
    }
    out.suppress.emplace_back("tokenizer.ggml.suppress_tokens", GgufValue::I32s(std::move(ids)));
  }
  AddTokenizerKeys(base, config, out.tokenizer);
  json processor = ReadOptional(base / "processor_config.json");
  if (processor.empty()) processor = ReadOptional(base / "preprocessor_config.json");
  out.image_mean = Triple(processor, "image_mean", 0);
  out.image_std = Triple(processor, "image_std", 1);
  out.media = MediaKeys(processor);
  return out;
}

std::string SizeLabel(int64_t parameters) {
  double scaled = static_cast<double>(parameters) * 1e-3;
  char suffix = 'K';
  for (const auto& [limit, letter] : {std::pair{1e6, 'M'}, {1e9, 'B'}, {1e12, 'T'}}) {
    if (static_cast<double>(parameters) > limit) {
      scaled = static_cast<double>(parameters) / limit;
      suffix = letter;
    }
  }
  char text[32];
  std::snprintf(text, sizeof(text), "%.0f", scaled);  // rounds half to even, as Python does
  const int digits = text[0] == '0' ? 0 : static_cast<int>(std::string(text).size());
  std::snprintf(text, sizeof(text), "%.*f%c", std::max(2 - digits, 0), scaled, suffix);
  return text;
}

namespace {

const LayerConfig* FindLayer(const ModelConfig& config, bool full) {
  for (const LayerConfig& layer : config.text.layers) {
    if (layer.full_attention == full) return &layer;
  }
  return nullptr;
}

// Of the full layers, and of the sliding ones; a model with one kind only uses its width for both.
int64_t HeadDim(const ModelConfig& config, bool full) {
  const LayerConfig* layer = FindLayer(config, full);
  return layer ? layer->head_dim : config.text.layers[0].head_dim;
}

}  // namespace

GgufKeys TextKeys(const GgufMetadata& metadata, const ModelConfig& config, int64_t parameters,
                  int64_t file_type) {
  const TextConfig& text = config.text;
  GgufKeys keys = {{"general.architecture", GgufValue::String("gemma4")},
                   {"general.type", GgufValue::String("model")}};
  Append(keys, metadata.general);
  keys.emplace_back("general.size_label", GgufValue::String(SizeLabel(parameters)));
  const auto put = [&](const char* key, GgufValue value) {
    keys.emplace_back(StrCat("gemma4.", key), std::move(value));
  };
  std::vector<int64_t> kv_heads, sliding;
  for (const LayerConfig& layer : text.layers) {
    kv_heads.push_back(layer.num_key_value_heads);
    sliding.push_back(layer.full_attention ? 0 : 1);
  }
  put("block_count", GgufValue::U32(config.num_layers()));
  put("context_length", GgufValue::U32(text.max_position_embeddings));
  put("embedding_length", GgufValue::U32(text.hidden_size));
  put("feed_forward_length", GgufValue::U32(text.intermediate_size));
  put("attention.head_count", GgufValue::U32(text.num_attention_heads));
  // The converter's configuration names the full layers' heads only where they differ.
  put("attention.head_count_kv", std::set<int64_t>(kv_heads.begin(), kv_heads.end()).size() == 1
                                     ? GgufValue::U32(kv_heads[0])
                                     : GgufValue::I32s(kv_heads));
  put("rope.freq_base", GgufValue::F32(text.full_rope_theta));
  put("rope.freq_base_swa", GgufValue::F32(text.sliding_rope_theta));
  put("attention.layer_norm_rms_epsilon", GgufValue::F32(text.rms_norm_eps));
  put("attention.key_length", GgufValue::U32(HeadDim(config, true)));
  put("attention.value_length", GgufValue::U32(HeadDim(config, true)));
  keys.emplace_back("general.file_type", GgufValue::U32(file_type));
  put("final_logit_softcapping", GgufValue::F32(text.final_logit_softcapping));
  put("attention.sliding_window", GgufValue::U32(text.sliding_window));
  put("attention.shared_kv_layers", GgufValue::U32(0));
  put("embedding_length_per_layer_input", GgufValue::U32(0));
  put("attention.sliding_window_pattern", GgufValue::Bools(sliding));
  put("attention.key_length_swa", GgufValue::U32(HeadDim(config, false)));
  put("attention.value_length_swa", GgufValue::U32(HeadDim(config, false)));
  put("rope.dimension_count", GgufValue::U32(HeadDim(config, true)));
  put("rope.dimension_count_swa", GgufValue::U32(HeadDim(config, false)));
  Append(keys, metadata.suppress);
  keys.emplace_back("general.quantization_version", GgufValue::U32(2));
  Append(keys, metadata.tokenizer);
  return keys;
}

GgufKeys MmprojKeys(const GgufMetadata& metadata, const ModelConfig& config, int64_t parameters,
                    int64_t file_type) {
  GgufKeys keys = {{"general.architecture", GgufValue::String("clip")},
                   {"general.type", GgufValue::String("mmproj")}};
  Append(keys, metadata.general);
  keys.emplace_back("general.size_label", GgufValue::String(SizeLabel(parameters)));
  keys.emplace_back("general.file_type", GgufValue::U32(file_type));
  const auto put = [&](const char* key, GgufValue value) {
    keys.emplace_back(StrCat("clip.", key), std::move(value));
  };
  const auto encoder = [&](const std::string& name, int64_t width) {
    keys.emplace_back(StrCat("clip.", name, ".embedding_length"), GgufValue::U32(width));
    for (const char* key : {"feed_forward_length", "block_count", "attention.head_count"}) {
      keys.emplace_back(StrCat("clip.", name, ".", key), GgufValue::U32(0));
    }
  };
  const int64_t hidden = config.text.hidden_size;
  if (config.has_vision) {
    put("has_vision_encoder", GgufValue::Bool(true));
    put("vision.projection_dim", GgufValue::U32(hidden));
    put("vision.image_size", GgufValue::U32(224));
    put("vision.patch_size", GgufValue::U32(config.vision.patch_size));
    if (config.vision.pooling_kernel_size != 3) {
      put("vision.projector.scale_factor", GgufValue::U32(config.vision.pooling_kernel_size));
    }
    encoder("vision", config.vision.mm_embed_dim);
    put("vision.image_mean", metadata.image_mean);
    put("vision.image_std", metadata.image_std);
  }
  if (config.has_audio) {
    put("has_audio_encoder", GgufValue::Bool(true));
    put("audio.projection_dim", GgufValue::U32(hidden));
    encoder("audio", config.audio.audio_embed_dim);
  }
  if (config.has_vision) {
    put("vision.projector_type", GgufValue::String("gemma4uv"));
    put("vision.attention.layer_norm_epsilon", GgufValue::F32(config.vision.rms_norm_eps));
  }
  if (config.has_audio) {
    put("audio.projector_type", GgufValue::String("gemma4ua"));
    put("audio.num_mel_bins", GgufValue::U32(128));
    put("audio.attention.layer_norm_epsilon", GgufValue::F32(config.audio.rms_norm_eps));
  }
  Append(keys, metadata.media);
  keys.emplace_back("general.quantization_version", GgufValue::U32(2));
  return keys;
}

std::vector<float> RopeFrequencyDivisors(const ModelConfig& config) {
  const int64_t width = HeadDim(config, true);
  const int64_t rotated =
      static_cast<int64_t>(static_cast<double>(width) * config.text.full_partial_rotary_factor / 2);
  std::vector<float> out(static_cast<size_t>(width / 2), 1e30f);
  std::fill_n(out.begin(), std::min(rotated, width / 2), 1.0f);
  return out;
}

}  // namespace lapidary
