#include "autograd/block_copy.h"

#include <algorithm>

#include "autograd/base/float16.h"
#include "autograd/base/parallel.h"

namespace lapidary {
namespace {

void CheckBlock(const Tensor& m, int64_t row, int64_t rows, int64_t col, int64_t cols) {
  const Shape& s = m.shape();
  LAPIDARY_CHECK(s.rank == 2 && (m.dtype() == DType::kF32 || m.dtype() == DType::kBf16),
                 "block: must be of a float32 or bf16 matrix; got ", s, " ", DTypeName(m.dtype()));
  LAPIDARY_CHECK(
      row >= 0 && rows >= 0 && row <= s[0] - rows && col >= 0 && cols >= 0 && col <= s[1] - cols,
      "block: must lie in ", s, "; got rows ", row, " + ", rows, ", columns ", col, " + ", cols);
}

// row_copy(i) for every row.
template <class RowCopy>
void ForRows(int64_t rows, int64_t cols, const RowCopy& row_copy) {
  ParallelFor(
      rows,
      [&](Range r) {
        for (int64_t i = r.begin; i < r.end; ++i) row_copy(i);
      },
      1 + (1 << 14) / std::max<int64_t>(cols, 1));
}

}  // namespace

Tensor ReadBlock(const Tensor& m, int64_t row, int64_t rows, int64_t col, int64_t cols) {
  CheckBlock(m, row, rows, col, cols);
  const int64_t stride = m.shape()[1];
  if (m.dtype() == DType::kF32 && cols == stride) return m.Rows(row, rows);
  Tensor block({rows, cols});
  float* const out = block.data();
  if (m.dtype() == DType::kF32) {
    const float* from = m.data() + row * stride + col;
    ForRows(rows, cols, [&](int64_t i) { std::copy_n(from + i * stride, cols, out + i * cols); });
  } else {
    const uint16_t* from = m.data<uint16_t>() + row * stride + col;
    ForRows(rows, cols, [&](int64_t i) {
      const uint16_t* x = from + i * stride;
      float* y = out + i * cols;
      for (int64_t c = 0; c < cols; ++c) y[c] = F32FromBf16(x[c]);
    });
  }
  return block;
}

void WriteBlock(const Tensor& block, Tensor* m, int64_t row, int64_t rows, int64_t col,
                int64_t cols) {
  CheckBlock(*m, row, rows, col, cols);
  LAPIDARY_CHECK(block.dtype() == DType::kF32 && block.size() == rows * cols, "block: must have ",
                 rows, " x ", cols, " values; got ", block.shape());
  const int64_t stride = m->shape()[1];
  const float* const from = block.data();
  if (m->dtype() == DType::kF32) {
    float* to = m->data() + row * stride + col;
    ForRows(rows, cols, [&](int64_t i) { std::copy_n(from + i * cols, cols, to + i * stride); });
  } else {
    uint16_t* to = m->data<uint16_t>() + row * stride + col;
    ForRows(rows, cols, [&](int64_t i) {
      const float* x = from + i * cols;
      uint16_t* y = to + i * stride;
      for (int64_t c = 0; c < cols; ++c) y[c] = Bf16FromF32(x[c]);
    });
  }
}

}  // namespace lapidary
