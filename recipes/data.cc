// `lapidary data inspect|stats|check|prepare`: what a data set becomes: samples with their trained
// tokens marked, counts and plots, findings by line, and one file from which training reads.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "autograd/base/error.h"
#include "autograd/base/file.h"
#include "data/dataset.h"
#include "data/inspect.h"
#include "data/json.h"
#include "data/prepared.h"
#include "data/readers.h"
#include "data/sample.h"
#include "data/survey.h"
#include "data/tokenizer.h"
#include "recipes/commands.h"
#include "train/bundle.h"
#include "train/config.h"
#include "train/make_model.h"
#include "train/progress.h"
#include "train/session.h"

namespace lapidary {
namespace {

using Json = nlohmann::ordered_json;

enum class View { kInspect, kStats, kCheck };

struct DataArgs {
  View view = View::kInspect;
  std::vector<std::string> files, held_out;
  std::string model, format = "auto", color = "auto", html, image_resize = "hf";
  SampleOptions options;
  int64_t limit = 3, batch_size = 1, max_findings = 100;
  double tokens_per_s = 0;
  bool json = false, outside = false;
};

// A model's tokenizer and media settings, or the small built-in tokenizer.
std::unique_ptr<Tokenizer> OpenTokens(const std::string& model, SampleOptions& options) {
  if (model.empty()) {
    std::fprintf(stderr,
                 "note: without --model the small built-in tokenizer counts; lengths differ from "
                 "your model's\n");
    const std::string json = FitSmallTokenizer(MakeModelConfig("tiny", 0));
    return std::make_unique<Tokenizer>(ParseTokenizerJson(json, "built-in tokenizer"));
  }
  if (std::filesystem::is_directory(model)) options.media = LoadMediaConfig(model);
  return OpenTokenizer(model);
}

void PrintSamples(const DataArgs& args, const Dataset& dataset, const SampleBuilder& builder,
                  Json& shown, std::vector<Sample>& samples) {
  const bool color = args.color == "always" || (args.color == "auto" && isatty(1) == 1);
  for (int64_t i = 0; i < std::min(args.limit, dataset.size()); ++i) {
    std::string text;
    try {
      BuiltSample built = builder.Build(WithoutLabel(dataset.Read(i)));
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
      if (built.sample) samples.push_back(std::move(*built.sample));
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
  LAPIDARY_CHECK(args.max_findings >= 0, "--max-problems: must be at least 0; got ",
                 args.max_findings);
  LAPIDARY_CHECK(args.batch_size >= 1, "--batch-size: must be at least 1; got ", args.batch_size);
  SampleOptions options = args.options;
  const std::unique_ptr<Tokenizer> tokenizer = OpenTokens(args.model, options);
  UseImageResize(args.image_resize, &options.media);
  const SampleBuilder builder(*tokenizer, options);
  const DatasetOptions open = {.format = args.format, .allow_outside_paths = args.outside};
  const auto dataset = Dataset::Open(args.files, open);
  std::shared_ptr<const Dataset> held_out;
  if (!args.held_out.empty()) held_out = Dataset::Open(args.held_out, open);
  Json shown = Json::array();
  std::vector<Sample> samples;
  if (args.view == View::kInspect) {
    PrintSamples(args, *dataset, builder, shown, samples);
    if (!args.html.empty()) WriteFile(args.html, SamplesHtml(samples, *tokenizer));
  }
  const Survey survey = SurveyDataset(*dataset, held_out.get(), builder,
                                      {.max_findings = args.max_findings,
                                       .batch_size = args.batch_size,
                                       .tokens_per_s = args.tokens_per_s});
  if (args.view == View::kStats && !args.html.empty()) WriteFile(args.html, SurveyHtml(survey));
  if (args.json) {
    Json out = args.view == View::kInspect ? ReportJson(survey.report) : SurveyJson(survey);
    if (args.view == View::kInspect) out["samples"] = std::move(shown);
    std::printf("%s\n", DumpJson(out).c_str());
  } else if (args.view == View::kInspect) {
    std::fputs(ReportText(survey.report).c_str(), stdout);
  } else if (args.view == View::kStats) {
    std::fputs(SurveyText(survey).c_str(), stdout);
  } else {
    for (const Finding& finding : survey.findings) {
      std::printf("%s %s: %s\n", finding.error ? "error  " : "warning", finding.kind.c_str(),
                  finding.message.c_str());
    }
    std::printf("%s%lld records: %lld errors, %lld warnings\n", FoundText(survey).c_str(),
                static_cast<long long>(survey.report.records),
                static_cast<long long>(survey.errors()), static_cast<long long>(survey.warnings()));
  }
  if (args.view == View::kCheck && survey.errors() + survey.warnings() > 0) {
    throw CLI::RuntimeError(survey.errors() > 0 ? 3 : 1);
  }
}

// An option whose value is one of a few words. `value` must outlive the command.
template <class Value>
void AddWord(CLI::App& command, const char* name, Value& value, const char* help,
             const std::map<std::string, Value>& words) {
  std::vector<std::string> names;
  for (const auto& [word, meaning] : words) names.push_back(word);
  command
      .add_option_function<std::string>(
          name, [&value, words](const std::string& word) { value = words.at(word); }, help)
      ->check(CLI::IsMember(names).description(""))
      ->type_name("WORD");
}

void AddOne(CLI::App& parent, const char* name, const char* help, View view) {
  auto args = std::make_shared<DataArgs>();
  args->view = view;
  CLI::App* command = parent.add_subcommand(name, help);
  command
      ->add_option("files", args->files,
                   "files or folders: JSON Lines (also .gz, .zst), JSON, CSV, TSV, Parquet, Arrow, "
                   "WebDataset tar, folders of pictures or sounds with metadata")
      ->required();
  command->add_option("--model", args->model,
                      "checkpoint folder or GGUF whose tokenizer and media settings count "
                      "(default: a small built-in tokenizer)");
  command->add_flag("--json", args->json, "print JSON");
  command->add_option("--format", args->format,
                      "auto, messages, preference, unpaired, prompt_completion, sharegpt, alpaca, "
                      "audio_text, image_text or text (default auto)");
  command->add_flag("--allow-outside-paths", args->outside,
                    "media may lie outside the folder of the file that names them");
  if (view == View::kInspect) {
    command->add_option("--limit", args->limit, "samples to show (default 3)");
    command->add_option("--color", args->color, "auto, always or never: mark trained tokens")
        ->check(CLI::IsMember({"auto", "always", "never"}));
    command->add_option("--html", args->html,
                        "also write the samples as a page, with pictures and sounds");
  } else {
    command->add_option("--held-out", args->held_out,
                        "files of held-out records: what stands in both is a leak");
  }
  if (view == View::kStats) {
    command->add_option("--html", args->html, "also write a page with plots");
    command->add_option("--batch-size", args->batch_size, "samples of a step, for the estimate");
    command->add_option("--tokens-per-s", args->tokens_per_s, "speed, for the estimate");
  }
  if (view == View::kCheck) {
    command->add_option("--max-problems", args->max_findings,
                        "listed of every kind; all are counted (default 100; 0: all)");
    command->footer(
        "kinds of problems: unusable (broken JSON, unreadable or missing media, nothing to train, "
        "too long), role, order, tag (without a file), empty answer, encoding, duplicate, leak "
        "(also in --held-out), too long (cut or dropped by --on-too-long)\n"
        "exit code: 0 nothing found, 1 warnings, 2 the data cannot be opened, 3 errors");
  }
  SampleOptions& options = args->options;
  command->add_flag("--thinking", options.chat.enable_thinking, "render with thinking on");
  command->add_flag("--preserve-thinking", options.chat.preserve_thinking,
                    "keep thoughts of earlier turns that call tools");
  AddWord<EmptyThought>(*command, "--empty-thought", options.chat.empty_thought,
                        "insert or omit the empty thought of turns without one (default insert)",
                        {{"insert", EmptyThought::kInsert}, {"omit", EmptyThought::kOmit}});
  AddWord<Thoughts>(*command, "--thoughts", options.chat.thoughts,
                    "template, keep, drop or empty (default template)",
                    {{"template", Thoughts::kTemplate},
                     {"keep", Thoughts::kKeep},
                     {"drop", Thoughts::kDrop},
                     {"empty", Thoughts::kEmpty}});
  AddWord<TrainOn>(
      *command, "--train-on", options.train_on, "assistant, last or all (default assistant)",
      {{"assistant", TrainOn::kAssistant}, {"last", TrainOn::kLast}, {"all", TrainOn::kAll}});
  AddWord<PreferencePolicy>(
      *command, "--preference", options.preference,
      "error or chosen: what preference pairs are (default error)",
      {{"error", PreferencePolicy::kError}, {"chosen", PreferencePolicy::kChosen}});
  command->add_option("--max-length", options.max_length, "tokens a sample may have (0: any)");
  AddWord<OnTooLong>(*command, "--on-too-long", options.on_too_long,
                     "error, drop, truncate, cut or split (default error)",
                     {{"error", OnTooLong::kError},
                      {"drop", OnTooLong::kDrop},
                      {"truncate", OnTooLong::kTruncate},
                      {"cut", OnTooLong::kCut},
                      {"split", OnTooLong::kSplit}});
  AddWord<AudioLimit>(*command, "--audio-limit", options.audio_limit,
                      "sounds above 30 s: allow, pieces, truncate or error (default allow)",
                      {{"allow", AudioLimit::kAllow},
                       {"pieces", AudioLimit::kPieces},
                       {"truncate", AudioLimit::kTruncate},
                       {"error", AudioLimit::kError}});
  command->add_option("--image-tokens", options.image_budget, "soft tokens of an image");
  command
      ->add_option("--image-resize", args->image_resize,
                   "pictures as hf or as llama.cpp resizes them (default hf)")
      ->check(CLI::IsMember({"hf", "llama.cpp"}));
  command->add_option("--video-tokens", options.video_budget, "soft tokens of a video frame");
  command->add_option("--num-frames", options.num_frames, "frames of a video");
  command->add_option("--video-fps", options.video.fps,
                      "frames of a video a second, instead of --num-frames");
  AddWord<OnLongVideo>(*command, "--on-long-video", options.video.on_long,
                       "by rate, above 60 frames: error, thin or segments (default error)",
                       {{"error", OnLongVideo::kError},
                        {"thin", OnLongVideo::kThin},
                        {"segments", OnLongVideo::kSegments}});
  command->add_flag("--video-sound", options.video.sound, "the soundtrack behind the frames");
  command->add_flag_callback(
      "--no-eos", [args] { args->options.add_eos = false; }, "raw text does not end in <eos>");
  command->callback([args] { Run(*args); });
}

struct PrepareArgs {
  std::string config, out, compress = "none";
  std::vector<std::string> set;
  int threads = 0;
  bool quiet = false;
};

void Prepare(const PrepareArgs& args) {
  const TrainConfig config = LoadTrainConfig(args.config, args.set);
  MediaConfig media;
  if (std::filesystem::is_directory(config.model_name_or_path)) {
    media = LoadMediaConfig(config.model_name_or_path);
  }
  const std::unique_ptr<Tokenizer> tokenizer = OpenTokenizer(config.model_name_or_path);
  const SampleBuilder builder(*tokenizer, MakeSampleOptions(config, media));
  const auto dataset = OpenDatasets(config).first;
  PrepareOptions options;
  options.threads = args.threads > 0
                        ? args.threads
                        : static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  options.compress = args.compress == "gzip";
  Progress bar(args.quiet ? nullptr : stderr, "prepare", dataset->size());
  options.progress = [&](int64_t done, int64_t) { bar.Update(done, ""); };
  const PrepareSummary summary = PrepareDataset(dataset, builder, args.out, options);
  bar.Finish();
  std::printf("%s: %lld records, %lld documents, %lld tokens, %lld dropped, %lld broken, %.1f MB",
              args.out.c_str(), static_cast<long long>(summary.records),
              static_cast<long long>(summary.documents), static_cast<long long>(summary.tokens),
              static_cast<long long>(summary.dropped), static_cast<long long>(summary.broken),
              static_cast<double>(summary.bytes) / 1e6);
  if (summary.resumed > 0) {
    std::printf(" (%lld records were there already)", static_cast<long long>(summary.resumed));
  }
  std::printf("\n");
}

void AddPrepare(CLI::App& parent) {
  auto args = std::make_shared<PrepareArgs>();
  CLI::App* command = parent.add_subcommand(
      "prepare", "Tokenize, resize and resample once into a file that training reads");
  command->add_option("config", args->config, "configuration of a training run")->required();
  command->add_option("--out", args->out, "the HDF5 file to write; then train with it as data")
      ->required();
  command->add_option("--set", args->set, "key=value: another value than the configuration's");
  command->add_option("--threads", args->threads, "that decode (default: all cores)");
  command->add_option("--compress", args->compress, "none or gzip (default none)")
      ->check(CLI::IsMember({"none", "gzip"}));
  command->add_flag("--quiet", args->quiet, "no progress bar");
  command->callback([args] { Prepare(*args); });
}

}  // namespace

void AddData(CLI::App& cli) {
  CLI::App* data = cli.add_subcommand("data", "Look at data sets, check and prepare them");
  data->require_subcommand(1);
  AddOne(*data, "inspect", "Show samples with trained tokens marked, counts and problems",
         View::kInspect);
  AddOne(*data, "stats", "Counts and problems alone, also as a page with plots", View::kStats);
  AddOne(*data, "check", "Find what is wrong, by line: roles, media, lengths, duplicates, leaks",
         View::kCheck);
  AddPrepare(*data);
}

}  // namespace lapidary
