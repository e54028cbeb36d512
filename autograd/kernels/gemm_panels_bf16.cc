// Panels from bfloat16 rows for the AVX-512 and tile tables.
#include "autograd/kernels/gemm_panels_avx512-inl.h"
#include "autograd/kernels/gemm_panels_isa.h"

namespace lapidary {
namespace {

struct Bf16Row {
  static constexpr int64_t kBytes = 64, kLineWeights = 32, kAhead = 256;
  static inline __mmask32 Lanes(int64_t count) {
    return count >= 32 ? 0xffffffffu : (1u << count) - 1u;
  }
  static inline __m512i Line(const uint8_t* row, int64_t at, int64_t count) {
    return _mm512_maskz_loadu_epi16(Lanes(count), row + at * 2);
  }
  template <int kHalf>
  static inline __m512 Floats(const uint8_t* row, int64_t at, int64_t count) {
    const int64_t left = count - 16 * kHalf;
    const __mmask16 lanes = FirstLanes(left);
    const __m256i bits = _mm256_maskz_loadu_epi16(lanes, row + (at + 16 * kHalf) * 2);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
  }
};

}  // namespace

const PanelPair kBf16PanelsAvx512 = {PackForwardF32<Bf16Row, false>,
                                     PackInputGradF32<Bf16Row, false>};
const PanelPair kBf16PanelsPairs = {PackForwardBf16<Bf16Row, 2>, PackInputGradBf16<Bf16Row, 2>};
const PanelPair kBf16PanelsTiles = {PackForwardBf16<Bf16Row, 32>, PackInputGradBf16<Bf16Row, 32>};

}  // namespace lapidary
