// Rows of bfloat16, float16 and float32 weights as the AVX-512 packers read them; included by files
// compiled for AVX-512 only, everything has internal linkage.
#ifndef LAPIDARY_AUTOGRAD_KERNELS_GEMM_PANELS_DENSE_INL_H_
#define LAPIDARY_AUTOGRAD_KERNELS_GEMM_PANELS_DENSE_INL_H_

#include "autograd/kernels/gemm_panels_avx512-inl.h"

namespace lapidary {
namespace {

struct Bf16Row {
  static constexpr int64_t kBytes = 64, kLineWeights = 32, kAhead = 256;
  static inline __m512i Line(const uint8_t* row, int64_t at, int64_t count) {
    const __mmask32 lanes = count >= 32 ? 0xffffffffu : (1u << count) - 1u;
    return _mm512_maskz_loadu_epi16(lanes, row + at * 2);
  }
  template <int kHalf>
  static inline __m512 Floats(const uint8_t* row, int64_t at, int64_t count) {
    const __mmask16 lanes = FirstLanes(count - 16 * kHalf);
    const __m256i bits = _mm256_maskz_loadu_epi16(lanes, row + (at + 16 * kHalf) * 2);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
  }
};

struct F16Row {
  static constexpr int64_t kBytes = 64, kLineWeights = 32, kAhead = 256;
  template <int kHalf>
  static inline __m512 Floats(const uint8_t* row, int64_t at, int64_t count) {
    const __mmask16 lanes = FirstLanes(count - 16 * kHalf);
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(lanes, row + (at + 16 * kHalf) * 2));
  }
  static inline __m512i Line(const uint8_t* row, int64_t at, int64_t count) {
    return Bf16Line(Floats<0>(row, at, count), Floats<1>(row, at, count));
  }
};

struct F32Row {
  static constexpr int64_t kBytes = 128, kLineWeights = 32, kAhead = 128;
  template <int kHalf>
  static inline __m512 Floats(const uint8_t* row, int64_t at, int64_t count) {
    return _mm512_maskz_loadu_ps(FirstLanes(count - 16 * kHalf), row + (at + 16 * kHalf) * 4);
  }
  static inline __m512i Line(const uint8_t* row, int64_t at, int64_t count) {
    return Bf16Line(Floats<0>(row, at, count), Floats<1>(row, at, count));
  }
};

}  // namespace
}  // namespace lapidary

#endif  // LAPIDARY_AUTOGRAD_KERNELS_GEMM_PANELS_DENSE_INL_H_
