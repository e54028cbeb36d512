// AVX-512 with fp32 FMA: tiles of 32 columns (two vectors), blocks of 14 rows: 28 sums, two vectors
// of B and a broadcast fill the 32 registers. Compiled for AVX-512: nothing here may be a function
// that another file also instantiates.
#include "autograd/kernels/gemm_avx512-inl.h"
#include "autograd/kernels/gemm_isa.h"

namespace lapidary {
namespace {

constexpr int64_t kRows = 14, kCols = 32, kChunk = 256, kTileGap = 1;  // PanelOffset

template <bool kRound>
inline __m512 In(__m512 value) {
  return kRound ? RoundBf16(value) : value;
}

template <bool kRound>
void PackA(const float* a, int64_t row_stride, int64_t k_stride, int64_t rows, int64_t k,
           void* out) noexcept {
  float* to = static_cast<float*>(out);
  if (k_stride == 1) {
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t i = 0; i < k; i += 16) {
        const __m512 v = _mm512_maskz_loadu_ps(FirstLanes(k - i), a + r * row_stride + i);
        _mm512_storeu_ps(to + r * kChunk + i, In<kRound>(v));
      }
    }
    return;
  }
  for (int64_t i = 0; i < k; i += 16) {
    __m512i v[16];
#pragma GCC unroll 16
    for (int j = 0; j < 16; ++j) {
      const __m512 x =
          _mm512_maskz_loadu_ps(i + j < k ? FirstLanes(rows) : 0, a + (i + j) * k_stride);
      v[j] = _mm512_castps_si512(In<kRound>(x));
    }
    Transpose16x16(v);
    for (int64_t r = 0; r < rows; ++r) _mm512_storeu_si512(to + r * kChunk + i, v[r]);
  }
}

// 16 columns of a tile whose rows are `width` wide.
template <bool kRound>
inline void PackSixteenColumns(const float* b, int64_t stride, int64_t cols, int64_t k, float* out,
                               int64_t width) {
  for (int64_t i = 0; i < k; i += 16) {
    const int64_t left = k - i < 16 ? k - i : 16;
    const __mmask16 lanes = FirstLanes(left);
    __m512i v[16];
#pragma GCC unroll 16
    for (int c = 0; c < 16; ++c) {
      v[c] = _mm512_castps_si512(
          In<kRound>(_mm512_maskz_loadu_ps(c < cols ? lanes : 0, b + c * stride + i)));
    }
    Transpose16x16(v);
    for (int64_t j = 0; j < left; ++j) _mm512_storeu_si512(out + (i + j) * width, v[j]);
  }
}

template <bool kRound>
void PackBColumns(const float* b, int64_t stride, int64_t cols, int64_t k, void* out) noexcept {
  float* to = static_cast<float*>(out);
  if (cols <= 16) {
    PackSixteenColumns<kRound>(b, stride, cols, k, to, 16);
    return;
  }
  PackSixteenColumns<kRound>(b, stride, 16, k, to, kCols);
  PackSixteenColumns<kRound>(b + 16 * stride, stride, cols - 16, k, to + 16, kCols);
}

template <bool kRound>
void PackBRows(const float* b, int64_t stride, int64_t cols, int64_t k, void* out) noexcept {
  float* to = static_cast<float*>(out);
  const __mmask16 low = FirstLanes(cols), high = FirstLanes(cols - 16);
  const int64_t width = cols <= 16 ? 16 : kCols;
  for (int64_t i = 0; i < k; ++i) {
    const float* row = b + i * stride;
    _mm512_storeu_ps(to + i * width, In<kRound>(_mm512_maskz_loadu_ps(low, row)));
    if (width == kCols)
      _mm512_storeu_ps(to + i * width + 16, In<kRound>(_mm512_maskz_loadu_ps(high, row + 16)));
  }
}

// R rows x 16 V columns; one FMA chain per element.
template <int R, int V>
inline void Tile(const float* a, const float* b, int64_t k, float* c, int64_t ldc, bool load,
                 const __mmask16* lanes) {
  __m512 sum[R][V];
#pragma GCC unroll 14
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) {
      sum[r][v] =
          load ? _mm512_maskz_loadu_ps(lanes[v], c + r * ldc + 16 * v) : _mm512_setzero_ps();
    }
  }
  for (int64_t i = 0; i < k; ++i) {
    __m512 w[V];
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) w[v] = _mm512_loadu_ps(b + (i * V + v) * 16);
#pragma GCC unroll 14
    for (int r = 0; r < R; ++r) {
      const __m512 x = _mm512_set1_ps(a[r * kChunk + i]);
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) sum[r][v] = _mm512_fmadd_ps(x, w[v], sum[r][v]);
    }
  }
#pragma GCC unroll 14
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) _mm512_mask_storeu_ps(c + r * ldc + 16 * v, lanes[v], sum[r][v]);
  }
}

template <int R>
void RowBlock(const GemmCall& call, int64_t row) {
  const float* a = static_cast<const float*>(call.a) + row * kChunk;
  for (int64_t col = 0; col < call.cols; col += kCols) {
    const float* b = static_cast<const float*>(call.b) + col * (call.k + kTileGap);
    float* c = call.c + row * call.ldc + col;
    const int64_t cols = call.cols - col;
    const __mmask16 lanes[2] = {FirstLanes(cols), FirstLanes(cols - 16)};
    if (cols > 16) {
      Tile<R, 2>(a, b, call.k, c, call.ldc, call.load, lanes);
    } else {
      Tile<R, 1>(a, b, call.k, c, call.ldc, call.load, lanes);
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
    case 6:
      RowBlock<6>(call, row);
      break;
    case 7:
      RowBlock<7>(call, row);
      break;
    case 8:
      RowBlock<8>(call, row);
      break;
    case 9:
      RowBlock<9>(call, row);
      break;
    case 10:
      RowBlock<10>(call, row);
      break;
    case 11:
      RowBlock<11>(call, row);
      break;
    case 12:
      RowBlock<12>(call, row);
      break;
    case 13:
      RowBlock<13>(call, row);
      break;
    default:
      break;
  }
}

template <bool kRound>
constexpr GemmTable Table() {
  GemmTable t;
  t.layout = PanelLayout::kF32x32;
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

const GemmTable kGemmAvx512F32 = kF32;
const GemmTable kGemmAvx512Bf16Fma = kBf16;

}  // namespace lapidary
