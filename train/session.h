// What a configuration names, opened: model with its adapter, data, optimizer state of an earlier
// run. The parts that trainer.cc's loop works with.
#ifndef LAPIDARY_TRAIN_SESSION_H_
#define LAPIDARY_TRAIN_SESSION_H_

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "data/loader.h"
#include "train/answers.h"
#include "train/bundle.h"
#include "train/config.h"
#include "train/ema.h"
#include "train/evaluate.h"
#include "train/layer_blocks.h"
#include "train/output_folder.h"
#include "train/plan.h"
#include "train/preference.h"
#include "train/resume.h"
#include "train/step.h"

namespace lapidary {

// Rows of samples built ahead by a loader; beyond that building waits.
inline constexpr int64_t kPrefetchBytes = int64_t{64} << 20;

// Tokens that an answer in a report may be longer than the expected one.
inline constexpr int64_t kAnswerTokens = 24;

Compute ComputeOf(const std::string& word);      // "float32", "bfloat16"
ImageMask ImageMaskOf(const std::string& word);  // "sliding_only", "hf_forward"
OnError OnErrorOf(const std::string& word);      // "stop", "skip"

// How the configuration wants records made into samples.
SampleOptions MakeSampleOptions(const TrainConfig& config, const MediaConfig& media);

// Whether dataset.train is one prepared file (data/prepared.h).
bool TrainsOnPrepared(const TrainConfig& config);
// The data sets that a configuration names: to train on (null for a prepared file), and held out
// (null if it names none).
std::pair<std::shared_ptr<const Dataset>, std::shared_ptr<const Dataset>> OpenDatasets(
    const TrainConfig& config);

// Groups micro-batches into optimizer steps. A step never mixes epochs: the last one of an epoch
// may be short, and is a step all the same.
class StepSource {
 public:
  StepSource(Loader& loader, int64_t accumulation);
  // The micro-batches of the next step; empty after the last epoch.
  std::vector<Batch> Next();
  // Where the loader must stand to go on after the last step given out.
  nlohmann::ordered_json Cursor() const { return cursor_; }

 private:
  Loader& loader_;
  const int64_t accumulation_;
  std::optional<Batch> next_;  // read ahead, to see where an epoch ends
  nlohmann::ordered_json cursor_;
};

// Everything a run holds. Members in the order in which they depend on each other.
struct Session {
  Session(const TrainConfig& config, const MemoryPlan& plan, const OutputFolder& output,
          const ProblemCallback& report);

  const TrainConfig& config;
  const MemoryPlan& plan;
  Bundle bundle;
  std::optional<AdapterConfig> adapter;       // none: full fine-tuning
  std::optional<QatRecord> qat;               // fake quantization, if any
  std::unique_ptr<LayerBlocks> blocks;        // of a block-coordinate run
  std::vector<Param*> params;                 // trainable
  std::shared_ptr<const Dataset> train_data;  // null where dataset.train is a prepared file
  std::shared_ptr<const Dataset> eval_data;   // null without dataset.eval
  std::optional<Bundle> teacher_base;         // frozen, where weights of the model itself move
  std::unique_ptr<DistillTeacher> teacher;    // of a distillation
  std::unique_ptr<SampleBuilder> builder;
  std::unique_ptr<Optimizer> optimizer;
  std::unique_ptr<Ema> ema;  // null without ema_decay
  RunState state;
  std::unique_ptr<Loader> loader;
  std::unique_ptr<StepSource> source;
  int64_t steps_per_epoch = 0;
  int64_t room = 0;  // tokens that a packed micro-batch may have; 0 without packing
  ScheduleOptions schedule;
  ActivationPolicy activations;
  StepOptions step_options;
  std::vector<std::string> warnings;

  int64_t total_steps() const { return schedule.total_steps; }
  int64_t CountParameters() const;
  // "data: a.jsonl (messages, 120 records), ...; held out b.jsonl (messages, 10 records)".
  std::string DataLine() const;
  // What the step after `step` steps wants: its block of layers, with an optimizer of its own; fake
  // quantization on or off, scales measured.
  void PrepareStep(int64_t step);
  // As an evaluation wants it; `final`: no step follows.
  void PrepareEvaluation(bool final);
  // One pass over the held-out data.
  EvalResult RunEvaluation(const std::function<void(int64_t)>& on_batch);
  // Preference training: the held-out pairs' figures, with "preference_loss", means over pairs.
  std::map<std::string, double> RunPairEvaluation();
  // Answers to config.report_samples held-out records.
  AnswerResult RunAnswers();

 private:
  void OpenModel(const OutputFolder& output);
  void OpenReference();
  void OpenData(const ProblemCallback& report);
  void PlanSteps();

  bool scales_measured_ = false;
};

}  // namespace lapidary

#endif  // LAPIDARY_TRAIN_SESSION_H_
