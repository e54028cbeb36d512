// Packing of float32 into bf16 operands for the vdpbf16ps and the tile kernels; included by files
// compiled for AVX-512 only, everything has internal linkage.
#ifndef LAPIDARY_AUTOGRAD_KERNELS_GEMM_AVX512_BF16_INL_H_
#define LAPIDARY_AUTOGRAD_KERNELS_GEMM_AVX512_BF16_INL_H_

#include "autograd/kernels/gemm_avx512-inl.h"

namespace lapidary {
namespace {

// Rows of bf16 with the stride kStride, zeros up to the next multiple of kUnit.
template <int64_t kStride, int64_t kUnit>
void PackA(const float* a, int64_t row_stride, int64_t k_stride, int64_t rows, int64_t k,
           void* out) noexcept {
  uint16_t* to = static_cast<uint16_t*>(out);
  if (k_stride == 1) {
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t i = 0; i < k; i += 32) {
        const float* from = a + r * row_stride + i;
        const __m512 first = _mm512_maskz_loadu_ps(FirstLanes(k - i), from);
        const __m512 second = _mm512_maskz_loadu_ps(FirstLanes(k - i - 16), from + 16);
        _mm512_storeu_si512(to + r * kStride + i, Bf16Line(first, second));
      }
    }
    return;
  }
  for (int64_t row = 0; row < rows; row += 16) {
    const int64_t count = rows - row < 16 ? rows - row : 16;
    const __mmask16 lanes = FirstLanes(count);
    for (int64_t i = 0; i < k; i += 32) {
      __m512i v[16];
#pragma GCC unroll 16
      for (int j = 0; j < 16; ++j) {
        const int64_t at = i + 2 * j;
        const float* from = a + at * k_stride + row;
        const __m512 low = _mm512_maskz_loadu_ps(at < k ? lanes : 0, from);
        const __m512 high = _mm512_maskz_loadu_ps(at + 1 < k ? lanes : 0, from + k_stride);
        v[j] = Bf16Pairs(low, high);
      }
      Transpose16x16(v);
      for (int64_t r = 0; r < count; ++r) _mm512_storeu_si512(to + (row + r) * kStride + i, v[r]);
    }
  }
}

inline int64_t RoundUp(int64_t k, int64_t unit) { return (k + unit - 1) / unit * unit; }

// 16 columns of a tile `width` columns wide; k positions, zeros up to kp.
inline void PackSixteenColumns(const float* b, int64_t stride, int64_t cols, int64_t k, int64_t kp,
                               uint16_t* out, int64_t width) {
  for (int64_t i = 0; i < kp; i += 32) {
    __m512i v[16];
#pragma GCC unroll 16
    for (int c = 0; c < 16; ++c) {
      const float* from = b + c * stride + i;
      const __m512 first = _mm512_maskz_loadu_ps(c < cols ? FirstLanes(k - i) : 0, from);
      const __m512 second = _mm512_maskz_loadu_ps(c < cols ? FirstLanes(k - i - 16) : 0, from + 16);
      v[c] = Bf16Line(first, second);
    }
    Transpose16x16(v);
    const int64_t pairs = kp - i < 32 ? (kp - i) / 2 : 16;
    for (int64_t j = 0; j < pairs; ++j) _mm512_storeu_si512(out + (i + 2 * j) * width, v[j]);
  }
}

template <int64_t kUnit>
void PackBColumns(const float* b, int64_t stride, int64_t cols, int64_t k, void* out) noexcept {
  uint16_t* to = static_cast<uint16_t*>(out);
  const int64_t kp = RoundUp(k, kUnit);
  if (cols <= 16) {
    PackSixteenColumns(b, stride, cols, k, kp, to, 16);
    return;
  }
  PackSixteenColumns(b, stride, 16, k, kp, to, 32);
  PackSixteenColumns(b + 16 * stride, stride, cols - 16, k, kp, to + 32, 32);
}

template <int64_t kUnit>
void PackBRows(const float* b, int64_t stride, int64_t cols, int64_t k, void* out) noexcept {
  uint16_t* to = static_cast<uint16_t*>(out);
  const int64_t kp = RoundUp(k, kUnit), width = cols <= 16 ? 16 : 32;
  for (int64_t i = 0; i < kp; i += 2) {
    for (int64_t half = 0; half < width; half += 16) {
      const __mmask16 lanes = FirstLanes(cols - half);
      const float* from = b + i * stride + half;
      const __m512 low = _mm512_maskz_loadu_ps(i < k ? lanes : 0, from);
      const __m512 high = _mm512_maskz_loadu_ps(i + 1 < k ? lanes : 0, from + stride);
      _mm512_storeu_si512(to + i * width + 2 * half, Bf16Pairs(low, high));
    }
  }
}

}  // namespace
}  // namespace lapidary

#endif  // LAPIDARY_AUTOGRAD_KERNELS_GEMM_AVX512_BF16_INL_H_
