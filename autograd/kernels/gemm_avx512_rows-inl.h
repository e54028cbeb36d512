// The AVX-512 product, the same for fp32 FMA and vdpbf16ps: tiles of 32 columns (two vectors),
// blocks of 14 rows: 28 sums, two vectors of B and a broadcast fill the 32 registers. An operation
// O says what an element and a step of k are:
//   using Element; using Vector; static constexpr int64_t kChunk, kStep, kTileGap;
//   static Vector Load(const Element*);       // 16 columns of one step
//   static Vector Broadcast(const Element*);  // one row's step
//   static __m512 Add(__m512 sum, Vector a, Vector b);
// Included by files compiled for AVX-512 only, everything has internal linkage.
#ifndef LAPIDARY_AUTOGRAD_KERNELS_GEMM_AVX512_ROWS_INL_H_
#define LAPIDARY_AUTOGRAD_KERNELS_GEMM_AVX512_ROWS_INL_H_

#include "autograd/kernels/gemm_avx512-inl.h"
#include "autograd/kernels/gemm_table.h"

namespace lapidary {
namespace {

constexpr int64_t kRows = 14, kCols = 32;

// Where the sums of a tile come from (null: zeros) and go to; strides in floats.
struct TileSums {
  const float* in;
  int64_t in_stride;
  float* out;
  int64_t out_stride;
  const char* next;  // what the next tile will load, to be prefetched; may be any address
  __mmask16 lanes[2];
};

// One side of the product for a tile: R rows of A, a tile of B, k inner positions.
template <class O>
struct TileOperands {
  const typename O::Element *a, *b;
  int64_t k;
};

// sum += A B, each element one chain of additions.
template <class O, int R, int V>
__attribute__((always_inline)) inline void Accumulate(const TileOperands<O>& t, const char* next,
                                                      __m512 (&sum)[R][V]) {
  for (int64_t i = 0; i < t.k; i += O::kStep) {
    typename O::Vector w[V];
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) w[v] = O::Load(t.b + (i * V + O::kStep * v) * 16);
    // A tile of sums is 28 lines, a chunk 256 steps: 7 bytes a step.
    _mm_prefetch(next, _MM_HINT_T0);
    next += 7;
#pragma GCC unroll 14
    for (int r = 0; r < R; ++r) {
      const typename O::Vector x = O::Broadcast(t.a + r * O::kChunk + i);
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) sum[r][v] = O::Add(sum[r][v], x, w[v]);
    }
  }
}

// R rows x 16 V columns, the tail's positions after the chunk's. A template parameter for every
// size keeps the sums in registers.
template <class O, int R, int V>
inline void Tile(const TileOperands<O>& chunk, const TileOperands<O>& tail, const TileSums& s) {
  __m512 sum[R][V];
#pragma GCC unroll 14
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) {
      sum[r][v] = s.in ? _mm512_maskz_loadu_ps(s.lanes[v], s.in + r * s.in_stride + 16 * v)
                       : _mm512_setzero_ps();
    }
  }
  Accumulate<O, R, V>(chunk, s.next, sum);
  if (tail.k > 0) Accumulate<O, R, V>(tail, s.next, sum);
#pragma GCC unroll 14
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) {
      _mm512_mask_storeu_ps(s.out + r * s.out_stride + 16 * v, s.lanes[v], sum[r][v]);
    }
  }
}

template <class O, int R>
void RowBlock(const GemmCall& call, int64_t row) {
  using Element = typename O::Element;
  const Element* a = static_cast<const Element*>(call.a) + row * O::kChunk;
  const int64_t k = (call.k + O::kStep - 1) / O::kStep * O::kStep;
  TileOperands<O> tail = {};
  if (call.k_tail > 0) {
    tail.a = static_cast<const Element*>(call.a_tail) + row * O::kChunk;
    tail.k = (call.k_tail + O::kStep - 1) / O::kStep * O::kStep;
  }
  const int64_t tiles = (call.cols + kCols - 1) / kCols;
  // Between chunks the sums of a tile are 14 x 32 floats in a row: the row stride of C would put
  // them in one cache set.
  float* partials = call.partials ? call.partials + row * tiles * kCols : nullptr;
  for (int64_t col = 0; col < call.cols; col += kCols) {
    const Element* b = static_cast<const Element*>(call.b) + col * (k + O::kTileGap);
    if (tail.k > 0)
      tail.b = static_cast<const Element*>(call.b_tail) + col * (tail.k + O::kTileGap);
    float* const c = call.c + row * call.ldc + col;
    float* const kept = partials ? partials + col * kRows : nullptr;
    const int64_t cols = call.cols - col;
    TileSums s;
    s.lanes[0] = FirstLanes(cols);
    s.lanes[1] = FirstLanes(cols - 16);
    s.in = !call.load ? nullptr : kept && !call.first ? kept : c;
    s.in_stride = s.in == kept ? kCols : call.ldc;
    s.out = kept && !call.last ? kept : c;
    s.out_stride = s.out == kept ? kCols : call.ldc;
    s.next = reinterpret_cast<const char*>(kept ? kept + kRows * kCols : call.c);
    if (cols > 16) {
      Tile<O, R, 2>({a, b, k}, tail, s);
    } else {
      Tile<O, R, 1>({a, b, k}, tail, s);
    }
  }
}

// One to three rows, four tiles (or what is left) side by side: the sums of a tile are one chain of
// additions each and wait for their own results; 8 or more chains keep the multipliers busy.
template <class O, int R, int T>
inline void TileRow(const typename O::Element* a, const typename O::Element* b, int64_t tile_stride,
                    int64_t k, float* c, int64_t ldc, bool load) {
  __m512 sum[R][2 * T];
#pragma GCC unroll 3
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < 2 * T; ++v) {
      sum[r][v] = load ? _mm512_loadu_ps(c + r * ldc + 16 * v) : _mm512_setzero_ps();
    }
  }
  for (int64_t i = 0; i < k; i += O::kStep) {
    typename O::Vector x[R];
#pragma GCC unroll 3
    for (int r = 0; r < R; ++r) x[r] = O::Broadcast(a + r * O::kChunk + i);
#pragma GCC unroll 8
    for (int v = 0; v < 2 * T; ++v) {
      const typename O::Vector w =
          O::Load(b + v / 2 * tile_stride + (i * 2 + O::kStep * (v % 2)) * 16);
#pragma GCC unroll 3
      for (int r = 0; r < R; ++r) sum[r][v] = O::Add(sum[r][v], x[r], w);
    }
  }
#pragma GCC unroll 3
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < 2 * T; ++v) _mm512_storeu_ps(c + r * ldc + 16 * v, sum[r][v]);
  }
}

template <class O, int R>
void FewRows(const GemmCall& call) {
  using Element = typename O::Element;
  const Element* a = static_cast<const Element*>(call.a);
  const int64_t k = (call.k + O::kStep - 1) / O::kStep * O::kStep;
  const int64_t tile_stride = kCols * (k + O::kTileGap);
  const bool load = call.load || !call.first;
  int64_t col = 0;
  for (; col + 4 * kCols <= call.cols; col += 4 * kCols) {
    const Element* b = static_cast<const Element*>(call.b) + col / kCols * tile_stride;
    TileRow<O, R, 4>(a, b, tile_stride, k, call.c + col, call.ldc, load);
  }
  for (; col + kCols <= call.cols; col += kCols) {
    const Element* b = static_cast<const Element*>(call.b) + col / kCols * tile_stride;
    TileRow<O, R, 1>(a, b, tile_stride, k, call.c + col, call.ldc, load);
  }
  if (col == call.cols) return;
  GemmCall rest = call;
  rest.b = static_cast<const Element*>(call.b) + col / kCols * tile_stride;
  rest.c += col;
  rest.cols -= col;
  rest.partials = nullptr;
  RowBlock<O, R>(rest, 0);
}

// The sums go straight to C, a row of them is read and written in order: the tail is a call of its
// own.
template <class O, int R>
void FewRowsAndTail(const GemmCall& call) {
  GemmCall part = call;
  part.k_tail = 0;
  FewRows<O, R>(part);
  if (call.k_tail == 0) return;
  part.a = call.a_tail;
  part.b = call.b_tail;
  part.k = call.k_tail;
  part.load = true;
  FewRows<O, R>(part);
}

template <class O>
void Multiply(const GemmCall& call) noexcept {
  if (call.rows == 1) return FewRowsAndTail<O, 1>(call);
  if (call.rows == 2) return FewRowsAndTail<O, 2>(call);
  if (call.rows == 3) return FewRowsAndTail<O, 3>(call);
  int64_t row = 0;
  for (; row + kRows <= call.rows; row += kRows) RowBlock<O, kRows>(call, row);
  switch (call.rows - row) {
    case 1:
      RowBlock<O, 1>(call, row);
      break;
    case 2:
      RowBlock<O, 2>(call, row);
      break;
    case 3:
      RowBlock<O, 3>(call, row);
      break;
    case 4:
      RowBlock<O, 4>(call, row);
      break;
    case 5:
      RowBlock<O, 5>(call, row);
      break;
    case 6:
      RowBlock<O, 6>(call, row);
      break;
    case 7:
      RowBlock<O, 7>(call, row);
      break;
    case 8:
      RowBlock<O, 8>(call, row);
      break;
    case 9:
      RowBlock<O, 9>(call, row);
      break;
    case 10:
      RowBlock<O, 10>(call, row);
      break;
    case 11:
      RowBlock<O, 11>(call, row);
      break;
    case 12:
      RowBlock<O, 12>(call, row);
      break;
    case 13:
      RowBlock<O, 13>(call, row);
      break;
    default:
      break;
  }
}

}  // namespace
}  // namespace lapidary

#endif  // LAPIDARY_AUTOGRAD_KERNELS_GEMM_AVX512_ROWS_INL_H_
