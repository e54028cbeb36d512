// Training, from a configuration to a folder with the result. Read Train in trainer.cc from top to
// bottom: it is the loop.
#ifndef LAPIDARY_TRAIN_TRAINER_H_
#define LAPIDARY_TRAIN_TRAINER_H_

#include <csignal>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "train/config.h"

namespace lapidary {

struct TrainHooks {
  std::FILE* progress = nullptr;  // where the bar and warnings go; null: silent
  // Becomes nonzero (from a signal handler, say) when the run should finish its step, save a
  // checkpoint and return. May be null.
  const volatile std::sig_atomic_t* stop = nullptr;
  // Called after every step with its number, from 1, and its loss. May be empty.
  std::function<void(int64_t step, double loss)> on_step;
};

struct TrainSummary {
  int64_t steps = 0;        // done, those before a resume included
  int64_t total_steps = 0;  // that the run has
  bool interrupted = false;
  double seconds = 0;                     // of this process
  int64_t tokens = 0;                     // seen by the run
  int64_t trainable = 0;                  // parameters
  int64_t parameters = 0;                 // in all, adapters included
  nlohmann::ordered_json log;             // log_history: steps, evaluations, answers
  std::string checkpoint;                 // the last one written
  int64_t result_step = -1;               // the checkpoint that became the result
  std::vector<std::string> result_files;  // at the top of output_dir
  std::vector<std::string> warnings;
  nlohmann::ordered_json data;  // what this process trained on (train/data_tally.h)
};

// Runs `config`. Throws Error with one line for anything the user can mend; checkpoints written
// before stay as they are.
TrainSummary Train(const TrainConfig& config, const TrainHooks& hooks);

}  // namespace lapidary

#endif  // LAPIDARY_TRAIN_TRAINER_H_
