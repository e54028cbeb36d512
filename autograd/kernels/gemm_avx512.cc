// AVX-512 with fp32 FMA (gemm_avx512_rows-inl.h). Compiled for AVX-512: nothing here may be a
// function that another file also instantiates.
#include "autograd/kernels/gemm_avx512_rows-inl.h"
#include "autograd/kernels/gemm_isa.h"

namespace lapidary {
namespace {

constexpr int64_t kChunk = 256;

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

struct Fma {
  using Element = float;
  using Vector = __m512;
  static constexpr int64_t kChunk = 256, kStep = 1, kTileGap = 1;  // gap: PanelOffset
  static inline Vector Load(const float* b) { return _mm512_loadu_ps(b); }
  static inline Vector Broadcast(const float* a) { return _mm512_set1_ps(*a); }
  static inline __m512 Add(__m512 sum, Vector a, Vector b) { return _mm512_fmadd_ps(a, b, sum); }
};

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
  t.partials = true;
  t.tails = true;
  t.multiply = Multiply<Fma>;
  return t;
}

constexpr GemmTable kF32 = Table<false>(), kBf16 = Table<true>();

}  // namespace

const GemmTable kGemmAvx512F32 = kF32;
const GemmTable kGemmAvx512Bf16Fma = kBf16;

}  // namespace lapidary
