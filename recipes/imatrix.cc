// `lapidary imatrix`: which columns of the model's matrices matter, measured on a text or on data.
#include "train/imatrix.h"

#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "autograd/base/error.h"
#include "autograd/base/file.h"
#include "data/loader.h"
#include "recipes/commands.h"
#include "train/bundle.h"
#include "train/progress.h"
#include "train/session.h"

namespace lapidary {
namespace {

using Json = nlohmann::ordered_json;

struct ImatrixArgs {
  std::string model, adapter, text, out, compute = "bfloat16", on_error = "stop";
  BaseFormat base;
  std::vector<std::string> data;
  int64_t chunk_size = 512, chunks = 0, max_length = 0, batch_tokens = 2048;
  bool parse_special = false, json = false, quiet = false;
};

// The matrix of args.text or args.data; `bar` says how far it is.
ImportanceMatrix Measure(const ImatrixArgs& args, Bundle& bundle) {
  ImportanceOptions options;
  options.compute = ComputeOf(args.compute);
  options.chunk_size = args.chunk_size;
  std::FILE* out = args.quiet ? nullptr : stderr;
  if (!args.text.empty()) {
    std::vector<std::vector<int32_t>> chunks =
        TextChunks(bundle.RequireTokenizer(), ReadFile(args.text), args.chunk_size, args.chunks,
                   args.parse_special, args.text);
    Progress bar(out, "imatrix, tokens", static_cast<int64_t>(chunks.size()) * args.chunk_size);
    options.on_batch = [&](int64_t tokens) { bar.Update(tokens, ""); };
    return MeasureImportance(bundle.model, TokenBatches(std::move(chunks), args.batch_tokens),
                             options);
  }
  const std::shared_ptr<const Dataset> dataset = Dataset::Open(args.data);
  SampleOptions sample;
  sample.media = bundle.media;
  sample.max_length = args.max_length;
  if (args.max_length > 0) sample.on_too_long = OnTooLong::kTruncate;
  sample.require_targets = false;
  const SampleBuilder builder(bundle.RequireTokenizer(), sample);
  LoaderOptions loader_options;
  loader_options.shuffle = false;
  loader_options.epochs = 1;
  loader_options.batch_size = args.batch_tokens;
  loader_options.max_tokens = args.batch_tokens;
  loader_options.on_error = OnErrorOf(args.on_error);
  loader_options.report = [](const Problem& problem) {
    std::fprintf(stderr, "warning: %s\n", problem.message.c_str());
  };
  Loader loader(dataset, builder, loader_options);
  Progress bar(out, "imatrix, records", dataset->size());
  int64_t done = 0;
  const auto next = [&] {
    std::optional<Batch> batch = loader.Next();
    if (batch) done += static_cast<int64_t>(batch->documents.size());
    return batch;
  };
  options.on_batch = [&](int64_t tokens) { bar.Update(done, CountText(tokens) + " tokens"); };
  return MeasureImportance(bundle.model, next, options);
}

void RunImatrix(const ImatrixArgs& args) {
  LAPIDARY_CHECK(args.text.empty() != args.data.empty(),
                 "imatrix: one of --text and --data must be given; got ",
                 args.data.empty() ? "none" : "both");
  LAPIDARY_CHECK(args.out.ends_with(".gguf") || args.out.ends_with(".dat"),
                 "imatrix: --out must be named *.gguf (or *.dat, the old kind); got ", args.out);
  Bundle bundle = OpenBundle(args.model, args.adapter, args.base);
  for (const std::string& warning : bundle.warnings)
    std::fprintf(stderr, "warning: %s\n", warning.c_str());
  ImportanceMatrix matrix = Measure(args, bundle);
  matrix.datasets = args.text.empty() ? args.data : std::vector<std::string>{args.text};
  WriteImportanceMatrix(matrix, args.out);
  const int64_t tokens = matrix.entries.begin()->second.counts[0];
  if (args.json) {
    const Json json = {{"out", args.out},
                       {"matrices", matrix.entries.size()},
                       {"tokens", tokens},
                       {"chunks", matrix.chunk_count},
                       {"chunk_size", matrix.chunk_size}};
    std::printf("%s\n", json.dump(-1, ' ', false, Json::error_handler_t::replace).c_str());
  } else {
    std::printf("%s: %zu matrices, measured on %s tokens\n", args.out.c_str(),
                matrix.entries.size(), CountText(tokens).c_str());
  }
}

}  // namespace

void AddImatrix(CLI::App& cli) {
  CLI::App* command = cli.add_subcommand(
      "imatrix", "measure which columns of the matrices matter, for export --imatrix");
  auto args = std::make_shared<ImatrixArgs>();
  command
      ->add_option("--model", args->model,
                   "Hugging Face folder or .gguf, not quantized if possible")
      ->required();
  command->add_option("--adapter", args->adapter, "PEFT folder to apply");
  command->add_option("--base-format", args->base.mix,
                      "quantize a folder's matrices while loading, where memory is short: q8_0");
  command->add_option("--text", args->text, "a text file, cut into chunks as llama-imatrix does");
  command->add_option("--data", args->data,
                      "or records to read whole, as for training; repeatable");
  command->add_option("--out", args->out, "*.gguf to write; *.dat: llama.cpp's old kind")
      ->required();
  command->add_option("--ctx-size", args->chunk_size, "tokens of a chunk")
      ->capture_default_str()
      ->check(CLI::Range(2, 1 << 20));
  command->add_option("--chunks", args->chunks, "of --text: at most so many; 0: all")
      ->capture_default_str()
      ->check(CLI::NonNegativeNumber);
  command->add_flag("--parse-special", args->parse_special,
                    "of --text: <|turn> and its like are tokens, not plain text");
  command
      ->add_option("--max-length", args->max_length,
                   "of --data: cut records to so many tokens; 0: never")
      ->check(CLI::NonNegativeNumber);
  command->add_option("--on-error", args->on_error, "of --data: stop or skip at a broken record")
      ->capture_default_str()
      ->check(CLI::IsMember({"stop", "skip"}));
  command->add_option("--batch-tokens", args->batch_tokens, "tokens of a forward pass")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  command->add_option("--compute", args->compute, "float32 or bfloat16")
      ->capture_default_str()
      ->check(CLI::IsMember({"float32", "bfloat16"}));
  command->add_flag("--quiet", args->quiet, "no progress bar");
  command->add_flag("--json", args->json, "print one JSON object");
  command->footer(
      "Example:\n  lapidary imatrix --model gemma-4-12b --text calibration.txt --out imatrix.gguf\n"
      "  lapidary export --model gemma-4-12b --imatrix imatrix.gguf --out gguf:q4_k_m=m.gguf");
  command->callback([args] { RunImatrix(*args); });
}

}  // namespace lapidary
