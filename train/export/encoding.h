// How rows of float32 become the bytes of one tensor of an exported file. A source tensor may feed
// several: codes, scales and biases of a group format are tensors of their own in safetensors.
#ifndef LAPIDARY_TRAIN_EXPORT_ENCODING_H_
#define LAPIDARY_TRAIN_EXPORT_ENCODING_H_

#include <cfloat>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "quant/fake_quant.h"
#include "quant/format.h"
#include "quant/mlx_affine.h"

namespace lapidary {

struct RowEncoding {
  std::string dtype;               // as the file's manifest spells it
  int64_t row_bytes = 0;           // of one encoded row
  const Format* format = nullptr;  // that of the rows; null: not one of the format table
  float max_abs = FLT_MAX;         // the largest magnitude that is kept finite
  // One row of `cols` values, all of them finite and at most max_abs, to row_bytes bytes.
  // Thread-safe, the same bytes everywhere.
  std::function<void(const float* row, int64_t cols, uint8_t* out)> row;

  // Integer grids (compressed-tensors) only. The grid; codes or scales of a row whose scales were
  // kept in training, from values on the grid; and from the Q4_0 blocks of a row that was trained
  // on q4_0.
  const Grid* grid = nullptr;
  std::function<void(const uint8_t* scales, const float* row, int64_t cols, uint8_t* out)>
      on_scales;
  std::function<void(const uint8_t* blocks, int64_t cols, uint8_t* out)> from_q4_0;
};

// A row of the format table by one of its scale rules. Throws Error unless `cols` is whole blocks.
RowEncoding FormatEncoding(const Format& format, int64_t cols, const char* rule = "ggml");
// By Format::quantize_weighted with the weights of the columns. Values may be half as large: a
// fitted scale can lie above the one that reaches just to the largest value.
RowEncoding WeightedEncoding(const Format& format, std::vector<float> importance);

// The three tensors of MLX's affine mode (formats.md 6.4).
RowEncoding MlxCodes(const MlxAffine& mode, int64_t cols);   // U32 [rows, cols * bits / 32]
RowEncoding MlxScales(const MlxAffine& mode, int64_t cols);  // BF16 [rows, cols / group_size]
RowEncoding MlxBiases(const MlxAffine& mode, int64_t cols);

// The tensors of compressed-tensors' pack-quantized layout (formats.md 6.1) on an integer grid.
RowEncoding PackedCodes(const Grid& grid, int64_t cols);   // I32 [rows, cols * bits / 32]
RowEncoding PackedScales(const Grid& grid, int64_t cols);  // BF16 [rows, cols / block, or 1]

}  // namespace lapidary

#endif  // LAPIDARY_TRAIN_EXPORT_ENCODING_H_
