// The layers of a block-coordinate run (block_schedule.h): one block as trainable float32
// parameters, the others frozen. A block that is left is rounded to save_dtype, as a checkpoint
// rounds it, and waits in a file of its own, mapped:
//   OUT/tmp-blocks/block-K-V.safetensors   the values that block K had when its visit ended
// The files are the run's working memory: a checkpoint is whole without them, they go with the
// object, and what a killed process leaves is cleared at the next start.
#ifndef LAPIDARY_TRAIN_LAYER_BLOCKS_H_
#define LAPIDARY_TRAIN_LAYER_BLOCKS_H_

#include <cstdint>
#include <optional>
#include <string>

#include "model/transformer.h"
#include "train/block_schedule.h"
#include "train/config.h"
#include "train/output_folder.h"

namespace lapidary {

class LayerBlocks {
 public:
  // `model` as the base has it, in a run that begins or goes on at a checkpoint: then blocks that
  // were left are mapped from the checkpoint's model, and the block is the one that it trained.
  // Makes a block trainable. Throws Error for patterns of `freeze` and `param_groups` that fit no
  // layer.
  LayerBlocks(const TrainConfig& config, Transformer* model,
              const std::optional<Checkpoint>& resume);
  ~LayerBlocks();
  LayerBlocks(const LayerBlocks&) = delete;
  LayerBlocks& operator=(const LayerBlocks&) = delete;

  const BlockSchedule& schedule() const { return schedule_; }
  int64_t block() const { return block_; }
  // Whether the step after `step` steps trains another block.
  bool Due(int64_t step) const { return schedule_.BlockAt(step) != block_; }
  // Leaves the block and makes that of the step trainable: what refers to parameters of the old one
  // (optimizer, lists of Param*) must be gone. Throws Error if the file cannot be written; the old
  // block is then as it was.
  void Enter(int64_t step);

 private:
  void Leave();
  void Restore(const std::string& checkpoint, int64_t step);

  const TrainConfig& config_;
  Transformer& model_;
  const BlockSchedule schedule_;
  const std::string folder_;
  int64_t block_ = -1;
  int64_t files_ = 0;                 // written
  std::vector<std::string> file_of_;  // of each block; "": none
};

}  // namespace lapidary

#endif  // LAPIDARY_TRAIN_LAYER_BLOCKS_H_
