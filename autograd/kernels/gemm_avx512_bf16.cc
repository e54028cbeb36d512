// AVX-512 with vdpbf16ps: tiles of 32 columns of bf16 pairs, blocks of 14 rows. vdpbf16ps adds the
// two products of a pair to a sum one after the other with its own rounding and treats denormals as
// zero; a sum is still one chain in the order of k. On Zen 4 and 5 it does twice the work of an
// fp32 FMA; on Intel cores that also have AMX, half of it, and there AMX is used. Compiled for
// AVX-512 BF16: nothing here may be a function that another file also instantiates.
#include "autograd/kernels/gemm_avx512_bf16-inl.h"
#include "autograd/kernels/gemm_isa.h"

namespace lapidary {
namespace {

constexpr int64_t kRows = 14, kCols = 32, kChunk = 512, kTileGap = 2;  // PanelOffset

// R rows x 16 V columns; one chain of vdpbf16ps per element.
template <int R, int V>
inline void Tile(const uint16_t* a, const uint16_t* b, int64_t k, float* c, int64_t ldc, bool load,
                 const __mmask16* lanes) {
  __m512 sum[R][V];
#pragma GCC unroll 14
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) {
      sum[r][v] =
          load ? _mm512_maskz_loadu_ps(lanes[v], c + r * ldc + 16 * v) : _mm512_setzero_ps();
    }
  }
  for (int64_t i = 0; i < k; i += 2) {
    __m512bh w[V];
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) w[v] = (__m512bh)_mm512_loadu_si512(b + (i * V + 2 * v) * 16);
#pragma GCC unroll 14
    for (int r = 0; r < R; ++r) {
      int pair;
      __builtin_memcpy(&pair, a + r * kChunk + i, 4);
      const __m512bh x = (__m512bh)_mm512_set1_epi32(pair);
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) sum[r][v] = _mm512_dpbf16_ps(sum[r][v], x, w[v]);
    }
  }
#pragma GCC unroll 14
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) _mm512_mask_storeu_ps(c + r * ldc + 16 * v, lanes[v], sum[r][v]);
  }
}

template <int R>
void RowBlock(const GemmCall& call, int64_t row) {
  const uint16_t* a = static_cast<const uint16_t*>(call.a) + row * kChunk;
  const int64_t k = call.k + (call.k & 1);
  for (int64_t col = 0; col < call.cols; col += kCols) {
    const uint16_t* b = static_cast<const uint16_t*>(call.b) + col * (k + kTileGap);
    float* c = call.c + row * call.ldc + col;
    const int64_t cols = call.cols - col;
    const __mmask16 lanes[2] = {FirstLanes(cols), FirstLanes(cols - 16)};
    if (cols > 16) {
      Tile<R, 2>(a, b, k, c, call.ldc, call.load, lanes);
    } else {
      Tile<R, 1>(a, b, k, c, call.ldc, call.load, lanes);
    }
  }
}

void Multiply(const GemmCall& call) noexcept {
  int64_t row = 0;
  for (; row + kRows <= call.rows; row += kRows) RowBlock<kRows>(call, row);
  switch (call.rows - row) {
    case 1:
      RowBlock<1>(call, row);
      break;
    case 2:
      RowBlock<2>(call, row);
      break;
    case 3:
      RowBlock<3>(call, row);
      break;
    case 4:
      RowBlock<4>(call, row);
      break;
    case 5:
      RowBlock<5>(call, row);
      break;
    case 6:
      RowBlock<6>(call, row);
      break;
    case 7:
      RowBlock<7>(call, row);
      break;
    case 8:
      RowBlock<8>(call, row);
      break;
    case 9:
      RowBlock<9>(call, row);
      break;
    case 10:
      RowBlock<10>(call, row);
      break;
    case 11:
      RowBlock<11>(call, row);
      break;
    case 12:
      RowBlock<12>(call, row);
      break;
    case 13:
      RowBlock<13>(call, row);
      break;
    default:
      break;
  }
}

constexpr GemmTable Table() {
  GemmTable t;
  t.layout = PanelLayout::kBf16x32;
  t.tile_cols = kCols;
  t.block_rows = kRows;
  t.chunk = kChunk;
  t.k_unit = 2;
  t.element_bytes = 2;
  t.pack_a = PackA<kChunk, 2>;
  t.pack_b_columns = PackBColumns<2>;
  t.pack_b_rows = PackBRows<2>;
  t.multiply = Multiply;
  return t;
}

constexpr GemmTable kTable = Table();

}  // namespace

const GemmTable kGemmAvx512Bf16 = kTable;

}  // namespace lapidary
