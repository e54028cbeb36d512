// AVX2 + FMA: tiles of 16 columns (two vectors), blocks of 6 rows. Compiled for AVX2: nothing here
// may be a function that another file also instantiates, so no library templates and no inline
// functions of other headers.
#include "autograd/kernels/gemm_avx2-inl.h"
#include "autograd/kernels/gemm_isa.h"

namespace lapidary {
namespace {

constexpr int64_t kRows = 6, kCols = 16, kChunk = 256;

// out[k][c] for 8 columns (zeros beyond `cols`) of b[c * stride + k].
template <bool kRound>
inline void PackEightColumns(const float* b, int64_t stride, int64_t cols, int64_t k, float* out,
                             int64_t out_stride) {
  for (int64_t i = 0; i < k; i += 8) {
    const int64_t left = k - i < 8 ? k - i : 8;
    const __m256i lanes = FirstLanes(left);
    __m256 r[8];
    for (int c = 0; c < 8; ++c) {
      r[c] = c < cols ? In<kRound>(_mm256_maskload_ps(b + c * stride + i, lanes))
                      : _mm256_setzero_ps();
    }
    Transpose8x8(r);
    for (int64_t j = 0; j < left; ++j) _mm256_storeu_ps(out + (i + j) * out_stride, r[j]);
  }
}

template <bool kRound>
void PackA(const float* a, int64_t row_stride, int64_t k_stride, int64_t rows, int64_t k,
           void* out) noexcept {
  float* to = static_cast<float*>(out);
  if (k_stride == 1) {
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t i = 0; i < k; i += 8) {
        const __m256i lanes = FirstLanes(k - i);
        _mm256_storeu_ps(to + r * kChunk + i,
                         In<kRound>(_mm256_maskload_ps(a + r * row_stride + i, lanes)));
      }
    }
    return;
  }
  const __m256i lanes = FirstLanes(rows);
  for (int64_t i = 0; i < k; i += 8) {
    __m256 v[8];
    for (int j = 0; j < 8; ++j) {
      v[j] = i + j < k ? In<kRound>(_mm256_maskload_ps(a + (i + j) * k_stride, lanes))
                       : _mm256_setzero_ps();
    }
    Transpose8x8(v);
    for (int64_t r = 0; r < rows; ++r) _mm256_storeu_ps(to + r * kChunk + i, v[r]);
  }
}

template <bool kRound>
void PackBColumns(const float* b, int64_t stride, int64_t cols, int64_t k, void* out) noexcept {
  float* to = static_cast<float*>(out);
  PackEightColumns<kRound>(b, stride, cols, k, to, kCols);
  const int64_t second = cols > 8 ? cols - 8 : 0;
  PackEightColumns<kRound>(b + 8 * stride, stride, second, k, to + 8, kCols);
}

template <bool kRound>
void PackBRows(const float* b, int64_t stride, int64_t cols, int64_t k, void* out) noexcept {
  float* to = static_cast<float*>(out);
  const __m256i low = FirstLanes(cols), high = FirstLanes(cols - 8);
  for (int64_t i = 0; i < k; ++i) {
    const float* row = b + i * stride;
    _mm256_storeu_ps(to + i * kCols, In<kRound>(_mm256_maskload_ps(row, low)));
    _mm256_storeu_ps(to + i * kCols + 8, In<kRound>(_mm256_maskload_ps(row + 8, high)));
  }
}

// R rows x 16 columns; one FMA chain per element.
template <int R>
inline void Tile(const float* a, const float* b, int64_t k, float* c, int64_t ldc, bool load) {
  __m256 sum[R][2];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    sum[r][0] = load ? _mm256_loadu_ps(c + r * ldc) : _mm256_setzero_ps();
    sum[r][1] = load ? _mm256_loadu_ps(c + r * ldc + 8) : _mm256_setzero_ps();
  }
  for (int64_t i = 0; i < k; ++i) {
    const __m256 b0 = _mm256_loadu_ps(b + i * kCols), b1 = _mm256_loadu_ps(b + i * kCols + 8);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const __m256 x = _mm256_broadcast_ss(a + r * kChunk + i);
      sum[r][0] = _mm256_fmadd_ps(x, b0, sum[r][0]);
      sum[r][1] = _mm256_fmadd_ps(x, b1, sum[r][1]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    _mm256_storeu_ps(c + r * ldc, sum[r][0]);
    _mm256_storeu_ps(c + r * ldc + 8, sum[r][1]);
  }
}

template <int R>
void RowBlock(const GemmCall& call, int64_t row) {
  const float* a = static_cast<const float*>(call.a) + row * kChunk;
  const float* b = static_cast<const float*>(call.b);
  for (int64_t col = 0; col < call.cols; col += kCols) {
    float* c = call.c + row * call.ldc + col;
    const int64_t cols = call.cols - col;
    if (cols >= kCols) {
      Tile<R>(a, b + col * (call.k + kTileGap), call.k, c, call.ldc, call.load);
      continue;
    }
    float edge[R * kCols] = {};
    if (call.load) {
      for (int64_t r = 0; r < R; ++r) {
        for (int64_t j = 0; j < cols; ++j) edge[r * kCols + j] = c[r * call.ldc + j];
      }
    }
    Tile<R>(a, b + col * (call.k + kTileGap), call.k, edge, kCols, call.load);
    for (int64_t r = 0; r < R; ++r) {
      for (int64_t j = 0; j < cols; ++j) c[r * call.ldc + j] = edge[r * kCols + j];
    }
  }
}

void Multiply(const GemmCall& call) noexcept {
  int64_t row = 0;
  for (; row + kRows <= call.rows; row += kRows) RowBlock<kRows>(call, row);
  switch (call.rows - row) {
    case 1:
      RowBlock<1>(call, row);
      break;
    case 2:
      RowBlock<2>(call, row);
      break;
    case 3:
      RowBlock<3>(call, row);
      break;
    case 4:
      RowBlock<4>(call, row);
      break;
    case 5:
      RowBlock<5>(call, row);
      break;
    default:
      break;
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

const GemmTable kGemmAvx2F32 = kF32;
const GemmTable kGemmAvx2Bf16 = kBf16;

}  // namespace lapidary
