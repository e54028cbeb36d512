// Panels straight from stored rows, for the AVX-512 and tile tables (gaps between tiles:
// PanelOffset). A row type R reads 32 consecutive weights:
//   // One half of them as float32.
//   template <int kHalf> static __m512 Floats(const uint8_t* row, int64_t at, int64_t count);
//   // All, rounded to bf16.
//   static __m512i Line(const uint8_t* row, int64_t at, int64_t count);
//   kBytes: what 32 weights take; kLineWeights: 32 or a multiple, after how many weights another
//   cache line is due; kAhead: how many weights ahead to ask for it.
//   // Optional: 16 rows at once. Writes the pairs of as many whole units (blocks) of [at, at +
//   // count) as there are, a multiple of 32 positions, and returns their number; the pairs of
//   // position at + 2 j go to to + j * pair, those of row r at 2 r.
//   struct Strip {
//     static int64_t Pack(const uint8_t* rows, int64_t step, int64_t at, int64_t count,
//                         uint16_t* to, int64_t pair);
//   };
// `at` is a multiple of 32; only the first `count` (> 0) of the 32 exist, the others must come out
// as zeros. Formats in blocks of 32 always have all of them. Included by files compiled for AVX-512
// only, everything has internal linkage.
#ifndef LAPIDARY_AUTOGRAD_KERNELS_GEMM_PANELS_AVX512_INL_H_
#define LAPIDARY_AUTOGRAD_KERNELS_GEMM_PANELS_AVX512_INL_H_

#include "autograd/kernels/gemm_avx512_bf16-inl.h"
#include "autograd/weight.h"

namespace lapidary {
namespace {

// A row is named by a pointer that its row type understands: where it starts or, in units (a type
// with `Units`), where its group of 32 starts, which is a multiple of 64, plus its number in it.
template <class R>
constexpr bool kInUnits = requires {
  typename R::Units;
};

template <class R>
inline const uint8_t* RowAt(const PanelRequest& q, int64_t row) {
  const uint8_t* const data = static_cast<const uint8_t*>(q.w->data);
  return kInUnits<R> ? data + row / 32 * 32 * q.w->row_bytes + row % 32
                     : data + row * q.w->row_bytes;
}

// From a row to the next, inside a group.
template <class R>
inline int64_t RowStep(const PanelRequest& q) {
  return kInUnits<R> ? 1 : q.w->row_bytes;
}

// Always inlined, as the functions below: GCC takes a function that only prefetches for one without
// effect and drops its calls.
__attribute__((always_inline)) inline void Prefetch(const uint8_t* at) {
  _mm_prefetch(reinterpret_cast<const char*>(at), _MM_HINT_T0);
}

// Asks for what a forward packer reads soon: rows lie far apart, and the CPU's own prefetch
// restarts with each. After the last columns of a chunk come the next rows, or, after the last
// rows, the next chunk.
template <class R>
__attribute__((always_inline)) inline void PrefetchForward(const PanelRequest& q, int64_t out,
                                                           int64_t i) {
  if (kInUnits<R> || i % R::kLineWeights != 0) return;
  int64_t next = i + R::kAhead, row = q.out + out;
  if (next >= q.ks && out + 16 < q.outs) {
    next -= q.ks;
    row += 16;
  } else if (next >= q.ks) {
    row = q.out;
  }
  const uint8_t* at = RowAt<R>(q, row) + (q.k + next) / 32 * R::kBytes;
#pragma GCC unroll 16
  for (int c = 0; c < 16; ++c) Prefetch(at + c * q.w->row_bytes);
}

// The same for a packer that walks along rows: the same columns some rows later.
template <class R>
__attribute__((always_inline)) inline void PrefetchInputGrad(const PanelRequest& q,
                                                             const uint8_t* row) {
  if (kInUnits<R>) {
    // The same columns of the next group: a row's share of them.
    const int64_t r = reinterpret_cast<uintptr_t>(row) % 32, share = (q.outs + 31) / 32 * R::kBytes;
    const uint8_t* group = row - r + 32 * q.w->row_bytes + q.out * R::kBytes;
    for (int64_t b = 0; b < share; b += 64) Prefetch(group + r * share + b);
    return;
  }
  constexpr int64_t kRowsAhead = 12;
  const uint8_t* at = row + kRowsAhead * q.w->row_bytes + q.out / 32 * R::kBytes;
  const int64_t bytes = (q.outs + 31) / 32 * R::kBytes;
  for (int64_t b = 0; b < bytes; b += 64) Prefetch(at + b);
}

// The same for strips: these 16 rows' part of the next request.
template <class R>
__attribute__((always_inline)) inline void PrefetchStrip(const PanelRequest& q,
                                                         const uint8_t* rows) {
  if (kInUnits<R>) return;  // strips of units do it themselves
  const uint8_t* at = rows + (q.k + q.ks) / 32 * R::kBytes;
  const int64_t bytes = q.ks / 32 * R::kBytes;
  for (int64_t b = 0; b < bytes; b += 64) {
#pragma GCC unroll 16
    for (int c = 0; c < 16; ++c) Prefetch(at + b + c * q.w->row_bytes);
  }
}

// Layout kBf16x32, outputs are rows. 16 rows x 32 k at a time: 16 lines of bf16, transposed as
// pairs.
template <class R, int64_t kUnit>
void PackForwardBf16(const PanelRequest& q) noexcept {
  uint16_t* const panel = static_cast<uint16_t*>(q.panel);
  const int64_t kp = RoundUp(q.ks, kUnit);
  for (int64_t out = 0; out < q.outs; out += 16) {
    const int64_t tile = out & ~int64_t{31}, count = q.outs - out < 16 ? q.outs - out : 16;
    const int64_t width = q.outs - tile <= 16 ? 16 : 32;
    uint16_t* to = panel + tile * (kp + 2) + (out - tile) * 2;
    const uint8_t* const row = RowAt<R>(q, q.out + out);
    int64_t i = 0;
    if constexpr (requires { typename R::Strip; }) {
      PrefetchStrip<R>(q, row);
      if (count == 16) i = R::Strip::Pack(row, RowStep<R>(q), q.k, q.ks, to, 2 * width);
    }
    for (; i < kp; i += 32) {
      __m512i v[16];
      const int64_t left = q.ks - i < 32 ? q.ks - i : 32;
      PrefetchForward<R>(q, out, i);
      if (count == 16) {
#pragma GCC unroll 16
        for (int c = 0; c < 16; ++c) v[c] = R::Line(row + c * RowStep<R>(q), q.k + i, left);
      } else {
        for (int c = 0; c < 16; ++c) {
          v[c] =
              c < count ? R::Line(row + c * RowStep<R>(q), q.k + i, left) : _mm512_setzero_si512();
        }
      }
      Transpose16x16(v);
      const int64_t pairs = kp - i < 32 ? (kp - i) / 2 : 16;
      if (pairs == 16) {
#pragma GCC unroll 16
        for (int j = 0; j < 16; ++j) _mm512_storeu_si512(to + (i + 2 * j) * width, v[j]);
      } else {
        for (int64_t j = 0; j < pairs; ++j) _mm512_storeu_si512(to + (i + 2 * j) * width, v[j]);
      }
    }
  }
}

// Layout kBf16x32, k runs over rows: two rows at a time, interleaved.
template <class R, int64_t kUnit>
void PackInputGradBf16(const PanelRequest& q) noexcept {
  uint16_t* const panel = static_cast<uint16_t*>(q.panel);
  const int64_t kp = RoundUp(q.ks, kUnit);
  const __m512i low = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8,
                                       39, 7, 38, 6, 37, 5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
  const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
  for (int64_t i = 0; i < kp; i += 2) {
    const uint8_t* const row = RowAt<R>(q, q.k + i);
    PrefetchInputGrad<R>(q, row);
    PrefetchInputGrad<R>(q, row + RowStep<R>(q));
    for (int64_t out = 0; out < q.outs; out += 32) {
      const int64_t left = q.outs - out < 32 ? q.outs - out : 32;
      const int64_t width = left <= 16 ? 16 : 32;
      const __m512i even = i < q.ks ? R::Line(row, q.out + out, left) : _mm512_setzero_si512();
      const __m512i odd =
          i + 1 < q.ks ? R::Line(row + RowStep<R>(q), q.out + out, left) : _mm512_setzero_si512();
      uint16_t* to = panel + out * (kp + 2) + i * width;
      _mm512_storeu_si512(to, _mm512_permutex2var_epi16(even, low, odd));
      if (width == 32) _mm512_storeu_si512(to + 32, _mm512_permutex2var_epi16(even, high, odd));
    }
  }
}

template <bool kRound>
inline __m512 Rounded(__m512 value) {
  return kRound ? RoundBf16(value) : value;
}

// 16 rows x 16 k: one half of a line of 32.
template <class R, bool kRound, int kHalf>
inline void PackSquareF32(const uint8_t* row, int64_t step, int64_t at, int64_t left, int64_t count,
                          float* to, int64_t width) {
  __m512i v[16];
  if (count == 16) {
#pragma GCC unroll 16
    for (int c = 0; c < 16; ++c) {
      v[c] =
          _mm512_castps_si512(Rounded<kRound>(R::template Floats<kHalf>(row + c * step, at, left)));
    }
  } else {
    for (int c = 0; c < 16; ++c) {
      v[c] = c < count ? _mm512_castps_si512(
                             Rounded<kRound>(R::template Floats<kHalf>(row + c * step, at, left)))
                       : _mm512_setzero_si512();
    }
  }
  Transpose16x16(v);
  if (left >= 16 * kHalf + 16) {
#pragma GCC unroll 16
    for (int j = 0; j < 16; ++j) _mm512_storeu_si512(to + (16 * kHalf + j) * width, v[j]);
  } else {
    for (int64_t j = 0; 16 * kHalf + j < left; ++j)
      _mm512_storeu_si512(to + (16 * kHalf + j) * width, v[j]);
  }
}

// Layout kF32x32, outputs are rows.
template <class R, bool kRound>
void PackForwardF32(const PanelRequest& q) noexcept {
  float* const panel = static_cast<float*>(q.panel);
  for (int64_t out = 0; out < q.outs; out += 16) {
    const int64_t tile = out & ~int64_t{31}, count = q.outs - out < 16 ? q.outs - out : 16;
    const int64_t width = q.outs - tile <= 16 ? 16 : 32;
    float* to = panel + tile * (q.ks + 1) + (out - tile);
    const uint8_t* const row = RowAt<R>(q, q.out + out);
    for (int64_t i = 0; i < q.ks; i += 32) {
      const int64_t left = q.ks - i < 32 ? q.ks - i : 32;
      PrefetchForward<R>(q, out, i);
      PackSquareF32<R, kRound, 0>(row, RowStep<R>(q), q.k + i, left, count, to + i * width, width);
      if (left > 16)
        PackSquareF32<R, kRound, 1>(row, RowStep<R>(q), q.k + i, left, count, to + i * width,
                                    width);
    }
  }
}

// Layout kF32x32, k runs over rows.
template <class R, bool kRound>
void PackInputGradF32(const PanelRequest& q) noexcept {
  float* const panel = static_cast<float*>(q.panel);
  for (int64_t i = 0; i < q.ks; ++i) {
    const uint8_t* const row = RowAt<R>(q, q.k + i);
    PrefetchInputGrad<R>(q, row);
    for (int64_t out = 0; out < q.outs; out += 32) {
      const int64_t left = q.outs - out < 32 ? q.outs - out : 32;
      const int64_t width = left <= 16 ? 16 : 32;
      const __m512 a = R::template Floats<0>(row, q.out + out, left);
      float* to = panel + out * (q.ks + 1) + i * width;
      _mm512_storeu_ps(to, Rounded<kRound>(a));
      if (width == 32) {
        _mm512_storeu_ps(to + 16, Rounded<kRound>(R::template Floats<1>(row, q.out + out, left)));
      }
    }
  }
}

}  // namespace
}  // namespace lapidary

#endif  // LAPIDARY_AUTOGRAD_KERNELS_GEMM_PANELS_AVX512_INL_H_
