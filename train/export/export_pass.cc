#include "train/export/export_pass.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "autograd/base/error.h"
#include "autograd/base/parallel.h"

namespace lapidary {
namespace {

constexpr int64_t kChunkValues = 4 << 20;  // 16 MB of float32

// Rows to give a thread at a time.
int64_t Grain(int64_t cols) { return std::max<int64_t>(1, 16384 / std::max<int64_t>(1, cols)); }

// The largest magnitude; infinite if a value is not finite.
float MaxAbs(const float* values, int64_t n) {
  uint32_t largest = 0;  // as bits: ordered like magnitudes, NaN above infinity
  for (int64_t i = 0; i < n; ++i)
    largest = std::max(largest, std::bit_cast<uint32_t>(values[i]) & 0x7fffffffu);
  return std::bit_cast<float>(std::min(largest, 0x7f800000u));
}

}  // namespace

ExportPass::ExportPass(const CheckpointFiles& base, const AdapterMerge& merge,
                       const TrainedGrids& grids,
                       const std::function<void(uint64_t done, uint64_t total)>& progress)
    : base_(base), merge_(merge), grids_(grids), progress_(progress) {
  for (const auto& [name, tensor] : base.tensors) total_ += tensor.bytes;
}

void ExportPass::Run(const std::map<std::string, std::vector<ExportConsumer>>& consumers) {
  for (const auto& [name, tensor] : base_.tensors) {
    const auto found = consumers.find(name);
    if (found != consumers.end()) RunTensor(name, tensor, found->second);
    done_ += tensor.bytes;
    if (progress_) progress_(done_, total_);
  }
}

void ExportPass::RunTensor(const std::string& name, const StoredTensor& tensor,
                           const std::vector<ExportConsumer>& consumers) {
  const TensorMerge merge = merge_.ForTensor(name);
  const bool whole = std::any_of(consumers.begin(), consumers.end(), [](const ExportConsumer& c) {
    return c.tensor->layout == GgufLayout::kSwapTables;
  });
  const int64_t rows = tensor.rows(), cols = tensor.cols();
  const int64_t chunk =
      whole ? rows : std::max<int64_t>(1, kChunkValues / std::max<int64_t>(1, cols));
  MergeSums sums;
  for (int64_t row = 0; row < rows; row += chunk) {
    const int64_t count = std::min(chunk, rows - row);
    ReadChunk(name, tensor, merge, row, count);
    ProjectChunk(name, row, count, cols);
    for (const ExportConsumer& consumer : consumers) Encode(name, tensor, consumer, row, count);
    tensor.DropRows(row, count);
    if (merge.touches()) {
      for (int64_t i = 0; i < count; ++i) {
        sums.Add(row_sums_[static_cast<size_t>(i)]);
        changed_ = changed_ || row_changed_[static_cast<size_t>(i)];
      }
    }
    if (progress_) {
      progress_(
          done_ + tensor.bytes / static_cast<uint64_t>(rows) * static_cast<uint64_t>(row + count),
          total_);
    }
  }
  if (merge.touches()) report_.kinds[TensorKind(name)].Add(sums);
}

// Rows as merged float32 in values_; refuses what is not finite.
void ExportPass::ReadChunk(const std::string& name, const StoredTensor& tensor,
                           const TensorMerge& merge, int64_t row, int64_t count) {
  const int64_t cols = tensor.cols();
  values_.resize(static_cast<size_t>(count * cols));
  row_max_.assign(static_cast<size_t>(count), 0.0f);
  if (merge.touches()) {
    row_sums_.assign(static_cast<size_t>(count), {});
    row_changed_.assign(static_cast<size_t>(count), 0);
  }
  ParallelFor(
      count,
      [&](Range r) {
        std::vector<float> before;
        for (int64_t i = r.begin; i < r.end; ++i) {
          const size_t at = static_cast<size_t>(i);
          float* values = values_.data() + i * cols;
          tensor.ReadRows(row + i, 1, values);
          if (merge.touches()) {
            before.assign(values, values + cols);
            merge.Row(row + i, values);
            row_changed_[at] =
                std::memcmp(before.data(), values, static_cast<size_t>(cols) * sizeof(float)) != 0;
            row_sums_[at] = SumRow(before.data(), values, cols);
          }
          row_max_[at] = MaxAbs(values, cols);
        }
      },
      Grain(cols));
  for (int64_t i = 0; i < count; ++i) {
    LAPIDARY_CHECK(std::isfinite(row_max_[static_cast<size_t>(i)]), "'", name,
                   "': values must be finite; got ", row_max_[static_cast<size_t>(i)], " in row ",
                   row + i, "; try `lapidary inspect`");
  }
}

// Of a matrix that was trained on a grid, the values that training multiplied with.
void ExportPass::ProjectChunk(const std::string& name, int64_t row, int64_t count, int64_t cols) {
  grid_ = grids_.Find(name);
  if (!grid_) return;
  projected_ = values_;
  ParallelFor(
      count,
      [&](Range r) {
        for (int64_t i = r.begin; i < r.end; ++i)
          grids_.Project(name, row + i, projected_.data() + i * cols, cols);
      },
      Grain(cols));
}

void ExportPass::Encode(const std::string& name, const StoredTensor& tensor,
                        const ExportConsumer& consumer, int64_t row, int64_t count) {
  const RowEncoding& encoding = consumer.tensor->encoding;
  const int64_t cols = tensor.cols();
  const float largest = *std::max_element(row_max_.begin(), row_max_.end());
  LAPIDARY_CHECK(largest <= encoding.max_abs, *consumer.file, ": values must fit ", encoding.dtype,
                 " (up to ", encoding.max_abs, "); got ", largest, " in '", name, "'; try bf16");
  const bool same = consumer.tensor->layout == GgufLayout::kSame;
  bytes_.resize(static_cast<size_t>(count * encoding.row_bytes));
  const auto each = [&](const std::function<void(int64_t i, uint8_t * to)>& row_of) {
    ParallelFor(
        count,
        [&](Range r) {
          for (int64_t i = r.begin; i < r.end; ++i)
            row_of(i, bytes_.data() + i * encoding.row_bytes);
        },
        Grain(cols));
  };
  if (grid_ && same && grid_->format() && grid_->format() == encoding.format) {
    // The grid's own blocks: the codes that training saw.
    each([&](int64_t i, uint8_t* to) {
      grids_.Encode(name, row + i, values_.data() + i * cols, cols, to);
    });
  } else if (grid_ && same && grid_ == encoding.grid) {
    each([&](int64_t i, uint8_t* to) {
      if (const uint8_t* scales = grids_.Scales(name, row + i)) {
        encoding.on_scales(scales, projected_.data() + i * cols, cols, to);
      } else {
        encoding.row(values_.data() + i * cols, cols, to);
      }
    });
  } else if (grid_ && same && encoding.from_q4_0 && grid_->format() &&
             std::string_view(grid_->format()->name) == "Q4_0") {
    each([&](int64_t i, uint8_t* to) {
      std::vector<uint8_t> blocks(static_cast<size_t>(FormatBytes(*grid_->format(), cols)));
      grids_.Encode(name, row + i, values_.data() + i * cols, cols, blocks.data());
      encoding.from_q4_0(blocks.data(), cols, to);
    });
  } else {
    const float* values = Arranged(tensor, consumer.tensor->layout, count);
    each([&](int64_t i, uint8_t* to) { encoding.row(values + i * cols, cols, to); });
  }
  consumer.writer->Append(consumer.index, bytes_.data(), bytes_.size());
}

const float* ExportPass::Arranged(const StoredTensor& tensor, GgufLayout layout, int64_t count) {
  const int64_t cols = tensor.cols();
  const std::vector<float>& values = grid_ ? projected_ : values_;
  if (layout == GgufLayout::kSame) return values.data();
  arranged_.resize(values.size());
  if (layout == GgufLayout::kPatchColumns) {
    const int64_t side = base_.config.vision.model_patch_size();
    ParallelFor(count, [&](Range r) {
      for (int64_t i = r.begin; i < r.end; ++i)
        PatchToChannelsFirst(values.data() + i * cols, side, arranged_.data() + i * cols);
    });
  } else {
    const int64_t positions = tensor.shape[0];
    for (int64_t i = 0; i < 2 * positions; ++i) {
      std::copy_n(values.data() + i * cols, cols,
                  arranged_.data() + (i % 2 * positions + i / 2) * cols);
    }
  }
  return arranged_.data();
}

}  // namespace lapidary
