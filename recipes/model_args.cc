#include "recipes/model_args.h"

namespace lapidary {

void AddBaseFormatOptions(CLI::App* app, BaseFormat* base) {
  app->add_option("--base-format", base->mix,
                  "quantize a folder's matrices while loading: q4_0, q4_k_m, q8_0, ...");
  app->add_option("--embedding-format", base->embedding,
                  "the same for the embedding and the head alone: q6_k, bf16, ...");
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
