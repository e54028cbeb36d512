// The reference: plain loops, a multiplication and an addition per term (no FMA), in the order of
// k.
#include <cstring>

#include "autograd/base/float16.h"
#include "autograd/kernels/gemm_isa.h"

namespace lapidary {
namespace {

constexpr int64_t kRows = 4, kCols = 16, kChunk = 256;

template <bool kRound>
float In(float value) {
  return kRound ? RoundToBf16(value) : value;
}

template <bool kRound>
void PackA(const float* a, int64_t row_stride, int64_t k_stride, int64_t rows, int64_t k,
           void* out) noexcept {
  float* to = static_cast<float*>(out);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < k; ++i)
      to[r * kChunk + i] = In<kRound>(a[r * row_stride + i * k_stride]);
  }
}

template <bool kRound>
void PackBColumns(const float* b, int64_t stride, int64_t cols, int64_t k, void* out) noexcept {
  float* to = static_cast<float*>(out);
  std::memset(out, 0, k * kCols * sizeof(float));
  for (int64_t c = 0; c < cols; ++c) {
    for (int64_t i = 0; i < k; ++i) to[i * kCols + c] = In<kRound>(b[c * stride + i]);
  }
}

template <bool kRound>
void PackBRows(const float* b, int64_t stride, int64_t cols, int64_t k, void* out) noexcept {
  float* to = static_cast<float*>(out);
  std::memset(out, 0, k * kCols * sizeof(float));
  for (int64_t i = 0; i < k; ++i) {
    for (int64_t c = 0; c < cols; ++c) to[i * kCols + c] = In<kRound>(b[i * stride + c]);
  }
}

void Multiply(const GemmCall& call) noexcept {
  const float* a = static_cast<const float*>(call.a);
  const float* b = static_cast<const float*>(call.b);
  for (int64_t r = 0; r < call.rows; ++r) {
    for (int64_t first = 0; first < call.cols; first += kCols) {
      const int64_t cols = call.cols - first < kCols ? call.cols - first : kCols;
      float* c = call.c + r * call.ldc + first;
      float sums[kCols] = {};
      if (call.load) std::memcpy(sums, c, cols * sizeof(float));
      const float* tile = b + PanelOffset(PanelLayout::kF32x16, first, call.k);
      for (int64_t k = 0; k < call.k; ++k) {
        const float x = a[r * kChunk + k];
        for (int64_t j = 0; j < kCols; ++j) sums[j] += x * tile[k * kCols + j];
      }
      std::memcpy(c, sums, cols * sizeof(float));
    }
  }
}

template <bool kRound>
constexpr GemmTable Table() {
  GemmTable t;
  t.layout = PanelLayout::kF32x16;
  t.tile_cols = kCols;
  t.block_rows = kRows;
  t.chunk = kChunk;
  t.pack_a = PackA<kRound>;
  t.pack_b_columns = PackBColumns<kRound>;
  t.pack_b_rows = PackBRows<kRound>;
  t.multiply = Multiply;
  return t;
}

}  // namespace

constexpr GemmTable kScalarF32 = Table<false>(), kScalarBf16 = Table<true>();
const GemmTable kGemmScalarF32 = kScalarF32;
const GemmTable kGemmScalarBf16 = kScalarBf16;

}  // namespace lapidary
