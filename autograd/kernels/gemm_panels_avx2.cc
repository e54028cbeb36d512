// Panels of bfloat16, float16 and float32 weights for the AVX2 table. Compiled for AVX2: nothing
// here may be a function that another file also instantiates.
#include "autograd/kernels/gemm_panels_avx2-inl.h"
#include "autograd/kernels/gemm_panels_isa.h"

namespace lapidary {
namespace {

// 32 halves from `at` on, zeros beyond `count`.
inline void Halves(const uint8_t* row, int64_t at, int64_t count, __m128i out[4]) {
  alignas(32) uint16_t edge[32];
  const uint8_t* from = row + at * 2;
  if (count < 32) {
    for (int i = 0; i < 32; ++i) edge[i] = 0;
    __builtin_memcpy(edge, from, count * 2);
    from = reinterpret_cast<const uint8_t*>(edge);
  }
  for (int j = 0; j < 4; ++j) out[j] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from) + j);
}

struct Bf16Row {
  static constexpr int64_t kBytes = 64;
  static inline void Floats(const uint8_t* row, int64_t at, int64_t count, __m256 out[4]) {
    __m128i bits[4];
    Halves(row, at, count, bits);
    for (int j = 0; j < 4; ++j)
      out[j] = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits[j]), 16));
  }
};

struct F16Row {
  static constexpr int64_t kBytes = 64;
  static inline void Floats(const uint8_t* row, int64_t at, int64_t count, __m256 out[4]) {
    __m128i bits[4];
    Halves(row, at, count, bits);
    for (int j = 0; j < 4; ++j) out[j] = _mm256_cvtph_ps(bits[j]);
  }
};

struct F32Row {
  static constexpr int64_t kBytes = 128;
  static inline void Floats(const uint8_t* row, int64_t at, int64_t count, __m256 out[4]) {
    const float* from = reinterpret_cast<const float*>(row) + at;
    for (int j = 0; j < 4; ++j)
      out[j] = _mm256_maskload_ps(from + 8 * j, FirstLanes(count - 8 * j));
  }
};

}  // namespace

const DensePanels kDensePanelsAvx2 = {
    {PackForwardF32<Bf16Row, false>, PackInputGradF32<Bf16Row, false>},
    {PackForwardF32<F32Row, false>, PackInputGradF32<F32Row, false>},
    {PackForwardF32<F16Row, false>, PackInputGradF32<F16Row, false>}};
const DensePanels kDensePanelsAvx2Round = {
    {PackForwardF32<Bf16Row, false>, PackInputGradF32<Bf16Row, false>},
    {PackForwardF32<F32Row, true>, PackInputGradF32<F32Row, true>},
    {PackForwardF32<F16Row, true>, PackInputGradF32<F16Row, true>}};

}  // namespace lapidary
