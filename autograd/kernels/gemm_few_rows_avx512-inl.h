// Products with few rows by vdpbf16ps, straight from stored blocks (gemm_table.h, FewRowsCall): 16
// rows of the weight are a strip, a strip's pairs of bf16 go from registers into the sums. Nothing
// is written but y, so that memory is read about as fast as it comes.
//
// A source S says how a weight is stored:
//   using Line;  // what is kept of 32 positions of a strip
//     __m512i Pair(int pair) const;  // of positions 2 pair, 2 pair + 1, row r in the 32-bit lane r
//   using Strip;  // void Read(int64_t line, Line* out), lines in order
//   static constexpr int kStrips;  // side by side, 1 or 2
//   S(const FewRowsCall& q, int64_t out, int strips);  // strips from output q.out + out on
//   void Start(int strip, int64_t lines, Strip* out) const;
//   template <int kCount> void Ask(int64_t line) const;  // prefetches for kCount strips
#ifndef LAPIDARY_AUTOGRAD_KERNELS_GEMM_FEW_ROWS_AVX512_INL_H_
#define LAPIDARY_AUTOGRAD_KERNELS_GEMM_FEW_ROWS_AVX512_INL_H_

#include "autograd/kernels/gemm_avx512-inl.h"
#include "autograd/kernels/gemm_table.h"

namespace lapidary {
namespace {

constexpr int64_t kFewRowsChunk = 512;  // the chunk of the table of vdpbf16ps

// y[r][16 T outputs] for R rows of x, every element one chain of additions in the order of k. An
// addition waits six cycles for the one before: T strips side by side fill the time.
template <class S, int R, int T>
__attribute__((noinline)) void StripsTimesRows(const FewRowsCall& q, int64_t out) {
  __m512 sum[R][T];
  float* const c = q.c + out;
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
    for (int t = 0; t < T; ++t)
      sum[r][t] = q.load ? _mm512_loadu_ps(c + r * q.ldc + 16 * t) : _mm512_setzero_ps();
  }
  const int64_t lines = q.w->cols / 32;
  const S source(q, out, T);
  typename S::Strip strip[T];
#pragma GCC unroll 2
  for (int t = 0; t < T; ++t) source.Start(t, lines, &strip[t]);
  for (int64_t l = 0; l < lines; ++l) {
    const uint16_t* const x =
        reinterpret_cast<const uint16_t*>(static_cast<const char*>(q.a) +
                                          32 * l / kFewRowsChunk * q.chunk_bytes) +
        32 * l % kFewRowsChunk;
    source.template Ask<T>(l);
    typename S::Line line[T];
#pragma GCC unroll 2
    for (int t = 0; t < T; ++t) strip[t].Read(l, &line[t]);
#pragma GCC unroll 16
    for (int pair = 0; pair < 16; ++pair) {
#pragma GCC unroll 2
      for (int t = 0; t < T; ++t) {
        const __m512i values = line[t].Pair(pair);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
          // Written out, or GCC keeps the broadcast x of all strips in registers that it does not
          // have.
          asm("vdpbf16ps %2%{1to16%}, %1, %0"
              : "+v"(sum[r][t])
              : "v"(values),
                "m"(*reinterpret_cast<const int32_t*>(x + r * kFewRowsChunk + 2 * pair)));
        }
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
    for (int t = 0; t < T; ++t) _mm512_storeu_ps(c + r * q.ldc + 16 * t, sum[r][t]);
  }
}

template <class S, int R>
void FewRows(const FewRowsCall& q) {
  constexpr int kStrips = S::kStrips;
  int64_t out = 0;
  for (; out + 16 * kStrips <= q.outs; out += 16 * kStrips) StripsTimesRows<S, R, kStrips>(q, out);
  for (; out < q.outs; out += 16) StripsTimesRows<S, R, 1>(q, out);
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
