// Adapters as a change of a checkpoint's tensors, a few rows at a time (formats.md 5.1):
//   LoRA, rsLoRA   W' = W + w s B A          s = alpha / r, or alpha / sqrt(r); w the adapter's
//   weight DoRA           V = W + w s B A,  W' = m V / ||V||  with the norm of each row
//   modules_to_save replace the tensor.
// Several adapters change a tensor one after another, in the order given. Everything in float32,
// sums in a fixed order: the same bits on every machine and for any number of threads.
#ifndef LAPIDARY_TRAIN_EXPORT_MERGE_H_
#define LAPIDARY_TRAIN_EXPORT_MERGE_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "quant/adapter.h"
#include "quant/tensor_file.h"

namespace lapidary {

// An adapter and how much of it is merged.
struct AdapterUse {
  Adapter adapter;
  double weight = 1;
};

// The change of one tensor, the adapters' matrices in memory.
class TensorMerge {
 public:
  // Whether rows change at all.
  bool touches() const { return !changes_.empty(); }
  // `values` holds row `row` of the base on entry and of the merged tensor on return. Thread-safe.
  void Row(int64_t row, float* values) const;

 private:
  friend class AdapterMerge;
  // By one adapter.
  struct Change {
    const StoredTensor* saved = nullptr;
    int64_t r = 0, in = 0;
    float scale = 0;
    std::vector<float> a, b, magnitude;
  };
  std::string name_;
  std::vector<Change> changes_;
};

class AdapterMerge {
 public:
  // One adapted matrix of one adapter, as it lies in the file.
  struct Pair {
    size_t adapter = 0;            // which of `adapters`
    StoredTensor a, b, magnitude;  // [r, in], [out, r], [out] (DoRA; no data otherwise)
    float scale = 0;               // times the adapter's weight
  };

  // No adapter: nothing changes.
  AdapterMerge() = default;

  // `base`: the checkpoint's tensors by canonical name. Throws Error if a tensor of an adapter
  // belongs to no module of the base or has another shape or rank than the configuration says, if
  // half of a pair is missing, if modules_to_save has no tensor or two adapters save the same one,
  // if a value is not finite, or if an adapter changes nothing (every B or every A is zero, no
  // magnitudes, no saved modules).
  AdapterMerge(const std::vector<AdapterUse>& adapters,
               const std::map<std::string, StoredTensor>& base);

  bool empty() const { return pairs_.empty() && saved_.empty(); }
  // What happens to the tensor `name` (canonical); reads its matrices. Valid while this object
  // lives.
  TensorMerge ForTensor(const std::string& name) const;

  // By the weight's canonical name, in the adapters' order.
  const std::map<std::string, std::vector<Pair>>& pairs() const { return pairs_; }
  // Replaced tensors by canonical name.
  const std::map<std::string, StoredTensor>& saved() const { return saved_; }

 private:
  void Add(const AdapterUse& use, size_t index, const std::map<std::string, StoredTensor>& base);
  std::map<std::string, std::vector<Pair>> pairs_;
  std::map<std::string, StoredTensor> saved_;
  std::vector<TensorSet> keep_open_;
};

}  // namespace lapidary

#endif  // LAPIDARY_TRAIN_EXPORT_MERGE_H_
