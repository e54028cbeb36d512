#include "train/make_model.h"

#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "autograd/base/error.h"
#include "autograd/base/file.h"
#include "autograd/base/float16.h"
#include "autograd/base/parallel.h"
#include "autograd/base/random.h"
#include "data/tokenizer.h"
#include "model/tensor_names.h"
#include "quant/safetensors.h"
#include "train/export/export.h"
#include "train/export/targets.h"
#include "train/random_rows.h"

extern "C" {
extern const char lapidary_small_tokenizer_begin[], lapidary_small_tokenizer_end[];
extern const char lapidary_chat_template_begin[], lapidary_chat_template_end[];
}

namespace lapidary {
namespace {

using Json = nlohmann::ordered_json;

// What a tensor's values look like: mean and standard deviation.
struct Init {
  float mean = 0, deviation = 0;
};

bool Contains(const std::string& s, const char* part) { return s.find(part) != std::string::npos; }
bool EndsWith(const std::string& s, const std::string& suffix) {
  return s.size() >= suffix.size() &&
         s.compare(s.size() - suffix.size(), suffix.size(), suffix) == 0;
}

Init InitOf(const CatalogTensor& t) {
  const auto inverse_root = [](int64_t n) { return 1.0f / std::sqrt(static_cast<float>(n)); };
  if (EndsWith(t.name, "layer_scalar")) return {1, 0};
  if (EndsWith(t.name, "k_norm.weight")) return {inverse_root(t.shape[0]), 0};
  if (EndsWith(t.name, ".bias")) return {0, 0};
  if (Contains(t.name, "norm.weight") || Contains(t.name, "_ln") || Contains(t.name, "pos_norm"))
    return {1, 0};
  return {0, inverse_root(t.shape.back())};  // matrices, the embedding (its rows are multiplied by
                                             // sqrt(hidden)), positions
}

// A tensor of the catalog whose rows are made as they are read; values are exact in bf16.
StoredTensor RandomTensor(const CatalogTensor& t, uint64_t seed) {
  StoredTensor tensor;
  tensor.name = t.name;
  tensor.dtype = "BF16";
  tensor.format = FindFormat("BF16");
  tensor.shape = t.shape;
  tensor.bytes = static_cast<uint64_t>(ElementCount(t.shape, t.name)) * 2;
  tensor.make_rows = [key = RandomKey{seed, 0, HashName(t.name)}, init = InitOf(t),
                      cols = t.shape.back()](int64_t row, int64_t count, float* out) {
    for (int64_t i = 0; i < count; ++i, out += cols) {
      if (init.deviation == 0) {
        std::fill_n(out, cols, RoundToBf16(init.mean));
      } else {
        RandomRow(key, row + i, cols, init.deviation, out);
      }
    }
  };
  return tensor;
}

void CheckDisk(const std::string& folder, uint64_t bytes) {
  struct statvfs info;
  if (::statvfs(folder.c_str(), &info) != 0) return;
  const uint64_t free = static_cast<uint64_t>(info.f_bavail) * info.f_frsize;
  LAPIDARY_CHECK(free > bytes, folder, ": the disk must have ", bytes, " bytes free; got ", free,
                 "; try another disk or fewer layers");
}

void WriteWeights(const ModelConfig& config, const std::string& path, uint64_t seed,
                  const std::function<void(int64_t, int64_t)>& progress) {
  std::map<std::string, StoredTensor> tensors;
  std::vector<TensorSpec> specs;
  for (const CatalogTensor& t : ExpectedTensors(config)) {
    tensors[t.name] = RandomTensor(t, seed);
    specs.push_back({t.name, "BF16", t.shape});
  }
  CheckDisk(std::filesystem::path(path).parent_path().string(), SafetensorsFileBytes(specs));
  SafetensorsWriter writer(path, specs);
  int64_t done = 0;
  std::vector<uint16_t> chunk;
  for (const TensorSpec& spec : writer.order()) {
    const StoredTensor& t = tensors.at(spec.name);
    const int64_t cols = t.cols(), rows = t.rows();
    const int64_t step = std::max<int64_t>(1, (int64_t{1} << 23) / cols);
    for (int64_t row = 0; row < rows; row += step) {
      const int64_t count = std::min(step, rows - row);
      chunk.resize(static_cast<size_t>(count * cols));
      ParallelFor(count, [&](Range r) {
        std::vector<float> values(static_cast<size_t>(cols));
        for (int64_t i = r.begin; i < r.end; ++i) {
          t.ReadRows(row + i, 1, values.data());
          t.format->rules[0].quantize(values.data(), cols,
                                      reinterpret_cast<uint8_t*>(chunk.data() + i * cols));
        }
      });
      writer.Append(chunk.data(), chunk.size() * 2);
      done += count * cols * 2;
      if (progress) progress(done, static_cast<int64_t>(writer.total_bytes()));
    }
  }
  writer.Commit();
}

// The files of `target` with holes for tensors. `side` holds the small files.
void WriteHollow(const ModelConfig& config, const std::string& side, const std::string& target,
                 const std::string& path) {
  CheckpointFiles base;
  base.config = config;
  for (const CatalogTensor& t : ExpectedTensors(config)) base.tensors[t.name] = RandomTensor(t, 0);
  const ExportTarget& row = FindExportTarget(target);
  const OutputPlan plan =
      row.plan({base, side, {}, AdapterMerge(), ExportOptions(), {}}, row, path);
  for (const PlannedFile& file : plan.files) {
    const FileLayout layout = file.type->layout(file.manifest);
    std::ofstream out(file.path, std::ios::binary);
    out.write(layout.head.data(), static_cast<std::streamsize>(layout.head.size()));
    for (size_t i = 0; i < file.tensors.size(); ++i) {
      if (!file.tensors[i].make) continue;
      const std::vector<uint8_t> bytes = file.tensors[i].make();
      out.seekp(static_cast<std::streamoff>(layout.offsets[i]));
      out.write(reinterpret_cast<const char*>(bytes.data()),
                static_cast<std::streamsize>(bytes.size()));
    }
    out.close();
    std::error_code failed;
    std::filesystem::resize_file(file.path, layout.total, failed);
    LAPIDARY_CHECK(out && !failed, file.path, ": must be a file that can be ", layout.total,
                   " bytes long; got ", failed ? failed.message() : "a failed write",
                   "; try another disk");
  }
}

std::map<std::string, int32_t> MediaIds(const ModelConfig& config) {
  return {{"<|image>", config.boi_token_id},    {"<|audio>", config.boa_token_id},
          {"<|image|>", config.image_token_id}, {"<|audio|>", config.audio_token_id},
          {"<image|>", config.eoi_token_id},    {"<audio|>", config.eoa_token_id},
          {"<|video|>", config.video_token_id}};
}

std::string TokenizerConfig() {
  return Json({{"tokenizer_class", "GemmaTokenizer"},
               {"processor_class", "Gemma4UnifiedProcessor"},
               {"backend", "tokenizers"},
               {"add_bos_token", false},
               {"padding_side", "left"},
               {"clean_up_tokenization_spaces", false},
               {"model_max_length", 1000000000000000019884624838656.0},
               {"extra_special_tokens", {"<|video|>"}},
               {"bos_token", "<bos>"},
               {"eos_token", "<eos>"},
               {"pad_token", "<pad>"},
               {"unk_token", "<unk>"},
               {"mask_token", "<mask>"},
               {"sot_token", "<|turn>"},
               {"eot_token", "<turn|>"},
               {"soc_token", "<|channel>"},
               {"eoc_token", "<channel|>"},
               {"think_token", "<|think|>"},
               {"escape_token", "<|\"|>"},
               {"std_token", "<|tool>"},
               {"etd_token", "<tool|>"},
               {"stc_token", "<|tool_call>"},
               {"etc_token", "<tool_call|>"},
               {"str_token", "<|tool_response>"},
               {"etr_token", "<tool_response|>"},
               {"boi_token", "<|image>"},
               {"eoi_token", "<image|>"},
               {"image_token", "<|image|>"},
               {"boa_token", "<|audio>"},
               {"eoa_token", "<audio|>"},
               {"audio_token", "<|audio|>"}})
             .dump(1) +
         "\n";
}

}  // namespace

std::string StandardProcessorConfig(const ModelConfig& config) {
  const bool small = config.vision.mm_posemb_size <
                     280;  // a tiny model sees small pictures: 4 x 4 soft tokens, frames of 2 x 2
  const int64_t image_tokens = small ? 16 : 280, frame_tokens = small ? 4 : 70,
                frames = small ? 4 : 32;
  const auto vision = [&](const char* kind, bool video) {
    Json j = {{"do_convert_rgb", true},
              {"do_resize", true},
              {"do_rescale", true},
              {"image_mean", {0.0, 0.0, 0.0}},
              {"image_std", {1.0, 1.0, 1.0}},
              {"patch_size", config.vision.patch_size},
              {"pooling_kernel_size", config.vision.pooling_kernel_size},
              {"resample", 3},
              {"rescale_factor", 0.00392156862745098}};
    j[video ? "video_processor_type" : "image_processor_type"] = kind;
    j["do_normalize"] = video;
    j["max_soft_tokens"] = video ? frame_tokens : image_tokens;
    if (video) {
      j["do_sample_frames"] = true;
      j["num_frames"] = frames;
      j["return_metadata"] = false;
    }
    return j;
  };
  Json j = {{"audio_ms_per_token", 40},
            {"audio_seq_length", 750},
            {"image_seq_length", image_tokens},
            {"processor_class", "Gemma4UnifiedProcessor"}};
  j["feature_extractor"] = {{"feature_extractor_type", "Gemma4UnifiedAudioFeatureExtractor"},
                            {"feature_size", config.audio.audio_embed_dim},
                            {"audio_samples_per_token", config.audio.audio_embed_dim},
                            {"sampling_rate", 16000},
                            {"padding_side", "right"},
                            {"padding_value", 0.0},
                            {"return_attention_mask", true}};
  j["image_processor"] = vision("Gemma4UnifiedImageProcessor", false);
  j["video_processor"] = vision("Gemma4UnifiedVideoProcessor", true);
  return j.dump(1) + "\n";
}

namespace {

std::string GenerationConfig(const ModelConfig& config) {
  return Json({{"bos_token_id", 2},
               {"pad_token_id", 0},
               {"eos_token_id", {1, 106, 50}},
               {"do_sample", true},
               {"temperature", 1.0},
               {"top_k", 64},
               {"top_p", 0.95},
               {"suppress_tokens", {config.eoa_token_id, config.eoi_token_id}},
               {"transformers_version", "5.10.0"}})
             .dump(1) +
         "\n";
}

}  // namespace

std::string CanonicalChatTemplate() {
  return std::string(lapidary_chat_template_begin, lapidary_chat_template_end);
}

std::string FitSmallTokenizer(const ModelConfig& config) {
  Json json = Json::parse(lapidary_small_tokenizer_begin, lapidary_small_tokenizer_end);
  const std::map<std::string, int32_t> media = MediaIds(config);
  std::map<int64_t, std::string> tokens;
  for (const auto& [token, id] : json["model"]["vocab"].items()) {
    const auto moved = media.find(token);
    const int64_t to = moved == media.end() ? id.get<int64_t>() : moved->second;
    if (moved != media.end() && to < 0) continue;  // a model without that medium
    LAPIDARY_CHECK(to < config.text.vocab_size,
                   "make-model: vocab_size must hold the small tokenizer's id ", to, " of ", token,
                   "; got ", config.text.vocab_size, "; try --tokenizer");
    LAPIDARY_CHECK(tokens.emplace(to, token).second,
                   "make-model: media token ids must be free in the small tokenizer; got ", to,
                   "; try ids from 2041 on, or --tokenizer");
  }
  // Appended without looking for the key first, which ordered_json does by going through all of
  // them.
  Json vocab = Json::object();
  auto& entries = static_cast<Json::object_t::Container&>(vocab.get_ref<Json::object_t&>());
  entries.reserve(static_cast<size_t>(config.text.vocab_size));
  int64_t unused = 0;
  std::map<std::string, bool> taken;
  for (const auto& [id, token] : tokens) taken[token] = true;
  for (int64_t id = 0; id < config.text.vocab_size; ++id) {
    const auto it = tokens.find(id);
    if (it != tokens.end()) {
      entries.emplace_back(it->second, id);
      continue;
    }
    std::string filler;
    do filler = StrCat("<unused", unused++, ">");
    while (taken.count(filler));
    entries.emplace_back(filler, id);
  }
  json["model"]["vocab"] = std::move(vocab);
  Json added = Json::array();
  for (Json& token : json["added_tokens"]) {
    const auto moved = media.find(token["content"].get<std::string>());
    if (moved != media.end()) {
      if (moved->second < 0) continue;
      token["id"] = moved->second;
    }
    added.push_back(token);
  }
  std::stable_sort(added.begin(), added.end(),
                   [](const Json& a, const Json& b) { return a["id"] < b["id"]; });
  json["added_tokens"] = std::move(added);
  return json.dump(1, ' ', false) + "\n";
}

void MakeModel(const ModelConfig& config, const std::string& folder,
               const MakeModelOptions& options,
               const std::function<void(int64_t, int64_t)>& progress) {
  LAPIDARY_CHECK(
      options.overwrite || !std::filesystem::exists(folder) || std::filesystem::is_empty(folder),
      folder,
      ": must be a new or empty folder; got one with files in it; try --overwrite or another "
      "--out");
  std::string tokenizer;
  if (options.tokenizer_file.empty()) {
    tokenizer = FitSmallTokenizer(config);
  } else {
    tokenizer = ReadFile(options.tokenizer_file, uint64_t{1} << 28);
    const Tokenizer parsed(ParseTokenizerJson(tokenizer, options.tokenizer_file));
    LAPIDARY_CHECK(parsed.size() <= config.text.vocab_size, options.tokenizer_file,
                   ": must have at most ", config.text.vocab_size, " ids; got ", parsed.size(),
                   "; try a shape with a larger vocabulary");
    for (const auto& [name, id] : MediaIds(config)) {
      const auto found = parsed.Find(name);
      LAPIDARY_CHECK(id < 0 || (found && *found == id), options.tokenizer_file, ": ", name,
                     " must have id ", id, " of the shape; got ",
                     found ? std::to_string(*found) : "none",
                     "; try a config.json with the tokenizer's ids");
    }
  }
  const bool gguf = options.format != "safetensors";
  if (gguf) FindExportTarget(options.format);
  LAPIDARY_CHECK(!gguf || options.format.rfind("gguf:", 0) == 0,
                 "make-model: the format must be safetensors or gguf:MIX; got ", options.format);
  std::error_code failed;
  const bool created = std::filesystem::create_directories(folder, failed);
  LAPIDARY_CHECK(!failed, folder, ": must be a folder that can be created; got ", failed.message());
  // A GGUF file is made from a folder's side files: those lie here while it is written.
  const std::string aside = StrCat(folder, "/.make-model-", ::getpid());
  const std::string side = gguf ? aside + "/random" : folder;
  try {
    if (gguf) std::filesystem::create_directories(side);
    if (!gguf && !options.hollow)
      WriteWeights(config, folder + "/model.safetensors", options.seed, progress);
    WriteFile(side + "/tokenizer.json", tokenizer);
    WriteFile(side + "/tokenizer_config.json", TokenizerConfig());
    WriteFile(side + "/chat_template.jinja", CanonicalChatTemplate());
    WriteFile(side + "/generation_config.json", GenerationConfig(config));
    WriteFile(side + "/processor_config.json", StandardProcessorConfig(config));
    WriteFile(side + "/config.json", config.json);
    if (options.hollow) {
      WriteHollow(config, side, gguf ? options.format : "safetensors",
                  gguf ? folder + "/model.gguf" : folder);
    } else if (gguf) {
      CheckpointFiles base;
      base.config = config;
      for (const CatalogTensor& t : ExpectedTensors(config))
        base.tensors[t.name] = RandomTensor(t, options.seed);
      ExportRequest request;
      request.model = side;
      request.outputs = {{options.format, folder + "/model.gguf"}};
      request.overwrite = options.overwrite;
      if (progress) {
        request.progress = [&](uint64_t done, uint64_t total) {
          progress(static_cast<int64_t>(done), static_cast<int64_t>(total));
        };
      }
      Export(request, base, {});
    }
    std::filesystem::remove_all(aside, failed);
  } catch (...) {  // half a checkpoint is none
    std::filesystem::remove_all(aside, failed);
    if (created) std::filesystem::remove_all(folder, failed);
    throw;
  }
}

}  // namespace lapidary
