// Which layers a block-coordinate run trains when: BAdam, Luo, Yu and Li 2024, arXiv:2404.02827.
// The decoder's layers are cut into blocks; one block at a time is trained, with optimizer states
// of its own that begin anew, then the next. A cycle visits every block once.
#ifndef LAPIDARY_TRAIN_BLOCK_SCHEDULE_H_
#define LAPIDARY_TRAIN_BLOCK_SCHEDULE_H_

#include <cstdint>
#include <string>
#include <vector>

namespace lapidary {

struct BlockCoordinateConfig {
  int64_t layers_per_block = 1;
  int64_t switch_every = 50;     // optimizer steps that a block is trained in a cycle
  std::string order = "random";  // or "ascending", "descending"; random: anew in every cycle

  bool operator==(const BlockCoordinateConfig&) const = default;
};

// A function of the step alone: nothing of it needs saving.
class BlockSchedule {
 public:
  // Throws Error if there is no layer, or a block would have more layers than there are.
  BlockSchedule(const BlockCoordinateConfig& config, int64_t layers, uint64_t seed);

  int64_t blocks() const {
    return (layers_ + config_.layers_per_block - 1) / config_.layers_per_block;
  }
  // The block that the step after `step` steps trains.
  int64_t BlockAt(int64_t step) const;
  // Whether a block was trained in the first `steps` steps.
  std::vector<bool> Visited(int64_t steps) const;
  // The layers of a block, ascending; the last block may have fewer.
  std::vector<int64_t> Layers(int64_t block) const;

 private:
  BlockCoordinateConfig config_;
  int64_t layers_;
  uint64_t seed_;
};

}  // namespace lapidary

#endif  // LAPIDARY_TRAIN_BLOCK_SCHEDULE_H_
