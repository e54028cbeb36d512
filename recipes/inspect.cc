// `lapidary inspect`: what a checkpoint is, and what is wrong with it.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>

#include "autograd/base/error.h"
#include "model/load.h"
#include "model/tensor_names.h"
#include "quant/q4_grid.h"
#include "recipes/commands.h"
#include "train/progress.h"

namespace lapidary {
namespace {

using Json = nlohmann::ordered_json;

struct Part {
  const char* name;
  int64_t parameters = 0, bytes = 0;
};

const char* PartOf(const std::string& name) {
  if (name == "lm_head.weight") return "head (untied)";
  if (name.find("embed_tokens") != std::string::npos) return "token embedding";
  if (name.find("vision") != std::string::npos) return "vision embedder";
  if (name.find("audio") != std::string::npos) return "audio embedder";
  if (name.find("self_attn") != std::string::npos) return "attention";
  if (name.find("mlp") != std::string::npos) return "feed-forward";
  return "norms and scalars";
}

Json Report(const std::string& path, const CheckpointFiles& files) {
  const TextConfig& text = files.config.text;
  const int64_t full = std::count_if(text.layers.begin(), text.layers.end(),
                                     [](const LayerConfig& l) { return l.full_attention; });
  Json report = {{"path", path}};
  Json& a = report["architecture"];
  a["layers"] = files.config.num_layers();
  a["sliding_layers"] = files.config.num_layers() - full;
  a["full_layers"] = full;
  a["hidden_size"] = text.hidden_size;
  a["intermediate_size"] = text.intermediate_size;
  a["vocab_size"] = text.vocab_size;
  a["attention_heads"] = text.num_attention_heads;
  for (const bool want_full : {false, true}) {
    for (const LayerConfig& l : text.layers) {
      if (l.full_attention != want_full) continue;
      a[want_full ? "full" : "sliding"] = {{"head_dim", l.head_dim},
                                           {"key_value_heads", l.num_key_value_heads},
                                           {"value_is_key", l.k_is_v}};
      break;
    }
  }
  a["sliding_window"] = text.sliding_window;
  a["softcap"] = text.final_logit_softcapping;
  a["vision_patch_pixels"] =
      files.config.has_vision ? Json(files.config.vision.model_patch_size()) : Json();
  a["audio_samples_per_token"] =
      files.config.has_audio ? Json(files.config.audio.audio_embed_dim) : Json();
  std::map<std::string, std::pair<int64_t, int64_t>> parts, types;
  int64_t parameters = 0, bytes = 0;
  Json not_finite = Json::array();
  for (const auto& [name, t] : files.tensors) {
    for (auto* group : {&parts[PartOf(name)], &types[t.dtype]}) {
      group->first += t.elements();
      group->second += static_cast<int64_t>(t.bytes);
    }
    parameters += t.elements();
    bytes += static_cast<int64_t>(t.bytes);
    if (const int64_t bad = CountNotFinite(t))
      not_finite.push_back({{"tensor", name}, {"elements", bad}});
  }
  report["parameters"] = parameters;
  report["bytes"] = bytes;
  report["tensors"] = files.tensors.size();
  for (const auto& [name, sums] : parts)
    report["parts"][name] = {{"parameters", sums.first}, {"bytes", sums.second}};
  for (const auto& [name, sums] : types)
    report["dtypes"][name] = {{"parameters", sums.first}, {"bytes", sums.second}};
  report["missing"] = files.missing;
  report["misshapen"] = files.misshapen;
  report["extra"] = files.extra;
  report["not_finite"] = not_finite;
  report["warnings"] = files.warnings;
  report["usable"] = files.missing.empty() && files.misshapen.empty() && not_finite.empty();
  return report;
}

void PrintGroup(const char* title, const Json& group) {
  std::printf("\n%-22s %18s %12s\n", title, "parameters", "bytes");
  for (const auto& [name, sums] : group.items()) {
    std::printf("  %-20s %18s %12s\n", name.c_str(), CountText(sums["parameters"]).c_str(),
                BytesText(sums["bytes"]).c_str());
  }
}

void PrintProblems(const char* title, const Json& list) {
  if (list.empty()) return;
  std::printf("\n%s (%zu)\n", title, list.size());
  size_t shown = 0;
  for (const Json& line : list) {
    if (++shown > 20) {
      std::printf("  ... and %zu more (--json lists all)\n", list.size() - 20);
      break;
    }
    if (line.is_object()) {
      std::printf("  %s: %s elements\n", line["tensor"].get<std::string>().c_str(),
                  CountText(line["elements"]).c_str());
    } else {
      std::printf("  %s\n", line.get<std::string>().c_str());
    }
  }
}

void Print(const Json& r) {
  const Json& a = r["architecture"];
  const auto n = [](const Json& v) { return CountText(v.get<int64_t>()); };
  std::printf("%s: Gemma 4 Unified, %s parameters, %s in %s tensors\n",
              r["path"].get<std::string>().c_str(), n(r["parameters"]).c_str(),
              BytesText(r["bytes"]).c_str(), n(r["tensors"]).c_str());
  std::printf("  layers       %s (%s sliding, window %s; %s full)\n", n(a["layers"]).c_str(),
              n(a["sliding_layers"]).c_str(), n(a["sliding_window"]).c_str(),
              n(a["full_layers"]).c_str());
  std::printf("  widths       hidden %s, feed-forward %s, vocabulary %s\n",
              n(a["hidden_size"]).c_str(), n(a["intermediate_size"]).c_str(),
              n(a["vocab_size"]).c_str());
  for (const char* kind : {"sliding", "full"}) {
    if (!a.contains(kind)) continue;
    const Json& l = a[kind];
    std::printf("  %-12s %s heads of %s, %s key-value heads%s\n", kind,
                n(a["attention_heads"]).c_str(), n(l["head_dim"]).c_str(),
                n(l["key_value_heads"]).c_str(),
                l["value_is_key"].get<bool>() ? ", values are keys" : "");
  }
  std::printf(
      "  media        %s, %s\n",
      a["vision_patch_pixels"].is_null()
          ? "no images"
          : StrCat("image patches of ", a["vision_patch_pixels"].get<int64_t>(), " pixels").c_str(),
      a["audio_samples_per_token"].is_null()
          ? "no sound"
          : StrCat("sound frames of ", a["audio_samples_per_token"].get<int64_t>(), " samples")
                .c_str());
  PrintGroup("part", r["parts"]);
  PrintGroup("type", r["dtypes"]);
  PrintProblems("missing", r["missing"]);
  PrintProblems("misshapen", r["misshapen"]);
  PrintProblems("not finite", r["not_finite"]);
  PrintProblems("not of this architecture", r["extra"]);
  PrintProblems("warnings", r["warnings"]);
  std::printf("\n%s\n", r["usable"].get<bool>()
                            ? "usable: every tensor is there, of its shape and finite"
                            : "NOT usable");
}

// Which matrices lie on a 4-bit grid, and which rule for its scales explains it.
Json GridReport(const CheckpointFiles& files) {
  Json tensors = Json::array();
  for (const auto& [name, tensor] : files.tensors) {
    if (tensor.shape.size() != 2 || tensor.cols() % 32 != 0 || !tensor.format) continue;
    const Q4Survey s = SurveyQ4(tensor);
    tensors.push_back({{"tensor", name},
                       {"blocks", s.blocks},
                       {"zero_blocks", s.zero},
                       {"on_grid", s.share()},
                       {"rule", s.Rule()},
                       {"stock_q4_0_exact", s.stock_share()},
                       {"bf16_scales", s.bf16_scale},
                       {"f16_scales", s.f16_scale},
                       {"f32_scales", s.f32_scale},
                       {"scales_beyond_f16", s.subnormal}});
  }
  return tensors;
}

void PrintGrid(const Json& tensors) {
  std::printf("\n4-bit grids, blocks of 32 (formats.md 4.1)\n  %7s %7s  %-30s %s\n", "on grid",
              "stock", "scale rule", "tensor");
  for (const Json& t : tensors) {
    std::printf("  %6.2f%% %6.2f%%  %-30s %s\n", 100 * t["on_grid"].get<double>(),
                100 * t["stock_q4_0_exact"].get<double>(), t["rule"].get<std::string>().c_str(),
                t["tensor"].get<std::string>().c_str());
  }
}

void RunInspect(const std::string& path, bool json, bool grid) {
  const CheckpointFiles files = OpenCheckpointFiles(path);
  Json report = Report(path, files);
  if (grid) report["q4_grid"] = GridReport(files);
  if (json) {
    std::printf("%s\n", report.dump(1).c_str());
  } else {
    Print(report);
    if (grid) PrintGrid(report["q4_grid"]);
  }
  LAPIDARY_CHECK(report["usable"].get<bool>(), path, ": a checkpoint must be complete; got ",
                 report["missing"].size(), " missing, ", report["misshapen"].size(), " misshapen, ",
                 report["not_finite"].size(), " not finite tensors");
}

}  // namespace

void AddInspect(CLI::App& cli) {
  CLI::App* app = cli.add_subcommand(
      "inspect", "print a checkpoint's architecture, sizes and types, and what is wrong with it");
  auto path = std::make_shared<std::string>();
  auto json = std::make_shared<bool>(false);
  app->add_option("model", *path, "Hugging Face folder or .gguf file")->required();
  app->add_flag("--json", *json, "print JSON");
  auto grid = std::make_shared<bool>(false);
  app->add_flag("--grid", *grid,
                "per matrix: the share of blocks on a 4-bit grid, the share that a stock Q4_0 "
                "quantizer gives back, and the scale rule that explains them");
  app->callback([path, json, grid] { RunInspect(*path, *json, *grid); });
}

}  // namespace lapidary
