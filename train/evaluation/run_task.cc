#include "train/evaluation/run_task.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "autograd/base/error.h"
#include "data/rows.h"
#include "data/unicode.h"
#include "model/generate.h"
#include "model/prefix_cache.h"
#include "train/evaluation/ifeval.h"
#include "train/evaluation/metrics.h"
#include "train/evaluation/text.h"
#include "train/journal.h"
#include "train/micro_batch.h"

namespace lapidary {
namespace {

using Clock = std::chrono::steady_clock;
using Json = nlohmann::ordered_json;

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

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

// What the model gave for a record: texts, or log-likelihoods of the options.
struct Given {
  std::vector<std::string> texts;     // by sample
  std::vector<double> likelihoods;    // by option
  std::map<int64_t, double> seconds;  // by sample; 0: options
  bool Has(int64_t sample) const { return seconds.count(sample) > 0; }
};

// What an earlier call found out, and the file that remembers what this one does.
class Memory {
 public:
  Memory(const RunTaskOptions& options, int64_t samples, bool choices) {
    if (options.journal.empty()) return;
    const auto read = [&](const Json& row) {
      const Json where = row.value("where", Json()), sample = row.value("sample", Json()),
                 seconds = row.value("seconds", Json()), text = row.value("text", Json()),
                 likelihoods = row.value("likelihoods", Json());
      if (!where.is_string() || !sample.is_number_integer() || !seconds.is_number()) return false;
      const int64_t k = sample.get<int64_t>();
      if (k < 0 || k >= samples) return false;
      Given& given = given_[where.get<std::string>()];
      given.seconds[k] = seconds.get<double>();
      if (choices) {
        if (!likelihoods.is_array()) return false;
        given.likelihoods.clear();
        for (const Json& value : likelihoods) {
          if (!value.is_number()) return false;
          given.likelihoods.push_back(value.get<double>());
        }
        return true;
      }
      if (!text.is_string()) return false;
      given.texts.resize(static_cast<size_t>(samples));
      given.texts[static_cast<size_t>(k)] = text.get<std::string>();
      return true;
    };
    journal_.emplace(options.journal, Json::parse(options.journal_settings), kOther, read);
  }
  Given& Of(const std::string& where) { return given_[where]; }
  void Add(const std::string& where, int64_t sample, double seconds, Json what) {
    if (!journal_) return;
    Json row = {{"where", where}, {"sample", sample}, {"seconds", seconds}};
    row.update(what);
    journal_->Add(row);
  }

 private:
  static constexpr char kOther[] = "another --out, or removing it to begin anew";
  std::map<std::string, Given> given_;
  std::optional<Journal> journal_;
};

int64_t SamplesOf(const EvalTask& task, const RunTaskOptions& options) {
  const int64_t samples = options.samples > 0 ? options.samples : task.samples;
  LAPIDARY_CHECK(samples == 1 || !task.choices, task.name,
                 ": samples must be 1 where options are weighed; got ", samples);
  return samples;
}

class Runner {
 public:
  Runner(Bundle& bundle, const EvalTask& task, const RunTaskOptions& options)
      : bundle_(bundle),
        task_(task),
        options_(options),
        samples_(SamplesOf(task, options)),
        extract_(task),
        full_(bundle.RequireTokenizer(), Options(false)),
        prompt_(bundle.RequireTokenizer(), Options(true)),
        memory_(options, samples_, task.choices) {}

  int64_t samples() const { return samples_; }
  // Seconds that the model took for all answers, those of earlier calls included.
  double seconds() const { return seconds_; }

  // `passed`: for every scorer, whether one of the samples is right; left alone unless all are
  // right or wrong.
  ScoredAnswer Answer(const TaskItem& item, const Json& row, std::vector<int>* passed) {
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
    Given& given = memory_.Of(item.where);
    if (task_.choices) {
      if (!given.Has(0)) Weigh(item, &given);
      Choose(item, given.likelihoods, &answer);
    } else {
      if (task_.ifeval) answer.expected = IfevalInstructions(row);
      given.texts.resize(static_cast<size_t>(samples_));
      PrefixCache prefixes;
      for (int64_t k = 0; k < samples_; ++k) {
        if (!given.Has(k)) Write(item.where, sample, k, samples_ > 1 ? &prefixes : nullptr, &given);
        Score(item, row, given.texts[static_cast<size_t>(k)], &answer, passed);
      }
    }
    for (const auto& [k, seconds] : given.seconds) seconds_ += seconds;
    given = {};
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

  void Write(const std::string& where, const Sample& sample, int64_t k, PrefixCache* prefixes,
             Given* given) {
    const Clock::time_point start = Clock::now();
    const MicroBatch micro = MakeMicroBatch(MakeBatch(sample));
    const GenerationDefaults& defaults = bundle_.generation;
    GenerateOptions generate;
    generate.max_new_tokens =
        options_.max_new_tokens > 0 ? options_.max_new_tokens : task_.max_new_tokens;
    generate.compute = options_.compute;
    generate.image_mask = options_.image_mask;
    generate.stop_ids = defaults.stop_ids;
    generate.suppress_ids = defaults.suppress_ids;
    generate.do_sample = samples_ > 1;
    generate.temperature = defaults.temperature;
    generate.top_k = defaults.top_k;
    generate.top_p = defaults.top_p;
    generate.seed = options_.seed;
    generate.sample = static_cast<uint64_t>(k);
    std::vector<int32_t> ids = Generate(bundle_.model, micro.input, generate, {}, prefixes).ids;
    const std::vector<int32_t>& stops = generate.stop_ids;
    while (!ids.empty() && std::find(stops.begin(), stops.end(), ids.back()) != stops.end())
      ids.pop_back();
    std::string& text = given->texts[static_cast<size_t>(k)];
    text = PythonStrip(bundle_.tokenizer->Decode(ids));
    given->seconds[k] = SecondsSince(start);
    memory_.Add(where, k, given->seconds[k], {{"text", text}});
  }

  // Adds what one text is worth.
  void Score(const TaskItem& item, const Json& row, const std::string& text, ScoredAnswer* answer,
             std::vector<int>* passed) const {
    const std::string got = WithoutThoughts(text), taken = extract_(got);
    std::vector<std::vector<double>> rows;
    if (task_.ifeval) {
      rows = IfevalRows(row, got, item.where);
    } else {
      for (const std::string& name : task_.metrics)
        rows.push_back(FindMetric(name).row(taken, item.references));
    }
    const bool first = answer->rows.empty();
    answer->got += (first ? "" : "\n\n--- another answer ---\n") + got;
    answer->answer += (first ? "" : " | ") + (task_.ifeval ? "" : taken);
    passed->resize(rows.size(), 0);
    for (size_t m = 0; m < rows.size(); ++m) {
      const bool decided =
          rows[m].size() == 2 && rows[m][1] == 1 && (rows[m][0] == 0 || rows[m][0] == 1);
      int& pass = (*passed)[m];
      pass = !decided || pass < 0 ? -1 : std::max(pass, static_cast<int>(rows[m][0]));
      if (first) continue;
      for (size_t i = 0; i < rows[m].size(); ++i) answer->rows[m][i] += rows[m][i];
    }
    if (first) answer->rows = std::move(rows);
  }

  // The harness weighs the option alone, not the end of the turn behind it.
  void LeaveOutEnd(Sample* sample) const {
    const std::optional<int32_t> end = bundle_.tokenizer->Find("<turn|>");
    size_t i = sample->ids.size();
    while (end && i > 0 && sample->ids[i - 1] != *end) --i;
    if (i > 0)
      std::fill(sample->weights.begin() + static_cast<int64_t>(i) - 1, sample->weights.end(), 0.0f);
  }

  // Log-likelihood of every option as the answer.
  void Weigh(const TaskItem& item, Given* given) {
    const Clock::time_point start = Clock::now();
    Sequences sequences;
    std::vector<Sample> samples;
    for (const std::string& option : item.options) {
      Record record = item.record;
      record.messages.push_back({{"role", "assistant"}, {"content", option}});
      BuiltSample built = full_.Build(record);
      LAPIDARY_CHECK(built.sample, item.where, ": ", built.note);
      LeaveOutEnd(&*built.sample);
      sequences.lengths.push_back(built.sample->size());
      samples.push_back(std::move(*built.sample));
    }
    sequences.get = [&](int64_t index) { return MakeBatch(samples[static_cast<size_t>(index)]); };
    EvalOptions options;
    options.compute = options_.compute;
    options.image_mask = options_.image_mask;
    const EvalResult result = EvaluateSequences(bundle_.model, sequences, options, "");
    given->likelihoods.clear();
    for (const auto& record : result.records) given->likelihoods.push_back(-record.counts.loss_sum);
    given->seconds[0] = SecondsSince(start);
    memory_.Add(item.where, 0, given->seconds[0], {{"likelihoods", given->likelihoods}});
  }

  // The likeliest option, and the likeliest for its length in characters (lm-evaluation-harness:
  // acc, acc_norm).
  static void Choose(const TaskItem& item, const std::vector<double>& likelihood,
                     ScoredAnswer* answer) {
    LAPIDARY_CHECK(likelihood.size() == item.options.size(), item.where, ": must have ",
                   item.options.size(), " likelihoods, one an option; got ", likelihood.size());
    size_t best = 0, best_normal = 0;
    std::vector<double> normal;
    for (size_t i = 0; i < item.options.size(); ++i) {
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
  const int64_t samples_;
  const AnswerExtractor extract_;
  const SampleBuilder full_, prompt_;
  Memory memory_;
  double seconds_ = 0;
};

// Figures "NAME pass@K" of those scorers that were right or wrong on every answer.
void AddPassed(const std::vector<std::vector<int>>& passed, int64_t samples, EvalResults* results) {
  for (size_t m = 0, scorers = results->metrics.size(); m < scorers; ++m) {
    const bool decided = std::all_of(passed.begin(), passed.end(),
                                     [&](const std::vector<int>& p) { return p[m] >= 0; });
    if (!decided || !results->metrics[m].higher_is_better) continue;
    results->metrics.push_back({StrCat(results->metrics[m].name, " pass@", samples), "mean", true});
    for (size_t i = 0; i < passed.size(); ++i)
      results->answers[i].rows.push_back({static_cast<double>(passed[i][m]), 1.0});
  }
}

}  // namespace

std::string WithoutThoughts(const std::string& text) {
  const std::string open = "<|channel>", close = "<channel|>";
  const size_t end = text.rfind(close);
  const std::string rest = end == std::string::npos ? text : text.substr(end + close.size());
  return rest.find(open) == std::string::npos ? std::string(PythonStrip(rest)) : std::string();
}

EvalResults RunTask(Bundle& bundle, const EvalTask& task, const std::vector<std::string>& data,
                    const RunTaskOptions& options) {
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
  std::vector<std::vector<int>> passed;  // by record and scorer
  const int64_t total =
      options.max_records > 0 ? std::min(options.max_records, rows.size()) : rows.size();
  for (int64_t i = 0; i < total; ++i) {
    if (options.on_record) options.on_record(i, total);
    RecordPlace place;
    const Json row = rows.Read(i * rows.size() / total, &place);
    const TaskItem item = MakeTaskItem(task, row, solved, place, options.seed);
    passed.emplace_back();
    results.answers.push_back(runner.Answer(item, row, &passed.back()));
  }
  if (options.on_record) options.on_record(total, total);
  if (runner.samples() > 1) AddPassed(passed, runner.samples(), &results);
  results.seconds = runner.seconds();
  return results;
}

void FinishTask(const RunTaskOptions& options) { Journal::Remove(options.journal); }

}  // namespace lapidary
