// An adapter as a change of a checkpoint's tensors, a few rows at a time (formats.md 5.1):
//   LoRA, rsLoRA   W' = W + s B A          s = alpha / r, or alpha / sqrt(r)
//   DoRA           V = W + s B A,  W' = m V / ||V||  with the norm of each row
//   modules_to_save replace the tensor.
// Everything in float32, sums in a fixed order: the same bits on every machine and for any number
// of threads.
#ifndef LAPIDARY_TRAIN_EXPORT_MERGE_H_
#define LAPIDARY_TRAIN_EXPORT_MERGE_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "quant/adapter.h"
#include "quant/tensor_file.h"

namespace lapidary {

// The change of one tensor, its adapter's matrices in memory.
class TensorMerge {
 public:
  // Whether rows change at all.
  bool touches() const { return saved_ || r_ > 0; }
  // `values` holds row `row` of the base on entry and of the merged tensor on return. Thread-safe.
  void Row(int64_t row, float* values) const;

 private:
  friend class AdapterMerge;
  const StoredTensor* saved_ = nullptr;
  std::string name_;
  int64_t r_ = 0, in_ = 0;
  float scale_ = 0;
  std::vector<float> a_, b_, magnitude_;
};

class AdapterMerge {
 public:
  // No adapter: nothing changes.
  AdapterMerge() = default;

  // `base`: the checkpoint's tensors by canonical name. Throws Error if a tensor of the adapter
  // belongs to no module of the base or has another shape or rank than the configuration says, if
  // half of a pair is missing, if modules_to_save has no tensor, if a value is not finite, or if
  // the adapter changes nothing (every B or every A is zero, no magnitudes, no saved modules).
  AdapterMerge(const Adapter& adapter, const std::map<std::string, StoredTensor>& base);

  bool empty() const { return pairs_.empty() && saved_.empty(); }
  // What happens to the tensor `name` (canonical); reads its matrices. Valid while this object
  // lives.
  TensorMerge ForTensor(const std::string& name) const;

 private:
  struct Pair {
    StoredTensor a, b, magnitude;  // [r, in], [out, r], [out] (DoRA; no data otherwise)
    float scale = 0;
  };
  std::map<std::string, Pair> pairs_;  // by the weight's canonical name
  std::map<std::string, StoredTensor> saved_;
  TensorSet keep_open_;
};

}  // namespace lapidary

#endif  // LAPIDARY_TRAIN_EXPORT_MERGE_H_
