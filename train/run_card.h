// Which bytes a run came from and which it made: enough to tell two runs apart, or to make one
// again.
#ifndef LAPIDARY_TRAIN_RUN_CARD_H_
#define LAPIDARY_TRAIN_RUN_CARD_H_

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "train/config.h"
#include "train/trainer.h"

namespace lapidary {

// SHA-256 over the files of a checkpoint (*.safetensors, or the .gguf, in name order). Above 1 GB
// in all only the first megabyte of each file, which holds names, shapes and offsets, and its size:
// `whole` is then false.
std::string HashWeights(const std::string& path, bool* whole);
std::string HashFile(const std::string& path);

// {"version", "machine", "seed", "base", "data", "held_out", "result", "formats", "again", ...}:
// paths and hashes, and the command that repeats the run. Media files that records name are not
// hashed.
nlohmann::ordered_json RunCard(const TrainConfig& config, const TrainSummary& summary);

}  // namespace lapidary

#endif  // LAPIDARY_TRAIN_RUN_CARD_H_
