// Figures of the data that a run has trained on, counted as they pass: what report.html shows.
#ifndef LAPIDARY_TRAIN_DATA_TALLY_H_
#define LAPIDARY_TRAIN_DATA_TALLY_H_

#include <cstdint>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "data/batch.h"

namespace lapidary {

class DataTally {
 public:
  void Add(const std::vector<Batch>& batches);

  // {"samples", "tokens", "trained_tokens", "vision_tokens", "sound_tokens", "images", "sounds",
  // "videos", "longest", "files": {path: samples}, "lengths": [[tokens, samples], ...]}: a sample
  // counts as often as it was used; lengths are the upper ends of classes of about an eighth.
  nlohmann::ordered_json ToJson() const;

 private:
  int64_t samples_ = 0, tokens_ = 0, trained_ = 0, vision_ = 0, sound_ = 0;
  int64_t images_ = 0, sounds_ = 0, videos_ = 0, longest_ = 0;
  std::map<std::string, int64_t> files_;
  std::map<int64_t, int64_t> lengths_;
};

}  // namespace lapidary

#endif  // LAPIDARY_TRAIN_DATA_TALLY_H_
