// Panels of every block format for the AVX-512 table with fp32 FMA. Compiled for AVX-512: nothing
// here may be a function that another file also instantiates.
#include "quant/panels_avx512-inl.h"

namespace lapidary {
namespace {

template <class R, bool kRound>
constexpr FormatPanels Row(int32_t format) {
  return {format,
          kInUnits<R> ? WeightLayout::kUnits : WeightLayout::kRows,
          {PackForwardF32<R, kRound>, PackInputGradF32<R, kRound>}};
}

template <bool kRound>
struct Lists {
  static constexpr FormatPanels kRows[] = {
      Row<F16Row, kRound>(kFormatF16),
      Row<Q4RowIn<false>, kRound>(kFormatQ4_0),
      Row<Q4RowIn<true>, kRound>(kFormatQ4_0),
      Row<LineRow<Q8_0Lines>, kRound>(kFormatQ8_0),
      Row<Q6RowIn<false>, kRound>(kFormatQ6_K),
      Row<Q6RowIn<true>, kRound>(kFormatQ6_K),
      Row<UnitLineRow<Q8_0UnitLines>, kRound>(kFormatQ8_0),
      Row<UnitLineRow<Q4KUnitLines>, kRound>(kFormatQ4_K),
      Row<UnitLineRow<Q5KUnitLines>, kRound>(kFormatQ5_K),
      Row<LineRow<Q4_1Lines>, kRound>(kFormatQ4_1),
      Row<LineRow<Q5_0Lines>, kRound>(kFormatQ5_0),
      Row<LineRow<Q5_1Lines>, kRound>(kFormatQ5_1),
      Row<LineRow<Q2KLines>, kRound>(kFormatQ2_K),
      Row<LineRow<Q3KLines>, kRound>(kFormatQ3_K),
      Row<LineRow<Q4KLines>, kRound>(kFormatQ4_K),
      Row<LineRow<Q5KLines>, kRound>(kFormatQ5_K),
      Row<LineRow<Iq4NlLines>, kRound>(kFormatIQ4_NL),
      Row<LineRow<Iq4XsLines>, kRound>(kFormatIQ4_XS),
      Row<LineRow<Mxfp4Lines>, kRound>(kFormatMXFP4),
  };
  static constexpr PanelList kList = {kRows, sizeof(kRows) / sizeof(kRows[0])};
};

}  // namespace

const PanelList kPanelsAvx512 = Lists<false>::kList;
const PanelList kPanelsAvx512Round = Lists<true>::kList;

}  // namespace lapidary
