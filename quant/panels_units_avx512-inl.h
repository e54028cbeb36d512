// Units (quant/units.h) as strips of 16 rows: for panels, and for products with few rows, which
// multiply the same vectors out of registers. A piece of eight codes of eight rows is one aligned
// vector: row r in the 64-bit lane r, as panels_strip_avx512-inl.h wants it. Included by files
// compiled for AVX-512 BF16 only, everything has internal linkage.
//
// A format is a type with
//   static constexpr int64_t kBlock, kBytes;
//   struct Block;  // a strip's part of a unit, opened
//   static Block Open(const UnitStrip& strip);
//   // Positions 32 line .. 32 line + 31 of the block: sink.Put(pair, values), pair 0 to 15 in
//   // order, values as in gemm_few_rows_avx512-inl.h.
//   template <class Sink> static void Line(const Block&, int64_t line, Sink& sink);
#ifndef LAPIDARY_QUANT_PANELS_UNITS_AVX512_INL_H_
#define LAPIDARY_QUANT_PANELS_UNITS_AVX512_INL_H_

#include "autograd/kernels/gemm_few_rows_avx512-inl.h"
#include "quant/panels_strip_avx512-inl.h"

namespace lapidary {
namespace {

// 16 of the 32 rows of a unit.
struct UnitStrip {
  const uint8_t* unit;
  int64_t half;
  // Piece `size` bytes long at byte `offset` of a block, of the strip's first row.
  __attribute__((always_inline)) inline const uint8_t* At(int64_t offset, int64_t size) const {
    return unit + 32 * offset + 16 * size * half;
  }
  // Eight bytes from `offset` on, of rows 8 g .. 8 g + 7.
  __attribute__((always_inline)) inline __m512i Eight(int64_t offset, int g) const {
    return _mm512_load_si512(At(offset, 8) + 64 * g);
  }
  __attribute__((always_inline)) inline __m512 Halves(int64_t offset) const {
    return LoadHalves(At(offset, 2));
  }
  __attribute__((always_inline)) inline __m512i Fours(int64_t offset) const {
    return _mm512_load_si512(At(offset, 4));
  }
};

// Pairs of bf16 of 16 rows from positions k, k + 1 of rows 0..7 and of rows 8..15.
template <class Sink>
__attribute__((always_inline)) inline void PutFloats(Sink& sink, int pair, __m512 first,
                                                     __m512 second) {
  sink.Put(pair, (__m512i)_mm512_cvtne2ps_pbh(second, first));
}

// Eight positions from signed bytes, times a scale that carries a factor 2^-24, less an offset.
template <bool kOffset, class Sink>
__attribute__((always_inline)) inline void PutSignedBytes(Sink& sink, int pair, __m512i first,
                                                          __m512i second, const RowValues& scale,
                                                          const RowValues& offset) {
  const auto value = [](__m512i top, __m512 s, __m512 o) __attribute__((always_inline)) {
    const __m512 code = _mm512_cvtepi32_ps(top);
    return kOffset ? _mm512_fmsub_ps(code, s, o) : _mm512_mul_ps(code, s);
  };
  PutFloats(sink, pair, value(TopByte<0>(first), scale.first, offset.first),
            value(TopByte<0>(second), scale.second, offset.second));
  PutFloats(sink, pair + 1, value(TopByte<1>(first), scale.first, offset.first),
            value(TopByte<1>(second), scale.second, offset.second));
  PutFloats(sink, pair + 2, value(TopByte<2>(first), scale.first, offset.first),
            value(TopByte<2>(second), scale.second, offset.second));
  PutFloats(sink, pair + 3, value(TopByte<3>(first), scale.first, offset.first),
            value(TopByte<3>(second), scale.second, offset.second));
}

// v rotated left by the same number of bits in every lane.
__attribute__((always_inline)) inline __m512i Rotate(__m512i v, int64_t bits) {
  return _mm512_rolv_epi32(v, _mm512_set1_epi32(static_cast<int>(bits)));
}

// (v & mask) | other
__attribute__((always_inline)) inline __m512i MaskOr(__m512i v, __m512i mask, __m512i other) {
  return _mm512_ternarylogic_epi32(v, mask, other, 0xea);
}

struct Q4Units {
  static constexpr int64_t kBlock = 32, kBytes = 18;
  struct Block {
    UnitStrip strip;
  };
  __attribute__((always_inline)) static inline Block Open(const UnitStrip& strip) {
    return {strip};
  }

  template <class Sink>
  __attribute__((always_inline)) static inline void Line(const Block& block, int64_t, Sink& sink) {
    const UnitStrip& s = block.strip;
    const RowValues d = Spread(s.Halves(0));
    const __m512 levels = _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);
    const __m512i codes[2][2] = {{SplitParity(s.Eight(2, 0)), SplitParity(s.Eight(2, 1))},
                                 {SplitParity(s.Eight(10, 0)), SplitParity(s.Eight(10, 1))}};
    // Byte j of a half of a lane holds position 2 j + h below and 16 + 2 j + h above.
#pragma GCC unroll 16
    for (int pair = 0; pair < 16; ++pair) {
      const int shift = 8 * (pair % 4) + pair / 8 * 4;
      const __m512i* const v = codes[pair / 4 % 2];
      // vpermps reads four bits of an index, so the rest needs no mask.
      const auto value = [&](__m512i x, __m512 scale) __attribute__((always_inline)) {
        return _mm512_mul_ps(
            _mm512_permutexvar_ps(shift == 0 ? x : _mm512_srli_epi32(x, shift), levels), scale);
      };
      PutFloats(sink, pair, value(v[0], d.first), value(v[1], d.second));
    }
  }
};

struct Q8Units {
  static constexpr int64_t kBlock = 32, kBytes = 34;
  struct Block {
    UnitStrip strip;
  };
  __attribute__((always_inline)) static inline Block Open(const UnitStrip& strip) {
    return {strip};
  }
  template <class Sink>
  __attribute__((always_inline)) static inline void Line(const Block& block, int64_t, Sink& sink) {
    const UnitStrip& s = block.strip;
    const RowValues d = Spread(_mm512_mul_ps(s.Halves(0), _mm512_set1_ps(0x1p-24f)));
#pragma GCC unroll 4
    for (int part = 0; part < 4; ++part) {
      PutSignedBytes<false>(sink, 4 * part, s.Eight(2 + 8 * part, 0), s.Eight(2 + 8 * part, 1), d,
                            d);
    }
  }
};

// Q4_K and Q5_K: weight = code * (d * scale) - dmin * min, scale and min of six bits for 32
// positions.
template <bool kFifthBit>
struct KUnits {
  static constexpr int64_t kBlock = 256, kBytes = kFifthBit ? 176 : 144;
  struct Block {
    UnitStrip strip;
    __m512 d, dmin;              // of 16 rows; d carries 2^-24
    __m512i scales[2], mins[2];  // of lines 0..3 and 4..7, a byte each
  };
  __attribute__((always_inline)) static inline Block Open(const UnitStrip& strip) {
    const __m512i a = strip.Fours(4), b = strip.Fours(8), c = strip.Fours(12);
    const __m512i six = _mm512_set1_epi8(63), four = _mm512_set1_epi8(15),
                  upper = _mm512_set1_epi8(48);
    const auto high = [&](__m512i v) __attribute__((always_inline)) {
      return _mm512_and_si512(_mm512_srli_epi32(v, 2), upper);
    };
    return {strip,
            _mm512_mul_ps(strip.Halves(0), _mm512_set1_ps(0x1p-24f)),
            strip.Halves(2),
            {_mm512_and_si512(a, six), MaskOr(c, four, high(a))},
            {_mm512_and_si512(b, six), MaskOr(_mm512_srli_epi32(c, 4), four, high(b))}};
  }
  template <class Sink>
  __attribute__((always_inline)) static inline void Line(const Block& block, int64_t line,
                                                         Sink& sink) {
    const UnitStrip& s = block.strip;
    const auto byte = [line](const __m512i* lines) __attribute__((always_inline)) {
      const __m512i shift = _mm512_set1_epi32(static_cast<int>(8 * (line % 4)));
      const __m512i v = _mm512_srlv_epi32(lines[line / 4], shift);
      return _mm512_cvtepi32_ps(_mm512_and_si512(v, _mm512_set1_epi32(255)));
    };
    const RowValues scale = Spread(_mm512_mul_ps(byte(block.scales), block.d));
    const RowValues offset = Spread(_mm512_mul_ps(byte(block.mins), block.dmin));
    const int64_t nibbles = (kFifthBit ? 48 : 16) + line / 2 * 32, turn = line % 2 * 28;
    const auto codes = [&](int part, int g) __attribute__((always_inline)) {
      const __m512i low = Rotate(s.Eight(nibbles + 8 * part, g), turn);
      const __m512i four = _mm512_set1_epi8(15);
      if (!kFifthBit) return _mm512_and_si512(low, four);
      const __m512i bit = Rotate(s.Eight(16 + 8 * part, g), 36 - line);
      return MaskOr(low, four, _mm512_and_si512(bit, _mm512_set1_epi8(16)));
    };
#pragma GCC unroll 4
    for (int part = 0; part < 4; ++part)
      PutSignedBytes<true>(sink, 4 * part, codes(part, 0), codes(part, 1), scale, offset);
  }
};

// Codes are kept as (q - 32) * 4 in signed bytes: the lower nibble in bits 2..5, the pair in bits
// 6, 7, its upper bit flipped. The scale carries a factor 2^-26 for it, and one of 2^-24 for its
// own byte.
struct Q6Units {
  static constexpr int64_t kBlock = 256, kBytes = 210;
  struct Block {
    UnitStrip strip;
    RowValues d;
  };
  __attribute__((always_inline)) static inline Block Open(const UnitStrip& strip) {
    return {strip, Spread(_mm512_mul_ps(strip.Halves(208), _mm512_set1_ps(0x1p-50f)))};
  }
  template <class Sink>
  __attribute__((always_inline)) static inline void Line(const Block& block, int64_t line,
                                                         Sink& sink) {
    const UnitStrip& s = block.strip;
    const int64_t h = line / 4, j = line % 4;
    const int64_t low = 64 * h + 32 * (j % 2), high = 128 + 32 * h;
    const __m512i low_turn = _mm512_set1_epi32(j < 2 ? 2 : 30);
    const __m512i high_turn = _mm512_set1_epi32(static_cast<int>(6 - 2 * j));
    const auto codes = [&](int eight, int g) __attribute__((always_inline)) {
      const __m512i nibbles = _mm512_rolv_epi32(s.Eight(low + 8 * eight, g), low_turn);
      const __m512i pairs = _mm512_rolv_epi32(s.Eight(high + 8 * eight, g), high_turn);
      const __m512i top = _mm512_ternarylogic_epi32(
          pairs, _mm512_set1_epi8(static_cast<char>(0xc0)),
          _mm512_set1_epi8(static_cast<char>(0x80)), 0x6a);  // (a & b) ^ c
      return MaskOr(nibbles, _mm512_set1_epi8(0x3c), top);
    };
    const __m512i scales[2] = {s.Eight(192 + 8 * h, 0), s.Eight(192 + 8 * h, 1)};
#pragma GCC unroll 2
    for (int part = 0; part < 2; ++part) {
      RowValues scale;
      scale.first = SubScale(scales[0], 2 * j + part, block.d.first);
      scale.second = SubScale(scales[1], 2 * j + part, block.d.second);
      PutSignedBytes<false>(sink, 8 * part, codes(2 * part, 0), codes(2 * part, 1), scale, scale);
      PutSignedBytes<false>(sink, 8 * part + 4, codes(2 * part + 1, 0), codes(2 * part + 1, 1),
                            scale, scale);
    }
  }

 private:
  // Byte `index` of every 64-bit lane as the top byte of its halves, times d.
  __attribute__((always_inline)) static inline __m512 SubScale(__m512i scales, int64_t index,
                                                               __m512 d) {
    const __m512i where = _mm512_or_si512(
        _mm512_set1_epi32(static_cast<int>((static_cast<unsigned>(index) << 24) | 0x808080u)),
        _mm512_set4_epi32(0x08000000, 0x08000000, 0, 0));
    return _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_shuffle_epi8(scales, where)), d);
  }
};

// A panel's strip of a format in units (gemm_panels_avx512-inl.h).
struct PanelSink {
  uint16_t* to;
  int64_t pair;
  __attribute__((always_inline)) inline void Put(int at, __m512i values) {
    _mm512_storeu_si512(to + at * pair, values);
  }
};

template <class F>
struct UnitPanelStrip {
  static int64_t Pack(const uint8_t* rows, int64_t, int64_t at, int64_t count, uint16_t* to,
                      int64_t pair) {
    const int64_t r = reinterpret_cast<uintptr_t>(rows) % 32, blocks = count / F::kBlock;
    const uint8_t* unit = rows - r + at / F::kBlock * F::kBytes * 32;
    PanelSink sink = {to, pair};
    for (int64_t b = 0; b < blocks; ++b, unit += F::kBytes * 32) {
      // What the next request reads follows `blocks` units later; two strips ask for half of it
      // each.
      const uint8_t* next = unit + (blocks * 32 + r) * F::kBytes;
      for (int64_t i = 0; i < 16 * F::kBytes; i += 64) Prefetch(next + i);
      const typename F::Block block = F::Open({unit, r / 16});
      for (int64_t line = 0; line < F::kBlock / 32; ++line, sink.to += 16 * pair)
        F::Line(block, line, sink);
    }
    return blocks * F::kBlock;
  }
};

// A line of 16 rows, kept.
struct LineSink {
  __m512i pairs[16];
  __attribute__((always_inline)) inline void Put(int at, __m512i values) { pairs[at] = values; }
};

// An input gradient's panel (PackInputGradBf16 gives the same): a strip's line at a time, turned
// into rows by a transposition of pairs, the rows interleaved two by two. `q` begins and ends with
// whole groups of 32 rows and whole lines.
template <class F, int64_t kUnit>
void PackInputGradUnits(const PanelRequest& q) noexcept {
  static_assert(32 % kUnit == 0, "whole groups need no padding");
  const __m512i low = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8,
                                       39, 7, 38, 6, 37, 5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
  const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
  constexpr int64_t kUnitBytes = 32 * F::kBytes;
  const int64_t group_bytes = 32 * q.w->row_bytes, end = q.out + q.outs;
  for (int64_t i = 0; i < q.ks; i += 16) {
    const int64_t half = i / 16 % 2;
    const uint8_t* const group =
        static_cast<const uint8_t*>(q.w->data) + (q.k + i) / 32 * group_bytes;
    for (int64_t at = q.out; at < end;) {
      const uint8_t* const unit = group + at / F::kBlock * kUnitBytes;
      // The same columns of the next group; two strips ask for half of them each.
      const uint8_t* const next = unit + group_bytes + half * (kUnitBytes / 2);
      for (int64_t b = 0; b < kUnitBytes / 2; b += 64) Prefetch(next + b);
      const typename F::Block block = F::Open({unit, half});
      const int64_t stop = at / F::kBlock * F::kBlock + F::kBlock;
      for (; at < stop && at < end; at += 32) {
        LineSink rows;
        F::Line(block, at % F::kBlock / 32, rows);
        Transpose16x16(rows.pairs);
        uint16_t* const to = static_cast<uint16_t*>(q.panel) + (at - q.out) * (q.ks + 2) + i * 32;
#pragma GCC unroll 8
        for (int r = 0; r < 16; r += 2) {
          const __m512i even = rows.pairs[r], odd = rows.pairs[r + 1];
          _mm512_storeu_si512(to + r * 32, _mm512_permutex2var_epi16(even, low, odd));
          _mm512_storeu_si512(to + r * 32 + 32, _mm512_permutex2var_epi16(even, high, odd));
        }
      }
    }
  }
}

// The source of a product with few rows. A line asks for its share of a unit that comes soon.
template <class F>
struct UnitSource {
  static constexpr int64_t kBlock = F::kBlock;
  struct Block {
    typename F::Block block;
    const uint8_t* next;
  };
  __attribute__((always_inline)) static inline Block Open(const WeightView& w, int64_t row,
                                                          int64_t at) {
    const uint8_t* const unit = static_cast<const uint8_t*>(w.data) + row / 32 * 32 * w.row_bytes +
                                at / F::kBlock * F::kBytes * 32;
    const int64_t half = row / 16 % 2;
    return {F::Open({unit, half}), unit + kAhead + half * 16 * F::kBytes};
  }
  template <class Sink>
  __attribute__((always_inline)) static inline void Line(const Block& block, int64_t line,
                                                         Sink& sink) {
#pragma GCC unroll 16
    for (int64_t i = 0; i < kShare; i += 64) Prefetch(block.next + line * kShare + i);
    F::Line(block.block, line, sink);
  }

 private:
  static constexpr int64_t kShare = 16 * F::kBytes * 32 / F::kBlock;
  static constexpr int64_t kUnit = 32 * F::kBytes, kAhead = (4095 + kUnit) / kUnit * kUnit;
};

}  // namespace
}  // namespace lapidary

#endif  // LAPIDARY_QUANT_PANELS_UNITS_AVX512_INL_H_
