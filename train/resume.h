// What a run needs to go on as if it had never stopped: parameters, optimizer state, data cursor,
// step, log. Bit-exact: a resumed run ends with the same parameters as one that was never stopped.
#ifndef LAPIDARY_TRAIN_RESUME_H_
#define LAPIDARY_TRAIN_RESUME_H_

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "model/qat.h"
#include "model/transformer.h"
#include "quant/adapter.h"
#include "train/config.h"
#include "train/ema.h"
#include "train/optim/optimizer.h"

namespace lapidary {

// Progress of a run besides its parameters; trainer_state.json has it in the shape of Hugging
// Face's Trainer.
struct RunState {
  int64_t step = 0;
  double epoch = 0;
  int64_t max_steps = 0;
  int64_t tokens_seen = 0;
  bool scales = false;  // read: the scales of fake quantization were in the checkpoint
  std::optional<double> best_metric;  // of metric_for_best_model
  int64_t best_step = -1;             // where it was measured
  int64_t evaluations_since_best = 0;
  int64_t block = -1;             // that is trained, of a block-coordinate run
  double recent_loss = 0;         // mean of the last steps' losses, decaying by a tenth a step
  nlohmann::ordered_json cursor;  // of the loader
  nlohmann::ordered_json log = nlohmann::ordered_json::array();  // log_history
  nlohmann::ordered_json pending =
      nlohmann::ordered_json::object();  // sums since the last log line
};

// Fills `folder` with a checkpoint: the adapter (PEFT), or the model (full fine-tuning, `adapter`
// null); trainer_state.h5 with the data cursor and, by parameter name, `.step` and the optimizer's
// states by their names (`.exp_avg`; of 8-bit ones also `.exp_avg.absmax`), and for the full model
// `.master`, its float32 values, and `.qat_scales` of fake quantization (ForEachSavedScales);
// training_config.json; with `qat` its record and kept scales; trainer_state.json last. With `ema`
// the adapter or model holds the averages, and trainer_state.h5 the parameters (`.master`) and
// averages (`.ema`). Throws Error if something cannot be written.
void WriteCheckpoint(const std::string& folder, Transformer& model, const AdapterConfig* adapter,
                     const Optimizer& optimizer, const TrainConfig& config, const RunState& state,
                     const QatRecord* qat = nullptr, Ema* ema = nullptr);

// Reads what WriteCheckpoint wrote besides the parameters of an adapter, which LoadAdapter reads:
// fills the optimizer (and master values, averages) and, with `qat`, the model's kept scales where
// the checkpoint has all of them; returns the state. Throws Error if the checkpoint's parameters
// are not the optimizer's.
RunState ReadCheckpoint(const std::string& folder, Optimizer& optimizer, Ema* ema = nullptr,
                        Transformer* model = nullptr, const QatRecord* qat = nullptr);

// The block that a checkpoint of a block-coordinate run trains; -1: of no such run.
int64_t CheckpointBlock(const std::string& folder);

// Compares the configuration of a checkpoint with the one to go on with. Throws Error naming a key
// that would make it another run (data order, adapter, precision); returns a warning for each key
// that may differ but changes results (learning rate, lengths). The rest may differ freely.
std::vector<std::string> CheckResumable(const std::string& folder, const TrainConfig& config);

}  // namespace lapidary

#endif  // LAPIDARY_TRAIN_RESUME_H_
