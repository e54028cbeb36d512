// What the AVX-512 files share; included by files compiled for AVX-512 only, everything has
// internal linkage.
#ifndef LAPIDARY_AUTOGRAD_KERNELS_GEMM_AVX512_INL_H_
#define LAPIDARY_AUTOGRAD_KERNELS_GEMM_AVX512_INL_H_

#include <immintrin.h>

#include <cstdint>

namespace lapidary {
namespace {

// The first n of 16 lanes.
inline __mmask16 FirstLanes(int64_t n) {
  return static_cast<__mmask16>(n >= 16 ? 0xffffu : n <= 0 ? 0u : (1u << n) - 1u);
}

// Rounded to bf16 (nearest even), in the upper half of each lane; the lower half is rubbish.
inline __m512i Bf16High(__m512 value) {
  const __m512i bits = _mm512_castps_si512(value);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  // NaN: keep the upper half, make it quiet.
  const __mmask16 nan = _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q);
  return _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x400000));
}

inline __m512 RoundBf16(__m512 value) {
  return _mm512_castsi512_ps(
      _mm512_and_si512(Bf16High(value), _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
}

// Lane i: the pair (low[i], high[i]) as bf16. With the bf16 instructions denormals become zeros,
// which is how the products that these operands go into read them anyway.
inline __m512i Bf16Pairs(__m512 low, __m512 high) {
#if defined(__AVX512BF16__)
  const __m512i both = (__m512i)_mm512_cvtne2ps_pbh(high, low);
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24,
                                         8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return _mm512_permutexvar_epi16(order, both);
#else
  const __m512i l = _mm512_srli_epi32(Bf16High(low), 16);
  return _mm512_mask_blend_epi16(0xaaaaaaaau, l, Bf16High(high));
#endif
}

// 32 consecutive floats as 32 bf16 in order.
inline __m512i Bf16Line(__m512 first, __m512 second) {
#if defined(__AVX512BF16__)
  return (__m512i)_mm512_cvtne2ps_pbh(second, first);
#else
  const __m512i odd =
      _mm512_set_epi16(63, 61, 59, 57, 55, 53, 51, 49, 47, 45, 43, 41, 39, 37, 35, 33, 31, 29, 27,
                       25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
  return _mm512_permutex2var_epi16(Bf16High(first), odd, Bf16High(second));
#endif
}

inline void Transpose16x16(__m512i r[16]) {
  __m512i t[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  // Now the 128-bit lane q of r[4 g + j] holds rows 4 g .. 4 g + 3 of column 4 q + j.
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    t[j] = _mm512_shuffle_i32x4(r[j], r[j + 4], 0x88);
    t[j + 4] = _mm512_shuffle_i32x4(r[j], r[j + 4], 0xdd);
    t[j + 8] = _mm512_shuffle_i32x4(r[j + 8], r[j + 12], 0x88);
    t[j + 12] = _mm512_shuffle_i32x4(r[j + 8], r[j + 12], 0xdd);
  }
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    r[j] = _mm512_shuffle_i32x4(t[j], t[j + 8], 0x88);
    r[j + 4] = _mm512_shuffle_i32x4(t[j + 4], t[j + 12], 0x88);
    r[j + 8] = _mm512_shuffle_i32x4(t[j], t[j + 8], 0xdd);
    r[j + 12] = _mm512_shuffle_i32x4(t[j + 4], t[j + 12], 0xdd);
  }
}

}  // namespace
}  // namespace lapidary

#endif  // LAPIDARY_AUTOGRAD_KERNELS_GEMM_AVX512_INL_H_
