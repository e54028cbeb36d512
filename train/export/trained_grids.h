// The grids that a run of quantization-aware training trained on (model/qat.h), as its folder
// records them: what an export must hit, value for value.
#ifndef LAPIDARY_TRAIN_EXPORT_TRAINED_GRIDS_H_
#define LAPIDARY_TRAIN_EXPORT_TRAINED_GRIDS_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "model/load.h"
#include "quant/fake_quant.h"
#include "quant/tensor_file.h"
#include "train/export/merge.h"

namespace lapidary {

class TrainedGrids {
 public:
  // None.
  TrainedGrids() = default;
  // Of the one adapter, or without any of the folder that the model lies in. Throws Error for a
  // broken record, for scales or tensors that do not fit the base, and for an adapter with a record
  // that is merged beside others or with a weight: the grid is that of the sum it was trained in.
  TrainedGrids(const std::vector<AdapterUse>& adapters, const std::string& model,
               const CheckpointFiles& base);

  // Null: the tensor was not trained on a grid.
  const Grid* Find(const std::string& name) const;
  // Formats of the tensors whose grid is one of blocks, by canonical name.
  std::map<std::string, const Format*> Formats() const;
  // The values that training multiplied with, of a merged row of the tensor.
  void Project(const std::string& name, int64_t row, float* values, int64_t cols) const;
  // Their blocks in the grid's format: the codes that training saw. `values` merged, not projected.
  void Encode(const std::string& name, int64_t row, const float* values, int64_t cols,
              uint8_t* out) const;
  // The kept scales of a row; null: they follow the values.
  const uint8_t* Scales(const std::string& name, int64_t row) const;

 private:
  void Check(const CheckpointFiles& base, const std::string& folder) const;
  std::map<std::string, const Grid*> grids_;
  TensorSet scales_;
};

}  // namespace lapidary

#endif  // LAPIDARY_TRAIN_EXPORT_TRAINED_GRIDS_H_
