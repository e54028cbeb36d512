#include "train/export/targets.h"

#include <filesystem>

#include "autograd/base/error.h"
#include "model/quant_mix.h"

namespace lapidary {

namespace fs = std::filesystem;

const std::vector<ExportTarget>& ExportTargets() {
  static const std::vector<ExportTarget> targets = [] {
    std::vector<ExportTarget> rows = {
        {"safetensors",
         "a folder for Transformers: merged weights in bf16, tokenizer, configuration",
         PlanSafetensors},
        {"safetensors:f16", "the same in float16", PlanSafetensors},
        {"safetensors:f32", "the same in float32, nothing of the adapter rounded away",
         PlanSafetensors},
        {"compressed-tensors",
         "a folder for vLLM and SGLang: decoder layers in 4 bits, groups of 32 (w4a16)",
         PlanCompressedTensors},
        {"compressed-tensors:w4a16-g128", "the same in groups of 128", PlanCompressedTensors},
        {"compressed-tensors:w8a16", "the same, 8 bits and a scale for each row",
         PlanCompressedTensors},
        {"mlx:4bit", "a folder for MLX: affine codes of 4 bits in groups of 64", PlanMlx},
        {"mlx:4bit-g32", "the same in groups of 32", PlanMlx},
        {"mlx:8bit", "the same, 8 bits in groups of 64", PlanMlx},
        {"mlx:bf16", "the same, not quantized", PlanMlx},
        {"peft", "a folder with the adapter alone", PlanPeft},
        {"gguf-lora",
         "the adapter alone for llama.cpp's --lora; adapters of the media embedders go into "
         "mmproj-NAME.gguf beside it",
         PlanGgufLora},
        {"mlx-lora", "a folder with the adapter alone for MLX", PlanMlxLora},
    };
    bool first = true;
    for (const QuantMix& mix : QuantMixes()) {
      rows.push_back({StrCat("gguf:", mix.name),
                      StrCat(first ? "for llama.cpp: the text model, and mmproj-NAME.gguf beside "
                                     "it; "
                                   : "the same, ",
                             mix.help),
                      PlanGguf});
      first = false;
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

std::string_view TargetVariant(const ExportTarget& target) {
  const std::string_view name = target.name;
  const size_t colon = name.find(':');
  return colon == std::string_view::npos ? std::string_view() : name.substr(colon + 1);
}

void PlannedFile::Add(TensorSpec spec, PlannedTensor tensor) {
  manifest.tensors.push_back(std::move(spec));
  tensors.push_back(std::move(tensor));
}

const TensorShape& WrittenShape(const StoredTensor& tensor) {
  static const TensorShape kOne = {1};
  return tensor.shape.empty() ? kOne : tensor.shape;
}

void NeedFolder(const PlanInput& input, const ExportTarget& target) {
  LAPIDARY_CHECK(!input.from_gguf(), "export: ", target.name,
                 " must be made from a Hugging Face folder, whose tokenizer and configuration it "
                 "takes over; got ",
                 input.path, "; try a gguf format, or the folder");
}

std::string MmprojPath(const std::string& text_path) {
  const fs::path path(text_path);
  return (path.parent_path() / ("mmproj-" + path.filename().string())).string();
}

}  // namespace lapidary
