#include "train/export/verify.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>

#include "autograd/base/error.h"
#include "autograd/base/parallel.h"
#include "model/gguf_names.h"

namespace lapidary {
namespace {

constexpr int64_t kChunkValues = 4 << 20;

// What a range of rows adds.
struct RowSums {
  int64_t differing = 0;
  double error = 0, norm = 0, largest = 0;
};

RowSums CompareRow(const float* want, const float* got, int64_t n) {
  RowSums sums;
  for (int64_t i = 0; i < n; ++i) {
    const double w = static_cast<double>(want[i]), e = static_cast<double>(got[i]) - w;
    sums.differing += want[i] != got[i];
    sums.error += e * e;
    sums.norm += w * w;
    sums.largest = std::max(sums.largest, std::fabs(e));
  }
  return sums;
}

VerifiedTensor VerifyTensor(const std::string& name, const StoredTensor& source,
                            const TensorMerge& merge, const TrainedGrids& grids,
                            const StoredTensor& exported, const ImportanceMatrix* imatrix) {
  LAPIDARY_CHECK(exported.format, "'", exported.name, "': must be readable as float32; got ",
                 exported.dtype);
  LAPIDARY_CHECK(exported.elements() == source.elements() && exported.cols() == source.cols(), "'",
                 source.name, "': must have the source's shape ", ShapeText(source.shape), "; got ",
                 ShapeText(exported.shape), " in the export");
  const Format& format = *exported.format;
  VerifiedTensor out{source.name, format.name, "", source.elements()};
  const int64_t rows = source.rows(), cols = source.cols();
  // Tensors that had to be permuted on the way in have no bytes of their own to compare: values
  // then.
  const bool bytes =
      exported.data && cols % format.block_size == 0 &&
      static_cast<uint64_t>(FormatBytes(format, cols)) * static_cast<uint64_t>(rows) ==
          exported.bytes;
  const size_t row_bytes = bytes ? static_cast<size_t>(FormatBytes(format, cols)) : 0;
  // The trained grid stands first; a file in another format holds its projected values, rounded.
  const Grid* grid = grids.Find(name);
  const bool trained = grid && grid->format() == &format;
  // The weights that the export took, as one more rule, the last.
  std::vector<float> importance;
  const std::optional<GgufTensorPlace> place = FindGgufPlace(name);
  if (imatrix && place && !trained && format.quantize_weighted)
    importance = imatrix->Means(place->name);
  const bool weighted = !importance.empty() && static_cast<int64_t>(importance.size()) == cols;
  const size_t plain_rules = format.rules.size();
  const size_t n_rules = trained ? 1 : plain_rules + (weighted ? 1 : 0);
  std::vector<bool> holds(n_rules, true);
  const int64_t chunk = std::max<int64_t>(1, kChunkValues / std::max<int64_t>(1, cols));
  for (int64_t row = 0; row < rows; row += chunk) {
    const int64_t count = std::min(chunk, rows - row);
    std::vector<RowSums> sums(static_cast<size_t>(count));
    std::vector<uint32_t> broken(static_cast<size_t>(count));  // a bit for each rule
    ParallelFor(
        count,
        [&](Range r) {
          std::vector<float> want(static_cast<size_t>(cols)), got(static_cast<size_t>(cols)),
              again(static_cast<size_t>(cols));
          std::vector<uint8_t> encoded(static_cast<size_t>(FormatBytes(format, cols)));
          for (int64_t i = r.begin; i < r.end; ++i) {
            const size_t at = static_cast<size_t>(i);
            source.ReadRows(row + i, 1, want.data());
            if (merge.touches()) merge.Row(row + i, want.data());
            if (trained) grids.Encode(name, row + i, want.data(), cols, encoded.data());
            if (grid) grids.Project(name, row + i, want.data(), cols);
            exported.ReadRows(row + i, 1, got.data());
            sums[at] = CompareRow(want.data(), got.data(), cols);
            for (size_t k = 0; k < n_rules; ++k) {
              if (!holds[k]) continue;
              if (!trained && k < plain_rules) {
                format.rules[k].quantize(want.data(), cols, encoded.data());
              } else if (!trained) {
                format.quantize_weighted(want.data(), importance.data(), cols, encoded.data());
              }
              bool same = false;
              if (bytes) {
                same = std::memcmp(encoded.data(),
                                   exported.data + static_cast<size_t>(row + i) * row_bytes,
                                   row_bytes) == 0;
              } else {
                format.dequantize(encoded.data(), cols, again.data());
                same = std::memcmp(again.data(), got.data(),
                                   static_cast<size_t>(cols) * sizeof(float)) == 0;
              }
              if (!same) broken[at] |= 1u << k;
            }
          }
        },
        std::max<int64_t>(1, 16384 / std::max<int64_t>(1, cols)));
    for (size_t i = 0; i < sums.size(); ++i) {
      out.differing += sums[i].differing;
      out.error += sums[i].error;
      out.norm += sums[i].norm;
      out.largest = std::max(out.largest, sums[i].largest);
      for (size_t k = 0; k < holds.size(); ++k) {
        if (broken[i] >> k & 1u) holds[k] = false;
      }
    }
    source.DropRows(row, count);
    exported.DropRows(row, count);
  }
  for (size_t k = 0; k < holds.size() && out.rule.empty(); ++k) {
    if (holds[k])
      out.rule = trained ? "trained" : k < plain_rules ? format.rules[k].name : "imatrix";
  }
  return out;
}

}  // namespace

double VerifiedTensor::relative() const { return norm > 0 ? std::sqrt(error / norm) : 0; }

bool VerifyReport::whole() const {
  return missing.empty() && std::all_of(tensors.begin(), tensors.end(),
                                        [](const VerifiedTensor& t) { return t.on_grid(); });
}

VerifyReport VerifyTensors(const CheckpointFiles& source, const AdapterMerge& merge,
                           const TrainedGrids& grids, const CheckpointFiles& exported,
                           const std::function<void(uint64_t done, uint64_t total)>& progress,
                           const ImportanceMatrix* imatrix) {
  VerifyReport report;
  uint64_t total = 0, done = 0;
  for (const auto& [name, tensor] : source.tensors) total += tensor.bytes;
  for (const auto& [name, tensor] : source.tensors) {
    const auto found = exported.tensors.find(name);
    if (found == exported.tensors.end()) {
      report.missing.push_back(name);
    } else {
      report.tensors.push_back(
          VerifyTensor(name, tensor, merge.ForTensor(name), grids, found->second, imatrix));
      report.tensors.back().name = name;
    }
    done += tensor.bytes;
    if (progress) progress(done, total);
  }
  for (const auto& [name, tensor] : exported.tensors) {
    if (!source.tensors.count(name)) report.extra.push_back(name);
  }
  return report;
}

}  // namespace lapidary
