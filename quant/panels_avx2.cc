// Panels from Q4_0 and Q8_0 blocks (formats.md 3.1) for the AVX2 table. Values are those of the
// format table's dequantize, d * q in float32, rounded to bf16 once where the product wants bf16.
// Compiled for AVX2: nothing here may be a function that another file also instantiates.
#include "autograd/kernels/gemm_panels_avx2-inl.h"
#include "quant/panels.h"

namespace lapidary {
namespace {

inline __m256 Scale(const uint8_t* block) {
  return _mm256_cvtph_ps(_mm_set1_epi16(static_cast<short>(block[0] | block[1] << 8)));
}

struct Q4Row {
  static constexpr int64_t kBytes = 18;
  static inline void Floats(const uint8_t* row, int64_t at, int64_t, __m256 out[4]) {
    const uint8_t* block = row + at / 32 * 18;
    const __m256 d = Scale(block);
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(block + 2));
    const __m128i codes[2] = {_mm_and_si128(bytes, _mm_set1_epi8(15)),
                              _mm_and_si128(_mm_srli_epi16(bytes, 4), _mm_set1_epi8(15))};
    for (int j = 0; j < 4; ++j) {
      const __m128i half = j % 2 ? _mm_srli_si128(codes[j / 2], 8) : codes[j / 2];
      const __m256i code = _mm256_sub_epi32(_mm256_cvtepu8_epi32(half), _mm256_set1_epi32(8));
      out[j] = _mm256_mul_ps(_mm256_cvtepi32_ps(code), d);
    }
  }
};

struct Q8Row {
  static constexpr int64_t kBytes = 34;
  static inline void Floats(const uint8_t* row, int64_t at, int64_t, __m256 out[4]) {
    const uint8_t* block = row + at / 32 * 34;
    const __m256 d = Scale(block);
    for (int j = 0; j < 4; ++j) {
      const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(block + 2 + 8 * j));
      out[j] = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)), d);
    }
  }
};

}  // namespace

const BlockPanels kBlockPanelsAvx2 = {
    {PackForwardF32<Q4Row, false>, PackInputGradF32<Q4Row, false>},
    {PackForwardF32<Q8Row, false>, PackInputGradF32<Q8Row, false>}};
const BlockPanels kBlockPanelsAvx2Round = {
    {PackForwardF32<Q4Row, true>, PackInputGradF32<Q4Row, true>},
    {PackForwardF32<Q8Row, true>, PackInputGradF32<Q8Row, true>}};

}  // namespace lapidary
