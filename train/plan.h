// What a run will need, known before it starts: memory part by part, and what layers keep for the
// backward pass so that it fits. The figures are not a second book-keeping: the step itself runs as
// a dry run (autograd/base/dry_run.h) on the shapes of the base, once for each policy tried.
#ifndef LAPIDARY_TRAIN_PLAN_H_
#define LAPIDARY_TRAIN_PLAN_H_

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "model/activation_policy.h"
#include "train/config.h"
#include "train/media_survey.h"

namespace lapidary {

// Bytes of the parts of a run at its peak. Parts that are not there at the same moment are not
// added.
struct MemoryParts {
  int64_t base = 0;          // mapped matrices (all of them count as resident, unless streamed)
  int64_t tables = 0;        // norms and tables of embedders, as float32
  int64_t adapter = 0;       // values of the trainable parameters (of the largest block)
  int64_t gradients = 0;     // of them
  int64_t scales = 0;        // of fake quantization, where they are kept or learned
  int64_t teacher = 0;       // the base once more, of a distillation while the weights move
  int64_t optimizer = 0;     // moments
  int64_t layer_inputs = 0;  // what layers keep in memory
  int64_t activations = 0;   // all else that a step holds at its peak
  int64_t media = 0;         // rows of pictures and sounds of a step's micro-batches
  int64_t evaluation = 0;    // by which evaluation and its answers take more than a step
  int64_t workspace = 0;     // buffers of matrix products
  int64_t program = 0;       // code, libraries, tokenizer
  int64_t data = 0;          // samples built ahead, media while they are decoded
  int64_t total = 0;
};

struct MemoryPlan {
  MemoryParts parts;
  int64_t tokens = 0;           // of a micro-batch, the most that the configuration allows
  int64_t tokens_per_step = 0;  // with accumulation
  int64_t disk = 0;             // bytes of layers' inputs on disk
  int64_t blocks = 0;         // bytes of blocks that were left, on disk, of a block-coordinate run
  int64_t arena = 0;          // tables to activations: what SetArenaBudget should be told
  int64_t limit = 0;          // the most that the run may have
  std::string limit_from;     // "memory_limit", "MemAvailable", ...
  ActivationPolicy policy;    // its file not opened
  bool checkpointing = true;  // false: gradient_checkpointing is off
  MediaSurvey media;          // what the data have of pictures and sounds
};

// "9GB", "9.5 GB", "800MB" (decimal), "8GiB", "500MiB", a plain number of bytes. Throws Error
// naming `where`.
int64_t ParseBytes(const std::string& text, const std::string& where);

// Reads headers and small tensors of the base, and headers of the media in the data. Chooses the
// fastest policy that fits memory_limit, or else what is available. Throws Error if none does,
// naming the least limit that would and what to change.
MemoryPlan PlanMemory(const TrainConfig& config);

// "keep 4 layers whole, 44 inputs in bf16 (20 on disk), ..."
std::string PolicyText(const MemoryPlan& plan, const TrainConfig& config);
// One line for the start of a run, and the whole as a table or JSON.
std::string PlanLine(const MemoryPlan& plan, const TrainConfig& config);
std::string PlanText(const MemoryPlan& plan, const TrainConfig& config);
nlohmann::ordered_json PlanJson(const MemoryPlan& plan, const TrainConfig& config);

// What a step will take, from a measurement of this machine's matrix products on the shapes and
// formats of the base (about two seconds).
struct SpeedEstimate {
  double seconds_per_step = 0;
  double tokens_per_second = 0;
  double gflop_per_token = 0;  // as counted in the step, recomputation included
  double gflops = 0;           // measured, mean over the products of a step
};
SpeedEstimate EstimateSpeed(const TrainConfig& config, const MemoryPlan& plan);

}  // namespace lapidary

#endif  // LAPIDARY_TRAIN_PLAN_H_
