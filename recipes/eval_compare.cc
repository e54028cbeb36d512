// `lapidary eval --compare BASE TUNED`: did tuning one thing break another?
#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>

#include "autograd/base/error.h"
#include "data/json.h"
#include "recipes/eval_args.h"
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

// A PEFT folder stands on the base.
Bundle OpenTuned(const EvalArgs& args) {
  const std::string& tuned = args.compare[1];
  if (std::filesystem::exists(tuned + "/adapter_config.json"))
    return OpenForEval(args.compare[0], tuned, args.base);
  return OpenForEval(tuned, "", args.base);
}

std::vector<ComparedAnswer> CompareAnswers(const EvalArgs& args, Bundle& before, Bundle& after,
                                           const NamedData& data) {
  const AnswerResult first = RunEvalAnswers(args, before, *data.dataset, false),
                     second = RunEvalAnswers(args, after, *data.dataset, false);
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
  Bundle before = OpenForEval(args.compare[0], "", args.base), after = OpenTuned(args);
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
    const PairResult pair = EvaluatePair(before.model, after.model, sequences, options);
    for (const PairRecord& record : pair.records) {
      records.push_back(
          {data.NameOf(record.first.record), record, RowText(*data.dataset, record.first.record)});
    }
  }
  std::vector<ComparedAnswer> answers;
  if (args.answers) {
    EvalArgs all = args;
    all.limit = 0;  // the data are limited already
    answers = CompareAnswers(all, before, after, data);
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
