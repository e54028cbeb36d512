// Weights that are not what their bytes say. On the way into a product's panel a tile of the matrix
// is dequantized, corrected by s B A and handed to a function that replaces its values: fake
// quantization (Jacob et al. 2018, arXiv:1712.05877) of an adapted weight, without a second copy of
// the matrix.
//
//   W_eff = apply(W + s B A)
//
// Bits: the correction is  sum = 0; for k: sum += b[k] * a[k]; w += s * sum  in float32, each
// product and each addition rounded (no contraction), the same on every instruction set; what
// `apply` makes of a block is its own affair. So W_eff is a function of W, A, B and s alone.
#ifndef LAPIDARY_AUTOGRAD_WEIGHT_MAP_H_
#define LAPIDARY_AUTOGRAD_WEIGHT_MAP_H_

#include <cstdint>

#include "autograd/weight.h"

namespace lapidary {

struct WeightMap {
  const float* a = nullptr;  // A [rank, cols]
  const float* b = nullptr;  // B [rows, rank]
  int64_t rank = 0;          // 0: no correction
  float scale = 1;           // s

  // Columns that are replaced together: a power of two up to 256 that divides cols.
  int64_t block = 1;
  // Replaces columns [begin, end) of row `row`, whole blocks, in place. Any thread calls it. Null:
  // the correction alone.
  void (*apply)(const void* context, int64_t row, int64_t begin, int64_t end,
                float* values) noexcept = nullptr;
  const void* context = nullptr;
  // Learned parameters of `apply`, one for every slope_block columns of a row (whole blocks, or all
  // of the row): replaces values, the same that apply would get, by the derivative of what apply
  // makes of each in its parameter (autograd/step_grad.h). Null: nothing is learned.
  void (*slope)(const void* context, int64_t row, int64_t begin, int64_t end,
                float* values) noexcept = nullptr;
  int64_t slope_block = 0;
};

// The block that tiles of `w` begin and end with: of its format and its map.
int64_t TileBlock(const WeightView& w);

// Rows [row, row + count), columns [begin, end) (multiples of TileBlock), as float32 with the map
// applied; rows of `out` are `stride` apart.
void MappedColumns(const WeightView& w, int64_t row, int64_t count, int64_t begin, int64_t end,
                   float* out, int64_t stride);

// The same with `slope` in the place of `apply`.
void SlopeColumns(const WeightView& w, int64_t row, int64_t count, int64_t begin, int64_t end,
                  float* out, int64_t stride);

// values[rows, cols] += s B A as above; A's rows are `a_stride` apart, B's `rank`, those of values
// `stride`.
void AddLowRank(const float* a, int64_t a_stride, const float* b, int64_t rank, float scale,
                int64_t rows, int64_t cols, float* values, int64_t stride) noexcept;

}  // namespace lapidary

#endif  // LAPIDARY_AUTOGRAD_WEIGHT_MAP_H_
