// Panels of bfloat16, float16 and float32 weights for the vdpbf16ps and the tile table. Compiled
// for AVX-512 BF16: nothing here may be a function that another file also instantiates.
#include "autograd/kernels/gemm_few_rows_avx512-inl.h"
#include "autograd/kernels/gemm_panels_dense-inl.h"
#include "autograd/kernels/gemm_panels_isa.h"

namespace lapidary {
namespace {

// Strips of bfloat16 rows: 16 lines, transposed as pairs.
struct Bf16Strips {
  static constexpr int64_t kBlock = 32;
  struct Block {
    const uint8_t* rows;
    int64_t step;
  };
  __attribute__((always_inline)) static inline Block Open(const WeightView& w, int64_t row,
                                                          int64_t at) {
    return {static_cast<const uint8_t*>(w.data) + row * w.row_bytes + 2 * at, w.row_bytes};
  }
  template <class Sink>
  __attribute__((always_inline)) static inline void Line(const Block& block, int64_t, Sink& sink) {
    __m512i v[16];
#pragma GCC unroll 16
    for (int c = 0; c < 16; ++c) {
      const uint8_t* const at = block.rows + c * block.step;
      v[c] = _mm512_loadu_si512(at);
      Prefetch(at + 512);
    }
    Transpose16x16(v);
#pragma GCC unroll 16
    for (int j = 0; j < 16; ++j) sink.Put(j, v[j]);
  }
};

}  // namespace

const FewRowsFunction kFewRowsBf16Pairs = FewRowsProduct<Bf16Strips>;

const DensePanels kDensePanelsPairs = {{PackForwardBf16<Bf16Row, 2>, PackInputGradBf16<Bf16Row, 2>},
                                       {PackForwardBf16<F32Row, 2>, PackInputGradBf16<F32Row, 2>},
                                       {PackForwardBf16<F16Row, 2>, PackInputGradBf16<F16Row, 2>}};
const DensePanels kDensePanelsTiles = {
    {PackForwardBf16<Bf16Row, 32>, PackInputGradBf16<Bf16Row, 32>},
    {PackForwardBf16<F32Row, 32>, PackInputGradBf16<F32Row, 32>},
    {PackForwardBf16<F16Row, 32>, PackInputGradBf16<F16Row, 32>}};

}  // namespace lapidary
