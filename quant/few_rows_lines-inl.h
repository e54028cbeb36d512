// Products with few rows by fp32 multiply-adds straight from rows of blocks (gemm_table.h,
// FewRowsCall), for every format with lines (panels_lines-inl.h). The codes of a line of 8 or 16
// rows are transposed as groups of four bytes, become floats with a row in each lane, and go into
// the sums without being stored. The values, and the chain of additions of an element, are those of
// the panels. Included by files compiled for AVX2 or more, everything has internal linkage.
//
// A vector type V:
//   using Floats; static constexpr int kLanes;
//   static Floats Load(const float*), Zero(), Broadcast(const float*), Mul(a, b), Sub(a, b),
//       Add(sum, a, b);  // sum + a b, rounded once
//   static void Store(float*, Floats);
//   static Floats Quiet(Floats);  // NaNs become 0x7fc00000
//   static Floats Round(Floats);  // to bf16, nearest even; right for such NaNs, not for any
//   template <int kByte> static Floats Byte(const int32_t* quads);  // signed byte of every lane
#ifndef LAPIDARY_QUANT_FEW_ROWS_LINES_INL_H_
#define LAPIDARY_QUANT_FEW_ROWS_LINES_INL_H_

#include "autograd/kernels/gemm_table.h"
#include "quant/panels_lines-inl.h"

namespace lapidary {
namespace {

constexpr int64_t kFewRowsChunk = 256;  // the chunk of the tables with float32 panels

// r[i] lane j <-> r[j] lane i, of 32-bit lanes.
__attribute__((always_inline)) inline void TransposeQuads(__m256i r[8]) {
  __m256i t[8], u[8];
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm256_unpackhi_epi32(r[i], r[i + 1]);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4) {
    u[i] = _mm256_unpacklo_epi64(t[i], t[i + 2]);
    u[i + 1] = _mm256_unpackhi_epi64(t[i], t[i + 2]);
    u[i + 2] = _mm256_unpacklo_epi64(t[i + 1], t[i + 3]);
    u[i + 3] = _mm256_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    r[i] = _mm256_permute2x128_si256(u[i], u[i + 4], 0x20);
    r[i + 4] = _mm256_permute2x128_si256(u[i], u[i + 4], 0x31);
  }
}

// A line of kRows rows: positions 4 j .. 4 j + 3 of row r in quads[j][r].
template <int kRows>
struct LineOfRows {
  alignas(64) int32_t quads[8][kRows];
  alignas(64) float scale[2][kRows];
  alignas(64) float offset[2][kRows];
};

// Scales and offsets of the eight lines of a block of kRows rows.
template <int kRows>
struct ScalesOfRows {
  alignas(64) float scale[2][8][kRows];
  alignas(64) float offset[2][8][kRows];
};

__attribute__((always_inline)) inline void StoreTransposed(__m256 (&rows)[8], float* to,
                                                           int64_t stride) {
  __m256i v[8];
#pragma GCC unroll 8
  for (int r = 0; r < 8; ++r) v[r] = _mm256_castps_si256(rows[r]);
  TransposeQuads(v);
#pragma GCC unroll 8
  for (int j = 0; j < 8; ++j) _mm256_store_ps(to + j * stride, _mm256_castsi256_ps(v[j]));
}

template <class F>
constexpr bool kEightLines = requires(const uint8_t* block) {
  F::EightScales(block, 0);
};

template <class F, int kRows>
__attribute__((always_inline)) inline void ReadScales(const uint8_t* row, int64_t step, int64_t at,
                                                      ScalesOfRows<kRows>* block) {
  for (int eight = 0; eight < kRows; eight += 8) {
    for (int half = 0; half < 2; ++half) {
      __m256 rows[8];
      for (int r = 0; r < 8; ++r)
        rows[r] = F::EightScales(F::Block(row + (eight + r) * step, at), half);
      StoreTransposed(rows, block->scale[half][0] + eight, kRows);
      if constexpr (F::kOffset) {
        for (int r = 0; r < 8; ++r)
          rows[r] = F::EightOffsets(F::Block(row + (eight + r) * step, at), half);
        StoreTransposed(rows, block->offset[half][0] + eight, kRows);
      }
    }
  }
}

template <class F, int kRows>
__attribute__((always_inline)) inline void ReadLine(const uint8_t* row, int64_t step, int64_t at,
                                                    ScalesOfRows<kRows>* block,
                                                    LineOfRows<kRows>* line) {
  if constexpr (kEightLines<F>) {
    if (at % 256 == 0) ReadScales<F>(row, step, at, block);
    const int64_t j = at % 256 / 32;
    for (int half = 0; half < 2; ++half) {
      __builtin_memcpy(line->scale[half], block->scale[half][j], kRows * 4);
      if constexpr (F::kOffset)
        __builtin_memcpy(line->offset[half], block->offset[half][j], kRows * 4);
    }
  }
  for (int eight = 0; eight < kRows; eight += 8) {
    __m256i codes[8];
#pragma GCC unroll 8
    for (int r = 0; r < 8; ++r) {
      const uint8_t* const from = row + (eight + r) * step;
      _mm_prefetch(reinterpret_cast<const char*>(F::Block(from, at)) + 512, _MM_HINT_T0);
      codes[r] = F::Codes(from, at);
      if constexpr (kEightLines<F>) continue;
      const float first = F::Scale(from, at, 0), second = F::Scale(from, at, 1);
      line->scale[0][eight + r] = first;
      line->scale[1][eight + r] = second;
      if constexpr (F::kOffset) {
        const float less = F::Offset(from, at, 0), less_second = F::Offset(from, at, 1);
        line->offset[0][eight + r] = less;
        line->offset[1][eight + r] = less_second;
      }
    }
    TransposeQuads(codes);
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j)
      _mm256_store_si256(reinterpret_cast<__m256i*>(line->quads[j] + eight), codes[j]);
  }
}

// Position 4 j + kByte of the line, x from the line on.
template <class F, class V, bool kRound, int R, int kRows, int kByte>
__attribute__((always_inline)) inline void AddPosition(
    const LineOfRows<kRows>& line, int j, const float* x,
    const typename V::Floats (&scale)[kRows / V::kLanes],
    const typename V::Floats (&offset)[kRows / V::kLanes],
    typename V::Floats (&sum)[R][kRows / V::kLanes]) {
#pragma GCC unroll 2
  for (int v = 0; v < kRows / V::kLanes; ++v) {
    typename V::Floats w = V::Mul(V::template Byte<kByte>(line.quads[j] + v * V::kLanes), scale[v]);
    if constexpr (F::kOffset) w = V::Sub(w, offset[v]);
    if constexpr (kRound) w = V::Round(w);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      sum[r][v] = V::Add(sum[r][v], V::Broadcast(x + r * kFewRowsChunk + 4 * j + kByte), w);
    }
  }
}

// kRows outputs of R rows. A line is read while the one before is used.
template <class F, class V, bool kRound, int R, int kRows>
__attribute__((noinline)) void LinesTimesRows(const FewRowsCall& q, int64_t out) {
  constexpr int kVectors = kRows / V::kLanes;
  typename V::Floats sum[R][kVectors];
  float* const c = q.c + out;
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v)
      sum[r][v] = q.load ? V::Load(c + r * q.ldc + V::kLanes * v) : V::Zero();
  }
  const int64_t step = q.w->row_bytes, cols = q.w->cols;
  const uint8_t* const row = static_cast<const uint8_t*>(q.w->data) + (q.out + out) * step;
  LineOfRows<kRows> lines[2];
  ScalesOfRows<kRows> block;
  ReadLine<F>(row, step, 0, &block, &lines[0]);
  for (int64_t at = 0; at < cols; at += 32) {
    if (at + 32 < cols) ReadLine<F>(row, step, at + 32, &block, &lines[(at / 32 + 1) % 2]);
    const LineOfRows<kRows>& line = lines[at / 32 % 2];
    const float* const x = reinterpret_cast<const float*>(static_cast<const char*>(q.a) +
                                                          at / kFewRowsChunk * q.chunk_bytes) +
                           at % kFewRowsChunk;
    for (int half = 0; half < 2; ++half) {
      typename V::Floats scale[kVectors], offset[kVectors];
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) {
        scale[v] = V::Quiet(V::Load(line.scale[half] + V::kLanes * v));
        if constexpr (F::kOffset) offset[v] = V::Quiet(V::Load(line.offset[half] + V::kLanes * v));
      }
      for (int j = 4 * half; j < 4 * half + 4; ++j) {
        AddPosition<F, V, kRound, R, kRows, 0>(line, j, x, scale, offset, sum);
        AddPosition<F, V, kRound, R, kRows, 1>(line, j, x, scale, offset, sum);
        AddPosition<F, V, kRound, R, kRows, 2>(line, j, x, scale, offset, sum);
        AddPosition<F, V, kRound, R, kRows, 3>(line, j, x, scale, offset, sum);
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) V::Store(c + r * q.ldc + V::kLanes * v, sum[r][v]);
  }
}

template <class F, class V, bool kRound, int R>
void LinesTimesWeight(const FewRowsCall& q) {
  constexpr int kRows = 2 * V::kLanes;
  int64_t out = 0;
  for (; out + kRows <= q.outs; out += kRows) LinesTimesRows<F, V, kRound, R, kRows>(q, out);
  if (out < q.outs) LinesTimesRows<F, V, kRound, R, 16>(q, out);
}

// A product with more rows than four reads the weight twice, which costs less than sums that do not
// fit in the registers.
template <class F, class V, bool kRound>
void FewRowsOfLines(const FewRowsCall& q) noexcept {
  FewRowsCall part = q;
  for (int64_t row = 0; row < q.rows; row += 4) {
    part.a = static_cast<const float*>(q.a) + row * kFewRowsChunk;
    part.c = q.c + row * q.ldc;
    switch (q.rows - row) {
      case 1:
        LinesTimesWeight<F, V, kRound, 1>(part);
        break;
      case 2:
        LinesTimesWeight<F, V, kRound, 2>(part);
        break;
      case 3:
        LinesTimesWeight<F, V, kRound, 3>(part);
        break;
      default:
        LinesTimesWeight<F, V, kRound, 4>(part);
    }
  }
}

}  // namespace
}  // namespace lapidary

#endif  // LAPIDARY_QUANT_FEW_ROWS_LINES_INL_H_
