#include "data/media_config.h"

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "autograd/base/error.h"
#include "autograd/base/file.h"

namespace lapidary {
namespace {

using nlohmann::json;

json Parse(std::string_view text, const std::string& name) {
  if (text.empty()) return json::object();
  json value = json::parse(text, nullptr, /*allow_exceptions=*/false);
  LAPIDARY_CHECK(value.is_object(), name,
                 ": must be a JSON object; got broken JSON or another type");
  return value;
}

json Section(const json& parent, const char* key) {
  const auto it = parent.find(key);
  return it != parent.end() && it->is_object() ? *it : json::object();
}

bool Has(const json& section, const char* key) {
  const auto it = section.find(key);
  return it != section.end() && !it->is_null();
}

int64_t Integer(const json& section, const char* key, int64_t fallback, int64_t most,
                const std::string& name) {
  if (!Has(section, key)) return fallback;
  const json& value = section[key];
  LAPIDARY_CHECK(value.is_number_integer() &&
                     (!value.is_number_unsigned() || value.get<uint64_t>() <= uint64_t(INT64_MAX)),
                 name, ": '", key, "' must be an integer; got ", value.dump());
  const int64_t number = value.get<int64_t>();
  LAPIDARY_CHECK(number >= 1 && number <= most, name, ": '", key, "' must be 1 to ", most, "; got ",
                 number);
  return number;
}

void CheckNumbers(const json& section, const char* key, double expected, const std::string& name) {
  if (!Has(section, key)) return;
  const json& value = section[key];
  bool same = value.is_array() || value.is_number();
  for (const json& one : value.is_array() ? value : json::array({value})) {
    same = same && one.is_number() && one.get<double>() == expected;
  }
  LAPIDARY_CHECK(same, name, ": '", key, "' must be ", expected, " in every channel; got ",
                 value.dump());
}

void CheckFlag(const json& section, const char* key, bool expected, const std::string& name) {
  if (!Has(section, key)) return;
  LAPIDARY_CHECK(section[key].is_boolean() && section[key].get<bool>() == expected, name, ": '",
                 key, "' must be ", expected ? "true" : "false", "; got ", section[key].dump());
}

// Of a processor section, over what `config` holds already.
void ReadImageSection(const json& section, const std::string& name, ImageProcessorConfig& config) {
  config.patch_size = Integer(section, "patch_size", config.patch_size, 256, name);
  config.pooling_kernel_size =
      Integer(section, "pooling_kernel_size", config.pooling_kernel_size, 16, name);
  config.max_soft_tokens = Integer(section, "max_soft_tokens", config.max_soft_tokens, 65536, name);
  if (Has(section, "rescale_factor")) {
    const json& factor = section["rescale_factor"];
    LAPIDARY_CHECK(
        factor.is_number() && std::isfinite(factor.get<double>()) && factor.get<double>() > 0, name,
        ": 'rescale_factor' must be positive; got ", factor.dump());
    config.rescale_factor = factor.get<double>();
  }
  if (Has(section, "do_normalize")) {
    LAPIDARY_CHECK(section["do_normalize"].is_boolean(), name,
                   ": 'do_normalize' must be true or false; got ", section["do_normalize"].dump());
    config.divide = section["do_normalize"].get<bool>();
  }
  LAPIDARY_CHECK(!config.divide || std::abs(config.rescale_factor * 255 - 1) < 1e-6, name,
                 ": 'rescale_factor' must be 1/255 where 'do_normalize' is true; got ",
                 config.rescale_factor);
  CheckNumbers(section, "image_mean", 0, name);
  CheckNumbers(section, "image_std", 1, name);
  CheckNumbers(section, "resample", 3, name);
  for (const char* key : {"do_convert_rgb", "do_resize", "do_rescale"}) {
    CheckFlag(section, key, true, name);
  }
}

// `section[key]`, where present, must agree with what config.json says.
void CheckAgrees(const json& section, const char* key, int64_t model, const std::string& name) {
  if (!Has(section, key) || !section[key].is_number_integer()) return;
  LAPIDARY_CHECK(section[key].get<int64_t>() == model, name, ": '", key,
                 "' must be as in config.json (", model, "); got ", section[key].dump(),
                 "; try the processor file saved with this model");
}

}  // namespace

MediaConfig ParseMediaConfig(std::string_view processor_json, std::string_view config_json,
                             const std::string& name) {
  const json processor = Parse(processor_json, StrCat(name, ": processor"));
  const json model = Parse(config_json, StrCat(name, ": config.json"));
  const json vision = Section(model, "vision_config"), sound = Section(model, "audio_config");
  MediaConfig config;

  // config.json first: the shapes of the weights depend on it.
  ImageProcessorConfig& image = config.image;
  image.patch_size = Integer(vision, "patch_size", image.patch_size, 256, name);
  image.pooling_kernel_size =
      Integer(vision, "pooling_kernel_size", image.pooling_kernel_size, 16, name);
  config.video.frame.patch_size = image.patch_size;
  config.video.frame.pooling_kernel_size = image.pooling_kernel_size;
  int64_t& samples = config.audio.audio_samples_per_token;
  samples = Integer(sound, "audio_embed_dim", samples, 1 << 20, name);
  samples = Integer(sound, "audio_samples_per_token", samples, 1 << 20, name);

  // Older files hold the keys of the image processor at the top level.
  const bool nested = processor.contains("image_processor");
  const json images = nested ? Section(processor, "image_processor") : processor;
  const json videos = Section(processor, "video_processor");
  const json audio = Section(processor, "feature_extractor");
  for (const json* section : {&images, &videos}) {
    if (Has(vision, "patch_size")) CheckAgrees(*section, "patch_size", image.patch_size, name);
    if (Has(vision, "pooling_kernel_size")) {
      CheckAgrees(*section, "pooling_kernel_size", image.pooling_kernel_size, name);
    }
  }
  if (Has(sound, "audio_embed_dim") || Has(sound, "audio_samples_per_token")) {
    CheckAgrees(audio, "audio_samples_per_token", samples, name);
  }
  ReadImageSection(images, name, image);
  config.video.frame.patch_size = image.patch_size;
  config.video.frame.pooling_kernel_size = image.pooling_kernel_size;
  ReadImageSection(videos, name, config.video.frame);
  config.video.num_frames = Integer(videos, "num_frames", config.video.num_frames, 1 << 20, name);
  samples = Integer(audio, "audio_samples_per_token", samples, 1 << 20, name);
  config.audio.sampling_rate =
      Integer(audio, "sampling_rate", config.audio.sampling_rate, 1'000'000, name);
  config.audio.audio_seq_length =
      Integer(processor, "audio_seq_length", config.audio.audio_seq_length, 1 << 30, name);
  return config;
}

MediaConfig LoadMediaConfig(const std::string& folder) {
  const auto read = [&](const char* file) {
    const std::string path = folder + "/" + file;
    return std::filesystem::exists(path) ? ReadFile(path, uint64_t{1} << 24) : std::string();
  };
  std::string processor = read("processor_config.json");
  if (processor.empty()) processor = read("preprocessor_config.json");
  return ParseMediaConfig(processor, read("config.json"), folder);
}

void UseImageResize(const std::string& word, MediaConfig* config) {
  LAPIDARY_CHECK(word == "hf" || word == "llama.cpp",
                 "image_resize: must be hf or llama.cpp; got '", word, "'");
  if (word == "hf") return;
  config->image.resize = ImageResize::kLlamaCpp;
  config->image.divide = true;
}

int64_t ImageBudget(const ImageProcessorConfig& config, int64_t budget) {
  constexpr int64_t kLlamaMost = 1120;
  if (budget == 0) {
    budget = config.resize == ImageResize::kLlamaCpp ? kLlamaMost : config.max_soft_tokens;
  }
  CheckBudget(config, budget);
  return budget;
}

void CheckBudget(const ImageProcessorConfig& config, int64_t budget) {
  const bool known =
      budget == 70 || budget == 140 || budget == 280 || budget == 560 || budget == 1120;
  LAPIDARY_CHECK(known || (budget >= 1 && budget == config.max_soft_tokens),
                 "media budget: must be 70, 140, 280, 560, 1120 or the checkpoint's own ",
                 config.max_soft_tokens, " soft tokens; got ", budget);
}

}  // namespace lapidary
