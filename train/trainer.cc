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
  return line;
}

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
    bar_.StartAt(session_.state.step);
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
    while (state.step < session_.total_steps() && !Stopped()) {
      const double waited_before = session_.loader->wait_seconds();
      std::vector<Batch> batches = session_.source->Next();
      const double waited = session_.loader->wait_seconds() - waited_before;
      more = !batches.empty();
      if (!more) break;
      tally_.Add(batches);
      const double learning_rate = LearningRate(session_.schedule, state.step);
      const Clock::time_point start = Clock::now();
      session_.step_options.forward.step = static_cast<uint64_t>(state.step);
      session_.PrepareStep(state.step);
      ResetHighWater();
      const StepResult result =
          OptimizerStep(session_.bundle.model, *session_.optimizer, MicroBatches(&batches),
                        learning_rate, session_.step_options);
      ++state.step;
      state.epoch = static_cast<double>(state.step) / static_cast<double>(session_.steps_per_epoch);
      state.tokens_seen += result.tokens;
      state.cursor = session_.source->Cursor();
      const double seconds = Since(start);
      const int64_t room =
          config_.packing ? static_cast<int64_t>(batches.size()) * session_.room : 0;
      Account(result, seconds, waited, room, &state.pending);
      Show(result, seconds, waited);
      if (hooks_.on_step) hooks_.on_step(state.step, result.loss);
      const bool last = state.step == session_.total_steps();
      if (Due(config_.logging_steps, state.step) || last) {
        Log(LogLine(state, result, learning_rate));
        state.pending = Json::object();
      }
      if (Due(config_.eval_steps, state.step) && !last) Evaluate(StrCat("step ", state.step));
      if (Due(config_.save_steps, state.step) && !last) saved = Save();
    }
    bar_.Finish();
    const bool finished = state.step >= session_.total_steps() || !more;
    if (finished && saved != state.step) Evaluate("after training");
    if (saved != state.step && state.step > 0) saved = Save();
    return Finish(finished, saved);
  }

 private:
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

  void Evaluate(const std::string& when) {
    if (!session_.eval_data) return;
    Progress bar(hooks_.progress, "eval, " + when, session_.eval_data->size());
    session_.PrepareEvaluation(when == "after training");
    const EvalResult result =
        session_.RunEvaluation([&](int64_t records) { bar.Update(records, ""); });
    bar.Finish();
    Json line = EvalLine(session_.state, result);
    if (config_.report_samples > 0 && (session_.state.step == 0 || when == "after training")) {
      line["eval_answers"] = AnswersJson(session_.RunAnswers(), /*with_answers=*/true);
    }
    Log(line);
  }

  int64_t Save() {
    const RunState& state = session_.state;
    TrimArena();  // what steps use and a checkpoint does not
    output_.AddCheckpoint(
        state.step,
        [&](const std::string& folder) {
          WriteCheckpoint(folder, session_.bundle.model,
                          session_.adapter ? &*session_.adapter : nullptr, *session_.optimizer,
                          config_, state, session_.qat ? &*session_.qat : nullptr);
        },
        config_.save_total_limit);
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
    if (finished && saved >= 0) summary.result_files = output_.PublishFinal(saved);
    WriteReport(config_.output_dir + "/report.html", config_, summary);
    return summary;
  }

  const TrainConfig& config_;
  const TrainHooks& hooks_;
  const Clock::time_point start_ = Clock::now();
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
