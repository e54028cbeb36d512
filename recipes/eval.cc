// `lapidary eval`: loss, perplexity and token accuracy on data, running text or given token ids;
// answers; logits; divergence from another model.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "autograd/base/error.h"
#include "autograd/base/file.h"
#include "data/json.h"
#include "recipes/commands.h"
#include "recipes/eval_args.h"
#include "recipes/model_args.h"
#include "train/config.h"
#include "train/evaluation/metrics.h"
#include "train/evaluation/results.h"
#include "train/evaluation/windows.h"
#include "train/progress.h"
#include "train/session.h"
#include "train/svg_plot.h"

namespace lapidary {
namespace {

using Json = nlohmann::ordered_json;

// What the model is run on, as documents one at a time.
struct Material {
  NamedData data;                          // of --data
  std::unique_ptr<SampleBuilder> builder;  // its
  Sequences sequences;
};

void Warn(const Problem& problem) {
  std::fprintf(stderr, "warning: %s\n", problem.message.c_str());
}

Material OpenMaterial(const EvalArgs& args, const Bundle& bundle) {
  Material material;
  const WindowOptions windows = {args.window > 0 ? args.window : 512, args.stride, -1};
  if (!args.data.empty()) {
    material.data = OpenNamedData(args.data, 0);
    material.builder = std::make_unique<SampleBuilder>(bundle.RequireTokenizer(),
                                                       EvalSampleOptions(args, bundle.media));
  } else if (!args.tokens.empty()) {
    std::vector<std::vector<int32_t>> lists =
        ReadTokenLists(args.tokens, bundle.model.config.text.vocab_size);
    if (args.window == 0) {
      material.sequences = TokenSequences(std::move(lists));
      return material;
    }
    std::vector<Sequences> parts;
    for (size_t i = 0; i < lists.size(); ++i)
      parts.push_back(WindowSequences(lists[i], windows, StrCat("sequence ", i)));
    material.sequences = JoinSequences(std::move(parts));
  } else {
    std::vector<Sequences> parts;
    for (const std::string& path : args.text) {
      WindowOptions options = windows;
      const std::vector<int32_t> ids = ReadTextRun(path, bundle.RequireTokenizer(), &options.bos);
      parts.push_back(WindowSequences(ids, options, path));
    }
    material.sequences = JoinSequences(std::move(parts));
  }
  return material;
}

// Sequences of a data set must be read for their lengths: only where they are needed.
void OpenSequences(const EvalArgs& args, Material& material) {
  if (!args.data.empty()) {
    material.sequences =
        DatasetSequences(material.data.dataset, *material.builder, OnErrorOf(args.on_error), Warn);
  }
  const size_t limit = static_cast<size_t>(args.limit);
  if (limit > 0 && material.sequences.lengths.size() > limit)
    material.sequences.lengths.resize(limit);
}

// The group of a record: its field --group, or the name of its file where there are several.
std::function<std::string(int64_t)> Grouping(const EvalArgs& args, const NamedData& data) {
  if (args.data.empty()) return {};
  if (!args.group.empty()) {
    const Json row = data.dataset->ReadRow(0);
    std::vector<std::string> fields;
    for (const auto& [name, value] : row.items()) fields.push_back(name);
    const std::string near = NearestName(args.group, fields);
    LAPIDARY_CHECK(row.contains(args.group), "--group: must be a field of the records; got '",
                   args.group, "', which ", data.dataset->Where(0), " lacks",
                   near.empty() ? "" : StrCat("; try '", near, "'"));
    return [&](int64_t record) {
      const Json row = data.dataset->ReadRow(record);
      const auto field = row.find(args.group);
      return field == row.end() ? std::string("(none)") : PythonStr(*field);
    };
  }
  if (data.names.size() < 2) return {};
  return [&](int64_t record) { return data.NameOf(record); };
}

EvalResult EvaluateMaterial(const EvalArgs& args, Bundle& bundle, Material& material,
                            EvalOptions options) {
  Progress bar(args.quiet ? nullptr : stderr, "eval",
               args.data.empty() ? static_cast<int64_t>(material.sequences.lengths.size())
                                 : material.data.dataset->size());
  options.on_batch = [&](int64_t records) { bar.Update(records, ""); };
  options.group_of = Grouping(args, material.data);
  if (args.data.empty() || !args.save_logits.empty()) {
    OpenSequences(args, material);
    return EvaluateSequences(bundle.model, material.sequences, options, args.save_logits);
  }
  LoaderOptions loader_options;
  loader_options.shuffle = false;
  loader_options.epochs = 1;
  loader_options.batch_size = args.batch_size;
  loader_options.on_error = OnErrorOf(args.on_error);
  loader_options.report = Warn;
  Loader loader(material.data.dataset, *material.builder, loader_options);
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
  for (const auto& [name, counts] : result.by_group) row("- " + name, counts);
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

// Answers with the scorers of --score.
EvalResults ScoreAnswers(const EvalArgs& args, const NamedData& data, const AnswerResult& answers) {
  EvalResults results;
  results.task = "answers";
  results.model = args.model;
  results.adapter = args.adapter;
  const std::function<std::string(int64_t)> group = Grouping(args, data);
  for (const std::string& name : args.scores) results.metrics.push_back(ResultMetricOf(name));
  for (const Answer& a : answers.answers) {
    ScoredAnswer scored = {a.where,    group ? group(a.record) : a.modality,
                           a.modality, a.question,
                           a.expected, a.got,
                           a.got,      {}};
    for (const std::string& name : args.scores)
      scored.rows.push_back(FindMetric(name).row(a.got, {a.expected}));
    results.answers.push_back(std::move(scored));
  }
  return results;
}

// The mean loss of records with its bootstrap interval.
Interval LossInterval(const EvalArgs& args, const std::vector<RecordCounts>& records) {
  StatRows rows;
  for (const RecordCounts& r : records) rows.push_back({r.counts.loss_sum, r.counts.weight});
  return BootstrapInterval(rows, RatioFigure,
                           {args.bootstrap, 0.95, static_cast<uint64_t>(args.seed)});
}

Json RunLoss(const EvalArgs& args, Bundle& bundle, Material& material) {
  const EvalResult result = EvaluateMaterial(args, bundle, material, MakeEvalOptions(args));
  Json json = EvalJson(result);
  const double error = result.all.PerplexityError();
  json["perplexity_error"] = error;
  if (!args.json) PrintLoss(result);
  if (!args.json && args.data.empty())
    std::printf("perplexity %.4f +/- %.5f\n", result.all.Perplexity(), error);
  if (result.records.size() > 1 && args.bootstrap > 0) {
    const Interval loss = LossInterval(args, result.records);
    json["loss_interval"] = {loss.low, loss.high};
    if (!args.json)
      std::printf("loss %.4f, 95 %% of resamples of the records from %.4f to %.4f\n", loss.value,
                  loss.low, loss.high);
  }
  return json;
}

Json RunReference(const EvalArgs& args, Bundle& bundle, Material& material) {
  OpenSequences(args, material);
  Bundle reference = OpenForEval(args.reference, args.reference_adapter, args.base, false);
  EvalOptions options = MakeEvalOptions(args);
  Progress bar(args.quiet ? nullptr : stderr, "against the reference",
               static_cast<int64_t>(material.sequences.lengths.size()));
  options.on_batch = [&](int64_t records) { bar.Update(records, ""); };
  const PairResult pair = EvaluatePair(reference.model, bundle.model, material.sequences, options);
  bar.Finish();
  if (!args.json) {
    std::printf(
        "against %s: loss %.6f, there %.6f; mean KL %.3e nats a target, largest %.3e; same first "
        "choice %.3f %% of %s targets\n",
        args.reference.c_str(), pair.second.Loss(), pair.first.Loss(), pair.Kl(), pair.kl_max,
        100 * pair.TopAgreement(), CountText(pair.first.targets).c_str());
  }
  return {{"model", args.reference},
          {"adapter", args.reference_adapter},
          {"loss", pair.first.Loss()},
          {"loss_gap", pair.second.Loss() - pair.first.Loss()},
          {"kl", pair.Kl()},
          {"kl_max", pair.kl_max},
          {"top_agreement", pair.TopAgreement()},
          {"targets", pair.first.targets}};
}

void CheckArgs(const EvalArgs& args) {
  LAPIDARY_CHECK(!args.model.empty(), "eval: --model must be given; got none");
  const int kinds = !args.data.empty() + !args.tokens.empty() + !args.text.empty();
  LAPIDARY_CHECK(kinds == 1, "eval: one of --data, --text and --tokens must be given; got ",
                 kinds == 0   ? "none"
                 : kinds == 2 ? "two"
                              : "all");
  LAPIDARY_CHECK(!(args.answers || args.swap_media || !args.scores.empty()) || !args.data.empty(),
                 "eval: --answers must come with --data; got none");
  LAPIDARY_CHECK(args.save_logits.empty() || args.save_logits.ends_with(".safetensors"),
                 "--save-logits: the file must be named *.safetensors; got ", args.save_logits);
  LAPIDARY_CHECK(args.data.empty() || (args.window == 0 && args.stride == 0),
                 "--ppl-window: must come with --text or --tokens; got --data");
  LAPIDARY_CHECK(args.stride == 0 || args.window > 0,
                 "--ppl-stride: must come with --ppl-window; got it alone");
  LAPIDARY_CHECK(args.reference_adapter.empty() || !args.reference.empty(),
                 "--reference-adapter: must come with --reference; got it alone");
}

void RunEval(const EvalArgs& args) {
  LAPIDARY_CHECK(args.loss_chunk >= 64 && args.loss_chunk % 64 == 0,
                 "--loss-chunk: must be a multiple of 64; got ", args.loss_chunk);
  LAPIDARY_CHECK(args.samples == 0 || !args.task.empty(),
                 "--samples: must come with --task; got it alone; try generate --num-samples");
  if (!args.compare.empty()) return RunEvalCompare(args);
  if (!args.task.empty()) return RunEvalTask(args);
  CheckArgs(args);
  const bool answers = args.answers || args.swap_media || !args.scores.empty();
  for (const std::string& name : args.scores) FindMetric(name);
  std::function<std::string()> page;
  Bundle bundle = OpenForEval(args.model, args.adapter, args.base, answers);
  Material material = OpenMaterial(args, bundle);
  Json json = {{"model", args.model}, {"adapter", args.adapter}, {"compute", args.compute}};
  if (!args.no_loss) json.update(RunLoss(args, bundle, material));
  if (!args.reference.empty()) json["reference"] = RunReference(args, bundle, material);
  if (answers) {
    const AnswerResult result = RunEvalAnswers(args, bundle, *material.data.dataset, false);
    json["answers"] = AnswersJson(result, true);
    if (!args.json) PrintAnswers("answers", result, args.show);
    if (!args.scores.empty()) {
      const ResamplingOptions resampling = {std::max<int64_t>(1, args.bootstrap), 0.95,
                                            static_cast<uint64_t>(args.seed)};
      const EvalResults scored = ScoreAnswers(args, material.data, result);
      if (json.contains("by_group")) json["loss_by_group"] = json["by_group"];
      json.update(ResultsJson(scored, resampling));
      if (!args.json) std::printf("\n%s", ResultsText(scored, resampling, 0).c_str());
      page = [scored, resampling] { return ResultsHtml(scored, resampling); };
    }
  }
  if (args.swap_media) {
    const AnswerResult result = RunEvalAnswers(args, bundle, *material.data.dataset, true);
    json["answers_swapped_media"] = AnswersJson(result, true);
    if (!args.json) PrintAnswers("swapped media", result, args.show);
  }
  const std::string logits =
      args.save_logits.empty() ? "" : StrCat("logits written to ", args.save_logits, "\n");
  DeliverEval(args, logits, json, page);
}

}  // namespace

SampleOptions EvalSampleOptions(const EvalArgs& args, const MediaConfig& media) {
  SampleOptions options;
  options.chat.enable_thinking = args.think;
  options.chat.empty_thought =
      args.empty_thought == "omit" ? EmptyThought::kOmit : EmptyThought::kInsert;
  options.media = media;
  UseImageResize(args.image_resize, &options.media);
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

EvalOptions MakeEvalOptions(const EvalArgs& args) {
  EvalOptions options;
  options.compute = ComputeOf(args.compute);
  options.image_mask = ImageMaskOf(args.image_mask);
  options.loss_chunk = args.loss_chunk;
  options.max_records = args.limit;
  return options;
}

AnswerResult RunEvalAnswers(const EvalArgs& args, Bundle& bundle, const Dataset& dataset,
                            bool swap) {
  AnswerOptions options;
  options.compute = ComputeOf(args.compute);
  options.image_mask = ImageMaskOf(args.image_mask);
  options.sample = EvalSampleOptions(args, bundle.media);
  options.swap_media = swap;
  options.max_new_tokens = args.max_new_tokens;
  options.max_records = args.limit;
  Progress bar(args.quiet ? nullptr : stderr, swap ? "answers, swapped media" : "answers",
               args.limit > 0 ? std::min(args.limit, dataset.size()) : dataset.size());
  options.on_record = [&](int64_t done, int64_t) { bar.Update(done, ""); };
  return EvaluateAnswers(bundle, dataset, options);
}

const std::string& NamedData::NameOf(int64_t record) const {
  const auto end = std::upper_bound(ends.begin(), ends.end(), record);
  return names.at(static_cast<size_t>(end - ends.begin()));
}

NamedData OpenNamedData(const std::vector<std::string>& data, int64_t limit) {
  namespace fs = std::filesystem;
  NamedData named;
  std::vector<SourceSpec> specs;
  for (const std::string& text : data) {
    SourceSpec spec;
    spec.path = text;
    spec.max_samples = limit;
    std::string name;
    const size_t equals = text.find('=');
    if (equals != std::string::npos && equals > 0 && !fs::exists(text)) {
      name = text.substr(0, equals);
      spec.path = text.substr(equals + 1);
    } else {
      const fs::path whole = text;
      const fs::path path = whole.has_filename() ? whole : whole.parent_path();
      name = path.filename().string();
      name = name.substr(0, name.find('.', 1));
    }
    named.names.push_back(name);
    specs.push_back(std::move(spec));
  }
  named.dataset = Dataset::Open(specs);
  int64_t end = 0;
  for (const Dataset::Share& share : named.dataset->Shares())
    named.ends.push_back(end += share.records);
  return named;
}

Bundle OpenForEval(const std::string& model, const std::string& adapter, BaseFormat base,
                   bool writes) {
  base.units = writes;
  Bundle bundle = OpenBundle(model, adapter, base);
  for (const std::string& warning : bundle.warnings)
    std::fprintf(stderr, "warning: %s\n", warning.c_str());
  return bundle;
}

void DeliverEval(const EvalArgs& args, const std::string& text, const Json& json,
                 const std::function<std::string()>& page) {
  const auto dump = [&](int indent) {
    return json.dump(indent, ' ', false, Json::error_handler_t::replace) + "\n";
  };
  LAPIDARY_CHECK(args.html.empty() || page,
                 "--html: must come with --compare, --task or --score; got it alone");
  if (!args.out.empty()) WriteFile(args.out, dump(1));
  if (!args.html.empty()) WriteFile(args.html, page());
  std::fputs(args.json ? dump(-1).c_str() : text.c_str(), stdout);
}

void AddEval(CLI::App& cli) {
  CLI::App* app = cli.add_subcommand("eval", "loss, perplexity, accuracy and answers of a model");
  auto a = std::make_shared<EvalArgs>();
  app->add_option("--model", a->model, "Hugging Face folder or .gguf file (its mmproj beside it)");
  app->add_option("--adapter", a->adapter, "PEFT folder to apply");
  AddBaseFormatOptions(app, &a->base);
  app->add_option("--data", a->data, "data set of records, or NAME=FILE; repeatable");
  app->add_option("--text", a->text,
                  "plain text file: perplexity in windows, as llama-perplexity's; repeatable");
  app->add_option("--tokens", a->tokens, "JSON file with a list of lists of token ids");
  app->add_option("--ppl-window", a->window,
                  "tokens of a window, with --text (512) or --tokens; the second half is scored")
      ->check(CLI::PositiveNumber);
  app->add_option("--ppl-stride", a->stride,
                  "a window every so many tokens, its last so many targets scored; 0: disjoint")
      ->check(CLI::NonNegativeNumber);
  app->add_option("--reference", a->reference,
                  "another model: KL from it and how often its first choice is the same");
  app->add_option("--reference-adapter", a->reference_adapter, "PEFT folder to apply to it");
  app->add_option("--compare", a->compare,
                  "BASE TUNED (a model, or an adapter of BASE): what got better, what got worse")
      ->expected(2);
  app->add_option("--tolerance", a->tolerance,
                  "with --compare: nats a token by which a loss may rise")
      ->capture_default_str()
      ->check(CLI::NonNegativeNumber);
  app->add_option(
      "--task", a->task,
      "a benchmark: a ready one (mmlu_pro, gpqa_diamond, aime, ifeval, fleurs, ...) or a "
      "file; recipes/configs/eval/README.md");
  app->add_option("--shots-data", a->shots_data, "data set of a task's solved examples");
  app->add_option("--samples", a->samples,
                  "answers to each question of a task, drawn; figures are means over all, and "
                  "pass@N; default: as the task says")
      ->check(CLI::Range(1, 1000));
  app->add_option("--score", a->scores,
                  "score the answers of --data: wer, rougeL, function_call, ...; repeatable");
  app->add_option("--max-new-tokens", a->max_new_tokens,
                  "of an answer, instead of the task's or the expected answer's and 8 more")
      ->check(CLI::PositiveNumber);
  app->add_flag_callback(
      "--scorers",
      [] {
        std::fputs(MetricsHelp().c_str(), stdout);
        throw CLI::Success();
      },
      "list the scorers");
  app->add_option("--group", a->group, "figures for each value of this field of the records");
  app->add_option("--bootstrap", a->bootstrap, "resamples for intervals; 0: none")
      ->capture_default_str()
      ->check(CLI::NonNegativeNumber);
  app->add_option("--seed", a->seed, "of the resampling, of shuffled options and of drawn answers")
      ->capture_default_str();
  app->add_option("--out", a->out,
                  "write the results as JSON; with --task a call that was broken off goes on from "
                  "FILE.part.jsonl");
  app->add_option("--html", a->html, "with --compare, --task or --score: write a page");
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
  app->add_option("--image-resize", a->image_resize,
                  "pictures as hf or as llama.cpp resizes them (default hf)")
      ->check(CLI::IsMember({"hf", "llama.cpp"}));
  app->add_option("--frame-tokens", a->frame_tokens, "budget of soft tokens a video frame");
  app->add_option("--num-frames", a->num_frames, "frames taken from a clip");
  app->add_option("--loss-chunk", a->loss_chunk, "tokens at a time in the loss");
  app->add_flag("--quiet", a->quiet, "no progress bar");
  app->add_flag("--json", a->json, "print one JSON object");
  app->footer(
      "exit code: 0; 1 if --compare finds that something got worse\n"
      "example: lapidary eval --model gemma-4-12B-it --adapter out --data held-out.jsonl "
      "--answers\n"
      "         lapidary eval --model mine.gguf --text wiki.test.raw --ppl-window 512\n"
      "         lapidary eval --model gemma-4-12B-it --task mmlu_pro --data test.parquet "
      "--shots-data validation.parquet\n"
      "         lapidary eval --compare gemma-4-12B-it out --data chat=a.jsonl --data b.jsonl");
  app->callback([a] { RunEval(*a); });
}

}  // namespace lapidary
