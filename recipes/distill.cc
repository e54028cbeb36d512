// `lapidary distill-cache`: the teacher's likeliest tokens for every trained position of a training
// configuration's records, once, for runs with "distillation": {"teacher": FILE}.
#include "train/distill.h"

#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <string>

#include "autograd/base/error.h"
#include "data/loader.h"
#include "data/prepared.h"
#include "recipes/commands.h"
#include "train/bundle.h"
#include "train/config.h"
#include "train/micro_batch.h"
#include "train/session.h"

namespace lapidary {
namespace {

struct CacheArgs {
  std::string config, out, model, adapter;
  std::vector<std::string> overrides;
  int64_t top_k = 64;
};

int RunDistillCache(const CacheArgs& args) {
  const TrainConfig config = LoadTrainConfig(args.config, args.overrides);
  Bundle bundle = OpenBundle(
      args.model.empty() ? config.model_name_or_path : args.model, args.adapter,
      args.model.empty() ? BaseFormat{config.base_format, config.embedding_format} : BaseFormat{});
  bundle.RequireTokenizer();
  const SampleBuilder builder(*bundle.tokenizer, MakeSampleOptions(config, bundle.media));
  LoaderOptions options;
  options.shuffle = false;
  options.epochs = 1;
  options.batch_size = 1;
  options.on_error = OnErrorOf(config.on_error);
  options.report = [](const Problem& problem) {
    std::fprintf(stderr, "warning: %s\n", problem.message.c_str());
  };
  const std::shared_ptr<const SampleSource> records =
      TrainsOnPrepared(config) ? OpenPrepared(config.train_files[0].path, builder)
                               : MakeRecordSource(OpenDatasets(config).first, builder);
  Loader loader(records, options);
  ForwardOptions forward;
  forward.compute = ComputeOf(config.compute);
  forward.image_mask = ImageMaskOf(config.image_mask);
  int64_t tokens = 0;
  const auto next = [&] {
    const std::optional<Batch> batch = loader.Next();
    if (!batch) return MicroBatch();
    tokens += batch->size();
    return MakeMicroBatch(*batch);
  };
  const int64_t stored = WriteDistillCache(bundle.model, forward, args.top_k, next, args.out);
  std::printf(
      "%s: %lld records, %lld tokens, the %lld likeliest tokens of every trained position\n",
      args.out.c_str(), static_cast<long long>(stored), static_cast<long long>(tokens),
      static_cast<long long>(args.top_k));
  return 0;
}

}  // namespace

void AddDistillCache(CLI::App& cli) {
  auto args = std::make_shared<CacheArgs>();
  CLI::App* command = cli.add_subcommand(
      "distill-cache", "store a teacher's likeliest tokens for the records of a training run");
  command->add_option("config", args->config, "the training configuration")->required();
  command->add_option("--out", args->out, "file to write, *.safetensors")->required();
  command->add_option("--top-k", args->top_k, "tokens kept of every position")
      ->capture_default_str()
      ->check(CLI::Range(1, 256));
  command->add_option("--model", args->model,
                      "the teacher, if it is not the configuration's base: any model of the same "
                      "tokenizer");
  command->add_option("--adapter", args->adapter, "an adapter on the teacher");
  command->add_option("--set", args->overrides, "key=value, over the configuration");
  command->callback([args] { RunDistillCache(*args); });
}

}  // namespace lapidary
