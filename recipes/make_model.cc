// `lapidary make-model`: a random checkpoint of any shape.
#include "train/make_model.h"

#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "autograd/base/error.h"
#include "autograd/base/file.h"
#include "model/tensor_names.h"
#include "recipes/commands.h"
#include "train/progress.h"

namespace lapidary {
namespace {

struct MakeModelArgs {
  std::string out, shape = "tiny", config;
  int64_t layers = 0;
  MakeModelOptions options;
  bool json = false;
};

void RunMakeModel(MakeModelArgs args) {
  if (args.config.empty() && args.shape.size() > 5 &&
      args.shape.compare(args.shape.size() - 5, 5, ".json") == 0) {
    args.config = args.shape;
  }
  LAPIDARY_CHECK(args.config.empty() || args.layers == 0,
                 "make-model: --layers must go with --shape; got it beside --config");
  const ModelConfig config = args.config.empty()
                                 ? MakeModelConfig(args.shape, args.layers)
                                 : ParseModelConfig(ReadFile(args.config, 1 << 26), args.config);
  int64_t parameters = 0;
  for (const CatalogTensor& t : ExpectedTensors(config)) {
    int64_t n = 1;
    for (int64_t d : t.shape) n *= d;
    parameters += n;
  }
  {
    std::unique_ptr<Progress> progress;
    MakeModel(config, args.out, args.options, [&](int64_t done, int64_t total) {
      if (!progress) progress = std::make_unique<Progress>(stderr, "make-model", total);
      progress->Update(done, BytesText(static_cast<double>(done)));
    });
    if (progress) progress->Finish();
  }
  if (args.json) {
    std::printf("%s\n", nlohmann::ordered_json({{"out", args.out},
                                                {"parameters", parameters},
                                                {"layers", config.num_layers()},
                                                {"seed", args.options.seed},
                                                {"format", args.options.format}})
                            .dump()
                            .c_str());
    return;
  }
  std::printf("%s: %s parameters in %lld layers, random (seed %llu), %s\n", args.out.c_str(),
              CountText(parameters).c_str(), static_cast<long long>(config.num_layers()),
              static_cast<unsigned long long>(args.options.seed),
              args.options.format == "safetensors" ? "bf16" : args.options.format.c_str());
}

}  // namespace

void AddMakeModel(CLI::App& cli) {
  CLI::App* app = cli.add_subcommand(
      "make-model", "write a random checkpoint, to try everything without the real weights");
  auto args = std::make_shared<MakeModelArgs>();
  app->add_option("--out", args->out, "folder to write")->required();
  app->add_option("--shape", args->shape, "tiny, 12b, or a config.json")->capture_default_str();
  app->add_option("--format", args->options.format,
                  "safetensors: a Hugging Face folder in bf16; gguf:q4_0, gguf:q4_k_m, ...: "
                  "model.gguf and mmproj-model.gguf, the same values quantized")
      ->capture_default_str();
  app->add_option("--layers", args->layers, "number of layers instead of the shape's own")
      ->check(CLI::Range(1, 4096));
  app->add_option("--config", args->config, "a config.json to follow instead of a shape");
  app->add_option("--tokenizer", args->options.tokenizer_file,
                  "a tokenizer.json to copy instead of the small one");
  app->add_option("--seed", args->options.seed, "of the random values")->capture_default_str();
  app->add_flag("--overwrite", args->options.overwrite, "write into a folder that has files in it");
  app->add_flag("--json", args->json, "report as JSON");
  app->callback([args] { RunMakeModel(*args); });
}

}  // namespace lapidary
