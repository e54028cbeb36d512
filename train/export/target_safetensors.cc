// Folders for Transformers (formats.md 1), and the sharding that MLX folders share.
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "autograd/base/error.h"
#include "train/export/targets.h"

namespace lapidary {
namespace {

namespace fs = std::filesystem;

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

std::string ShardName(size_t i, size_t n) {
  char name[64];
  std::snprintf(name, sizeof(name), "model-%05zu-of-%05zu.safetensors", i + 1, n);
  return name;
}

}  // namespace

std::string CheckpointName(const PlanInput& input, const std::string& canonical) {
  constexpr std::string_view kLanguage = "model.language_model.";
  if (canonical.rfind(kLanguage, 0) != 0 ||
      nlohmann::json::parse(input.base.config.json).value("model_type", "") !=
          "gemma4_unified_text")
    return canonical;
  return "model." + canonical.substr(kLanguage.size());
}

std::vector<PlannedSide> FolderSides(const PlanInput& input, const std::string& to) {
  std::vector<PlannedSide> sides;
  for (const char* name : kSideFiles) {
    const fs::path from = fs::path(input.path) / name;
    if (fs::exists(from)) sides.push_back({(fs::path(to) / name).string(), from.string(), ""});
  }
  return sides;
}

void AddSharded(OutputPlan& plan, PlannedFile file, uint64_t max_shard_bytes) {
  const FileLayout layout = file.type->layout(file.manifest);
  std::vector<std::vector<size_t>> shards(1);
  uint64_t filled = 0, all = 0;
  for (size_t i = 0; i < layout.bytes.size(); ++i) {
    if (max_shard_bytes > 0 && filled > 0 && filled + layout.bytes[i] > max_shard_bytes) {
      shards.emplace_back();
      filled = 0;
    }
    shards.back().push_back(i);
    filled += layout.bytes[i];
    all += layout.bytes[i];
  }
  if (shards.size() == 1) {
    plan.files.push_back(std::move(file));
    return;
  }
  nlohmann::ordered_json map = nlohmann::ordered_json::object();
  const fs::path folder = fs::path(file.path).parent_path();
  for (size_t s = 0; s < shards.size(); ++s) {
    PlannedFile shard{(folder / ShardName(s, shards.size())).string(), file.type, {}, {}};
    shard.manifest.metadata = file.manifest.metadata;
    for (const size_t i : shards[s]) {
      map[file.manifest.tensors[i].name] = ShardName(s, shards.size());
      shard.Add(std::move(file.manifest.tensors[i]), std::move(file.tensors[i]));
    }
    plan.files.push_back(std::move(shard));
  }
  const nlohmann::ordered_json index = {{"metadata", {{"total_size", all}}}, {"weight_map", map}};
  plan.sides.insert(plan.sides.begin(),
                    {(folder / "model.safetensors.index.json").string(), "", index.dump(2) + "\n"});
}

OutputPlan PlanSafetensors(const PlanInput& input, const ExportTarget& target,
                           const std::string& path) {
  NeedFolder(input, target);
  OutputPlan plan{target.name, path, true, {}, FolderSides(input, path), {}};
  const std::string_view variant = TargetVariant(target);
  const Format& format = GetFormat(variant.empty() ? "bf16" : variant);
  PlannedFile file{
      (fs::path(path) / "model.safetensors").string(), &FindFileType("safetensors"), {}, {}};
  for (const auto& [name, tensor] : input.base.tensors) {
    file.Add({CheckpointName(input, name), format.name, WrittenShape(tensor)},
             {name, FormatEncoding(format, tensor.cols()), GgufLayout::kSame, {}});
  }
  AddSharded(plan, std::move(file), input.options.max_shard_bytes);
  return plan;
}

}  // namespace lapidary
