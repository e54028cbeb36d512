// How large the change is that adapters make, and how much of it survives rounding to bf16
// (formats.md 9.1): kinds of tensors by the last name of their module.
#ifndef LAPIDARY_TRAIN_EXPORT_MERGE_REPORT_H_
#define LAPIDARY_TRAIN_EXPORT_MERGE_REPORT_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace lapidary {

// Sums over elements of base w, merged w' and d = w' - w.
struct MergeSums {
  double base = 0;   // w^2
  double delta = 0;  // d^2
  double kept = 0;   // d (bf16(w') - w): what of the change a bf16 file holds, in its direction

  void Add(const MergeSums& other);
  // |d| / |w|; 0 if nothing changes.
  double relative() const;
  // 1 - kept / delta, at least 0: the share of the change that rounding to bf16 takes away.
  double swallowed() const;
};

// Of one row; sums in the order of the elements.
MergeSums SumRow(const float* before, const float* after, int64_t n);

struct MergeReport {
  std::map<std::string, MergeSums> kinds;  // "q_proj", ...; only what adapters touch
  MergeSums all() const;
};

// The module's last name: "model.language_model.layers.0.mlp.up_proj.weight" -> "up_proj".
std::string TensorKind(const std::string& name);

}  // namespace lapidary

#endif  // LAPIDARY_TRAIN_EXPORT_MERGE_REPORT_H_
