// Panels of every block format for the vdpbf16ps and the tile table. Compiled for AVX-512 BF16:
// nothing here may be a function that another file also instantiates.
#include "quant/panels_avx512-inl.h"
#include "quant/panels_blocks_avx512-inl.h"

namespace lapidary {
namespace {

template <class R, int64_t kUnit>
constexpr FormatPanels Row(int32_t format) {
  return {format, WeightLayout::kRows, {PackForwardBf16<R, kUnit>, PackInputGradBf16<R, kUnit>}};
}

// A format with strips F: what is no whole strip goes by R, row by row. Products with few rows are
// for vdpbf16ps.
template <class R, class F>
struct WithStrips : R {
  using Strip = PanelStrip<F>;
};
template <class R, class F, int64_t kUnit>
constexpr FormatPanels StripRow(int32_t format) {
  return {format,
          kInUnits<R> ? WeightLayout::kUnits : WeightLayout::kRows,
          {PackForwardBf16<WithStrips<R, F>, kUnit>, PackInputGradStrips<R, F, kUnit>},
          kUnit == 2 ? FewRowsProduct<BlockSource<F>> : nullptr};
}

template <int64_t kUnit>
struct Lists {
  static constexpr FormatPanels kRows[] = {
      Row<F16Row, kUnit>(kFormatF16),
      StripRow<Q4RowIn<false>, Q4Blocks<InRows>, kUnit>(kFormatQ4_0),
      StripRow<LineRow<Q8_0Lines>, Q8Blocks<InRows>, kUnit>(kFormatQ8_0),
      StripRow<Q6RowIn<false>, Q6Blocks<InRows>, kUnit>(kFormatQ6_K),
      Row<LineRow<Q4_1Lines>, kUnit>(kFormatQ4_1),
      Row<LineRow<Q5_0Lines>, kUnit>(kFormatQ5_0),
      Row<LineRow<Q5_1Lines>, kUnit>(kFormatQ5_1),
      Row<LineRow<Q2KLines>, kUnit>(kFormatQ2_K),
      Row<LineRow<Q3KLines>, kUnit>(kFormatQ3_K),
      StripRow<LineRow<Q4KLines>, KBlocks<false, InRows>, kUnit>(kFormatQ4_K),
      StripRow<LineRow<Q5KLines>, KBlocks<true, InRows>, kUnit>(kFormatQ5_K),
      Row<LineRow<Iq4NlLines>, kUnit>(kFormatIQ4_NL),
      Row<LineRow<Iq4XsLines>, kUnit>(kFormatIQ4_XS),
      Row<LineRow<Mxfp4Lines>, kUnit>(kFormatMXFP4),
      StripRow<Q4RowIn<true>, Q4Blocks<InUnits>, kUnit>(kFormatQ4_0),
      StripRow<UnitLineRow<Q8_0UnitLines>, Q8Blocks<InUnits>, kUnit>(kFormatQ8_0),
      StripRow<UnitLineRow<Q4KUnitLines>, KBlocks<false, InUnits>, kUnit>(kFormatQ4_K),
      StripRow<UnitLineRow<Q5KUnitLines>, KBlocks<true, InUnits>, kUnit>(kFormatQ5_K),
      StripRow<Q6RowIn<true>, Q6Blocks<InUnits>, kUnit>(kFormatQ6_K),
  };
  static constexpr PanelList kList = {kRows, sizeof(kRows) / sizeof(kRows[0])};
};

}  // namespace

const PanelList kPanelsPairs = Lists<2>::kList;
const PanelList kPanelsTiles = Lists<32>::kList;

}  // namespace lapidary
