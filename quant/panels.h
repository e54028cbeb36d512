// Weights in block formats as the matrix product wants them: every row of the format table is
// registered with autograd (dequantize rows, then pack) and, for the vector tables, with functions
// that write packed panels straight from the blocks. A format's way into a panel is its entry in
// panels_lines-inl.h; the most used formats have faster ways (panels_avx512-inl.h,
// panels_blocks_avx512-inl.h). Products with few rows read blocks without panels
// (panels_blocks_avx512-inl.h, few_rows_lines-inl.h).
//
// This happens before main() in every program that links lapidary_quant: the library asks the
// linker to keep panels.cc, and a static object there calls RegisterQuantFormats(). Calling it
// again does no harm.
#ifndef LAPIDARY_QUANT_PANELS_H_
#define LAPIDARY_QUANT_PANELS_H_

#include "autograd/kernels/gemm_panels_isa.h"

namespace lapidary {

// Registers all formats. Not while the GEMM runs. Throws Error if the table is larger than its
// slots.
void RegisterQuantFormats();

// Panel functions, each list defined in the file compiled for its instruction set. `Round`: values
// are rounded to bf16.
struct FormatPanels {
  int32_t format;
  WeightLayout layout;
  PanelPair panels;
  FewRowsFunction few_rows = nullptr;  // null: products with few rows go through panels
};
struct PanelList {
  const FormatPanels* begin;
  int64_t count;
};
extern const PanelList kPanelsAvx2, kPanelsAvx2Round;      // layout kF32x16
extern const PanelList kPanelsAvx512, kPanelsAvx512Round;  // layout kF32x32
extern const PanelList kPanelsPairs;                       // layout kBf16x32, k unit 2
extern const PanelList kPanelsTiles;                       // layout kBf16x32, k unit 32
extern const PanelList kPanelsNeon, kPanelsNeonRound;      // layout kF32x16

// Ids of the formats that only quant knows (formats.md 2.2).
enum : int32_t {
  kFormatQ4_1 = 3,
  kFormatQ5_0 = 6,
  kFormatQ5_1 = 7,
  kFormatQ2_K = 10,
  kFormatQ3_K = 11,
  kFormatQ4_K = 12,
  kFormatQ5_K = 13,
  kFormatIQ4_NL = 20,
  kFormatIQ4_XS = 23,
  kFormatMXFP4 = 39
};

}  // namespace lapidary

#endif  // LAPIDARY_QUANT_PANELS_H_
