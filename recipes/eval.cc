// `lapidary eval`: loss, perplexity and token accuracy on data or on given token ids; answers;
// logits.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "autograd/base/error.h"
#include "recipes/commands.h"
#include "train/answers.h"
#include "train/bundle.h"
#include "train/evaluate.h"
#include "train/progress.h"
#include "train/session.h"
#include "train/svg_plot.h"

namespace lapidary {
namespace {

using Json = nlohmann::ordered_json;

struct EvalArgs {
  BaseFormat base;
  std::string model, adapter, tokens, save_logits;
  std::string compute = "bfloat16", image_mask = "sliding_only", on_error = "stop";
  std::string empty_thought = "insert", on_too_long = "error";
  std::vector<std::string> data;
  int64_t limit = 0, batch_size = 1, max_length = 0, loss_chunk = 128;
  int64_t image_tokens = 0, num_frames = 0, frame_tokens = 0, show = 0;
  bool answers = false, swap_media = false, no_loss = false, think = false, no_eos = false;
  bool json = false, quiet = false;
};

SampleOptions MakeOptions(const EvalArgs& args, const MediaConfig& media) {
  SampleOptions options;
  options.chat.enable_thinking = args.think;
  options.chat.empty_thought =
      args.empty_thought == "omit" ? EmptyThought::kOmit : EmptyThought::kInsert;
  options.media = media;
  options.image_budget = args.image_tokens;
  options.video_budget = args.frame_tokens;
  options.num_frames = args.num_frames;
  options.max_length = args.max_length;
  options.on_too_long = args.on_too_long == "drop"       ? OnTooLong::kDrop
                        : args.on_too_long == "truncate" ? OnTooLong::kTruncate
                                                         : OnTooLong::kError;
  options.add_eos = !args.no_eos;
  return options;
}

EvalResult EvaluateData(const EvalArgs& args, Bundle& bundle,
                        const std::shared_ptr<const Dataset>& dataset, EvalOptions options,
                        const ProblemCallback& report) {
  const SampleBuilder builder(bundle.RequireTokenizer(), MakeOptions(args, bundle.media));
  const OnError on_error = OnErrorOf(args.on_error);
  if (!args.save_logits.empty()) {
    const Sequences sequences = DatasetSequences(dataset, builder, on_error, report);
    return EvaluateSequences(bundle.model, sequences, options, args.save_logits);
  }
  LoaderOptions loader_options;
  loader_options.shuffle = false;
  loader_options.epochs = 1;
  loader_options.batch_size = args.batch_size;
  loader_options.on_error = on_error;
  loader_options.report = report;
  Loader loader(dataset, builder, loader_options);
  return Evaluate(bundle.model, loader, options);
}

void PrintLoss(const EvalResult& result) {
  std::printf("%-10s %9s %11s %10s %12s %10s\n", "", "records", "targets", "loss", "perplexity",
              "accuracy");
  const auto row = [](const std::string& name, const EvalCounts& c) {
    std::printf("%-10s %9s %11s %10.4f %12s %8.2f %%\n", name.c_str(), CountText(c.records).c_str(),
                CountText(c.targets).c_str(), c.Loss(), NumberText(c.Perplexity()).c_str(),
                100 * c.Accuracy());
  };
  for (const auto& [name, counts] : result.by_modality) row(name, counts);
  if (result.by_modality.size() != 1) row("all", result.all);
  std::printf("%s tokens in %s, %s a second%s\n", CountText(result.all.tokens).c_str(),
              ClockText(result.seconds).c_str(),
              CountText(static_cast<int64_t>(static_cast<double>(result.all.tokens) /
                                             std::max(1e-9, result.seconds)))
                  .c_str(),
              result.skipped > 0 ? StrCat("; ", result.skipped, " records skipped").c_str() : "");
}

void PrintAnswers(const char* title, const AnswerResult& result, int64_t show) {
  std::printf("\n%-16s %9s %9s\n", title, "right", "of");
  const auto row = [](const std::string& name, const AnswerResult::Share& s) {
    std::printf("%-16s %9s %9s %7.1f %%\n", name.c_str(), CountText(s.correct).c_str(),
                CountText(s.total).c_str(), 100 * s.Value());
  };
  for (const auto& [name, share] : result.by_modality) row(name, share);
  if (result.by_modality.size() != 1) row("all", result.all);
  for (int64_t i = 0; i < show && i < static_cast<int64_t>(result.answers.size()); ++i) {
    const Answer& a = result.answers[static_cast<size_t>(i)];
    std::printf("  %s %s: %s\n    expected: %s\n    got:      %s\n", a.correct ? "right" : "wrong",
                a.where.c_str(), a.question.c_str(), a.expected.c_str(), a.got.c_str());
  }
}

AnswerResult RunAnswers(const EvalArgs& args, Bundle& bundle, const Dataset& dataset, bool swap) {
  AnswerOptions options;
  options.compute = ComputeOf(args.compute);
  options.image_mask = ImageMaskOf(args.image_mask);
  options.sample = MakeOptions(args, bundle.media);
  options.swap_media = swap;
  options.max_records = args.limit;
  Progress bar(args.quiet ? nullptr : stderr, swap ? "answers, swapped media" : "answers",
               args.limit > 0 ? std::min(args.limit, dataset.size()) : dataset.size());
  options.on_record = [&](int64_t done, int64_t) { bar.Update(done, ""); };
  return EvaluateAnswers(bundle, dataset, options);
}

void RunEval(const EvalArgs& args) {
  LAPIDARY_CHECK(args.data.empty() != args.tokens.empty(),
                 "eval: one of --data and --tokens must be given; got ",
                 args.data.empty() ? "none" : "both");
  const bool answers = args.answers || args.swap_media;
  LAPIDARY_CHECK(!answers || !args.data.empty(), "eval: --answers must come with --data; got none");
  LAPIDARY_CHECK(args.save_logits.empty() || args.save_logits.ends_with(".safetensors"),
                 "--save-logits: the file must be named *.safetensors; got ", args.save_logits);
  LAPIDARY_CHECK(args.loss_chunk >= 64 && args.loss_chunk % 64 == 0,
                 "--loss-chunk: must be a multiple of 64; got ", args.loss_chunk);
  std::shared_ptr<const Dataset> dataset;
  if (!args.data.empty()) dataset = Dataset::Open(args.data);
  Bundle bundle = OpenBundle(args.model, args.adapter, args.base);
  for (const std::string& warning : bundle.warnings) {
    std::fprintf(stderr, "warning: %s\n", warning.c_str());
  }
  const ProblemCallback report = [](const Problem& p) {
    std::fprintf(stderr, "warning: %s\n", p.message.c_str());
  };
  Json json = {{"model", args.model}, {"adapter", args.adapter}, {"compute", args.compute}};
  EvalOptions options;
  options.compute = ComputeOf(args.compute);
  options.image_mask = ImageMaskOf(args.image_mask);
  options.loss_chunk = args.loss_chunk;
  options.max_records = args.limit;
  if (!args.no_loss) {
    EvalResult result;
    if (!args.tokens.empty()) {
      const Sequences sequences =
          TokenSequences(ReadTokenLists(args.tokens, bundle.model.config.text.vocab_size));
      Progress bar(args.quiet ? nullptr : stderr, "eval",
                   static_cast<int64_t>(sequences.lengths.size()));
      options.on_batch = [&](int64_t records) { bar.Update(records, ""); };
      result = EvaluateSequences(bundle.model, sequences, options, args.save_logits);
    } else {
      Progress bar(args.quiet ? nullptr : stderr, "eval", dataset->size());
      options.on_batch = [&](int64_t records) { bar.Update(records, ""); };
      result = EvaluateData(args, bundle, dataset, options, report);
    }
    const Json figures = EvalJson(result);
    json.update(figures);
    if (!args.json) PrintLoss(result);
  }
  if (answers) {
    const AnswerResult result = RunAnswers(args, bundle, *dataset, false);
    json["answers"] = AnswersJson(result, true);
    if (!args.json) PrintAnswers("answers", result, args.show);
  }
  if (args.swap_media) {
    const AnswerResult result = RunAnswers(args, bundle, *dataset, true);
    json["answers_swapped_media"] = AnswersJson(result, true);
    if (!args.json) PrintAnswers("swapped media", result, args.show);
  }
  if (!args.save_logits.empty() && !args.json) {
    std::printf("logits written to %s\n", args.save_logits.c_str());
  }
  if (args.json) {
    std::printf("%s\n", json.dump(-1, ' ', false, Json::error_handler_t::replace).c_str());
  }
}

}  // namespace

void AddEval(CLI::App& cli) {
  CLI::App* app = cli.add_subcommand("eval", "loss, perplexity, accuracy and answers of a model");
  auto a = std::make_shared<EvalArgs>();
  app->add_option("--model", a->model, "Hugging Face folder or .gguf file (its mmproj beside it)")
      ->required();
  app->add_option("--adapter", a->adapter, "PEFT folder to apply");
  app->add_option("--base-format", a->base.mix,
                  "quantize a folder's matrices while loading: q4_0, q4_k_m, q8_0, ...");
  app->add_option("--embedding-format", a->base.embedding,
                  "the same for the embedding and the head alone: q6_k, bf16, ...");
  app->add_option("--data", a->data, "JSON Lines file with records; repeatable");
  app->add_option("--tokens", a->tokens, "JSON file with a list of lists of token ids");
  app->add_option("--save-logits", a->save_logits,
                  "safetensors file for logits.I [T, V] of the I-th sequence");
  app->add_flag("--answers", a->answers, "generate answers and compare them with the expected");
  app->add_flag("--swap-media", a->swap_media,
                "and once more with the media of another record: what looking at them is worth");
  app->add_flag("--no-loss", a->no_loss, "answers only");
  app->add_option("--show", a->show, "print so many answers")->check(CLI::NonNegativeNumber);
  app->add_option("--limit", a->limit, "at most so many records")->check(CLI::NonNegativeNumber);
  app->add_option("--batch-size", a->batch_size, "records at a time")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  app->add_option("--max-length", a->max_length, "tokens of a record; 0: any")
      ->check(CLI::NonNegativeNumber);
  app->add_option("--on-too-long", a->on_too_long, "error, drop or truncate")
      ->capture_default_str()
      ->check(CLI::IsMember({"error", "drop", "truncate"}));
  app->add_option("--on-error", a->on_error, "stop or skip at a broken record")
      ->capture_default_str()
      ->check(CLI::IsMember({"stop", "skip"}));
  app->add_option("--compute", a->compute, "float32 or bfloat16")
      ->capture_default_str()
      ->check(CLI::IsMember({"float32", "bfloat16"}));
  app->add_option("--image-mask", a->image_mask,
                  "sliding_only, or hf_forward as a bare forward call of Transformers")
      ->capture_default_str()
      ->check(CLI::IsMember({"sliding_only", "hf_forward"}));
  app->add_option("--empty-thought", a->empty_thought, "insert or omit, as in training")
      ->capture_default_str()
      ->check(CLI::IsMember({"insert", "omit"}));
  app->add_flag("--think", a->think, "prompts ask for thoughts");
  app->add_flag("--no-eos", a->no_eos, "raw text does not end with <eos>");
  app->add_option("--image-tokens", a->image_tokens, "budget of soft tokens a picture");
  app->add_option("--frame-tokens", a->frame_tokens, "budget of soft tokens a video frame");
  app->add_option("--num-frames", a->num_frames, "frames taken from a clip");
  app->add_option("--loss-chunk", a->loss_chunk, "tokens at a time in the loss");
  app->add_flag("--quiet", a->quiet, "no progress bar");
  app->add_flag("--json", a->json, "print one JSON object");
  app->callback([a] { RunEval(*a); });
}

}  // namespace lapidary
