// AVX-512 with vdpbf16ps on bf16 pairs (gemm_avx512_rows-inl.h). vdpbf16ps adds the two products of
// a pair to a sum one after the other, each with its own rounding, and treats denormals as zero; a
// sum is still one chain in the order of k. On Zen 4 and 5 it does twice the work of an fp32 FMA;
// on Intel cores that also have AMX, half of it, and there AMX is used. Compiled for AVX-512 BF16:
// nothing here may be a function that another file also instantiates.
#include "autograd/kernels/gemm_avx512_bf16-inl.h"
#include "autograd/kernels/gemm_avx512_rows-inl.h"
#include "autograd/kernels/gemm_isa.h"

namespace lapidary {
namespace {

struct DotPairs {
  using Element = uint16_t;
  using Vector = __m512bh;
  static constexpr int64_t kChunk = 512, kStep = 2, kTileGap = 2;  // gap: PanelOffset
  static inline Vector Load(const uint16_t* b) { return (__m512bh)_mm512_loadu_si512(b); }
  static inline Vector Broadcast(const uint16_t* a) {
    int pair;
    __builtin_memcpy(&pair, a, 4);
    return (__m512bh)_mm512_set1_epi32(pair);
  }
  static inline __m512 Add(__m512 sum, Vector a, Vector b) { return _mm512_dpbf16_ps(sum, a, b); }
};

constexpr GemmTable Table() {
  GemmTable t;
  t.layout = PanelLayout::kBf16x32;
  t.tile_cols = kCols;
  t.block_rows = kRows;
  t.chunk = DotPairs::kChunk;
  t.k_unit = 2;
  t.element_bytes = 2;
  t.pack_a = PackA<DotPairs::kChunk, 2>;
  t.pack_b_columns = PackBColumns<2>;
  t.pack_b_rows = PackBRows<2>;
  t.partials = true;
  t.tails = true;
  t.multiply = Multiply<DotPairs>;
  return t;
}

constexpr GemmTable kTable = Table();

}  // namespace

const GemmTable kGemmAvx512Bf16 = kTable;

}  // namespace lapidary
