#include "recipes/model_args.h"

#include <cstdio>
#include <utility>

#include "train/session.h"

namespace lapidary {

void AddBaseFormatOptions(CLI::App* app, BaseFormat* base) {
  app->add_option("--base-format", base->mix,
                  "quantize a folder's matrices while loading: q4_0, q4_k_m, q8_0, ...");
  app->add_option("--embedding-format", base->embedding,
                  "the same for the embedding and the head alone: q6_k, bf16, ...");
}

void AddEngineOptions(CLI::App* app, EngineArgs* args) {
  app->add_option("--image-tokens", args->image_tokens,
                  "budget of soft tokens a picture: 70, 140, 280, 560, 1120");
  app->add_option("--num-frames", args->num_frames, "frames taken from a clip");
  app->add_option("--image-resize", args->image_resize,
                  "pictures as hf or as llama.cpp resizes them (default hf)")
      ->check(CLI::IsMember({"hf", "llama.cpp"}));
  app->add_option("--image-mask", args->image_mask,
                  "sliding_only, or hf_forward as a bare forward call of Transformers")
      ->capture_default_str()
      ->check(CLI::IsMember({"sliding_only", "hf_forward"}));
  app->add_option("--compute", args->compute, "float32 or bfloat16")
      ->capture_default_str()
      ->check(CLI::IsMember({"float32", "bfloat16"}));
}

Engine OpenEngine(const std::string& model, const std::string& adapter, BaseFormat base,
                  const EngineArgs& args) {
  base.units = true;
  Bundle bundle = OpenBundle(model, adapter, base);
  for (const std::string& warning : bundle.warnings)
    std::fprintf(stderr, "warning: %s\n", warning.c_str());
  UseImageResize(args.image_resize, &bundle.media);
  EngineOptions options;
  options.compute = ComputeOf(args.compute);
  options.image_mask = ImageMaskOf(args.image_mask);
  options.image_budget = args.image_tokens;
  options.num_frames = args.num_frames;
  return Engine(std::move(bundle), options);
}

GenerateOptions SamplingArgs::Over(GenerateOptions options) const {
  options.do_sample = options.do_sample && !greedy;
  options.temperature = temperature.value_or(options.temperature);
  options.top_k = top_k.value_or(options.top_k);
  options.top_p = top_p.value_or(options.top_p);
  options.min_p = min_p;
  options.repetition_penalty = repetition_penalty;
  options.seed = seed;
  if (options.temperature == 0) {
    options.do_sample = false;
    options.temperature = 1;
  }
  return options;
}

void AddSamplingOptions(CLI::App* app, SamplingArgs* args) {
  app->add_flag("--greedy", args->greedy, "always the most probable token");
  app->add_option("--temperature", args->temperature,
                  "default: the checkpoint's generation_config.json, else 1.0; 0 is --greedy")
      ->check(CLI::NonNegativeNumber);
  app->add_option("--top-k", args->top_k, "sample from the k most probable; default 64, 0: all")
      ->check(CLI::NonNegativeNumber);
  app->add_option("--top-p", args->top_p,
                  "sample from the smallest set with this probability; default 0.95")
      ->check(CLI::Range(1e-9, 1.0));
  app->add_option("--min-p", args->min_p,
                  "leave out what is less probable than this share of the most probable")
      ->check(CLI::Range(0.0, 1.0));
  app->add_option("--repetition-penalty", args->repetition_penalty,
                  "divides logits of what was there before; 1: none")
      ->check(CLI::Range(0.01, 100.0));
  app->add_option("--seed", args->seed, "of the sampling")->capture_default_str();
}

}  // namespace lapidary
