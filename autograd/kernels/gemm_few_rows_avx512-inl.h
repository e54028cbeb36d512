// Products with few rows by vdpbf16ps, straight from stored blocks (gemm_table.h, FewRowsCall): 16
// rows of the weight are a strip, a strip's pairs of bf16 go from registers into the sums. Nothing
// is written but y, so that memory is read about as fast as it comes.
//
// A source S of strips says how a weight is stored:
//   static constexpr int64_t kBlock;  // positions that are opened together, a multiple of 32
//   struct Block;                     // what a strip keeps for them
//   static Block Open(const WeightView& w, int64_t row, int64_t at);  // row a multiple of 16
//   // Positions at + 32 line .. + 32: calls sink.Put(pair, values) 16 times, pair 0 to 15 in
//   // order, the values a vector of pairs of bf16, row r in the 32-bit lane r.
//   template <class Sink> static void Line(const Block& block, int64_t line, Sink& sink);
// Included by files compiled for AVX-512 BF16 only, everything has internal linkage.
#ifndef LAPIDARY_AUTOGRAD_KERNELS_GEMM_FEW_ROWS_AVX512_INL_H_
#define LAPIDARY_AUTOGRAD_KERNELS_GEMM_FEW_ROWS_AVX512_INL_H_

#include "autograd/kernels/gemm_avx512-inl.h"
#include "autograd/kernels/gemm_table.h"

namespace lapidary {
namespace {

constexpr int64_t kFewRowsChunk = 512;  // the chunk of the table of vdpbf16ps

// y[r][16 outputs] for R rows of x; every element one chain of additions in the order of k.
template <int R>
struct StripSums {
  __m512 sum[R];
  const uint16_t* x = nullptr;  // the line's part of the first row

  __attribute__((always_inline)) inline void Put(int pair, __m512i values) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      // Written out, or GCC keeps the broadcast x of all strips in registers that it does not have.
      asm("vdpbf16ps %2%{1to16%}, %1, %0"
          : "+v"(sum[r])
          : "v"(values), "m"(*reinterpret_cast<const int32_t*>(x + r * kFewRowsChunk + 2 * pair)));
    }
  }
};

// T strips side by side: a chain of additions waits six cycles for each, and the next strip's fill
// the time. More than two (32 rows, one stream of memory) did not help.
template <class S, int R, int T>
__attribute__((noinline)) void StripsTimesRows(const FewRowsCall& q, int64_t out) {
  StripSums<R> sums[T];
  float* const c = q.c + out;
#pragma GCC unroll 2
  for (int t = 0; t < T; ++t) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      sums[t].sum[r] = q.load ? _mm512_loadu_ps(c + r * q.ldc + 16 * t) : _mm512_setzero_ps();
    }
  }
  const int64_t cols = q.w->cols;
  for (int64_t at = 0; at < cols; at += S::kBlock) {
    const uint16_t* const x =
        reinterpret_cast<const uint16_t*>(static_cast<const char*>(q.a) +
                                          at / kFewRowsChunk * q.chunk_bytes) +
        at % kFewRowsChunk;
    typename S::Block block[T];
#pragma GCC unroll 2
    for (int t = 0; t < T; ++t) block[t] = S::Open(*q.w, q.out + out + 16 * t, at);
    for (int64_t line = 0; line < S::kBlock / 32; ++line) {
#pragma GCC unroll 2
      for (int t = 0; t < T; ++t) {
        sums[t].x = x + 32 * line;
        S::Line(block[t], line, sums[t]);
      }
    }
  }
#pragma GCC unroll 2
  for (int t = 0; t < T; ++t) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) _mm512_storeu_ps(c + r * q.ldc + 16 * t, sums[t].sum[r]);
  }
}

template <class S, int R>
void FewRows(const FewRowsCall& q) {
  int64_t out = 0;
  for (; out + 32 <= q.outs; out += 32) StripsTimesRows<S, R, 2>(q, out);
  if (out < q.outs) StripsTimesRows<S, R, 1>(q, out);
}

template <class S>
void FewRowsProduct(const FewRowsCall& q) noexcept {
  switch (q.rows) {
    case 1:
      return FewRows<S, 1>(q);
    case 2:
      return FewRows<S, 2>(q);
    case 3:
      return FewRows<S, 3>(q);
    case 4:
      return FewRows<S, 4>(q);
    case 5:
      return FewRows<S, 5>(q);
    case 6:
      return FewRows<S, 6>(q);
    case 7:
      return FewRows<S, 7>(q);
    default:
      return FewRows<S, 8>(q);
  }
}

}  // namespace
}  // namespace lapidary

#endif  // LAPIDARY_AUTOGRAD_KERNELS_GEMM_FEW_ROWS_AVX512_INL_H_
