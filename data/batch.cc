#include "data/batch.h"

#include "autograd/base/error.h"

namespace lapidary {

double Batch::TargetWeight() const {
  double sum = 0;
  for (const float weight : weights) sum += weight;
  return sum;
}

int64_t Batch::Targets() const {
  int64_t count = 0;
  for (const int32_t target : targets) count += target >= 0;
  return count;
}

int64_t Batch::bytes() const {
  return size() * 13 + static_cast<int64_t>(vision.rows.size() + audio.rows.size()) * 4;
}

void Batch::Add(const Sample& sample, int64_t record) {
  const int64_t begin = size();
  const int64_t n = sample.size();
  LAPIDARY_CHECK(n > 0, "batch: a document must have tokens; got none");
  starts.push_back(begin);
  documents.push_back(
      {begin, record, sample.images, sample.sounds, sample.videos, sample.where, sample.label});
  ids.insert(ids.end(), sample.ids.begin(), sample.ids.end());
  types.insert(types.end(), sample.types.begin(), sample.types.end());
  for (int64_t i = 0; i < n; ++i) {
    const float weight = i + 1 < n ? sample.weights[i + 1] : 0.0f;
    targets.push_back(weight > 0 ? sample.ids[i + 1] : -1);
    weights.push_back(weight);
  }
  vision.Append(sample.vision, begin);
  audio.Append(sample.audio, begin);
}

Batch MakeBatch(const Sample& sample) {
  Batch batch;
  batch.Add(sample, 0);
  return batch;
}

}  // namespace lapidary
