// Options that several commands share: how a base is loaded, what it computes with and how it sees
// media, and how answers are drawn.
#ifndef LAPIDARY_RECIPES_MODEL_ARGS_H_
#define LAPIDARY_RECIPES_MODEL_ARGS_H_

#include <CLI/CLI.hpp>
#include <cstdint>
#include <optional>
#include <string>

#include "model/generate.h"
#include "model/quantize_base.h"
#include "recipes/serve/engine.h"

namespace lapidary {

// --base-format, --embedding-format. `base` must outlive the parsing.
void AddBaseFormatOptions(CLI::App* app, BaseFormat* base);

// --image-tokens, --num-frames, --image-resize, --image-mask, --compute.
struct EngineArgs {
  std::string compute = "bfloat16", image_mask = "sliding_only", image_resize = "hf";
  int64_t image_tokens = 0, num_frames = 0;
};
// `args` must outlive the parsing.
void AddEngineOptions(CLI::App* app, EngineArgs* args);
// A checkpoint with an adapter ("": none), ready to answer. Warnings go to stderr.
Engine OpenEngine(const std::string& model, const std::string& adapter, BaseFormat base,
                  const EngineArgs& args);

// --greedy, --temperature, --top-k, --top-p, --min-p, --repetition-penalty, --seed.
struct SamplingArgs {
  std::optional<double> temperature, top_p;
  std::optional<int64_t> top_k;
  double min_p = 0, repetition_penalty = 1;
  uint64_t seed = 0;
  bool greedy = false;

  // `options` (the checkpoint's defaults) with what was asked for.
  GenerateOptions Over(GenerateOptions options) const;
};
// `args` must outlive the parsing.
void AddSamplingOptions(CLI::App* app, SamplingArgs* args);

}  // namespace lapidary

#endif  // LAPIDARY_RECIPES_MODEL_ARGS_H_
