#include "model/config.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "autograd/base/error.h"

namespace lapidary {
namespace {

using Json = nlohmann::json;

// One JSON object with its name, for errors that say where.
struct Section {
  const Json& json;
  std::string where;

  bool Has(const char* key) const { return json.contains(key) && !json[key].is_null(); }

  int64_t Int(const char* key, int64_t low, int64_t high) const {
    LAPIDARY_CHECK(Has(key), where, ": '", key, "' must be given; got nothing");
    return IntOr(key, 0, low, high);
  }
  int64_t IntOr(const char* key, int64_t fallback, int64_t low, int64_t high) const {
    if (!Has(key)) return fallback;
    const Json& v = json[key];
    LAPIDARY_CHECK(v.is_number_integer() && v.get<int64_t>() >= low && v.get<int64_t>() <= high,
                   where, ": '", key, "' must be a whole number from ", low, " to ", high, "; got ",
                   v.dump());
    return v.get<int64_t>();
  }
  double NumberOr(const char* key, double fallback, double low, double high) const {
    if (!Has(key)) return fallback;
    const Json& v = json[key];
    LAPIDARY_CHECK(v.is_number() && v.get<double>() >= low && v.get<double>() <= high, where, ": '",
                   key, "' must be a number from ", low, " to ", high, "; got ", v.dump());
    return v.get<double>();
  }
  bool BoolOr(const char* key, bool fallback) const {
    if (!Has(key)) return fallback;
    LAPIDARY_CHECK(json[key].is_boolean(), where, ": '", key, "' must be true or false; got ",
                   json[key].dump());
    return json[key].get<bool>();
  }
  std::string TextOr(const char* key, const std::string& fallback) const {
    if (!Has(key)) return fallback;
    LAPIDARY_CHECK(json[key].is_string(), where, ": '", key, "' must be a string; got ",
                   json[key].dump());
    return json[key].get<std::string>();
  }
  Section Sub(const char* key) const {
    static const Json kEmpty = Json::object();
    if (!Has(key)) return {kEmpty, StrCat(where, ": ", key)};
    LAPIDARY_CHECK(json[key].is_object(), where, ": '", key, "' must be an object; got ",
                   json[key].dump());
    return {json[key], StrCat(where, ": ", key)};
  }
  // Features that other Gemma 4 sizes have and this family does not.
  void Refuse(const char* key) const {
    if (!Has(key)) return;
    const Json& v = json[key];
    const bool off = (v.is_boolean() && !v.get<bool>()) || (v.is_number() && v.get<double>() == 0);
    LAPIDARY_CHECK(off, where, ": '", key, "' must be off for gemma4_unified; got ", v.dump());
  }
};

constexpr int64_t kMaxSize = 1 << 24;  // of any width; products of two stay far below 2^63

double RopeTheta(const Section& text, const char* type, double fallback) {
  return text.Sub("rope_parameters").Sub(type).NumberOr("rope_theta", fallback, 1.0, 1e12);
}

void ParseRope(const Section& text, TextConfig* config) {
  const Section rope = text.Sub("rope_parameters");
  config->sliding_rope_theta = RopeTheta(text, "sliding_attention", 1e4);
  config->full_rope_theta = RopeTheta(text, "full_attention", 1e6);
  const std::string sliding = rope.Sub("sliding_attention").TextOr("rope_type", "default");
  LAPIDARY_CHECK(sliding == "default", rope.where,
                 ": sliding_attention.rope_type must be default; got ", sliding);
  const Section full = rope.Sub("full_attention");
  const std::string type = full.TextOr("rope_type", "proportional");
  LAPIDARY_CHECK(type == "proportional" || type == "default", full.where,
                 ": rope_type must be proportional or default; got ", type);
  config->full_partial_rotary_factor =
      type == "default" ? 1.0 : full.NumberOr("partial_rotary_factor", 1.0, 0.0, 1.0);
  const double factor = full.NumberOr("factor", 1.0, 0.0, 1e6);
  LAPIDARY_CHECK(factor == 1.0, full.where, ": factor must be 1; got ", factor);
}

void ParseLayers(const Section& text, TextConfig* config) {
  const int64_t count = text.Int("num_hidden_layers", 1, 4096);
  const int64_t head_dim = text.Int("head_dim", 2, 1 << 14);
  const int64_t kv_heads = text.Int("num_key_value_heads", 1, 1 << 14);
  const int64_t full_head_dim = text.IntOr("global_head_dim", head_dim, 2, 1 << 14);
  const bool k_eq_v = text.BoolOr("attention_k_eq_v", false);
  const int64_t full_kv_heads =
      k_eq_v ? text.IntOr("num_global_key_value_heads", kv_heads, 1, 1 << 14) : kv_heads;
  std::vector<std::string> types;
  if (text.Has("layer_types")) {
    LAPIDARY_CHECK(text.json["layer_types"].is_array(), text.where,
                   ": 'layer_types' must be a list; got ", text.json["layer_types"].dump());
    for (const Json& t : text.json["layer_types"])
      types.push_back(t.is_string() ? t.get<std::string>() : t.dump());
  } else {  // every sixth layer sees everything
    for (int64_t i = 0; i < count; ++i)
      types.push_back((i + 1) % 6 == 0 ? "full_attention" : "sliding_attention");
  }
  LAPIDARY_CHECK(static_cast<int64_t>(types.size()) == count, text.where,
                 ": 'layer_types' must have ", count, " entries; got ", types.size());
  for (int64_t i = 0; i < count; ++i) {
    LAPIDARY_CHECK(types[i] == "full_attention" || types[i] == "sliding_attention", text.where,
                   ": 'layer_types' must hold sliding_attention or full_attention; got ", types[i]);
    LayerConfig layer;
    layer.full_attention = types[i] == "full_attention";
    layer.k_is_v = layer.full_attention && k_eq_v;
    layer.head_dim = layer.full_attention ? full_head_dim : head_dim;
    layer.num_key_value_heads = layer.full_attention ? full_kv_heads : kv_heads;
    config->layers.push_back(layer);
  }
  if (text.Has(
          "per_layer_config")) {  // Transformers >= 5.15 writes this instead of the global_* keys
    const Section per_layer = text.Sub("per_layer_config");
    for (const auto& [key, value] : per_layer.json.items()) {
      const bool digits = !key.empty() && key.size() < 6 &&
                          key.find_first_not_of("0123456789") == std::string::npos;
      LAPIDARY_CHECK(digits && std::stoll(key) < count && value.is_object(), per_layer.where,
                     ": keys must be layer numbers below ", count, " and values objects; got ",
                     key);
      LayerConfig& layer = config->layers[std::stoll(key)];
      const Section one{value, StrCat(per_layer.where, ".", key)};
      layer.head_dim = one.IntOr("head_dim", layer.head_dim, 2, 1 << 14);
      layer.num_key_value_heads =
          one.IntOr("num_key_value_heads", layer.num_key_value_heads, 1, 1 << 14);
    }
  }
  for (const LayerConfig& layer : config->layers) {
    LAPIDARY_CHECK(layer.head_dim % 2 == 0, text.where, ": head widths must be even; got ",
                   layer.head_dim);
    LAPIDARY_CHECK(config->num_attention_heads % layer.num_key_value_heads == 0, text.where,
                   ": num_attention_heads must be a multiple of the key-value heads; got ",
                   config->num_attention_heads, " and ", layer.num_key_value_heads);
  }
}

void ParseText(const Section& text, TextConfig* config) {
  for (const char* key :
       {"attention_bias", "enable_moe_block", "use_double_wide_mlp", "num_kv_shared_layers",
        "hidden_size_per_layer_input", "attention_dropout"}) {
    text.Refuse(key);
  }
  config->vocab_size = text.Int("vocab_size", 1, kMaxSize);
  config->hidden_size = text.Int("hidden_size", 1, kMaxSize);
  config->intermediate_size = text.Int("intermediate_size", 1, kMaxSize);
  config->num_attention_heads = text.Int("num_attention_heads", 1, 1 << 14);
  config->sliding_window = text.Int("sliding_window", 1, int64_t{1} << 30);
  config->max_position_embeddings =
      text.IntOr("max_position_embeddings", 262144, 1, int64_t{1} << 30);
  config->rms_norm_eps = text.NumberOr("rms_norm_eps", 1e-6, 1e-30, 1.0);
  config->final_logit_softcapping = text.NumberOr("final_logit_softcapping", 0.0, 0.0, 1e6);
  config->pad_token_id =
      static_cast<int32_t>(text.IntOr("pad_token_id", 0, 0, config->vocab_size - 1));
  config->bos_token_id =
      static_cast<int32_t>(text.IntOr("bos_token_id", 2, 0, config->vocab_size - 1));
  config->tie_word_embeddings = text.BoolOr("tie_word_embeddings", true);
  const std::string activation = text.TextOr("hidden_activation", "gelu_pytorch_tanh");
  LAPIDARY_CHECK(activation == "gelu_pytorch_tanh", text.where,
                 ": hidden_activation must be gelu_pytorch_tanh; got ", activation);
  const std::string both_ways = text.TextOr("use_bidirectional_attention", "vision");
  LAPIDARY_CHECK(both_ways == "vision", text.where,
                 ": use_bidirectional_attention must be vision; got ", both_ways);
  ParseRope(text, config);
  ParseLayers(text, config);
}

}  // namespace

ModelConfig ParseModelConfig(const std::string& json_bytes, const std::string& where) {
  const Json json = Json::parse(json_bytes, nullptr, /*allow_exceptions=*/false);
  LAPIDARY_CHECK(json.is_object(), where, ": must be a JSON object; got ",
                 json.is_discarded() ? "broken JSON" : json.type_name());
  const Section top{json, where};
  const std::string type = top.TextOr("model_type", "");
  LAPIDARY_CHECK(type == "gemma4_unified" || type == "gemma4_unified_text", where,
                 ": model_type must be gemma4_unified; got ", type.empty() ? "nothing" : type,
                 "; try a google/gemma-4-12B or -it checkpoint");
  ModelConfig config;
  config.json = json_bytes;
  if (type == "gemma4_unified_text") {
    config.text_only = true;
    ParseText(top, &config.text);
    return config;
  }
  LAPIDARY_CHECK(top.Has("text_config"), where, ": 'text_config' must be given; got nothing");
  ParseText(top.Sub("text_config"), &config.text);
  config.text.tie_word_embeddings =
      top.BoolOr("tie_word_embeddings", config.text.tie_word_embeddings);
  const auto id = [&](const char* key) {
    return static_cast<int32_t>(top.IntOr(key, -1, -1, config.text.vocab_size - 1));
  };
  config.image_token_id = id("image_token_id");
  config.video_token_id = id("video_token_id");
  config.audio_token_id = id("audio_token_id");
  config.boi_token_id = id("boi_token_id");
  config.eoi_token_id = id("eoi_token_id");
  config.boa_token_id = id("boa_token_id");
  config.eoa_token_id = top.Has("eoa_token_index") ? id("eoa_token_index") : id("eoa_token_id");
  if (top.Has("vision_config")) {
    const Section vision = top.Sub("vision_config");
    config.has_vision = true;
    config.vision.patch_size = vision.IntOr("patch_size", 16, 1, 1024);
    config.vision.pooling_kernel_size = vision.IntOr("pooling_kernel_size", 3, 1, 64);
    config.vision.mm_embed_dim = vision.IntOr("mm_embed_dim", config.text.hidden_size, 1, kMaxSize);
    config.vision.mm_posemb_size = vision.IntOr("mm_posemb_size", 1120, 1, kMaxSize);
    config.vision.rms_norm_eps = vision.NumberOr("rms_norm_eps", 1e-6, 1e-30, 1.0);
    const int64_t out = vision.IntOr("output_proj_dims", config.text.hidden_size, 1, kMaxSize);
    LAPIDARY_CHECK(out == config.vision.mm_embed_dim, vision.where,
                   ": output_proj_dims must equal mm_embed_dim ", config.vision.mm_embed_dim,
                   "; got ", out);
  }
  if (top.Has("audio_config")) {
    const Section audio = top.Sub("audio_config");
    config.has_audio = true;
    int64_t width = audio.IntOr("audio_embed_dim", 0, 1, kMaxSize);
    for (const char* alias : {"audio_samples_per_token", "hidden_size", "output_proj_dims"}) {
      if (width == 0) width = audio.IntOr(alias, 0, 1, kMaxSize);
    }
    config.audio.audio_embed_dim = width == 0 ? 640 : width;
    config.audio.rms_norm_eps = audio.NumberOr("rms_norm_eps", 1e-6, 1e-30, 1.0);
  }
  return config;
}

std::vector<float> RopeInverseFrequencies(const TextConfig& text, const LayerConfig& layer) {
  const int64_t half = layer.head_dim / 2;
  const double theta = layer.full_attention ? text.full_rope_theta : text.sliding_rope_theta;
  const double factor = layer.full_attention ? text.full_partial_rotary_factor : 1.0;
  // The proportional rule rotates the first int(factor * D // 2) pairs and divides exponents by the
  // full width D.
  const int64_t rotated =
      static_cast<int64_t>(std::floor(factor * static_cast<double>(layer.head_dim) / 2));
  std::vector<float> inv_freq(half, 0.0f);
  for (int64_t i = 0; i < rotated; ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(layer.head_dim);
    inv_freq[i] = 1.0f / std::pow(static_cast<float>(theta), exponent);
  }
  return inv_freq;
}

ModelConfig MakeModelConfig(const std::string& shape, int64_t layers) {
  LAPIDARY_CHECK(shape == "tiny" || shape == "12b", "make-model: shape must be tiny or 12b; got ",
                 shape, "; try a config.json for other shapes");
  const bool tiny = shape == "tiny";
  const int64_t count = layers > 0 ? layers : tiny ? 6 : 48;
  Json types = Json::array();
  for (int64_t i = 0; i < count; ++i)
    types.push_back((i + 1) % 6 == 0 ? "full_attention" : "sliding_attention");
  const int64_t hidden = tiny ? 256 : 3840;
  const Json text = {{"attention_bias", false},
                     {"attention_dropout", 0.0},
                     {"attention_k_eq_v", true},
                     {"bos_token_id", 2},
                     {"eos_token_id", 1},
                     {"enable_moe_block", false},
                     {"final_logit_softcapping", 30.0},
                     {"global_head_dim", tiny ? 128 : 512},
                     {"head_dim", tiny ? 64 : 256},
                     {"hidden_activation", "gelu_pytorch_tanh"},
                     {"hidden_size", hidden},
                     {"hidden_size_per_layer_input", 0},
                     {"initializer_range", 0.02},
                     {"intermediate_size", tiny ? 512 : 15360},
                     {"layer_types", types},
                     {"max_position_embeddings", 262144},
                     {"model_type", "gemma4_unified_text"},
                     {"num_attention_heads", tiny ? 4 : 16},
                     {"num_global_key_value_heads", 1},
                     {"num_hidden_layers", count},
                     {"num_key_value_heads", tiny ? 2 : 8},
                     {"num_kv_shared_layers", 0},
                     {"pad_token_id", 0},
                     {"rms_norm_eps", 1e-6},
                     {"rope_parameters",
                      {{"full_attention",
                        {{"partial_rotary_factor", 0.25},
                         {"rope_theta", 1000000.0},
                         {"rope_type", "proportional"}}},
                       {"sliding_attention", {{"rope_theta", 10000.0}, {"rope_type", "default"}}}}},
                     {"sliding_window", tiny ? 128 : 1024},
                     {"tie_word_embeddings", true},
                     {"use_bidirectional_attention", "vision"},
                     {"use_cache", true},
                     {"use_double_wide_mlp", false},
                     {"vocab_size", tiny ? 2048 : 262144}};
  const Json vision = {{"initializer_range", 0.02},
                       {"mm_embed_dim", hidden},
                       {"mm_posemb_size", tiny ? 128 : 1120},
                       {"model_type", "gemma4_unified_vision"},
                       {"output_proj_dims", hidden},
                       {"patch_size", tiny ? 4 : 16},
                       {"pooling_kernel_size", 3},
                       {"rms_norm_eps", 1e-6}};
  const Json audio = {{"audio_embed_dim", 640},
                      {"initializer_range", 0.02},
                      {"model_type", "gemma4_unified_audio"},
                      {"rms_norm_eps", 1e-6}};
  Json top = {{"architectures", {"Gemma4UnifiedForConditionalGeneration"}},
              {"audio_config", audio},
              {"dtype", "bfloat16"},
              {"eos_token_id", {1, 106}},
              {"initializer_range", 0.02},
              {"model_type", "gemma4_unified"},
              {"text_config", text},
              {"tie_word_embeddings", true},
              {"transformers_version", "5.10.0"},
              {"vision_config", vision}};
  const std::map<std::string, std::pair<int, int>> ids = {
      {"boi_token_id", {2041, 255999}},   {"boa_token_id", {2042, 256000}},
      {"image_token_id", {2043, 258880}}, {"audio_token_id", {2044, 258881}},
      {"eoi_token_id", {2045, 258882}},   {"eoa_token_index", {2046, 258883}},
      {"video_token_id", {2047, 258884}}};
  for (const auto& [key, pair] : ids) top[key] = tiny ? pair.first : pair.second;
  return ParseModelConfig(top.dump(2) + "\n", "make-model");
}

}  // namespace lapidary
