// Panels of every block format for the AVX2 table. Values are those of the format table's
// dequantize, rounded to bf16 once where the product wants bf16. Compiled for AVX2: nothing here
// may be a function that another file also instantiates.
#include "autograd/kernels/gemm_panels_avx2-inl.h"
#include "quant/few_rows_lines-inl.h"
#include "quant/panels.h"
#include "quant/panels_lines-inl.h"

namespace lapidary {
namespace {

template <class F>
struct LineRow {
  static constexpr int64_t kBytes = 32 * F::kBlockBytes / F::kBlock;
  static inline void Floats(const uint8_t* row, int64_t at, int64_t, __m256 out[4]) {
    const __m256i codes = F::Codes(row, at);
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      const __m128i bytes =
          half ? _mm256_extracti128_si256(codes, 1) : _mm256_castsi256_si128(codes);
      const __m256 scale = _mm256_set1_ps(F::Scale(row, at, half));
      __m256 v[2] = {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)),
                     _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8)))};
#pragma GCC unroll 2
      for (int j = 0; j < 2; ++j) {
        v[j] = _mm256_mul_ps(v[j], scale);
        if constexpr (F::kOffset) {
          v[j] = _mm256_sub_ps(v[j], _mm256_set1_ps(F::Offset(row, at, half)));
        }
        out[2 * half + j] = v[j];
      }
    }
  }
};

struct F16Row {
  static constexpr int64_t kBytes = 64;
  static inline void Floats(const uint8_t* row, int64_t at, int64_t count, __m256 out[4]) {
    alignas(32) uint16_t edge[32];
    const uint8_t* from = row + at * 2;
    if (count < 32) {
      for (int i = 0; i < 32; ++i) edge[i] = 0;
      __builtin_memcpy(edge, from, count * 2);
      from = reinterpret_cast<const uint8_t*>(edge);
    }
    for (int j = 0; j < 4; ++j) out[j] = _mm256_cvtph_ps(Sixteen(from + 16 * j));
  }
};

struct EightFloats {
  using Floats = __m256;
  static constexpr int kLanes = 8;
  static inline Floats Load(const float* at) { return _mm256_loadu_ps(at); }
  static inline Floats Zero() { return _mm256_setzero_ps(); }
  static inline Floats Broadcast(const float* at) { return _mm256_broadcast_ss(at); }
  static inline Floats Mul(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
  static inline Floats Sub(Floats a, Floats b) { return _mm256_sub_ps(a, b); }
  static inline Floats Add(Floats sum, Floats a, Floats b) { return _mm256_fmadd_ps(a, b, sum); }
  static inline void Store(float* at, Floats v) { _mm256_storeu_ps(at, v); }
  static inline Floats Quiet(Floats v) {
    return _mm256_blendv_ps(v, _mm256_castsi256_ps(_mm256_set1_epi32(0x7fc00000)),
                            _mm256_cmp_ps(v, v, _CMP_UNORD_Q));
  }
  static inline Floats Round(Floats v) {
    const __m256i bits = _mm256_castps_si256(v);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i sum = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
    return _mm256_castsi256_ps(
        _mm256_and_si256(sum, _mm256_set1_epi32(static_cast<int>(0xffff0000u))));
  }
  template <int kByte>
  static inline Floats Byte(const int32_t* quads) {
    const __m256i v = _mm256_load_si256(reinterpret_cast<const __m256i*>(quads));
    return _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(v, 24 - 8 * kByte), 24));
  }
};

template <class R, bool kRound>
constexpr FormatPanels Row(int32_t format) {
  return {format, WeightLayout::kRows, {PackForwardF32<R, kRound>, PackInputGradF32<R, kRound>}};
}

template <class F, bool kRound>
constexpr FormatPanels LineFormat(int32_t format) {
  FormatPanels row = Row<LineRow<F>, kRound>(format);
  row.few_rows = FewRowsOfLines<F, EightFloats, kRound>;
  return row;
}

template <bool kRound>
struct Lists {
  static constexpr FormatPanels kRows[] = {
      Row<F16Row, kRound>(kFormatF16),
      LineFormat<Q4_0Lines, kRound>(kFormatQ4_0),
      LineFormat<Q8_0Lines, kRound>(kFormatQ8_0),
      LineFormat<Q6KLines, kRound>(kFormatQ6_K),
      LineFormat<Q4_1Lines, kRound>(kFormatQ4_1),
      LineFormat<Q5_0Lines, kRound>(kFormatQ5_0),
      LineFormat<Q5_1Lines, kRound>(kFormatQ5_1),
      LineFormat<Q2KLines, kRound>(kFormatQ2_K),
      LineFormat<Q3KLines, kRound>(kFormatQ3_K),
      LineFormat<Q4KLines, kRound>(kFormatQ4_K),
      LineFormat<Q5KLines, kRound>(kFormatQ5_K),
      LineFormat<Iq4NlLines, kRound>(kFormatIQ4_NL),
      LineFormat<Iq4XsLines, kRound>(kFormatIQ4_XS),
      LineFormat<Mxfp4Lines, kRound>(kFormatMXFP4),
  };
  static constexpr PanelList kList = {kRows, sizeof(kRows) / sizeof(kRows[0])};
};

}  // namespace

const PanelList kPanelsAvx2 = Lists<false>::kList;
const PanelList kPanelsAvx2Round = Lists<true>::kList;

}  // namespace lapidary
