#include "train/trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <utility>

#include "autograd/arena.h"
#include "autograd/base/file.h"
#include "train/data_tally.h"
#include "train/plan.h"
#include "train/progress.h"
#include "train/report.h"
#include "train/run_log.h"
#include "train/session.h"
#include "train/tensorboard.h"

namespace lapidary {
namespace {

using Clock = std::chrono::steady_clock;
using Json = nlohmann::ordered_json;

double Since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

bool Due(int64_t every, int64_t step) { return every > 0 && step % every == 0; }

std::string Fixed(double value, int digits) {
  char text[64];
  std::snprintf(text, sizeof(text), "%.*f", digits, value);
  return text;
}

// Adds a step to the sums that the next log line reports. They are part of a checkpoint, so that a
// resumed run writes the same lines.
void Account(const StepResult& result, double seconds, double waited, int64_t room, Json* pending) {
  const auto add = [&](const char* key, auto value) {
    (*pending)[key] = pending->value(key, decltype(value){}) + value;
  };
  add("steps", int64_t{1});
  add("loss", result.loss);
  add("divergence", result.divergence);
  add("target_tokens", result.target_tokens);
  add("tokens", result.tokens);
  add("correct", result.correct);
  add("seconds", seconds);
  add("data_wait_s", waited);
  add("room", room);
  for (const auto& [name, value] : result.figures) {
    Json& figures = (*pending)["figures"];
    if (figures.is_null()) figures = Json::object();
    figures[name] = figures.value(name, 0.0) + value;
    Json& counts = (*pending)["figure_steps"];  // a step may lack one
    if (counts.is_null()) counts = Json::object();
    counts[name] = counts.value(name, int64_t{0}) + 1;
  }
}

// The line of metrics.jsonl for the steps since the last one: the mean of their losses; gradient
// norm and learning rate of the last step.
Json LogLine(const RunState& state, const StepResult& last, double learning_rate) {
  const Json& p = state.pending;
  const double steps = static_cast<double>(p.at("steps").get<int64_t>());
  const double targets = p.at("target_tokens").get<double>();
  const double tokens = static_cast<double>(p.at("tokens").get<int64_t>());
  const double seconds = p.at("seconds").get<double>();
  Json line = {
      {"step", state.step},
      {"epoch", state.epoch},
      {"loss", p.at("loss").get<double>() / steps},
      {"learning_rate", learning_rate},
      {"grad_norm", last.grad_norm},
      {"mean_token_accuracy", static_cast<double>(p.at("correct").get<int64_t>()) / targets},
      {"num_tokens", state.tokens_seen},
      {"target_tokens", targets},
      {"seconds", seconds},
      {"tokens_per_s", seconds > 0 ? tokens / seconds : 0.0},
      {"data_wait_s", p.value("data_wait_s", 0.0)},
      {"peak_memory_bytes", PeakMemoryBytes()},
      {"arena_high_water_bytes", GetArenaStats().high_water_bytes},
  };
  if (const double sum = p.value("divergence", 0.0); sum != 0) line["teacher_kl"] = sum / steps;
  // Share of the packed runs' tokens that are taken.
  if (const auto room = static_cast<double>(p.value("room", int64_t{0})); room > 0) {
    line["packing_utilization"] = tokens / room;
  }
  if (p.contains("figures")) {
    const Json counts = p.value("figure_steps", Json::object());
    for (const auto& [name, sum] : p.at("figures").items()) {
      line[name] = sum.get<double>() / counts.value(name, steps);
    }
  }
  return line;
}

// Steps of the recent mean before a spike can be told.
constexpr int64_t kSettled = 10;
constexpr double kRecent = 0.9;

// By how much overfit_one_batch must lower the loss.
constexpr double kOverfit = 0.5;

Json EvalLine(const RunState& state, const EvalResult& result) {
  Json line = {{"step", state.step}, {"epoch", state.epoch}};
  const Json values = EvalJson(result);
  for (const auto& [key, value] : values.items()) {
    line["eval_" + key] = value;
  }
  return line;
}

// The run while it goes: the session, its folder, log and bar.
class Run {
 public:
  Run(const TrainConfig& config, const TrainHooks& hooks)
      : config_(config),
        hooks_(hooks),
        plan_(PlanMemory(config)),
        output_(config),
        session_(config, plan_, output_, [this](const Problem& p) { Warn(p.message); }),
        log_(config.output_dir + "/metrics.jsonl", output_.resume() ? session_.state.step : -1),
        bar_(hooks.progress, "train", session_.total_steps()) {
    WriteFile(config.output_dir + "/training_config.json", TrainConfigText(config));
    first_step_ = session_.state.step;
    bar_.StartAt(first_step_);
    const auto& to = config.report_to;
    if (std::any_of(to.begin(), to.end(), [](const std::string& w) { return w != "none"; })) {
      const int64_t before = output_.resume() ? session_.state.step : 0;
      events_.emplace(EventFolder(config.logging_dir, config.output_dir, before > 0), before);
    }
    opened_ = true;
    bar_.Say(PlanLine(plan_, config));
    bar_.Say(session_.DataLine());
    std::vector<std::string> early = std::move(warnings_);
    warnings_.clear();
    early.insert(early.begin(), session_.warnings.begin(), session_.warnings.end());
    for (const std::string& warning : early) Warn(warning);
  }

  TrainSummary Go() {
    RunState& state = session_.state;
    if (state.step == 0) Evaluate("before training");
    int64_t saved = output_.resume() ? output_.resume()->step : -1;
    bool more = true;
    std::vector<Batch> first;  // what the check before the run has taken from the source
    if (state.step == 0 && config_.overfit_one_batch > 0) {
      first = session_.source->Next();
      OverfitOneBatch(first);
    }
    while (state.step < session_.total_steps() && !Stopped() && !Ended()) {
      const double waited_before = session_.loader->wait_seconds();
      std::vector<Batch> batches =
          first.empty() ? session_.source->Next() : std::exchange(first, {});
      const double waited = session_.loader->wait_seconds() - waited_before;
      more = !batches.empty();
      if (!more) break;
      tally_.Add(batches);
      const double learning_rate = LearningRate(session_.schedule, state.step);
      const Clock::time_point start = Clock::now();
      session_.step_options.forward.step = static_cast<uint64_t>(state.step);
      session_.PrepareStep(state.step);
      ResetHighWater();
      const int64_t micro_batches = static_cast<int64_t>(batches.size());
      const StepResult result = Step(&batches, learning_rate, &saved);
      ++state.step;
      state.epoch = static_cast<double>(state.step) / static_cast<double>(session_.steps_per_epoch);
      state.tokens_seen += result.tokens;
      state.cursor = session_.source->Cursor();
      const double seconds = Since(start);
      const int64_t room = config_.packing ? micro_batches * session_.room : 0;
      Account(result, seconds, waited, room, &state.pending);
      Show(result, seconds, waited);
      if (hooks_.on_step) hooks_.on_step(state.step, result.loss);
      const bool last = state.step == session_.total_steps();
      if (Due(config_.logging_steps, state.step) || last) {
        Json line = LogLine(state, result, learning_rate);
        if (session_.blocks) line["block"] = session_.blocks->block();
        Log(line);
        state.pending = Json::object();
      }
      bool best = false;
      if (Due(config_.eval_steps, state.step) && !last) {
        best = Evaluate(StrCat("step ", state.step)) && config_.load_best_model_at_end;
      }
      if ((best || Due(config_.save_steps, state.step)) && !last) saved = Save();
    }
    bar_.Finish();
    const std::string reason = state.step < session_.total_steps() ? EndReason() : "";
    if (!reason.empty()) Warn(reason);
    const bool finished = state.step >= session_.total_steps() || !more || !reason.empty();
    if (finished && saved != state.step) Evaluate("after training");
    if (saved != state.step && state.step > 0) saved = Save();
    return Finish(finished, saved);
  }

 private:
  // Why the run is over before its last step; "" if it is not.
  std::string EndReason() const {
    const RunState& state = session_.state;
    if (config_.early_stopping_patience > 0 &&
        state.evaluations_since_best >= config_.early_stopping_patience) {
      return StrCat("early stopping: no better ", config_.metric_for_best_model, " in ",
                    state.evaluations_since_best, " evaluations; the best was at step ",
                    state.best_step);
    }
    if (config_.max_time > 0 && state.step > first_step_ &&
        Since(start_) >= 60 * config_.max_time) {
      return StrCat("max_time: ", config_.max_time, " minutes are over at step ", state.step);
    }
    if (config_.max_tokens > 0 && state.tokens_seen >= config_.max_tokens) {
      return StrCat("max_tokens: ", CountText(state.tokens_seen), " tokens at step ", state.step);
    }
    return "";
  }
  bool Ended() const { return !EndReason().empty(); }

  // One step, and what goes with it. A step that is refused leaves a checkpoint of the state before
  // it, so that nothing is lost.
  StepResult Step(std::vector<Batch>* batches, double learning_rate, int64_t* saved) {
    RunState& state = session_.state;
    StepOptions options = session_.step_options;
    if (config_.loss_spike_factor > 0 && state.step >= kSettled) {
      options.loss_limit = config_.loss_spike_factor * state.recent_loss;
    }
    StepResult result;
    try {
      result = OptimizerStep(session_.bundle.model, *session_.optimizer, MicroBatches(batches),
                             learning_rate, options);
    } catch (const Error&) {
      try {
        if (state.step > 0 && *saved != state.step) *saved = Save();
      } catch (const Error& second) {
        Warn(second.what());
      }
      throw;
    }
    if (session_.ema) session_.ema->Update();
    state.recent_loss =
        state.step == 0 ? result.loss : kRecent * state.recent_loss + (1 - kRecent) * result.loss;
    return result;
  }

  // Trains on one step's batches alone, looks whether that works, and goes back.
  void OverfitOneBatch(const std::vector<Batch>& batches) {
    const std::vector<Param*>& params = session_.params;
    std::vector<Tensor> values;
    for (const Param* param : params) {
      values.push_back(Tensor::FromFloats(param->value.shape(), param->value.data()));
    }
    session_.PrepareStep(0);
    double before = 0, after = 0;
    for (int64_t i = 0; i <= config_.overfit_one_batch; ++i) {
      std::vector<Batch> copy = batches;
      after = OptimizerStep(session_.bundle.model, *session_.optimizer, MicroBatches(&copy),
                            config_.learning_rate, session_.step_options)
                  .loss;
      if (i == 0) before = after;
    }
    for (size_t i = 0; i < params.size(); ++i) {
      std::copy_n(values[i].data(), values[i].size(), params[i]->value.data());
    }
    session_.optimizer->Reset();
    LAPIDARY_CHECK(
        after <= kOverfit * before, "overfit_one_batch: ", config_.overfit_one_batch,
        " steps on the first batch must halve its loss; got ", Fixed(before, 4), " -> ",
        Fixed(after, 4),
        "; try more steps, another learning_rate, or `lapidary data inspect` to see what "
        "is trained");
    bar_.Say(StrCat("overfit_one_batch: loss ", Fixed(before, 4), " -> ", Fixed(after, 4), " in ",
                    config_.overfit_one_batch, " steps"));
  }

  bool Stopped() const { return hooks_.stop && *hooks_.stop != 0; }

  // The loader warns while the session opens, before there is a bar.
  void Warn(const std::string& text) {
    warnings_.push_back(text);
    if (opened_) bar_.Say("warning: " + text);
  }

  // Empties the batches, so that rows of media are there once.
  static std::vector<MicroBatch> MicroBatches(std::vector<Batch>* batches) {
    std::vector<MicroBatch> micro;
    for (Batch& batch : *batches) micro.push_back(MakeMicroBatch(std::exchange(batch, {})));
    return micro;
  }

  void Show(const StepResult& result, double seconds, double waited) {
    bar_.Update(session_.state.step,
                StrCat("loss ", Fixed(result.loss, 4), " | ",
                       CountText(std::llround(static_cast<double>(result.tokens) / seconds)),
                       " tok/s | data wait ", Fixed(waited, 2), " s | ",
                       BytesText(static_cast<double>(PeakMemoryBytes()))));
  }

  void Log(const Json& line) {
    session_.state.log.push_back(line);
    log_.Add(line);
    if (events_) events_->Add(line);
  }

  // Remembers the metric if it is the best; false if not. `counts`: towards early stopping.
  bool IsBest(const Json& line, bool counts) {
    const std::string& name = config_.metric_for_best_model;
    const std::string key = name.starts_with("eval_") ? name : "eval_" + name;
    LAPIDARY_CHECK(line.contains(key) && line.at(key).is_number(),
                   "metric_for_best_model: must be a figure of the evaluation; got '", name,
                   "'; try loss, perplexity or token_accuracy");
    const double metric = line.at(key).get<double>();
    RunState& state = session_.state;
    const double sign = config_.GreaterIsBetter() ? 1 : -1;
    // As Transformers: the best by any margin, patience by the threshold.
    const double gain = state.best_metric ? sign * (metric - *state.best_metric) : INFINITY;
    if (counts) {
      state.evaluations_since_best =
          gain > config_.early_stopping_threshold ? 0 : state.evaluations_since_best + 1;
    }
    if (gain <= 0) return false;
    state.best_metric = metric;
    state.best_step = state.step;
    return true;
  }

  // Returns whether it is the best evaluation of a trained model.
  bool Evaluate(const std::string& when) {
    if (!session_.eval_data) return false;
    const EmaInPlace averaged(session_.ema.get());
    Progress bar(hooks_.progress, "eval, " + when, session_.eval_data->size());
    session_.PrepareEvaluation(when == "after training");
    const EvalResult result =
        session_.RunEvaluation([&](int64_t records) { bar.Update(records, ""); });
    bar.Finish();
    Json line = EvalLine(session_.state, result);
    if (config_.loss) {
      for (const auto& [name, value] : session_.RunPairEvaluation()) line["eval_" + name] = value;
    }
    if (config_.report_samples > 0 && (session_.state.step == 0 || when == "after training")) {
      line["eval_answers"] = AnswersJson(session_.RunAnswers(), /*with_answers=*/true);
    }
    Log(line);
    return session_.state.step > 0 && IsBest(line, when != "after training");
  }

  int64_t Save() {
    RunState& state = session_.state;
    if (session_.blocks) state.block = session_.blocks->block();
    TrimArena();  // what steps use and a checkpoint does not
    output_.AddCheckpoint(
        state.step,
        [&](const std::string& folder) {
          WriteCheckpoint(folder, session_.bundle.model,
                          session_.adapter ? &*session_.adapter : nullptr, *session_.optimizer,
                          config_, state, session_.qat ? &*session_.qat : nullptr,
                          session_.ema.get());
        },
        config_.save_total_limit, config_.load_best_model_at_end ? state.best_step : -1);
    return state.step;
  }

  TrainSummary Finish(bool finished, int64_t saved) {
    TrainSummary summary;
    summary.steps = session_.state.step;
    summary.total_steps = session_.total_steps();
    summary.interrupted = !finished;
    summary.seconds = Since(start_);
    summary.tokens = session_.state.tokens_seen;
    for (const Param* param : session_.params) summary.trainable += param->value.size();
    summary.parameters = session_.CountParameters();
    summary.log = session_.state.log;
    summary.checkpoint =
        saved >= 0 ? StrCat(config_.output_dir, "/checkpoint-", saved) : std::string();
    summary.warnings = warnings_;
    summary.data = tally_.ToJson();
    const int64_t best = session_.state.best_step;
    const bool use_best = config_.load_best_model_at_end && best >= 0 &&
                          std::filesystem::exists(StrCat(config_.output_dir, "/checkpoint-", best));
    if (finished && saved >= 0) {
      summary.result_step = use_best ? best : saved;
      summary.result_files = output_.PublishFinal(summary.result_step);
    }
    WriteReport(config_.output_dir + "/report.html", config_, summary);
    return summary;
  }

  const TrainConfig& config_;
  const TrainHooks& hooks_;
  const Clock::time_point start_ = Clock::now();
  int64_t first_step_ = 0;  // done before this process
  bool opened_ = false;
  std::vector<std::string> warnings_;
  const MemoryPlan plan_;
  OutputFolder output_;
  Session session_;
  RunLog log_;
  std::optional<EventWriter> events_;  // report_to
  DataTally tally_;
  Progress bar_;
};

}  // namespace

TrainSummary Train(const TrainConfig& config, const TrainHooks& hooks) {
  return Run(config, hooks).Go();
}

}  // namespace lapidary
