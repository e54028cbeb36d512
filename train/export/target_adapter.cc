// Adapters alone, unmerged: PEFT as it is, GGUF for llama.cpp (formats.md 5.3), MLX (5.4).
#include <algorithm>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>

#include "autograd/base/error.h"
#include "train/export/targets.h"

namespace lapidary {
namespace {

namespace fs = std::filesystem;
using Pair = AdapterMerge::Pair;

void NeedAdapter(const PlanInput& input, const ExportTarget& target) {
  LAPIDARY_CHECK(!input.adapters.empty(), "export: ", target.name,
                 " needs an adapter; got none; try --adapter DIR");
}

// What only a merge can express.
void NeedPlainLora(const PlanInput& input, const ExportTarget& target) {
  for (const AdapterUse& use : input.adapters) {
    LAPIDARY_CHECK(!use.adapter.config.use_dora, use.adapter.folder, ": ", target.name,
                   " must be made from LoRA matrices; got DoRA, whose magnitudes it cannot hold; "
                   "try a merged format");
  }
}

int64_t TotalRank(const std::vector<Pair>& pairs) {
  int64_t r = 0;
  for (const Pair& pair : pairs) r += pair.a.shape[0];
  return r;
}

// The pairs of one matrix side by side: A [r, in], and B [out, r] with the factor of each pair, so
// that sum_i scale_i B_i A_i = scale B A.
std::vector<float> StackedA(const std::vector<Pair>& pairs) {
  std::vector<float> out;
  for (const Pair& pair : pairs) {
    const std::vector<float> a = pair.a.ReadAll();
    out.insert(out.end(), a.begin(), a.end());
  }
  return out;
}

std::vector<float> StackedB(const std::vector<Pair>& pairs, double scale) {
  const int64_t rows = pairs[0].b.shape[0], r = TotalRank(pairs);
  std::vector<float> out(static_cast<size_t>(rows * r));
  int64_t at = 0;
  for (const Pair& pair : pairs) {
    const std::vector<float> b = pair.b.ReadAll();
    const int64_t n = pair.a.shape[0];
    const float factor = static_cast<float>(static_cast<double>(pair.scale) / scale);
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t k = 0; k < n; ++k)
        out[static_cast<size_t>(i * r + at + k)] = factor * b[static_cast<size_t>(i * n + k)];
    }
    at += n;
  }
  return out;
}

// [rows, cols] to [cols, rows].
std::vector<float> Transposed(const std::vector<float>& values, int64_t rows, int64_t cols) {
  std::vector<float> out(values.size());
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t k = 0; k < cols; ++k)
      out[static_cast<size_t>(k * rows + i)] = values[static_cast<size_t>(i * cols + k)];
  }
  return out;
}

std::vector<uint8_t> Bytes(const std::vector<float>& values) {
  std::vector<uint8_t> out(values.size() * sizeof(float));
  std::memcpy(out.data(), values.data(), out.size());
  return out;
}

std::string TextModule(const std::string& weight) {
  return weight.substr(0, weight.size() - std::strlen(".weight"));
}

}  // namespace

OutputPlan PlanPeft(const PlanInput& input, const ExportTarget& target, const std::string& path) {
  NeedAdapter(input, target);
  LAPIDARY_CHECK(input.adapters.size() == 1 && input.adapters[0].weight == 1,
                 "export: peft must be one adapter as it is; got several or a weight; try "
                 "gguf-lora, mlx-lora or a merged format");
  OutputPlan plan{target.name, path, true, {}, {}, {}};
  for (const char* name : {"adapter_model.safetensors", "adapter_config.json"}) {
    plan.sides.push_back({(fs::path(path) / name).string(),
                          (fs::path(input.adapters[0].adapter.folder) / name).string(), ""});
  }
  return plan;
}

// llama.cpp multiplies by alpha / rank, the rank of each tensor and one alpha for all: rsLoRA,
// patterns and weights are folded into alpha where all matrices agree, else into B.
OutputPlan PlanGgufLora(const PlanInput& input, const ExportTarget& target,
                        const std::string& path) {
  NeedAdapter(input, target);
  NeedPlainLora(input, target);
  LAPIDARY_CHECK(fs::path(path).extension() == ".gguf",
                 "export: a GGUF file must be named *.gguf; got ", path);
  OutputPlan plan{target.name, path, false, {}, {}, {}};
  PlannedFile file{path, &FindFileType("gguf"), {}, {}};
  bool media = false;
  for (const auto& [name, tensor] : input.merge.saved()) {
    const std::optional<GgufTensorPlace> place = FindGgufPlace(name);
    LAPIDARY_CHECK(place && place->mmproj, "export: gguf-lora must be LoRA matrices; got '", name,
                   "' of modules_to_save; try a merged format");
    media = true;
  }
  float alpha = 0;
  for (const auto& [name, pairs] : input.merge.pairs()) {
    const std::optional<GgufTensorPlace> place = FindGgufPlace(name);
    LAPIDARY_CHECK(place, "export: '", name, "' must have a place in GGUF; got none");
    if (place->mmproj) {
      media = true;
      continue;
    }
    const int64_t r = TotalRank(pairs);
    if (alpha == 0) alpha = static_cast<float>(static_cast<double>(pairs[0].scale) * r);
    const double scale = static_cast<double>(alpha) / static_cast<double>(r);
    file.Add({place->name + ".lora_a", "F32", {r, pairs[0].a.shape[1]}},
             {"", {}, GgufLayout::kSame, [pairs = pairs] { return Bytes(StackedA(pairs)); }});
    file.Add({place->name + ".lora_b", "F32", {pairs[0].b.shape[0], r}},
             {"", {}, GgufLayout::kSame, [pairs = pairs, scale] {
                return Bytes(StackedB(pairs, scale));
              }});
  }
  LAPIDARY_CHECK(!file.tensors.empty() || media, "export: ", target.name,
                 " must have matrices; got none");
  const std::string folder = input.adapters[0].adapter.folder;
  const std::string title = fs::path(folder).lexically_normal().filename().string();
  file.manifest.keys = {{"general.architecture", GgufValue::String("gemma4")},
                        {"general.type", GgufValue::String("adapter")},
                        {"general.name", GgufValue::String(title)},
                        {"adapter.type", GgufValue::String("lora")},
                        {"adapter.lora.alpha", GgufValue::F32(static_cast<double>(alpha))},
                        {"general.quantization_version", GgufValue::U32(2)}};
  if (!file.tensors.empty()) plan.files.push_back(std::move(file));
  // What llama.cpp cannot adapt at run time: the embedders of media, merged into their own file.
  if (media) {
    plan.files.push_back(PlanMmproj(input, path, "bf16"));
    plan.warnings.push_back(StrCat(plan.files.back().path,
                                   ": holds the media embedders with the adapter merged; serve it "
                                   "instead of the base's mmproj"));
  }
  return plan;
}

OutputPlan PlanMlxLora(const PlanInput& input, const ExportTarget& target,
                       const std::string& path) {
  NeedAdapter(input, target);
  constexpr std::string_view kLanguage = "model.language_model.";
  LAPIDARY_CHECK(input.merge.saved().empty(),
                 "export: mlx-lora must be LoRA matrices; got modules_to_save; try a merged "
                 "format");
  PlannedFile file{
      (fs::path(path) / "adapters.safetensors").string(), &FindFileType("safetensors"), {}, {}};
  file.manifest.metadata = {{"format", "mlx"}};
  const bool dora = input.adapters[0].adapter.config.use_dora;
  LAPIDARY_CHECK(!dora || input.adapters.size() == 1,
                 "export: mlx-lora must be one DoRA adapter; got several; try a merged format");
  double scale = 0;
  int64_t rank = 0;
  std::vector<std::string> keys;  // "self_attn.q_proj"
  for (const auto& [name, pairs] : input.merge.pairs()) {
    LAPIDARY_CHECK(name.rfind("model.language_model.layers.", 0) == 0, "export: ", target.name,
                   " must be of decoder layers, which is all that MLX adapts; got '", name,
                   "'; try a merged format");
    if (scale == 0) scale = static_cast<double>(pairs[0].scale);
    rank = std::max(rank, TotalRank(pairs));
    const std::string module = TextModule(name.substr(kLanguage.size()));
    const std::string key = module.substr(module.find('.', std::strlen("layers.")) + 1);
    if (std::find(keys.begin(), keys.end(), key) == keys.end()) keys.push_back(key);
  }
  for (const auto& [name, pairs] : input.merge.pairs()) {
    const std::string module =
        StrCat("language_model.model.", TextModule(name.substr(kLanguage.size())));
    const int64_t in = pairs[0].a.shape[1], out = pairs[0].b.shape[0], r = TotalRank(pairs);
    // One rank for all: matrices of a smaller one get zeros.
    file.Add({module + ".lora_a", "F32", {in, rank}},
             {"", {}, GgufLayout::kSame, [pairs = pairs, in, rank] {
                std::vector<float> a = StackedA(pairs);
                a.resize(static_cast<size_t>(rank * in));
                return Bytes(Transposed(a, rank, in));
              }});
    file.Add({module + ".lora_b", "F32", {rank, out}},
             {"", {}, GgufLayout::kSame, [pairs = pairs, out, r, rank, scale] {
                std::vector<float> b = Transposed(StackedB(pairs, scale), out, r);
                b.resize(static_cast<size_t>(rank * out));
                return Bytes(b);
              }});
    if (dora) {
      file.Add({module + ".m", "F32", {out}},
               {"", {}, GgufLayout::kSame, [magnitude = pairs[0].magnitude] {
                  return Bytes(magnitude.ReadAll());
                }});
    }
  }
  const nlohmann::ordered_json config = {
      {"fine_tune_type", dora ? "dora" : "lora"},
      {"num_layers", input.base.config.num_layers()},
      {"lora_parameters", {{"rank", rank}, {"scale", scale}, {"dropout", 0.0}, {"keys", keys}}}};
  OutputPlan plan{target.name, path, true, {}, {}, {}};
  plan.files.push_back(std::move(file));
  plan.sides.push_back(
      {(fs::path(path) / "adapter_config.json").string(), "", config.dump(2) + "\n"});
  return plan;
}

}  // namespace lapidary
