// Weights in units (autograd/weight.h, WeightLayout::kUnits): the same blocks in the order in which
// kernels read them: Q4_0, Q8_0, Q4_K, Q5_K and Q6_K. A product with few rows, which is as fast as
// memory is read, then reads it from front to back instead of a few bytes of every row. The order
// is lossless and takes the same space.
#ifndef LAPIDARY_QUANT_UNITS_H_
#define LAPIDARY_QUANT_UNITS_H_

#include <cstdint>
#include <functional>
#include <memory>

#include "autograd/weight.h"

namespace lapidary {

// The piece sizes of a block of this format, ended by a zero; null: the format has no units.
const uint8_t* UnitPieces(int32_t format);

// Whether the running instruction set multiplies this weight faster from units: the format has
// units, there are 32 n rows, blocks without gaps, and the table is avx512_bf16 or amx, which have
// panel functions for units in both compute types.
bool WantsUnits(const WeightView& w);

// Rows [row, row + count), both multiples of 32, of a row-major weight into their place in `out`,
// an area of w.rows * w.row_bytes bytes, on this thread. Throws Error if the weight cannot be laid
// out in units.
void CopyToUnits(const WeightView& w, int64_t row, int64_t count, uint8_t* out);

// The view of an area that CopyToUnits has filled; `units` must be aligned to 64 bytes.
WeightView UnitsView(const WeightView& w, const uint8_t* units);

// A copy of a row-major weight in units, and what keeps its w.rows * w.row_bytes bytes alive. On
// all threads, 4 MB of rows at a time; `consumed(row, count)`, if given, is called on any thread
// when rows have been copied (to drop the pages of a mapped file). Throws Error as CopyToUnits.
struct OwnedUnits {
  WeightView view;
  std::shared_ptr<const void> owner;
};
OwnedUnits MakeUnits(const WeightView& w,
                     const std::function<void(int64_t row, int64_t count)>& consumed = {});

}  // namespace lapidary

#endif  // LAPIDARY_QUANT_UNITS_H_
