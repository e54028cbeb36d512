// NEON: tiles of 16 columns (four vectors), blocks of 6 rows: 24 accumulators of the 32 registers.
// Four inner positions at a time: a vector of A feeds 16 multiply-adds by lane, so a row costs one
// load in place of four broadcasts.
#include <cstring>

#include "autograd/kernels/gemm_isa.h"
#include "autograd/kernels/gemm_neon-inl.h"

namespace lapidary {
namespace {

constexpr int64_t kRows = 6, kCols = 16, kChunk = 256;

template <bool kRound>
void PackA(const float* a, int64_t row_stride, int64_t k_stride, int64_t rows, int64_t k,
           void* out) noexcept {
  float* to = static_cast<float*>(out);
  if (k_stride == 1) {
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t i = 0; i < k; i += 4) {
        vst1q_f32(to + r * kChunk + i, In<kRound>(LoadFirst(a + r * row_stride + i, k - i)));
      }
    }
    return;
  }
  for (int64_t row = 0; row < rows; row += 4) {
    const int64_t count = rows - row < 4 ? rows - row : 4;
    for (int64_t i = 0; i < k; i += 4) {
      float32x4_t v[4];
      for (int j = 0; j < 4; ++j) {
        v[j] =
            i + j < k ? In<kRound>(LoadFirst(a + (i + j) * k_stride + row, count)) : vdupq_n_f32(0);
      }
      Transpose4x4(v);
      for (int64_t r = 0; r < count; ++r) vst1q_f32(to + (row + r) * kChunk + i, v[r]);
    }
  }
}

// Columns beyond `cols` are zeros.
template <bool kRound>
void PackBColumns(const float* b, int64_t stride, int64_t cols, int64_t k, void* out) noexcept {
  float* to = static_cast<float*>(out);
  for (int64_t first = 0; first < kCols; first += 4) {
    for (int64_t i = 0; i < k; i += 4) {
      const int64_t left = k - i < 4 ? k - i : 4;
      float32x4_t r[4];
      for (int c = 0; c < 4; ++c) {
        r[c] = first + c < cols ? In<kRound>(LoadFirst(b + (first + c) * stride + i, left))
                                : vdupq_n_f32(0);
      }
      Transpose4x4(r);
      for (int64_t j = 0; j < left; ++j) vst1q_f32(to + (i + j) * kCols + first, r[j]);
    }
  }
}

template <bool kRound>
void PackBRows(const float* b, int64_t stride, int64_t cols, int64_t k, void* out) noexcept {
  float* to = static_cast<float*>(out);
  for (int64_t i = 0; i < k; ++i) {
    for (int64_t c = 0; c < kCols; c += 4) {
      vst1q_f32(to + i * kCols + c, In<kRound>(LoadFirst(b + i * stride + c, cols - c)));
    }
  }
}

// sum[r] += A[r][k] B[k] for one k, the lane kLane of x.
template <int R, int kLane>
inline void Step(const float32x4_t x[R], const float* b, float32x4_t sum[R][4]) {
  const float32x4_t b0 = vld1q_f32(b), b1 = vld1q_f32(b + 4);
  const float32x4_t b2 = vld1q_f32(b + 8), b3 = vld1q_f32(b + 12);
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    sum[r][0] = vfmaq_laneq_f32(sum[r][0], b0, x[r], kLane);
    sum[r][1] = vfmaq_laneq_f32(sum[r][1], b1, x[r], kLane);
    sum[r][2] = vfmaq_laneq_f32(sum[r][2], b2, x[r], kLane);
    sum[r][3] = vfmaq_laneq_f32(sum[r][3], b3, x[r], kLane);
  }
}

// R rows x 16 columns; one FMA chain per element, in the order of k.
template <int R>
inline void Tile(const float* a, const float* b, int64_t k, float* c, int64_t ldc, bool load) {
  float32x4_t sum[R][4];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) sum[r][j] = load ? vld1q_f32(c + r * ldc + 4 * j) : vdupq_n_f32(0);
  }
  float32x4_t x[R];
  int64_t i = 0;
  for (; i + 4 <= k; i += 4, b += 4 * kCols) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) x[r] = vld1q_f32(a + r * kChunk + i);
    Step<R, 0>(x, b, sum);
    Step<R, 1>(x, b + kCols, sum);
    Step<R, 2>(x, b + 2 * kCols, sum);
    Step<R, 3>(x, b + 3 * kCols, sum);
  }
  for (; i < k; ++i, b += kCols) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) x[r] = vdupq_n_f32(a[r * kChunk + i]);
    Step<R, 0>(x, b, sum);
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) vst1q_f32(c + r * ldc + 4 * j, sum[r][j]);
  }
}

template <int R>
void RowBlock(const GemmCall& call, int64_t row) {
  const float* a = static_cast<const float*>(call.a) + row * kChunk;
  const float* b = static_cast<const float*>(call.b);
  for (int64_t col = 0; col < call.cols; col += kCols) {
    float* c = call.c + row * call.ldc + col;
    const float* tile = b + col * (call.k + kTileGap);
    const int64_t cols = call.cols - col;
    if (cols >= kCols) {
      Tile<R>(a, tile, call.k, c, call.ldc, call.load);
      continue;
    }
    float edge[R * kCols] = {};
    if (call.load) {
      for (int r = 0; r < R; ++r) std::memcpy(edge + r * kCols, c + r * call.ldc, cols * 4);
    }
    Tile<R>(a, tile, call.k, edge, kCols, call.load);
    for (int r = 0; r < R; ++r) std::memcpy(c + r * call.ldc, edge + r * kCols, cols * 4);
  }
}

void Multiply(const GemmCall& call) noexcept {
  int64_t row = 0;
  for (; row + kRows <= call.rows; row += kRows) RowBlock<kRows>(call, row);
  switch (call.rows - row) {
    case 1:
      return RowBlock<1>(call, row);
    case 2:
      return RowBlock<2>(call, row);
    case 3:
      return RowBlock<3>(call, row);
    case 4:
      return RowBlock<4>(call, row);
    case 5:
      return RowBlock<5>(call, row);
    default:
      return;
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

constexpr GemmTable kF32 = Table<false>(), kBf16 = Table<true>();

}  // namespace

const GemmTable kGemmNeonF32 = kF32;
const GemmTable kGemmNeonBf16 = kBf16;

}  // namespace lapidary
