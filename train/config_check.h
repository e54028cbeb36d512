// What the keys of a training configuration ask of each other. Internal to config.cc.
#ifndef LAPIDARY_TRAIN_CONFIG_CHECK_H_
#define LAPIDARY_TRAIN_CONFIG_CHECK_H_

#include <set>
#include <string>

#include "train/config.h"

namespace lapidary {

// Where a key came from, for messages: the file, or --set.
struct Origin {
  std::string file;
  std::set<std::string> overridden;

  std::string Of(const std::string& key) const;
};

// Fills in what depends on other keys (the learning rate). Throws Error naming the key that is at
// odds with another.
void CheckTrainConfig(TrainConfig& config, const Origin& origin);

}  // namespace lapidary

#endif  // LAPIDARY_TRAIN_CONFIG_CHECK_H_
