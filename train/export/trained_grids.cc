#include "train/export/trained_grids.h"

#include <filesystem>
#include <optional>

#include "autograd/base/error.h"
#include "model/qat.h"
#include "quant/safetensors.h"

namespace lapidary {

TrainedGrids::TrainedGrids(const std::vector<AdapterUse>& adapters, const std::string& model,
                           const CheckpointFiles& base) {
  std::string folder = std::filesystem::is_directory(model) ? model : "";
  std::optional<QatRecord> record;
  for (const AdapterUse& use : adapters) {
    folder = use.adapter.folder;
    record = ReadQatRecord(folder);
    LAPIDARY_CHECK(!record || (adapters.size() == 1 && use.weight == 1), folder,
                   ": an adapter of quantization-aware training must be merged alone and whole; "
                   "got others or a weight");
  }
  if (adapters.empty() && !folder.empty()) record = ReadQatRecord(folder);
  if (!record) return;
  for (const auto& [name, grid] : record->grids) grids_[name] = &GetGrid(grid, folder);
  if (record->scales != "follow") scales_ = OpenCheckpoint(folder + "/" + kQatScalesFile);
  Check(base, folder);
}

void TrainedGrids::Check(const CheckpointFiles& base, const std::string& folder) const {
  for (const auto& [name, grid] : grids_) {
    const auto found = base.tensors.find(name);
    LAPIDARY_CHECK(found != base.tensors.end() && found->second.shape.size() == 2, folder,
                   ": every tensor of ", kQatRecordFile, " must be a matrix of the base; got ",
                   name, "; try the base model of the run");
    const int64_t rows = found->second.shape[0], cols = found->second.shape[1];
    LAPIDARY_CHECK(grid->block() == 0 || cols % grid->block() == 0, folder, ": rows of ", name,
                   " must be whole blocks of ", grid->block(), "; got ", cols, " columns");
    const StoredTensor* scales = scales_.Find(name);
    if (!scales) continue;
    const int64_t bytes = (grid->block() > 0 ? cols / grid->block() : 1) * grid->scale_bytes();
    LAPIDARY_CHECK(scales->shape == (TensorShape{rows, bytes}) &&
                       scales->bytes == static_cast<uint64_t>(rows * bytes),
                   folder, ": scales of ", name, " must be [", rows, ", ", bytes, "]; got ",
                   ShapeText(scales->shape), "; try the run's own files");
  }
}

const Grid* TrainedGrids::Find(const std::string& name) const {
  const auto found = grids_.find(name);
  return found == grids_.end() ? nullptr : found->second;
}

const uint8_t* TrainedGrids::Scales(const std::string& name, int64_t row) const {
  const StoredTensor* tensor = scales_.Find(name);
  return tensor ? tensor->data + row * tensor->shape[1] : nullptr;
}

std::map<std::string, const Format*> TrainedGrids::Formats() const {
  std::map<std::string, const Format*> formats;
  for (const auto& [name, grid] : grids_) {
    if (grid->format()) formats[name] = grid->format();
  }
  return formats;
}

void TrainedGrids::Project(const std::string& name, int64_t row, float* values,
                           int64_t cols) const {
  const Grid* grid = grids_.at(name);
  if (const uint8_t* scales = Scales(name, row)) {
    grid->ProjectOn(scales, values, cols);
  } else {
    grid->Project(values, cols);
  }
}

void TrainedGrids::Encode(const std::string& name, int64_t row, const float* values, int64_t cols,
                          uint8_t* out) const {
  const Grid* grid = grids_.at(name);
  const uint8_t* scales = Scales(name, row);
  if (!scales) {
    grid->rule()->quantize(values, cols, out);
    return;
  }
  std::vector<float> projected(values, values + cols);
  grid->ProjectOn(scales, projected.data(), cols);
  grid->Encode(scales, projected.data(), cols, out);
}

}  // namespace lapidary
