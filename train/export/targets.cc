#include "train/export/targets.h"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>

#include "autograd/base/error.h"
#include "model/quant_mix.h"
#include "train/export/gguf_metadata.h"

namespace lapidary {
namespace {

namespace fs = std::filesystem;

const TensorShape kScalarShape = {1};
constexpr std::string_view kGguf = "gguf:";

// Scalars of old checkpoints are written as [1], as the catalog has them.
const TensorShape& ShapeOf(const StoredTensor& tensor) {
  return tensor.shape.empty() ? kScalarShape : tensor.shape;
}

// ---- safetensors
// --------------------------------------------------------------------------------------------------------

// What Transformers needs beside the weights. config.json is last: without it the folder cannot be
// taken for a model.
constexpr const char* kSideFiles[] = {"tokenizer.json",
                                      "tokenizer_config.json",
                                      "tokenizer.model",
                                      "special_tokens_map.json",
                                      "added_tokens.json",
                                      "chat_template.jinja",
                                      "chat_template.json",
                                      "generation_config.json",
                                      "processor_config.json",
                                      "preprocessor_config.json",
                                      "video_preprocessor_config.json",
                                      "config.json"};

// The spelling that the class named in config.json loads: the text-only class has no
// "language_model".
std::string CheckpointName(const std::string& canonical, bool text_only) {
  constexpr std::string_view kLanguage = "model.language_model.";
  if (!text_only || canonical.rfind(kLanguage, 0) != 0) return canonical;
  return "model." + canonical.substr(kLanguage.size());
}

OutputPlan PlanSafetensors(const PlanInput& input, const ExportTarget& target,
                           const std::string& path) {
  OutputPlan plan{target.name, path, true, {}, {}};
  const bool text_only = nlohmann::json::parse(input.base.config.json).value("model_type", "") ==
                         "gemma4_unified_text";
  PlannedFile file{
      (fs::path(path) / "model.safetensors").string(), &FindFileType("safetensors"), {}, {}};
  const Format& bf16 = GetFormat("BF16");
  for (const auto& [name, tensor] : input.base.tensors) {
    file.manifest.tensors.push_back({CheckpointName(name, text_only), bf16.name, ShapeOf(tensor)});
    file.tensors.push_back({name, {}, &bf16, GgufLayout::kSame});
  }
  plan.files.push_back(std::move(file));
  for (const char* name : kSideFiles) {
    const fs::path from = fs::path(input.folder) / name;
    if (fs::exists(from)) plan.copies.push_back({from.string(), (fs::path(path) / name).string()});
  }
  return plan;
}

// ---- peft
// ---------------------------------------------------------------------------------------------------------------

OutputPlan PlanPeft(const PlanInput& input, const ExportTarget& target, const std::string& path) {
  LAPIDARY_CHECK(input.adapter, "export: peft needs an adapter; got none; try --adapter DIR");
  OutputPlan plan{target.name, path, true, {}, {}};
  for (const char* name : {"adapter_model.safetensors", "adapter_config.json"}) {
    plan.copies.push_back(
        {(fs::path(input.adapter->folder) / name).string(), (fs::path(path) / name).string()});
  }
  return plan;
}

// ---- gguf
// ---------------------------------------------------------------------------------------------------------------

// The mmproj beside a text file (formats.md 2.6): as llama.cpp's converter writes it for the plain
// types; block formats have one in bf16, but Q8_0, which the converter writes itself, goes into the
// projections too.
struct MmprojKind {
  int64_t file_type;
  const char* projection;  // mm.*.input_projection.weight
  const char* patch;       // v.patch_embd.weight, never quantized
};
MmprojKind MmprojOf(const QuantMix& mix) {
  const std::string_view name = mix.name;
  if (name == "f32") return {0, "F32", "F32"};
  if (name == "f16") return {1, "F16", "F16"};
  if (name == "q8_0") return {7, "Q8_0", "F32"};
  return {32, "BF16", "F32"};
}

const Format& GgufFormat(const QuantMix& mix, const ModelConfig& config, const std::string& name,
                         const GgufTensorPlace& place, const StoredTensor& tensor, bool untied) {
  if (tensor.shape.size() != 2) return GetFormat("F32");
  const MmprojKind mmproj = MmprojOf(mix);
  if (place.name == "v.patch_embd.weight")
    return FormatForRows(GetFormat(mmproj.patch), tensor.cols());
  if (place.mmproj) return FormatForRows(GetFormat(mmproj.projection), tensor.cols());
  return MixFormat(mix, config, untied, name, tensor.cols());
}

// The format that the matrix was trained on, if the mix is the one that the run trained for.
const Format* TrainedFormat(const PlanInput& input, const QuantMix& mix, const std::string& name) {
  if (!input.trained || !input.trained->contains(name)) return nullptr;
  const Format& matrix = GetFormat(mix.matrix);
  for (const auto& [unused, format] : *input.trained) {
    if (format == &matrix) return input.trained->at(name);
  }
  return nullptr;
}

void AddPlanned(PlannedFile& file, const std::string& name, const TensorShape& shape,
                PlannedTensor tensor) {
  file.manifest.tensors.push_back({name, tensor.format->name, shape});
  file.tensors.push_back(std::move(tensor));
}

int64_t Parameters(const PlannedFile& file) {
  int64_t count = 0;
  for (const TensorSpec& tensor : file.manifest.tensors)
    count += ElementCount(tensor.shape, tensor.name);
  return count;
}

OutputPlan PlanGguf(const PlanInput& input, const ExportTarget& target, const std::string& path) {
  LAPIDARY_CHECK(fs::path(path).extension() == ".gguf",
                 "export: a GGUF file must be named *.gguf; got ", path);
  const QuantMix& mix = FindQuantMix(std::string_view(target.name).substr(kGguf.size()), "export");
  const ModelConfig& config = input.base.config;
  const bool untied = input.base.tensors.count("lm_head.weight") > 0;
  OutputPlan plan{target.name, path, false, {}, {}};
  PlannedFile text{path, &FindFileType("gguf"), {}, {}};
  PlannedFile mmproj{MmprojPath(path), &FindFileType("gguf"), {}, {}};
  // Only full layers use it, and llama.cpp refuses a file with a tensor that it does not use.
  const bool any_full = std::any_of(config.text.layers.begin(), config.text.layers.end(),
                                    [](const LayerConfig& layer) { return layer.full_attention; });
  if (any_full) {
    const std::vector<float> divisors = RopeFrequencyDivisors(config);
    AddPlanned(text, "rope_freqs.weight", {static_cast<int64_t>(divisors.size())},
               {"", divisors, &GetFormat("F32"), GgufLayout::kSame});
  }
  for (const auto& [name, tensor] : input.base.tensors) {
    const std::optional<GgufTensorPlace> place = FindGgufPlace(name);
    LAPIDARY_CHECK(place, "export: '", name, "' must have a place in GGUF; got none");
    TensorShape shape = ShapeOf(tensor);
    if (place->layout == GgufLayout::kSwapTables) std::swap(shape[0], shape[1]);
    const Format* format = TrainedFormat(input, mix, name);
    if (!format) format = &GgufFormat(mix, config, name, *place, tensor, untied);
    AddPlanned(place->mmproj ? mmproj : text, place->name, shape,
               {name, {}, format, place->layout});
  }
  const GgufMetadata metadata = ReadGgufMetadata(input.folder, config);
  text.manifest.keys = TextKeys(metadata, config, Parameters(text), mix.file_type);
  plan.files.push_back(std::move(text));
  if (config.has_vision || config.has_audio) {
    mmproj.manifest.keys =
        MmprojKeys(metadata, config, Parameters(mmproj), MmprojOf(mix).file_type);
    plan.files.push_back(std::move(mmproj));
  }
  return plan;
}

}  // namespace

const std::vector<ExportTarget>& ExportTargets() {
  static const std::vector<ExportTarget> targets = [] {
    std::vector<ExportTarget> rows = {
        {"safetensors",
         "a folder for Transformers: merged weights in bf16, tokenizer, configuration",
         PlanSafetensors},
        {"peft", "a folder with the adapter alone", PlanPeft},
    };
    for (const QuantMix& mix : QuantMixes()) {
      const bool first = rows.size() == 2;
      rows.push_back({StrCat(kGguf, mix.name),
                      StrCat(first ? "for llama.cpp: the text model, and mmproj-NAME.gguf beside "
                                     "it; "
                                   : "the same, ",
                             mix.help),
                      PlanGguf});
    }
    return rows;
  }();
  return targets;
}

const ExportTarget& FindExportTarget(std::string_view name) {
  std::string names;
  for (const ExportTarget& target : ExportTargets()) {
    if (name == target.name) return target;
    names += StrCat(" ", target.name);
  }
  throw Error(StrCat("export: the format must be known; got '", name, "'; try one of", names));
}

std::string MmprojPath(const std::string& text_path) {
  const fs::path path(text_path);
  return (path.parent_path() / ("mmproj-" + path.filename().string())).string();
}

}  // namespace lapidary
