// What one forward pass takes: documents laid end to end in one run of N tokens, no padding.
// Positions start again at every document, and attention does not cross from one to the next.
#ifndef LAPIDARY_DATA_BATCH_H_
#define LAPIDARY_DATA_BATCH_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "data/sample.h"

namespace lapidary {

struct BatchDocument {
  int64_t begin = 0;   // its first token
  int64_t record = 0;  // index in the data set
  int64_t images = 0, sounds = 0, videos = 0;
  std::string where;               // "file:line"
  std::optional<bool> label = {};  // Sample::label
};

struct Batch {
  std::vector<int32_t> ids;    // [N]
  std::vector<uint8_t> types;  // [N] TokenType
  std::vector<int32_t>
      targets;  // [N] the next token of the document; -1 where there is none or it is not trained
  std::vector<float> weights;   // [N] of the target; 0 where it is -1
  std::vector<int64_t> starts;  // [D] first token of each document, ascending, starts[0] == 0
  MediaRows vision;             // rows replace the embeddings of ids[places[r]]
  MediaRows audio;
  std::vector<BatchDocument> documents;  // [D]
  int64_t epoch = 0;

  int64_t size() const { return static_cast<int64_t>(ids.size()); }
  // Sum of `weights`: what the loss of a step is divided by, over all its micro-batches.
  double TargetWeight() const;
  // Number of targets.
  int64_t Targets() const;
  int64_t bytes() const;
  // Appends a document.
  void Add(const Sample& sample, int64_t record);
};

// One document alone.
Batch MakeBatch(const Sample& sample);

}  // namespace lapidary

#endif  // LAPIDARY_DATA_BATCH_H_
