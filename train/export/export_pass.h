// The one read of the base: every tensor once, in row chunks of 16 MB, merged in float32, handed to
// every file that wants it.
#ifndef LAPIDARY_TRAIN_EXPORT_EXPORT_PASS_H_
#define LAPIDARY_TRAIN_EXPORT_EXPORT_PASS_H_

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "model/load.h"
#include "quant/file_writer.h"
#include "train/export/merge.h"
#include "train/export/merge_report.h"
#include "train/export/targets.h"
#include "train/export/trained_grids.h"

namespace lapidary {

// A tensor of the base on its way into one tensor of one file.
struct ExportConsumer {
  FileWriter* writer = nullptr;
  size_t index = 0;  // in the file's manifest
  const PlannedTensor* tensor = nullptr;
  const std::string* file = nullptr;  // for messages
};

class ExportPass {
 public:
  // All references outlive the object. `progress` may be empty.
  ExportPass(const CheckpointFiles& base, const AdapterMerge& merge, const TrainedGrids& grids,
             const std::function<void(uint64_t done, uint64_t total)>& progress);

  // `consumers` by canonical name of the source. Throws Error if a value is not finite or does not
  // fit an encoding.
  void Run(const std::map<std::string, std::vector<ExportConsumer>>& consumers);

  // Whether any value differs from the base's.
  bool changed() const { return changed_; }
  const MergeReport& merge_report() const { return report_; }
  uint64_t total() const { return total_; }  // bytes of the base

 private:
  void RunTensor(const std::string& name, const StoredTensor& tensor,
                 const std::vector<ExportConsumer>& consumers);
  void ReadChunk(const std::string& name, const StoredTensor& tensor, const TensorMerge& merge,
                 int64_t row, int64_t count);
  void ProjectChunk(const std::string& name, int64_t row, int64_t count, int64_t cols);
  void Encode(const std::string& name, const StoredTensor& tensor, const ExportConsumer& consumer,
              int64_t row, int64_t count);
  const float* Arranged(const StoredTensor& tensor, GgufLayout layout, int64_t count);

  const CheckpointFiles& base_;
  const AdapterMerge& merge_;
  const TrainedGrids& grids_;
  const std::function<void(uint64_t, uint64_t)>& progress_;
  uint64_t total_ = 0, done_ = 0;
  bool changed_ = false;
  MergeReport report_;
  const Grid* grid_ = nullptr;  // of the tensor at hand
  std::vector<float> values_, projected_, arranged_, row_max_;
  std::vector<MergeSums> row_sums_;
  std::vector<uint8_t> row_changed_;
  std::vector<uint8_t> bytes_;
};

}  // namespace lapidary

#endif  // LAPIDARY_TRAIN_EXPORT_EXPORT_PASS_H_
