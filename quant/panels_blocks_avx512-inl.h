// Q4_0, Q8_0, Q4_K, Q5_K and Q6_K as strips (panels_strip_avx512-inl.h), for panels of both
// directions and for products with few rows, which multiply the same vectors out of registers.
// Included by files compiled for AVX-512 BF16 only, everything has internal linkage.
//
// A format is a type with
//   static constexpr int64_t kBlock, kBytes;
//   using Rows = S;  // InRows or InUnits
//   class Strip;  // read line after line (32 positions)
//     // Lines first .. end - 1 of the rows, of whole blocks but for the first and the last.
//     void Start(const S& rows, int64_t first, int64_t end);
//     void Read(int64_t line, Line* out);  // in order
//   struct Line;  // what is kept of a line
//     __m512i Pair(int pair) const;  // positions 2 pair, 2 pair + 1 of 16 rows, row r in lane r
#ifndef LAPIDARY_QUANT_PANELS_BLOCKS_AVX512_INL_H_
#define LAPIDARY_QUANT_PANELS_BLOCKS_AVX512_INL_H_

#include "autograd/kernels/gemm_few_rows_avx512-inl.h"
#include "quant/panels_strip_avx512-inl.h"

namespace lapidary {
namespace {

// Blocks of 32. In rows their float16 scales are gathered some lines ahead of their use.
template <int64_t kBytes, class S>
class StripOf32 {
 public:
  __attribute__((always_inline)) inline void Start(const S& rows, int64_t first, int64_t end) {
    rows_ = &rows;
    end_ = end;
    if constexpr (!S::kUnits) {
      for (int64_t line = first; line < first + kGather && line < end; ++line)
        rows.template Block<kBytes>(line).Gather(0, halves_[line % kKept]);
    }
  }

 protected:
  // The line's block, and its scale for each row.
  __attribute__((always_inline)) inline auto Open(int64_t line, __m512* scale) {
    const auto block = rows_->template Block<kBytes>(line);
    if constexpr (S::kUnits) {
      *scale = block.Halves(0);
    } else {
      if (line + kGather < end_) block.Gather(kGather * kBytes, halves_[(line + kGather) % kKept]);
      *scale = LoadHalves(halves_[line % kKept]);
    }
    return block;
  }

 private:
  static constexpr int64_t kGather = 4, kKept = 8;
  const S* rows_ = nullptr;
  int64_t end_ = 0;
  alignas(64) uint16_t halves_[S::kUnits ? 1 : kKept][16];
};

// Blocks of 256: what eight lines share is opened with the first of them that is read.
template <int64_t kBytes, class S>
class StripOf256 {
 public:
  __attribute__((always_inline)) inline void Start(const S& rows, int64_t first, int64_t) {
    rows_ = &rows;
    first_ = first;
  }

 protected:
  __attribute__((always_inline)) inline auto Block(int64_t line) const {
    return rows_->template Block<kBytes>(line / 8);
  }
  __attribute__((always_inline)) inline bool Begins(int64_t line) const {
    return line % 8 == 0 || line == first_;
  }

 private:
  const S* rows_ = nullptr;
  int64_t first_ = 0;
};

template <class S>
struct Q4Blocks {
  static constexpr int64_t kBlock = 32, kBytes = 18;
  using Rows = S;
  struct Line {
    RowValues d;
    // Byte j of a half of a lane holds position 2 j + h below and 16 + 2 j + h above.
    __m512i codes[2][2];
    __attribute__((always_inline)) inline __m512i Pair(int pair) const {
      const __m512 levels = _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);
      const int shift = 8 * (pair % 4) + pair / 8 * 4;
      const __m512i* const v = codes[pair / 4 % 2];
      // vpermps reads four bits of an index, so the rest needs no mask.
      const auto value = [&](__m512i x, __m512 scale) __attribute__((always_inline)) {
        return _mm512_mul_ps(
            _mm512_permutexvar_ps(shift == 0 ? x : _mm512_srli_epi32(x, shift), levels), scale);
      };
      return (__m512i)_mm512_cvtne2ps_pbh(value(v[1], d.second), value(v[0], d.first));
    }
  };
  struct Strip : StripOf32<kBytes, S> {
    __attribute__((always_inline)) inline void Read(int64_t line, Line* out) {
      __m512 scale;
      const auto block = this->Open(line, &scale);
      out->d = Spread(scale);
#pragma GCC unroll 2
      for (int g = 0; g < 2; ++g) {
        const RowBytes bytes = block.Sixteen(2, g);
        out->codes[0][g] = SplitParity(bytes.low);
        out->codes[1][g] = SplitParity(bytes.high);
      }
    }
  };
};

// A line of signed bytes, eight positions of eight rows a vector, times kScales scales (one for
// each half), which carry a factor 2^-24, less an offset.
template <bool kOffset, int kScales>
struct ByteLine {
  __m512i codes[4][2];
  RowValues scale[kScales], offset[kOffset ? 1 : 0];
  __attribute__((always_inline)) inline void Set(int half, int g, __m512i low, __m512i high) {
    codes[2 * half][g] = low;
    codes[2 * half + 1][g] = high;
  }
  __attribute__((always_inline)) inline __m512i Pair(int pair) const {
    const __m512i* const v = codes[pair / 4];
    const RowValues& s = scale[kScales == 2 ? pair / 8 : 0];
    const __m512 first = _mm512_cvtepi32_ps(TopByte(v[0], pair % 4)),
                 second = _mm512_cvtepi32_ps(TopByte(v[1], pair % 4));
    if constexpr (kOffset) {
      return (__m512i)_mm512_cvtne2ps_pbh(_mm512_fmsub_ps(second, s.second, offset[0].second),
                                          _mm512_fmsub_ps(first, s.first, offset[0].first));
    } else {
      return (__m512i)_mm512_cvtne2ps_pbh(_mm512_mul_ps(second, s.second),
                                          _mm512_mul_ps(first, s.first));
    }
  }
};

template <class S>
struct Q8Blocks {
  static constexpr int64_t kBlock = 32, kBytes = 34;
  using Rows = S;
  using Line = ByteLine<false, 1>;
  struct Strip : StripOf32<kBytes, S> {
    __attribute__((always_inline)) inline void Read(int64_t line, Line* out) {
      __m512 scale;
      const auto block = this->Open(line, &scale);
      out->scale[0] = Spread(_mm512_mul_ps(scale, _mm512_set1_ps(0x1p-24f)));
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        const RowBytes bytes = block.Sixteen(2 + 16 * (i / 2), i % 2);
        out->Set(i / 2, i % 2, bytes.low, bytes.high);
      }
    }
  };
};

// Q4_K and Q5_K: weight = code * (d * scale) - dmin * min, scale and min of six bits for 32
// positions.
template <bool kFifthBit, class S>
struct KBlocks {
  static constexpr int64_t kBlock = 256, kBytes = kFifthBit ? 176 : 144;
  using Rows = S;
  using Line = ByteLine<true, 1>;
  class Strip : public StripOf256<kBytes, S> {
   public:
    __attribute__((always_inline)) inline void Read(int64_t line, Line* out) {
      const auto block = this->Block(line);
      if (this->Begins(line)) Open(block.Head());
      const int64_t j = line % 8;
      const auto byte = [j](const __m512i* lines) __attribute__((always_inline)) {
        const __m512i shift = _mm512_set1_epi32(static_cast<int>(8 * (j % 4)));
        const __m512i v = _mm512_srlv_epi32(lines[j / 4], shift);
        return _mm512_cvtepi32_ps(_mm512_and_si512(v, _mm512_set1_epi32(255)));
      };
      out->scale[0] = Spread(_mm512_mul_ps(byte(scales_), d_));
      out->offset[0] = Spread(_mm512_mul_ps(byte(mins_), dmin_));
      const int64_t nibbles = (kFifthBit ? 48 : 16) + j / 2 * 32, turn = j % 2 * 28;
      const auto codes = [&](__m512i bytes, __m512i bits) __attribute__((always_inline)) {
        const __m512i low = Rotate(bytes, turn), four = _mm512_set1_epi8(15);
        if (!kFifthBit) return _mm512_and_si512(low, four);
        return MaskOr(low, four, _mm512_and_si512(Rotate(bits, 36 - j), _mm512_set1_epi8(16)));
      };
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        const RowBytes bytes = block.Sixteen(nibbles + 16 * (i / 2), i % 2);
        const RowBytes bits = kFifthBit ? block.Sixteen(16 + 16 * (i / 2), i % 2) : bytes;
        out->Set(i / 2, i % 2, codes(bytes.low, bits.low), codes(bytes.high, bits.high));
      }
    }

   private:
    __attribute__((always_inline)) inline void Open(const KHead& head) {
      const __m512i six = _mm512_set1_epi8(63), four = _mm512_set1_epi8(15),
                    upper = _mm512_set1_epi8(48);
      const auto high = [&](__m512i x) __attribute__((always_inline)) {
        return _mm512_and_si512(_mm512_srli_epi32(x, 2), upper);
      };
      const __m512i *const s = head.scales, both = s[2];
      d_ = _mm512_mul_ps(head.d, _mm512_set1_ps(0x1p-24f));
      dmin_ = head.dmin;
      scales_[0] = _mm512_and_si512(s[0], six);
      scales_[1] = MaskOr(both, four, high(s[0]));
      mins_[0] = _mm512_and_si512(s[1], six);
      mins_[1] = MaskOr(_mm512_srli_epi32(both, 4), four, high(s[1]));
    }
    __m512 d_, dmin_;              // of 16 rows; d carries 2^-24
    __m512i scales_[2], mins_[2];  // of lines 0..3 and 4..7, a byte each
  };
};

// Codes are kept as (q - 32) * 4 in signed bytes: the lower nibble in bits 2..5, the pair in bits
// 6, 7, its upper bit flipped. The scale carries a factor 2^-26 for it, and one of 2^-24 for its
// own byte.
template <class S>
struct Q6Blocks {
  static constexpr int64_t kBlock = 256, kBytes = 210;
  using Rows = S;
  using Line = ByteLine<false, 2>;
  class Strip : public StripOf256<kBytes, S> {
   public:
    __attribute__((always_inline)) inline void Read(int64_t line, Line* out) {
      const auto block = this->Block(line);
      if (this->Begins(line)) {
        scales_[0] = block.Sixteen(192, 0);
        scales_[1] = block.Sixteen(192, 1);
        d_ = Spread(_mm512_mul_ps(block.Halves(208), _mm512_set1_ps(0x1p-50f)));
      }
      const int64_t h = line % 8 / 4, j = line % 4;
      const int64_t low = 64 * h + 32 * (j % 2), high = 128 + 32 * h;
      const auto codes = [j](__m512i nibbles, __m512i pairs) __attribute__((always_inline)) {
        const __m512i top = _mm512_ternarylogic_epi32(
            Rotate(pairs, 6 - 2 * j), _mm512_set1_epi8(static_cast<char>(0xc0)),
            _mm512_set1_epi8(static_cast<char>(0x80)), 0x6a);  // (a & b) ^ c
        return MaskOr(Rotate(nibbles, j < 2 ? 2 : 30), _mm512_set1_epi8(0x3c), top);
      };
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        const RowBytes nibbles = block.Sixteen(low + 16 * (i / 2), i % 2),
                       pairs = block.Sixteen(high + 16 * (i / 2), i % 2);
        out->Set(i / 2, i % 2, codes(nibbles.low, pairs.low), codes(nibbles.high, pairs.high));
      }
#pragma GCC unroll 2
      for (int part = 0; part < 2; ++part) {
        const auto scale = [&](const RowBytes& s, __m512 d) __attribute__((always_inline)) {
          return SubScale(h ? s.high : s.low, 2 * j + part, d);
        };
        out->scale[part] = {scale(scales_[0], d_.first), scale(scales_[1], d_.second)};
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
    RowValues d_;
    RowBytes scales_[2];  // of rows 8 g ..
  };
};

// A panel's strip (gemm_panels_avx512-inl.h).
template <class F>
struct PanelStrip {
  static int64_t Pack(const uint8_t* first, int64_t row_bytes, int64_t at, int64_t count,
                      uint16_t* to, int64_t pair) {
    const typename F::Rows rows(first, row_bytes);
    const int64_t lines = count / F::kBlock * F::kBlock / 32, begin = at / 32;
    typename F::Strip strip;
    strip.Start(rows, begin, begin + lines);
    for (int64_t l = begin; l < begin + lines; ++l, to += 16 * pair) {
      if (F::Rows::kUnits && 32 * l % F::kBlock == 0)  // of the next request
        rows.template PrefetchBlocks<F::kBytes>((32 * l + count) / F::kBlock, 1);
      typename F::Line line;
      strip.Read(l, &line);
#pragma GCC unroll 16
      for (int p = 0; p < 16; ++p) _mm512_storeu_si512(to + p * pair, line.Pair(p));
    }
    return 32 * lines;
  }
};

// An input gradient's panel (PackInputGradBf16 gives the same): a strip's line at a time, turned
// into rows by a transposition of pairs, the rows interleaved two by two. What is no whole strip
// goes by R, row by row.
template <class R, class F, int64_t kUnit>
void PackInputGradStrips(const PanelRequest& q) noexcept {
  static_assert(32 % kUnit == 0, "whole strips need no padding");
  if (q.ks % 32 != 0 || q.outs % 32 != 0) return PackInputGradBf16<R, kUnit>(q);
  const __m512i low = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8,
                                       39, 7, 38, 6, 37, 5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
  const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
  // Lines whose next rows are asked for together.
  constexpr int64_t kTogether = F::kBlock == 32 && !F::Rows::kUnits ? 4 : F::kBlock / 32;
  const int64_t first = q.out / 32, end = (q.out + q.outs) / 32;
  for (int64_t i = 0; i < q.ks; i += 16) {
    const typename F::Rows rows(RowAt<R>(q, q.k + i), q.w->row_bytes);
    const typename F::Rows next(RowAt<R>(q, q.k + i + (F::Rows::kUnits ? 32 : 16)), q.w->row_bytes);
    typename F::Strip strip;
    strip.Start(rows, first, end);
    for (int64_t l = first; l < end; ++l) {
      if (l % kTogether == 0 || l == first) {
        next.template PrefetchBlocks<F::kBytes>(l * 32 / F::kBlock, kTogether * 32 / F::kBlock);
      }
      typename F::Line line;
      strip.Read(l, &line);
      __m512i pairs[16];
#pragma GCC unroll 16
      for (int p = 0; p < 16; ++p) pairs[p] = line.Pair(p);
      Transpose16x16(pairs);
      uint16_t* const to = static_cast<uint16_t*>(q.panel) + (l - first) * 32 * (q.ks + 2) + i * 32;
#pragma GCC unroll 8
      for (int r = 0; r < 16; r += 2) {
        const __m512i even = pairs[r], odd = pairs[r + 1];
        _mm512_storeu_si512(to + r * 32, _mm512_permutex2var_epi16(even, low, odd));
        _mm512_storeu_si512(to + r * 32 + 32, _mm512_permutex2var_epi16(even, high, odd));
      }
    }
  }
}

// The source of a product with few rows. Units are read from front to back. Rows lie close together
// too, but are read side by side, which the CPU's own prefetch does not follow: the next ones are
// asked for from front to back, into L2, and the line's own a little ahead.
template <class F>
class BlockSource {
 public:
  using Line = typename F::Line;
  using Strip = typename F::Strip;
  static constexpr int kStrips = 2;

  BlockSource(const FewRowsCall& q, int64_t out, int strips)
      : rows_{RowsAt(q, out), RowsAt(q, out + (strips == 2 ? 16 : 0))} {
    const WeightView& w = *q.w;
    step_ = w.row_bytes;
    row_ = static_cast<const uint8_t*>(w.data) + (q.out + out) * step_;
    ahead_ = F::Rows::kUnits ? kUnitsAhead : strips * 16 * step_;
  }
  __attribute__((always_inline)) inline void Start(int strip, int64_t lines, Strip* out) const {
    out->Start(rows_[strip], 0, lines);
  }
  template <int kCount>
  __attribute__((always_inline)) inline void Ask(int64_t line) const {
    constexpr int64_t kShare = kCount * 16 * F::kBytes * 32 / F::kBlock;
    const uint8_t* const next = row_ + ahead_ + line * kShare;
#pragma GCC unroll 16
    for (int64_t b = 0; b < kShare; b += 64) {
      const char* const at = reinterpret_cast<const char*>(next + b);
      F::Rows::kUnits ? _mm_prefetch(at, _MM_HINT_T0) : _mm_prefetch(at, _MM_HINT_T1);
    }
    if (F::Rows::kUnits) return;
    // Of a quarter of the rows in turn: a line of the cache lasts two to four lines.
    const uint8_t* const soon = row_ + (line + 6) * 32 * F::kBytes / F::kBlock + line % 4 * step_;
#pragma GCC unroll 8
    for (int r = 0; r < 4 * kCount; ++r) Prefetch(soon + 4 * r * step_);
  }

 private:
  // Whole units, some 4 KB.
  static constexpr int64_t kUnit = 32 * F::kBytes, kUnitsAhead = (4095 + kUnit) / kUnit * kUnit;
  static typename F::Rows RowsAt(const FewRowsCall& q, int64_t out) {
    const uint8_t* const data = static_cast<const uint8_t*>(q.w->data);
    const int64_t row = q.out + out;
    return {F::Rows::kUnits ? data + row / 32 * 32 * q.w->row_bytes + row % 32
                            : data + row * q.w->row_bytes,
            q.w->row_bytes};
  }
  typename F::Rows rows_[2];
  const uint8_t* row_;
  int64_t step_, ahead_;
};

}  // namespace
}  // namespace lapidary

#endif  // LAPIDARY_QUANT_PANELS_BLOCKS_AVX512_INL_H_
