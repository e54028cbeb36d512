// Folders for MLX (formats.md 6.4): weights, scales and biases of the affine mode under mlx-vlm's
// names, every matrix with whole groups quantized, the embedding too.
#include <filesystem>
#include <nlohmann/json.hpp>

#include "autograd/base/error.h"
#include "train/export/targets.h"

namespace lapidary {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

// "model." goes, and the text model stands under "language_model.model.".
std::string MlxName(const std::string& canonical) {
  constexpr std::string_view kModel = "model.", kLanguage = "model.language_model.";
  if (canonical.rfind(kLanguage, 0) == 0)
    return "language_model.model." + canonical.substr(kLanguage.size());
  return canonical.rfind(kModel, 0) == 0 ? canonical.substr(kModel.size())
                                         : "language_model." + canonical;
}

// Linear layers and the embedding; tables of positions and norms are not quantized, and neither are
// the embedders of media, as in the folders that mlx-vlm's own converter makes.
bool Quantized(const std::string& name, const StoredTensor& tensor, const MlxAffine& mode) {
  const bool text = name.rfind("model.language_model.", 0) == 0 || name == "lm_head.weight";
  return text && tensor.shape.size() == 2 && tensor.cols() % mode.group_size == 0;
}

}  // namespace

OutputPlan PlanMlx(const PlanInput& input, const ExportTarget& target, const std::string& path) {
  NeedFolder(input, target);
  OutputPlan plan{target.name, path, true, {}, FolderSides(input, path), {}};
  const std::string_view variant = TargetVariant(target);
  const bool quantize = variant != "bf16";
  const MlxAffine mode{variant == "8bit" ? 8 : 4, variant == "4bit-g32" ? 32 : 64};
  const Format& bf16 = GetFormat("BF16");
  PlannedFile file{
      (fs::path(path) / "model.safetensors").string(), &FindFileType("safetensors"), {}, {}};
  file.manifest.metadata = {{"format", "mlx"}};
  Json settings = {{"group_size", mode.group_size}, {"bits", mode.bits}, {"mode", "affine"}};
  for (const auto& [name, tensor] : input.base.tensors) {
    const std::string to = MlxName(name);
    const int64_t cols = tensor.cols();
    if (!quantize || !Quantized(name, tensor, mode)) {
      file.Add({to, bf16.name, WrittenShape(tensor)},
               {name, FormatEncoding(bf16, cols), GgufLayout::kSame, {}});
      // A matrix that a reader would expect to be quantized is named.
      if (quantize && tensor.shape.size() == 2) settings[to.substr(0, to.rfind('.'))] = false;
      continue;
    }
    const std::string module = to.substr(0, to.rfind('.'));
    const int64_t rows = tensor.rows(), groups = cols / mode.group_size;
    file.Add({to, "U32", {rows, cols / 32 * mode.bits}},
             {name, MlxCodes(mode, cols), GgufLayout::kSame, {}});
    file.Add({module + ".scales", "BF16", {rows, groups}},
             {name, MlxScales(mode, cols), GgufLayout::kSame, {}});
    file.Add({module + ".biases", "BF16", {rows, groups}},
             {name, MlxBiases(mode, cols), GgufLayout::kSame, {}});
  }
  AddSharded(plan, std::move(file), input.options.max_shard_bytes);
  if (quantize) {
    Json config = Json::parse(input.base.config.json);
    config["quantization"] = settings;
    config["quantization_config"] = settings;
    for (PlannedSide& side : plan.sides) {
      if (fs::path(side.path).filename() == "config.json")
        side = {side.path, "", config.dump(2) + "\n"};
    }
  }
  return plan;
}

}  // namespace lapidary
