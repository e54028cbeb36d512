#include "model/gguf_source.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>

#include "autograd/base/error.h"
#include "model/config.h"
#include "model/gguf_names.h"
#include "model/tensor_names.h"
#include "quant/gguf.h"

namespace lapidary {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

// The value of a key or a default when it is absent.
int64_t IntOr(const GgufFile& file, const char* key, int64_t fallback) {
  return file.Find(key) ? file.GetInt(key) : fallback;
}
double FloatOr(const GgufFile& file, const char* key, double fallback) {
  return file.Find(key) ? file.GetFloat(key) : fallback;
}

// A float32 that was written from a short decimal (1e-06) gets that decimal back.
double Decimal(double value) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.7g", value);
  const double back = std::strtod(text, nullptr);
  return static_cast<float>(back) == static_cast<float>(value) ? back : value;
}

// A per-layer value: one integer for all layers, or an array.
std::vector<int64_t> PerLayer(const GgufFile& file, const char* key, int64_t layers) {
  const GgufValue* value = file.Find(key);
  if (value && !value->is_array)
    return std::vector<int64_t>(static_cast<size_t>(layers), file.GetInt(key));
  const std::vector<int64_t>& list = file.GetInts(key);
  LAPIDARY_CHECK(static_cast<int64_t>(list.size()) == layers, file.path(), ": ", key, " must have ",
                 layers, " entries; got ", list.size());
  return list;
}

// The fraction of a full layer's pairs that rotate: leading ones in rope_freqs.weight.
double PartialRotaryFactor(const GgufFile& file) {
  const StoredTensor* freqs = file.tensors().Find("rope_freqs.weight");
  if (!freqs) return 1.0;
  const std::vector<float> values = freqs->ReadAll();
  LAPIDARY_CHECK(!values.empty(), file.path(), ": rope_freqs.weight must hold values; got none");
  const int64_t ones = std::count(values.begin(), values.end(), 1.0f);
  for (size_t i = 0; i < values.size(); ++i) {
    LAPIDARY_CHECK(
        static_cast<int64_t>(i) < ones ? values[i] == 1.0f : values[i] >= 1e20f, file.path(),
        ": rope_freqs.weight must hold ones, then 1e30 (proportional); got ", values[i], " at ", i);
  }
  return static_cast<double>(ones) / static_cast<double>(values.size());
}

Json TextConfigJson(const GgufFile& file) {
  const int64_t layers = file.GetInt("gemma4.block_count");
  LAPIDARY_CHECK(layers >= 1 && layers <= 4096, file.path(),
                 ": gemma4.block_count must be from 1 to 4096; got ", layers);
  const std::vector<int64_t> sliding =
      PerLayer(file, "gemma4.attention.sliding_window_pattern", layers);
  const std::vector<int64_t> kv_heads = PerLayer(file, "gemma4.attention.head_count_kv", layers);
  for (const char* key :
       {"gemma4.attention.shared_kv_layers", "gemma4.embedding_length_per_layer_input"}) {
    LAPIDARY_CHECK(IntOr(file, key, 0) == 0, file.path(), ": ", key, " must be 0 for the 12B; got ",
                   IntOr(file, key, 0));
  }
  LAPIDARY_CHECK(file.Find("gemma4.rope.freq_base"), file.path(),
                 ": gemma4.rope.freq_base must be given; got none");
  Json types = Json::array();
  bool k_is_v = true;
  std::optional<int64_t> kv_of[2];  // by sliding
  for (int64_t i = 0; i < layers; ++i) {
    const bool is_sliding = sliding[static_cast<size_t>(i)] != 0;
    types.push_back(is_sliding ? "sliding_attention" : "full_attention");
    std::optional<int64_t>& kv = kv_of[is_sliding];
    const int64_t heads = kv_heads[static_cast<size_t>(i)];
    LAPIDARY_CHECK(!kv || *kv == heads, file.path(),
                   ": head_count_kv must be equal in all layers of a kind; got ", kv.value_or(0),
                   " and ", heads);
    kv = heads;
    if (!is_sliding && file.tensors().Find(StrCat("blk.", i, ".attn_v.weight"))) k_is_v = false;
  }
  const int64_t key_length = file.GetInt("gemma4.attention.key_length");
  LAPIDARY_CHECK(IntOr(file, "gemma4.attention.value_length", key_length) == key_length,
                 file.path(), ": key_length and value_length must be equal");
  const int64_t sliding_kv = kv_of[1].value_or(kv_of[0].value_or(1));
  Json text = {
      {"model_type", "gemma4_unified_text"},
      {"vocab_size", static_cast<int64_t>(file.GetStrings("tokenizer.ggml.tokens").size())},
      {"hidden_size", file.GetInt("gemma4.embedding_length")},
      {"intermediate_size", file.GetInt("gemma4.feed_forward_length")},
      {"num_hidden_layers", layers},
      {"num_attention_heads", file.GetInt("gemma4.attention.head_count")},
      {"num_key_value_heads", sliding_kv},
      {"num_global_key_value_heads", kv_of[0].value_or(sliding_kv)},
      {"head_dim", file.GetInt("gemma4.attention.key_length_swa")},
      {"global_head_dim", key_length},
      {"layer_types", types},
      {"sliding_window", file.GetInt("gemma4.attention.sliding_window")},
      {"max_position_embeddings", file.GetInt("gemma4.context_length")},
      {"rms_norm_eps", Decimal(file.GetFloat("gemma4.attention.layer_norm_rms_epsilon"))},
      {"hidden_activation", "gelu_pytorch_tanh"},
      {"final_logit_softcapping", Decimal(FloatOr(file, "gemma4.final_logit_softcapping", 30.0))},
      {"attention_k_eq_v", k_is_v},
      {"use_bidirectional_attention", "vision"},
      {"attention_bias", false},
      {"pad_token_id", IntOr(file, "tokenizer.ggml.padding_token_id", 0)},
      {"bos_token_id", IntOr(file, "tokenizer.ggml.bos_token_id", 2)},
      {"eos_token_id", IntOr(file, "tokenizer.ggml.eos_token_id", 1)},
      {"num_kv_shared_layers", 0},
      {"hidden_size_per_layer_input", 0}};
  text["rope_parameters"]["sliding_attention"] = {
      {"rope_type", "default"},
      {"rope_theta", Decimal(FloatOr(file, "gemma4.rope.freq_base_swa", 10000.0))}};
  text["rope_parameters"]["full_attention"] = {
      {"rope_type", "proportional"},
      {"rope_theta", Decimal(file.GetFloat("gemma4.rope.freq_base"))},
      {"partial_rotary_factor", PartialRotaryFactor(file)}};
  return text;
}

Json VisionConfigJson(const GgufFile& file) {
  LAPIDARY_CHECK(file.GetString("clip.vision.projector_type") == "gemma4uv", file.path(),
                 ": clip.vision.projector_type must be gemma4uv; got ",
                 file.GetString("clip.vision.projector_type"));
  const StoredTensor& positions = file.tensors().Get("v.position_embd.weight");
  LAPIDARY_CHECK(positions.shape.size() == 3, file.path(),
                 ": v.position_embd.weight must have 3 axes; got ", ShapeText(positions.shape));
  return {
      {"model_type", "gemma4_unified_vision"},
      {"patch_size", file.GetInt("clip.vision.patch_size")},
      {"pooling_kernel_size", IntOr(file, "clip.vision.projector.scale_factor", 3)},
      {"mm_embed_dim", file.GetInt("clip.vision.embedding_length")},
      {"mm_posemb_size", positions.shape[1]},
      {"output_proj_dims", file.GetInt("clip.vision.embedding_length")},
      {"rms_norm_eps", Decimal(FloatOr(file, "clip.vision.attention.layer_norm_epsilon", 1e-6))}};
}

// Our own keys (train/export/gguf_metadata.h); without them the 12B's values hold.
std::string ProcessorJson(const GgufFile& file) {
  Json processor = Json::object();
  const auto put = [&](const char* key, const char* section, const char* field) {
    if (file.Find(key)) processor[section][field] = file.GetInt(key);
  };
  put("lapidary.image_max_soft_tokens", "image_processor", "max_soft_tokens");
  put("lapidary.video_max_soft_tokens", "video_processor", "max_soft_tokens");
  put("lapidary.video_num_frames", "video_processor", "num_frames");
  return processor.empty() ? "" : processor.dump();
}

Json AudioConfigJson(const GgufFile& file) {
  LAPIDARY_CHECK(file.GetString("clip.audio.projector_type") == "gemma4ua", file.path(),
                 ": clip.audio.projector_type must be gemma4ua; got ",
                 file.GetString("clip.audio.projector_type"));
  return {
      {"model_type", "gemma4_unified_audio"},
      {"audio_embed_dim", file.GetInt("clip.audio.embedding_length")},
      {"rms_norm_eps", Decimal(FloatOr(file, "clip.audio.attention.layer_norm_epsilon", 1e-6))}};
}

// The ids that config.json names, by the spelling of the token.
void AddTokenIds(const std::vector<std::string>& tokens, Json* config) {
  const std::map<std::string, const char*> keys = {
      {"<|image>", "boi_token_id"},    {"<image|>", "eoi_token_id"},
      {"<|image|>", "image_token_id"}, {"<|audio>", "boa_token_id"},
      {"<audio|>", "eoa_token_index"}, {"<|audio|>", "audio_token_id"},
      {"<|video|>", "video_token_id"}};
  for (size_t id = 0; id < tokens.size(); ++id) {
    const auto found = keys.find(tokens[id]);
    if (found != keys.end()) (*config)[found->second] = static_cast<int64_t>(id);
  }
}

GgufTokenizer ReadTokenizer(const GgufFile& file) {
  GgufTokenizer out;
  const std::string model = file.GetString("tokenizer.ggml.model");
  LAPIDARY_CHECK(model == "gemma4", file.path(), ": tokenizer.ggml.model must be gemma4; got ",
                 model);
  out.tokens = file.GetStrings("tokenizer.ggml.tokens");
  if (file.Find("tokenizer.ggml.merges")) out.merges = file.GetStrings("tokenizer.ggml.merges");
  const int64_t size = static_cast<int64_t>(out.tokens.size());
  const auto id = [&](const char* key, int32_t fallback) {
    const int64_t value = IntOr(file, key, fallback);
    LAPIDARY_CHECK(value >= 0 && value < size, file.path(), ": ", key, " must be from 0 to ",
                   size - 1, "; got ", value);
    return static_cast<int32_t>(value);
  };
  if (file.Find("tokenizer.ggml.token_type")) {
    const std::vector<int64_t>& types = file.GetInts("tokenizer.ggml.token_type");
    LAPIDARY_CHECK(static_cast<int64_t>(types.size()) == size, file.path(),
                   ": tokenizer.ggml.token_type must have ", size, " entries; got ", types.size());
    for (const int64_t type : types) {
      LAPIDARY_CHECK(type >= 0 && type <= 6, file.path(),
                     ": tokenizer.ggml.token_type must hold 0 to 6; got ", type);
      out.token_types.push_back(static_cast<int32_t>(type));
    }
  } else {
    out.token_types.assign(out.tokens.size(), 1);
  }
  out.bos_id = id("tokenizer.ggml.bos_token_id", 2);
  out.eos_id = id("tokenizer.ggml.eos_token_id", 1);
  out.unk_id = id("tokenizer.ggml.unknown_token_id", 3);
  out.pad_id = id("tokenizer.ggml.padding_token_id", 0);
  if (file.Find("tokenizer.ggml.suppress_tokens")) {
    for (const int64_t token : file.GetInts("tokenizer.ggml.suppress_tokens")) {
      LAPIDARY_CHECK(token >= 0 && token < size, file.path(),
                     ": tokenizer.ggml.suppress_tokens must hold token ids; got ", token);
      out.suppress_tokens.push_back(static_cast<int32_t>(token));
    }
  }
  if (file.Find("tokenizer.chat_template"))
    out.chat_template = file.GetString("tokenizer.chat_template");
  return out;
}
// A permuted tensor in memory, float32, under its canonical name and shape.
StoredTensor Restored(const StoredTensor& from, const CatalogTensor& to, GgufLayout layout,
                      int64_t side, std::vector<std::shared_ptr<const void>>* owners) {
  const std::vector<float> values = from.ReadAll();
  auto out = std::make_shared<std::vector<float>>(values.size());
  if (layout == GgufLayout::kPatchColumns) {
    const int64_t cols = side * side * 3;
    for (int64_t row = 0; row < from.rows(); ++row)
      PatchToChannelsLast(values.data() + row * cols, side, out->data() + row * cols);
  } else {
    const int64_t positions = to.shape[0], width = to.shape[2];
    for (int64_t p = 0; p < positions; ++p) {
      for (int64_t table = 0; table < 2; ++table)
        std::copy_n(values.data() + (table * positions + p) * width, width,
                    out->data() + (p * 2 + table) * width);
    }
  }
  StoredTensor tensor;
  tensor.name = to.name;
  tensor.dtype = "F32";
  tensor.format = FindFormat("F32");
  tensor.shape = to.shape;
  tensor.data = reinterpret_cast<const uint8_t*>(out->data());
  tensor.bytes = out->size() * sizeof(float);
  owners->push_back(out);
  return tensor;
}

TensorShape ShapeInGguf(const CatalogTensor& tensor, GgufLayout layout) {
  if (layout != GgufLayout::kSwapTables) return tensor.shape;
  return {tensor.shape[1], tensor.shape[0], tensor.shape[2]};
}

}  // namespace

std::string FindMmproj(const std::string& text_path) {
  const GgufPartName part = ParseGgufPartName(text_path);
  const fs::path text(part.count > 0 ? part.stem + ".gguf" : text_path);
  const fs::path twin = text.parent_path() / ("mmproj-" + text.filename().string());
  if (fs::exists(twin)) return twin.string();
  std::vector<std::string> found;
  const fs::path folder = text.parent_path().empty() ? "." : text.parent_path();
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (name.rfind("mmproj", 0) == 0 && entry.path().extension() == ".gguf")
      found.push_back(entry.path().string());
  }
  return found.size() == 1 ? found[0] : "";
}

GgufSource OpenGgufSource(const std::string& text_path) {
  const GgufFile text = GgufFile::Open(text_path);
  const std::string architecture = text.GetString("general.architecture");
  LAPIDARY_CHECK(architecture == "gemma4", text_path, ": general.architecture must be gemma4; got ",
                 architecture,
                 architecture == "clip" ? "; try the text model beside this mmproj file" : "");
  GgufSource source;
  std::optional<GgufFile> media;
  const std::string mmproj = FindMmproj(text_path);
  if (mmproj.empty()) {
    source.warnings.push_back(StrCat(text_path, ": no mmproj file beside it (mmproj-",
                                     fs::path(text_path).filename().string(),
                                     "); the model takes neither images nor sounds"));
  } else {
    media = GgufFile::Open(mmproj);
    LAPIDARY_CHECK(media->GetString("general.architecture") == "clip", mmproj,
                   ": general.architecture must be clip; got ",
                   media->GetString("general.architecture"));
  }

  source.tokenizer = ReadTokenizer(text);
  const bool untied = text.tensors().Find("output.weight") != nullptr;
  Json config = {{"architectures", {"Gemma4UnifiedForConditionalGeneration"}},
                 {"model_type", "gemma4_unified"},
                 {"tie_word_embeddings", !untied}};
  AddTokenIds(source.tokenizer.tokens, &config);
  config["text_config"] = TextConfigJson(text);
  const auto has = [&](const char* key) {
    return media && media->Find(key) && media->GetBool(key);
  };
  if (has("clip.has_vision_encoder")) config["vision_config"] = VisionConfigJson(*media);
  if (has("clip.has_audio_encoder")) config["audio_config"] = AudioConfigJson(*media);
  source.config_json = config.dump(2) + "\n";
  if (media) source.processor_json = ProcessorJson(*media);

  const ModelConfig parsed = ParseModelConfig(source.config_json, text_path);
  std::vector<CatalogTensor> expected = ExpectedTensors(parsed);
  if (untied)
    expected.push_back({"lm_head.weight", {parsed.text.vocab_size, parsed.text.hidden_size}});
  std::vector<StoredTensor> tensors;
  std::vector<std::shared_ptr<const void>> owners;
  for (const CatalogTensor& tensor : expected) {
    const std::optional<GgufTensorPlace> place = FindGgufPlace(tensor.name);
    LAPIDARY_CHECK(place, text_path, ": '", tensor.name, "' must have a name in GGUF; got none");
    const TensorSet& set = (place->mmproj ? *media : text).tensors();
    const StoredTensor& stored = set.Get(place->name, ShapeInGguf(tensor, place->layout));
    if (place->layout == GgufLayout::kSame) {
      tensors.push_back(stored);
      tensors.back().name = tensor.name;
    } else {
      tensors.push_back(
          Restored(stored, tensor, place->layout, parsed.vision.model_patch_size(), &owners));
    }
  }
  source.tensors = TensorSet(text_path, std::move(tensors), {}, std::move(owners));
  return source;
}

}  // namespace lapidary
