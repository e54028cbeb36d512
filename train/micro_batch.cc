#include "train/micro_batch.h"

#include <algorithm>
#include <limits>

namespace lapidary {

MicroBatch MakeMicroBatch(const Batch& batch) {
  LAPIDARY_CHECK(batch.size() < std::numeric_limits<int32_t>::max(),
                 "micro-batch: must have fewer than 2^31 tokens; got ", batch.size(),
                 "; try a smaller max_length or batch size");
  MicroBatch micro;
  micro.input.ids = batch.ids;
  micro.input.types = batch.types;
  micro.input.document_starts.assign(batch.starts.begin(), batch.starts.end());
  if (const int64_t n = batch.vision.count(); n > 0) {
    micro.input.patches = Tensor::FromFloats({n, batch.vision.features}, batch.vision.rows.data());
    micro.input.patch_positions = batch.vision.positions;
    micro.input.patch_rows = batch.vision.places;
  }
  if (const int64_t n = batch.audio.count(); n > 0) {
    micro.input.audio_frames =
        Tensor::FromFloats({n, batch.audio.features}, batch.audio.rows.data());
    micro.input.audio_rows = batch.audio.places;
  }
  micro.targets = batch.targets;
  std::replace(micro.targets.begin(), micro.targets.end(), -1, 0);
  micro.weights = batch.weights;
  for (const BatchDocument& document : batch.documents) {
    micro.names.push_back(document.where);
    if (document.label) micro.labels.push_back(*document.label);
  }
  return micro;
}

}  // namespace lapidary
