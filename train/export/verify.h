// Does an exported file hold what was trained? Every tensor is read back and compared with the
// source merged with its adapters: equal on the grid where quantizing the source by one of the
// format's own rules gives the file's very bytes, else the error that the file makes.
#ifndef LAPIDARY_TRAIN_EXPORT_VERIFY_H_
#define LAPIDARY_TRAIN_EXPORT_VERIFY_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "model/load.h"
#include "quant/imatrix.h"
#include "train/export/merge.h"
#include "train/export/trained_grids.h"

namespace lapidary {

struct VerifiedTensor {
  std::string name;    // canonical
  std::string format;  // of the export
  std::string rule;    // the scale rule that gives the file's bytes; "trained": those of the run;
                       // "imatrix": with the importance matrix; empty: none does
  int64_t elements = 0;
  int64_t differing = 0;  // elements of the file that differ from the merged source
  double error = 0;       // sum of squares of that difference
  double norm = 0;        // of the merged source
  double largest = 0;     // the largest difference
  bool on_grid() const { return !rule.empty(); }
  double relative() const;  // |difference| / |source|
};

struct VerifyReport {
  std::vector<VerifiedTensor> tensors;      // by name
  std::vector<std::string> missing, extra;  // in the export, against the source
  bool whole() const;                       // every tensor is there and on its grid
};

// `merge` over `source`, `grids` of the same run; `imatrix` of the export, or null. Reads both
// once, in row chunks. Throws Error if a tensor has another shape or cannot be read.
VerifyReport VerifyTensors(const CheckpointFiles& source, const AdapterMerge& merge,
                           const TrainedGrids& grids, const CheckpointFiles& exported,
                           const std::function<void(uint64_t done, uint64_t total)>& progress = {},
                           const ImportanceMatrix* imatrix = nullptr);

}  // namespace lapidary

#endif  // LAPIDARY_TRAIN_EXPORT_VERIFY_H_
