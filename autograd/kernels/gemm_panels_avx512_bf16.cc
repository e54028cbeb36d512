// Panels of bfloat16, float16 and float32 weights for the vdpbf16ps and the tile table. Compiled
// for AVX-512 BF16: nothing here may be a function that another file also instantiates.
#include "autograd/kernels/gemm_few_rows_avx512-inl.h"
#include "autograd/kernels/gemm_panels_dense-inl.h"
#include "autograd/kernels/gemm_panels_isa.h"

namespace lapidary {
namespace {

// bfloat16 rows as strips: 16 lines, transposed as pairs.
class Bf16Source {
 public:
  struct Line {
    __m512i pairs[16];
    __attribute__((always_inline)) inline __m512i Pair(int pair) const { return pairs[pair]; }
  };
  struct Strip {
    const uint8_t* rows;
    int64_t step;
    __attribute__((always_inline)) inline void Read(int64_t line, Line* out) const {
#pragma GCC unroll 16
      for (int r = 0; r < 16; ++r) {
        const uint8_t* const at = rows + r * step + 64 * line;
        out->pairs[r] = _mm512_loadu_si512(at);
        Prefetch(at + 512);
      }
      Transpose16x16(out->pairs);
    }
  };
  static constexpr int kStrips = 1;
  Bf16Source(const FewRowsCall& q, int64_t out, int)
      : first_{static_cast<const uint8_t*>(q.w->data) + (q.out + out) * q.w->row_bytes,
               q.w->row_bytes} {}
  __attribute__((always_inline)) inline void Start(int, int64_t, Strip* out) const {
    *out = first_;
  }
  template <int kCount>
  __attribute__((always_inline)) inline void Ask(int64_t) const {}

 private:
  Strip first_;
};

}  // namespace

const FewRowsFunction kFewRowsBf16Pairs = FewRowsProduct<Bf16Source>;

const DensePanels kDensePanelsPairs = {{PackForwardBf16<Bf16Row, 2>, PackInputGradBf16<Bf16Row, 2>},
                                       {PackForwardBf16<F32Row, 2>, PackInputGradBf16<F32Row, 2>},
                                       {PackForwardBf16<F16Row, 2>, PackInputGradBf16<F16Row, 2>}};
const DensePanels kDensePanelsTiles = {
    {PackForwardBf16<Bf16Row, 32>, PackInputGradBf16<Bf16Row, 32>},
    {PackForwardBf16<F32Row, 32>, PackInputGradBf16<F32Row, 32>},
    {PackForwardBf16<F16Row, 32>, PackInputGradBf16<F16Row, 32>}};

}  // namespace lapidary
