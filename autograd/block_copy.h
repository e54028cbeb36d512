// Parts of matrices that are kept in float32 or bf16, read and written as float32.
#ifndef LAPIDARY_AUTOGRAD_BLOCK_COPY_H_
#define LAPIDARY_AUTOGRAD_BLOCK_COPY_H_

#include <cstdint>

#include "autograd/tensor.h"

namespace lapidary {

// Rows [row, row + rows) and columns [col, col + cols) of m, f32 or bf16 [R, C], as f32 [rows,
// cols]; the bytes of m itself where they lie together. Throws Error if they lie outside.
Tensor ReadBlock(const Tensor& m, int64_t row, int64_t rows, int64_t col, int64_t cols);

// Writes `block`, f32 of rows x cols elements in any shape, to rows [row, row + rows) and columns
// [col, col + cols) of m, rounded to nearest even if m is bf16.
void WriteBlock(const Tensor& block, Tensor* m, int64_t row, int64_t rows, int64_t col,
                int64_t cols);

}  // namespace lapidary

#endif  // LAPIDARY_AUTOGRAD_BLOCK_COPY_H_
