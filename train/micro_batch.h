// The one place where what data/ prepares becomes what model/ computes on.
#ifndef LAPIDARY_TRAIN_MICRO_BATCH_H_
#define LAPIDARY_TRAIN_MICRO_BATCH_H_

#include <cstdint>
#include <string>
#include <vector>

#include "data/batch.h"
#include "model/input.h"

namespace lapidary {

// What one forward pass works on.
struct MicroBatch {
  ModelInput input;                // N tokens
  std::vector<int32_t> targets;    // [N] what follows each token; any value where the weight is 0
  std::vector<float> weights;      // [N] 1: the target is trained; 0: it is not
  std::vector<bool> labels;        // of documents that are answers with one (KTO); else empty
  std::vector<std::string> names;  // the records in it, for messages ("train.jsonl:17")
};

// Copies media rows into tensors; targets -1 become 0 (their weights are 0).
MicroBatch MakeMicroBatch(const Batch& batch);

}  // namespace lapidary

#endif  // LAPIDARY_TRAIN_MICRO_BATCH_H_
