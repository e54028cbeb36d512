// Panels of every block format for the AVX-512 table with fp32 FMA. Compiled for AVX-512: nothing
// here may be a function that another file also instantiates.
#include "quant/few_rows_lines-inl.h"
#include "quant/panels_avx512-inl.h"

namespace lapidary {
namespace {

template <class R, bool kRound>
constexpr FormatPanels Row(int32_t format) {
  return {format,
          kInUnits<R> ? WeightLayout::kUnits : WeightLayout::kRows,
          {PackForwardF32<R, kRound>, PackInputGradF32<R, kRound>}};
}

struct SixteenFloats {
  using Floats = __m512;
  static constexpr int kLanes = 16;
  static inline Floats Load(const float* at) { return _mm512_loadu_ps(at); }
  static inline Floats Zero() { return _mm512_setzero_ps(); }
  static inline Floats Broadcast(const float* at) { return _mm512_set1_ps(*at); }
  static inline Floats Mul(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
  static inline Floats Sub(Floats a, Floats b) { return _mm512_sub_ps(a, b); }
  static inline Floats Add(Floats sum, Floats a, Floats b) { return _mm512_fmadd_ps(a, b, sum); }
  static inline void Store(float* at, Floats v) { _mm512_storeu_ps(at, v); }
  static inline Floats Quiet(Floats v) {
    return _mm512_mask_mov_ps(v, _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q),
                              _mm512_castsi512_ps(_mm512_set1_epi32(0x7fc00000)));
  }
  static inline Floats Round(Floats v) {
    const __m512i bits = _mm512_castps_si512(v);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i sum = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
    return _mm512_castsi512_ps(
        _mm512_and_si512(sum, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
  }
  template <int kByte>
  static inline Floats Byte(const int32_t* quads) {
    const __m512i v = _mm512_load_si512(quads);
    return _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(v, 24 - 8 * kByte), 24));
  }
};

template <class R, class F, bool kRound>
constexpr FormatPanels LineFormat(int32_t format) {
  FormatPanels row = Row<R, kRound>(format);
  row.few_rows = FewRowsOfLines<F, SixteenFloats, kRound>;
  return row;
}

template <bool kRound>
struct Lists {
  static constexpr FormatPanels kRows[] = {
      Row<F16Row, kRound>(kFormatF16),
      LineFormat<Q4RowIn<false>, Q4_0Lines, kRound>(kFormatQ4_0),
      Row<Q4RowIn<true>, kRound>(kFormatQ4_0),
      LineFormat<LineRow<Q8_0Lines>, Q8_0Lines, kRound>(kFormatQ8_0),
      LineFormat<Q6RowIn<false>, Q6KLines, kRound>(kFormatQ6_K),
      Row<Q6RowIn<true>, kRound>(kFormatQ6_K),
      Row<UnitLineRow<Q8_0UnitLines>, kRound>(kFormatQ8_0),
      Row<UnitLineRow<Q4KUnitLines>, kRound>(kFormatQ4_K),
      Row<UnitLineRow<Q5KUnitLines>, kRound>(kFormatQ5_K),
      LineFormat<LineRow<Q4_1Lines>, Q4_1Lines, kRound>(kFormatQ4_1),
      LineFormat<LineRow<Q5_0Lines>, Q5_0Lines, kRound>(kFormatQ5_0),
      LineFormat<LineRow<Q5_1Lines>, Q5_1Lines, kRound>(kFormatQ5_1),
      LineFormat<LineRow<Q2KLines>, Q2KLines, kRound>(kFormatQ2_K),
      LineFormat<LineRow<Q3KLines>, Q3KLines, kRound>(kFormatQ3_K),
      LineFormat<LineRow<Q4KLines>, Q4KLines, kRound>(kFormatQ4_K),
      LineFormat<LineRow<Q5KLines>, Q5KLines, kRound>(kFormatQ5_K),
      LineFormat<LineRow<Iq4NlLines>, Iq4NlLines, kRound>(kFormatIQ4_NL),
      LineFormat<LineRow<Iq4XsLines>, Iq4XsLines, kRound>(kFormatIQ4_XS),
      LineFormat<LineRow<Mxfp4Lines>, Mxfp4Lines, kRound>(kFormatMXFP4),
  };
  static constexpr PanelList kList = {kRows, sizeof(kRows) / sizeof(kRows[0])};
};

}  // namespace

const PanelList kPanelsAvx512 = Lists<false>::kList;
const PanelList kPanelsAvx512Round = Lists<true>::kList;

}  // namespace lapidary
