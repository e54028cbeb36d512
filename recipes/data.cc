// `lapidary data inspect|stats`: what a data set becomes: samples with their trained tokens marked,
// counts, problems by line.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "autograd/base/error.h"
#include "data/dataset.h"
#include "data/inspect.h"
#include "data/json.h"
#include "data/sample.h"
#include "data/tokenizer.h"
#include "recipes/commands.h"
#include "train/bundle.h"
#include "train/make_model.h"

namespace lapidary {
namespace {

using Json = nlohmann::ordered_json;

struct DataArgs {
  std::vector<std::string> files;
  std::string model, format = "auto", color = "auto";
  SampleOptions options;
  int64_t limit = 3;
  bool json = false, stats_only = false;
};

void PrintSamples(const DataArgs& args, const Dataset& dataset, const SampleBuilder& builder,
                  Json& shown) {
  const bool color = args.color == "always" || (args.color == "auto" && isatty(1) == 1);
  for (int64_t i = 0; i < std::min(args.limit, dataset.size()); ++i) {
    std::string text;
    try {
      const BuiltSample built = builder.Build(dataset.Read(i));
      if (!built.sample) {
        text = built.note;
      } else if (args.json) {
        const Sample& sample = *built.sample;
        shown.push_back({{"where", sample.where},
                         {"text", ShowSample(sample, builder.tokenizer(), SampleStyle::kPlain)},
                         {"ids", sample.ids},
                         {"weights", sample.weights},
                         {"types", sample.types}});
        continue;
      } else {
        text = StrCat(built.sample->where, ": ", built.sample->size(), " tokens, ",
                      built.sample->trained(), " trained\n",
                      ShowSample(*built.sample, builder.tokenizer(),
                                 color ? SampleStyle::kAnsi : SampleStyle::kPlain));
      }
    } catch (const Error& e) {
      text = e.what();
    }
    if (args.json) {
      shown.push_back({{"where", dataset.Where(i)}, {"problem", text}});
    } else {
      std::printf("%s\n\n", text.c_str());
    }
  }
}

void Run(const DataArgs& args) {
  LAPIDARY_CHECK(args.limit >= 0, "--limit: must be at least 0; got ", args.limit);
  std::unique_ptr<Tokenizer> tokenizer;
  if (args.model.empty()) {
    std::fprintf(stderr,
                 "note: without --model the small built-in tokenizer counts; lengths differ from "
                 "your model's\n");
    const std::string json = FitSmallTokenizer(MakeModelConfig("tiny", 0));
    tokenizer = std::make_unique<Tokenizer>(ParseTokenizerJson(json, "built-in tokenizer"));
  } else {
    tokenizer = OpenTokenizer(args.model);
  }
  SampleOptions options = args.options;
  if (std::filesystem::is_directory(args.model)) options.media = LoadMediaConfig(args.model);
  const SampleBuilder builder(*tokenizer, options);
  const auto dataset = Dataset::Open(args.files, {.format = args.format});
  Json shown = Json::array();
  if (!args.stats_only) PrintSamples(args, *dataset, builder, shown);
  const DataReport report = InspectDataset(*dataset, builder);
  if (!args.json) {
    std::fputs(ReportText(report).c_str(), stdout);
    return;
  }
  Json out = ReportJson(report);
  if (!args.stats_only) out["samples"] = std::move(shown);
  std::printf("%s\n", DumpJson(out).c_str());
}

void AddOne(CLI::App& parent, const char* name, const char* help, bool stats_only) {
  auto args = std::make_shared<DataArgs>();
  args->stats_only = stats_only;
  CLI::App* command = parent.add_subcommand(name, help);
  command->add_option("files", args->files, "JSON Lines files")->required();
  command->add_option("--model", args->model,
                      "checkpoint folder or GGUF whose tokenizer and media settings count "
                      "(default: a small built-in tokenizer)");
  command->add_flag("--json", args->json, "print JSON");
  command->add_option("--format", args->format,
                      "auto, messages, prompt_completion or text (default auto)");
  if (!stats_only) {
    command->add_option("--limit", args->limit, "samples to show (default 3)");
    command->add_option("--color", args->color, "auto, always or never: mark trained tokens")
        ->check(CLI::IsMember({"auto", "always", "never"}));
  }
  SampleOptions& options = args->options;
  command->add_flag("--thinking", options.chat.enable_thinking, "render with thinking on");
  command->add_flag("--preserve-thinking", options.chat.preserve_thinking,
                    "keep thoughts of earlier turns that call tools");
  command
      ->add_option("--empty-thought", options.chat.empty_thought,
                   "insert or omit the empty thought of turns without one (default insert)")
      ->transform(CLI::CheckedTransformer(std::map<std::string, EmptyThought>{
          {"insert", EmptyThought::kInsert}, {"omit", EmptyThought::kOmit}}));
  command->add_option("--max-length", options.max_length, "tokens a sample may have (0: any)");
  command
      ->add_option("--on-too-long", options.on_too_long, "error, drop or truncate (default error)")
      ->transform(CLI::CheckedTransformer(
          std::map<std::string, OnTooLong>{{"error", OnTooLong::kError},
                                           {"drop", OnTooLong::kDrop},
                                           {"truncate", OnTooLong::kTruncate}}));
  command->add_option("--image-tokens", options.image_budget, "soft tokens of an image");
  command->add_option("--video-tokens", options.video_budget, "soft tokens of a video frame");
  command->add_option("--num-frames", options.num_frames, "frames of a video");
  command->add_flag("!--no-eos", options.add_eos, "raw text does not end in <eos>");
  command->callback([args] { Run(*args); });
}

}  // namespace

void AddData(CLI::App& cli) {
  CLI::App* data = cli.add_subcommand("data", "Look at data sets");
  data->require_subcommand(1);
  AddOne(*data, "inspect", "Show samples with trained tokens marked, counts and problems", false);
  AddOne(*data, "stats", "Counts and problems alone", true);
}

}  // namespace lapidary
