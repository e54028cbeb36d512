// `lapidary eval --compare BASE TUNED`: did tuning one thing break another?
#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>

#include "autograd/base/error.h"
#include "data/json.h"
#include "model/adapter_set.h"
#include "model/base_fingerprint.h"
#include "model/qat.h"
#include "recipes/eval_args.h"
#include "train/evaluate_adapter.h"
#include "train/evaluation/comparison.h"
#include "train/progress.h"
#include "train/session.h"

namespace lapidary {
namespace {

using Json = nlohmann::ordered_json;

// A record's row for people: no bytes, no long strings.
void Shorten(Json& value) {
  if (value.is_binary()) value = "(bytes)";
  if (value.is_string()) {
    std::string text = value.get<std::string>();
    if (text.size() > 400) value = text.substr(0, 400) + "...";
  }
  if (value.is_structured()) {
    for (Json& item : value) Shorten(item);
  }
}

std::string RowText(const Dataset& dataset, int64_t record) {
  Json row = dataset.ReadRow(record);
  Shorten(row);
  std::string text = row.dump(-1, ' ', false, Json::error_handler_t::replace);
  if (text.size() > 1000) text = text.substr(0, 1000) + "...";
  return text;
}

// The two models. An adapter that leaves the base as it is comes and goes on one model, in the
// memory of one.
class TwoModels {
 public:
  explicit TwoModels(const EvalArgs& args)
      : base_(OpenForEval(args.compare[0], "", args.base, args.answers)) {
    const std::string& tuned = args.compare[1];
    const bool adapter = std::filesystem::exists(tuned + "/adapter_config.json");
    if (adapter && !ReadQatRecord(tuned) && OpenAdapter(tuned).config.modules_to_save.empty()) {
      const AdapterConfig config = adapters_.emplace(base_.model).Add("tuned", tuned);
      if (const auto warning =
              OtherBaseWarning(config, tuned, OpenCheckpointFiles(base_.path), base_.path))
        std::fprintf(stderr, "warning: %s\n", warning->c_str());
    } else {
      tuned_ = adapter ? OpenForEval(args.compare[0], tuned, args.base, args.answers)
                       : OpenForEval(tuned, "", args.base, args.answers);
    }
  }
  Bundle& Get(bool tuned) {
    if (adapters_) adapters_->Use(tuned ? "tuned" : "");
    return tuned && tuned_ ? *tuned_ : base_;
  }
  PairResult Evaluate(const Sequences& sequences, const EvalOptions& options) {
    if (tuned_) return EvaluatePair(base_.model, tuned_->model, sequences, options);
    return EvaluateAdapter(
        base_.model, [this](bool with) { Get(with); }, sequences, options);
  }

 private:
  Bundle base_;
  std::optional<Bundle> tuned_;         // a model of its own
  std::optional<AdapterSet> adapters_;  // else the base's
};

std::vector<ComparedAnswer> CompareAnswers(const EvalArgs& args, TwoModels& models,
                                           const NamedData& data) {
  const AnswerResult first = RunEvalAnswers(args, models.Get(false), *data.dataset, false),
                     second = RunEvalAnswers(args, models.Get(true), *data.dataset, false);
  std::map<int64_t, const Answer*> by_record;
  for (const Answer& answer : first.answers) by_record[answer.record] = &answer;
  std::vector<ComparedAnswer> answers;
  for (const Answer& answer : second.answers) {
    const auto old = by_record.find(answer.record);
    if (old == by_record.end()) continue;
    answers.push_back({data.NameOf(answer.record), answer.modality, answer.where, answer.question,
                       answer.expected, old->second->got, answer.got, old->second->correct,
                       answer.correct});
  }
  return answers;
}

}  // namespace

void RunEvalCompare(const EvalArgs& args) {
  LAPIDARY_CHECK(args.model.empty() && args.adapter.empty() && args.reference.empty() &&
                     args.tokens.empty() && args.text.empty() && args.save_logits.empty(),
                 "eval --compare: takes BASE and TUNED and --data; got another model or another "
                 "kind of data too");
  LAPIDARY_CHECK(!args.data.empty(), "eval --compare: --data must be given; got none");
  LAPIDARY_CHECK(!args.no_loss || args.answers,
                 "eval --compare: --no-loss must be with --answers; got it alone");
  const NamedData data = OpenNamedData(args.data, args.limit);
  TwoModels models(args);
  Bundle& before = models.Get(false);
  const SampleBuilder builder(before.RequireTokenizer(), EvalSampleOptions(args, before.media));
  std::vector<ComparedRecord> records;
  if (!args.no_loss) {
    const Sequences sequences = DatasetSequences(
        data.dataset, builder, OnErrorOf(args.on_error),
        [](const Problem& p) { std::fprintf(stderr, "warning: %s\n", p.message.c_str()); });
    EvalOptions options = MakeEvalOptions(args);
    Progress bar(args.quiet ? nullptr : stderr, "both models",
                 static_cast<int64_t>(sequences.lengths.size()));
    options.on_batch = [&](int64_t done) { bar.Update(done, ""); };
    const PairResult pair = models.Evaluate(sequences, options);
    for (const PairRecord& record : pair.records) {
      records.push_back(
          {data.NameOf(record.first.record), record, RowText(*data.dataset, record.first.record)});
    }
  }
  std::vector<ComparedAnswer> answers;
  if (args.answers) {
    EvalArgs all = args;
    all.limit = 0;  // the data are limited already
    answers = CompareAnswers(all, models, data);
  }
  ComparisonOptions options;
  options.resampling.seed = static_cast<uint64_t>(args.seed);
  options.loss_tolerance = args.tolerance;
  const Comparison comparison = Compare(records, answers, options);
  Json json = {{"before", args.compare[0]}, {"after", args.compare[1]}};
  json.update(ComparisonJson(comparison));
  DeliverEval(args, ComparisonText(comparison), json,
              [&] { return ComparisonHtml(comparison, args.compare[0], args.compare[1]); });
  if (comparison.worse) throw CLI::RuntimeError(1);
}

}  // namespace lapidary
