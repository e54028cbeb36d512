// Folders for vLLM, SGLang and Transformers in compressed-tensors' pack-quantized layout
// (formats.md 4 and 6.1): the matrices of the decoder layers as symmetric integers, everything else
// in bf16.
#include <filesystem>
#include <nlohmann/json.hpp>

#include "autograd/base/error.h"
#include "train/export/targets.h"

namespace lapidary {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

Json QuantizationConfig(const Grid& grid, const std::vector<std::string>& ignored) {
  Json weights = {{"num_bits", grid.bits()},
                  {"type", "int"},
                  {"symmetric", true},
                  {"strategy", grid.block() > 0 ? "group" : "channel"},
                  {"group_size", grid.block() > 0 ? Json(grid.block()) : Json(nullptr)},
                  {"dynamic", false},
                  {"observer", "memoryless_minmax"},
                  {"actorder", nullptr},
                  {"block_structure", nullptr}};
  const Json group = {{"targets", {"Linear"}},
                      {"format", "pack-quantized"},
                      {"input_activations", nullptr},
                      {"output_activations", nullptr},
                      {"weights", weights}};
  // The head is tied, embedders of media have two spellings: on disk and in memory.
  std::vector<std::string> ignore = {"lm_head", "re:.*vision_embedder.*", "re:.*embed_vision.*",
                                     "re:.*embed_audio.*"};
  ignore.insert(ignore.end(), ignored.begin(), ignored.end());
  return {{"quant_method", "compressed-tensors"},
          {"format", "pack-quantized"},
          {"quantization_status", "compressed"},
          {"config_groups", {{"group_0", group}}},
          {"ignore", ignore},
          {"kv_cache_scheme", nullptr},
          {"sparsity_config", Json::object()},
          {"transform_config", Json::object()}};
}

std::vector<uint8_t> ShapeBytes(const TensorShape& shape) {
  const uint8_t* bytes = reinterpret_cast<const uint8_t*>(shape.data());
  return {bytes, bytes + shape.size() * sizeof(int64_t)};
}

}  // namespace

OutputPlan PlanCompressedTensors(const PlanInput& input, const ExportTarget& target,
                                 const std::string& path) {
  NeedFolder(input, target);
  OutputPlan plan{target.name, path, true, {}, FolderSides(input, path), {}};
  const std::string_view variant = TargetVariant(target);
  const Grid& grid = GetGrid(variant == "w8a16"        ? "int8_channel"
                             : variant == "w4a16-g128" ? "int4_g128"
                                                       : "int4_g32",
                             "export");
  const Format& bf16 = GetFormat("BF16");
  PlannedFile file{
      (fs::path(path) / "model.safetensors").string(), &FindFileType("safetensors"), {}, {}};
  std::vector<std::string> ignored;
  int q4_0 = 0;
  for (const auto& [name, tensor] : input.base.tensors) {
    const std::string to = CheckpointName(input, name);
    const int64_t cols = tensor.cols(), rows = tensor.rows();
    const std::string module = to.substr(0, to.rfind('.'));
    const bool linear =
        name.rfind("model.language_model.layers.", 0) == 0 && tensor.shape.size() == 2;
    const bool whole = cols % 32 == 0 && (grid.block() == 0 || cols % grid.block() == 0);
    if (!linear || !whole) {
      if (linear) ignored.push_back(module);
      file.Add({to, bf16.name, WrittenShape(tensor)},
               {name, FormatEncoding(bf16, cols), GgufLayout::kSame, {}});
      continue;
    }
    const int64_t groups = grid.block() > 0 ? cols / grid.block() : 1;
    const auto trained = input.trained.find(name);
    q4_0 += trained != input.trained.end() && std::string_view(trained->second->name) == "Q4_0" &&
            grid.block() == 32;
    file.Add({module + ".weight_packed", "I32", {rows, cols / 32 * grid.bits()}},
             {name, PackedCodes(grid, cols), GgufLayout::kSame, {}});
    file.Add({module + ".weight_scale", "BF16", {rows, groups}},
             {name, PackedScales(grid, cols), GgufLayout::kSame, {}});
    file.Add({module + ".weight_shape", "I64", {2}},
             {"", {}, GgufLayout::kSame, [shape = tensor.shape] { return ShapeBytes(shape); }});
  }
  if (q4_0 > 0) {
    plan.warnings.push_back(StrCat(
        path, ": ", q4_0,
        " matrices keep the q4_0 grid that they were trained on, value for value; about half "
        "of its scales are negative, which some kernels refuse; train with qat.format "
        "int4_g32 for those"));
  }
  AddSharded(plan, std::move(file), input.options.max_shard_bytes);
  Json config = Json::parse(input.base.config.json);
  config["quantization_config"] = QuantizationConfig(grid, ignored);
  for (PlannedSide& side : plan.sides) {
    if (fs::path(side.path).filename() == "config.json")
      side = {side.path, "", config.dump(2) + "\n"};
  }
  return plan;
}

}  // namespace lapidary
