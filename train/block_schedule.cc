#include "train/block_schedule.h"

#include <algorithm>

#include "autograd/base/error.h"
#include "autograd/base/random.h"
#include "data/loader.h"

namespace lapidary {

BlockSchedule::BlockSchedule(const BlockCoordinateConfig& config, int64_t layers, uint64_t seed)
    : config_(config), layers_(layers), seed_(seed ^ HashName(std::string("block_coordinate"))) {
  LAPIDARY_CHECK(config.layers_per_block >= 1 && config.layers_per_block <= layers,
                 "block_coordinate.layers_per_block: must be from 1 to the ", layers,
                 " layers of the model; got ", config.layers_per_block);
}

int64_t BlockSchedule::BlockAt(int64_t step) const {
  const int64_t visit = step / config_.switch_every, place = visit % blocks();
  if (config_.order == "ascending") return place;
  if (config_.order == "descending") return blocks() - 1 - place;
  const std::vector<int64_t> order =
      Loader::Order(blocks(), seed_, visit / blocks(), /*shuffle=*/true);
  return order[static_cast<size_t>(place)];
}

std::vector<bool> BlockSchedule::Visited(int64_t steps) const {
  std::vector<bool> visited(static_cast<size_t>(blocks()), false);
  // A cycle has all of them.
  const int64_t end = std::min(steps, config_.switch_every * blocks());
  for (int64_t step = 0; step < end; step += config_.switch_every) {
    visited[static_cast<size_t>(BlockAt(step))] = true;
  }
  return visited;
}

std::vector<int64_t> BlockSchedule::Layers(int64_t block) const {
  std::vector<int64_t> layers;
  const int64_t first = block * config_.layers_per_block;
  for (int64_t i = first; i < std::min(first + config_.layers_per_block, layers_); ++i) {
    layers.push_back(i);
  }
  return layers;
}

}  // namespace lapidary
