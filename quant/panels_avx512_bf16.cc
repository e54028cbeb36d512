// Panels of every block format for the vdpbf16ps and the tile table. Compiled for AVX-512 BF16:
// nothing here may be a function that another file also instantiates.
#include "quant/panels_avx512-inl.h"
#include "quant/panels_strip_avx512-inl.h"
#include "quant/panels_units_avx512-inl.h"

namespace lapidary {
namespace {

struct Q4Rows : Q4RowIn<false> {
  using Strip = Q4Strip;
};
struct Q8Rows : LineRow<Q8_0Lines> {
  using Strip = Q8Strip;
};
struct Q6Rows : Q6RowIn<false> {
  using Strip = Q6Strip;
};

template <class R, int64_t kUnit>
constexpr FormatPanels Row(int32_t format) {
  return {format, WeightLayout::kRows, {PackForwardBf16<R, kUnit>, PackInputGradBf16<R, kUnit>}};
}

// A format in units: single rows by R, strips by F. Products with few rows are for vdpbf16ps.
template <class R, class F>
struct UnitRows : R {
  using Strip = UnitPanelStrip<F>;
};
template <class R, class F, int64_t kUnit>
constexpr FormatPanels UnitRow(int32_t format) {
  using Rows = UnitRows<R, F>;
  return {format,
          WeightLayout::kUnits,
          {PackForwardBf16<Rows, kUnit>, PackInputGradUnits<F, kUnit>},
          kUnit == 2 ? FewRowsProduct<UnitSource<F>> : nullptr};
}

template <int64_t kUnit>
struct Lists {
  static constexpr FormatPanels kRows[] = {
      Row<F16Row, kUnit>(kFormatF16),
      Row<Q4Rows, kUnit>(kFormatQ4_0),
      Row<Q8Rows, kUnit>(kFormatQ8_0),
      Row<Q6Rows, kUnit>(kFormatQ6_K),
      Row<LineRow<Q4_1Lines>, kUnit>(kFormatQ4_1),
      Row<LineRow<Q5_0Lines>, kUnit>(kFormatQ5_0),
      Row<LineRow<Q5_1Lines>, kUnit>(kFormatQ5_1),
      Row<LineRow<Q2KLines>, kUnit>(kFormatQ2_K),
      Row<LineRow<Q3KLines>, kUnit>(kFormatQ3_K),
      Row<LineRow<Q4KLines>, kUnit>(kFormatQ4_K),
      Row<LineRow<Q5KLines>, kUnit>(kFormatQ5_K),
      Row<LineRow<Iq4NlLines>, kUnit>(kFormatIQ4_NL),
      Row<LineRow<Iq4XsLines>, kUnit>(kFormatIQ4_XS),
      Row<LineRow<Mxfp4Lines>, kUnit>(kFormatMXFP4),
      UnitRow<Q4RowIn<true>, Q4Units, kUnit>(kFormatQ4_0),
      UnitRow<UnitLineRow<Q8_0UnitLines>, Q8Units, kUnit>(kFormatQ8_0),
      UnitRow<UnitLineRow<Q4KUnitLines>, KUnits<false>, kUnit>(kFormatQ4_K),
      UnitRow<UnitLineRow<Q5KUnitLines>, KUnits<true>, kUnit>(kFormatQ5_K),
      UnitRow<Q6RowIn<true>, Q6Units, kUnit>(kFormatQ6_K),
  };
  static constexpr PanelList kList = {kRows, sizeof(kRows) / sizeof(kRows[0])};
};

}  // namespace

const PanelList kPanelsPairs = Lists<2>::kList;
const PanelList kPanelsTiles = Lists<32>::kList;

}  // namespace lapidary
