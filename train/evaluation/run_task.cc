#include "train/evaluation/run_task.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "autograd/base/error.h"
#include "data/rows.h"
#include "data/unicode.h"
#include "model/generate.h"
#include "train/evaluation/ifeval.h"
#include "train/evaluation/metrics.h"
#include "train/evaluation/text.h"
#include "train/micro_batch.h"

namespace lapidary {
namespace {

using Clock = std::chrono::steady_clock;
using Json = nlohmann::ordered_json;

// All rows of some files, one after the other.
class Rows {
 public:
  explicit Rows(const std::vector<std::string>& paths) {
    for (const std::string& path : paths) {
      sources_.push_back(OpenRows(path));
      size_ += sources_.back()->size();
    }
    LAPIDARY_CHECK(size_ > 0, paths[0], ": must have records; got none");
  }
  int64_t size() const { return size_; }
  Json Read(int64_t index, RecordPlace* place) const {
    for (const auto& source : sources_) {
      if (index < source->size()) {
        place->where = source->Where(index);
        place->folder = source->folder();
        return source->Read(index);
      }
      index -= source->size();
    }
    throw Error(StrCat("task: there must be a record ", index, "; got fewer"));
  }

 private:
  std::vector<std::unique_ptr<RowSource>> sources_;
  int64_t size_ = 0;
};

class Runner {
 public:
  Runner(Bundle& bundle, const EvalTask& task, const RunTaskOptions& options)
      : bundle_(bundle),
        task_(task),
        options_(options),
        extract_(task),
        full_(bundle.RequireTokenizer(), Options(false)),
        prompt_(bundle.RequireTokenizer(), Options(true)) {}

  ScoredAnswer Answer(const TaskItem& item, const Json& row) {
    ScoredAnswer answer;
    answer.where = item.where;
    answer.group = item.group;
    answer.question = item.question;
    for (const std::string& reference : item.references)
      answer.expected += (answer.expected.empty() ? "" : " | ") + reference;
    const BuiltSample built = prompt_.Build(item.record);
    LAPIDARY_CHECK(built.sample, item.where, ": ", built.note);
    const Sample& sample = *built.sample;
    answer.modality = ModalityOf(sample.images, sample.sounds, sample.videos);
    if (task_.choices) {
      Weigh(item, &answer);
      return answer;
    }
    answer.got = WithoutThoughts(Write(sample));
    answer.answer = extract_(answer.got);
    if (task_.ifeval) {
      answer.expected = IfevalInstructions(row);
      answer.rows = IfevalRows(row, answer.got, item.where);
      return answer;
    }
    for (const std::string& name : task_.metrics)
      answer.rows.push_back(FindMetric(name).row(answer.answer, item.references));
    return answer;
  }

 private:
  SampleOptions Options(bool prompt) const {
    SampleOptions options = options_.sample;
    options.media = bundle_.media;
    options.chat.enable_thinking = task_.think;
    options.max_length = 0;
    options.require_targets = !prompt;
    options.train_on = TrainOn::kLast;
    options.add_eos = !prompt;
    options.chat.add_generation_prompt = prompt;
    if (prompt) options.chat.empty_thought = EmptyThought::kOmit;
    return options;
  }

  std::string Write(const Sample& sample) {
    const MicroBatch micro = MakeMicroBatch(MakeBatch(sample));
    GenerateOptions generate;
    generate.max_new_tokens =
        options_.max_new_tokens > 0 ? options_.max_new_tokens : task_.max_new_tokens;
    generate.compute = options_.compute;
    generate.image_mask = options_.image_mask;
    generate.stop_ids = bundle_.generation.stop_ids;
    generate.suppress_ids = bundle_.generation.suppress_ids;
    std::vector<int32_t> ids = Generate(bundle_.model, micro.input, generate, {}).ids;
    const std::vector<int32_t>& stops = generate.stop_ids;
    while (!ids.empty() && std::find(stops.begin(), stops.end(), ids.back()) != stops.end())
      ids.pop_back();
    return std::string(PythonStrip(bundle_.tokenizer->Decode(ids)));
  }

  // Log-likelihood of every option as the answer: the likeliest, and the likeliest for its length
  // in characters (lm-evaluation-harness: acc, acc_norm).
  void Weigh(const TaskItem& item, ScoredAnswer* answer) {
    Sequences sequences;
    std::vector<Sample> samples;
    for (const std::string& option : item.options) {
      Record record = item.record;
      record.messages.push_back({{"role", "assistant"}, {"content", option}});
      BuiltSample built = full_.Build(record);
      LAPIDARY_CHECK(built.sample, item.where, ": ", built.note);
      sequences.lengths.push_back(built.sample->size());
      samples.push_back(std::move(*built.sample));
    }
    sequences.get = [&](int64_t index) { return MakeBatch(samples[static_cast<size_t>(index)]); };
    EvalOptions options;
    options.compute = options_.compute;
    options.image_mask = options_.image_mask;
    const EvalResult result = EvaluateSequences(bundle_.model, sequences, options, "");
    size_t best = 0, best_normal = 0;
    std::vector<double> likelihood, normal;
    for (size_t i = 0; i < item.options.size(); ++i) {
      likelihood.push_back(-result.records[i].counts.loss_sum);
      const size_t length = std::max<size_t>(1, Characters(item.options[i]).size());
      normal.push_back(likelihood[i] / static_cast<double>(length));
      if (likelihood[i] > likelihood[best]) best = i;
      if (normal[i] > normal[best_normal]) best_normal = i;
      answer->got += StrCat(i > 0 ? "\n" : "", static_cast<char>('A' + i), " ", likelihood[i]);
    }
    answer->answer = std::string(1, static_cast<char>('A' + best));
    const auto row = [&](size_t place) {
      return std::vector<double>{static_cast<int64_t>(place) == item.right_option ? 1.0 : 0.0, 1.0};
    };
    answer->rows = {row(best), row(best_normal)};
  }

  Bundle& bundle_;
  const EvalTask& task_;
  const RunTaskOptions& options_;
  const AnswerExtractor extract_;
  const SampleBuilder full_, prompt_;
};

}  // namespace

std::string WithoutThoughts(const std::string& text) {
  const std::string open = "<|channel>", close = "<channel|>";
  const size_t end = text.rfind(close);
  const std::string rest = end == std::string::npos ? text : text.substr(end + close.size());
  return rest.find(open) == std::string::npos ? std::string(PythonStrip(rest)) : std::string();
}

EvalResults RunTask(Bundle& bundle, const EvalTask& task, const std::vector<std::string>& data,
                    const RunTaskOptions& options) {
  const Clock::time_point start = Clock::now();
  const Rows rows(data);
  std::vector<Json> solved;
  LAPIDARY_CHECK(task.shots == 0 || !options.shots.empty(), task.name, ": takes ", task.shots,
                 " solved examples; got none; try --shots-data FILE");
  if (task.shots > 0) {
    const Rows examples(options.shots);
    LAPIDARY_CHECK(examples.size() >= task.shots, options.shots[0], ": must have at least ",
                   task.shots, " records; got ", examples.size());
    RecordPlace place;
    for (int64_t i = 0; i < task.shots; ++i) solved.push_back(examples.Read(i, &place));
  }
  EvalResults results;
  results.task = task.name;
  results.model = bundle.path;
  std::vector<std::string> names = task.metrics;
  if (task.choices) names = {"acc", "acc_norm"};
  if (task.ifeval) names = IfevalMetrics();
  for (const std::string& name : names) results.metrics.push_back(ResultMetricOf(name));
  Runner runner(bundle, task, options);
  const int64_t total =
      options.max_records > 0 ? std::min(options.max_records, rows.size()) : rows.size();
  for (int64_t i = 0; i < total; ++i) {
    if (options.on_record) options.on_record(i, total);
    RecordPlace place;
    const Json row = rows.Read(i * rows.size() / total, &place);
    const TaskItem item = MakeTaskItem(task, row, solved, place, options.seed);
    results.answers.push_back(runner.Answer(item, row));
  }
  if (options.on_record) options.on_record(total, total);
  results.seconds = std::chrono::duration<double>(Clock::now() - start).count();
  return results;
}

}  // namespace lapidary
