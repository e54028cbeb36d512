// Strips: 16 rows of blocks side by side, from single rows or from units (quant/units.h). The codes
// are transposed before they are converted, four to eight times fewer bytes than pairs of bf16.
// Included by files compiled for AVX-512 BF16 only, everything has internal linkage.
//
// The order of everything below: a vector holds 8 rows, row r in the 64-bit lane r, and two
// neighbouring positions k, k + 1 in the two 32-bit halves of that lane. Rounding two such vectors
// (rows 0..7 and 8..15) to bf16 gives 16 rows x (k, k + 1): the pairs of a panel, without another
// shuffle.
#ifndef LAPIDARY_QUANT_PANELS_STRIP_AVX512_INL_H_
#define LAPIDARY_QUANT_PANELS_STRIP_AVX512_INL_H_

#include "quant/panels_avx512-inl.h"

namespace lapidary {
namespace {

// 16 bytes of 8 rows: lane r of `low` is bytes 0..7 of row r, of `high` bytes 8..15.
struct RowBytes {
  __m512i low, high;
};

// A value for each of 16 rows, as the vectors above want it: lane r / 2 is row r (first) or 8 + r /
// 2 (second).
struct RowValues {
  __m512 first, second;
};

__attribute__((always_inline)) inline RowValues Spread(__m512 values) {
  const __m512i rows = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
  return {_mm512_permutexvar_ps(rows, values),
          _mm512_permutexvar_ps(_mm512_add_epi32(rows, _mm512_set1_epi32(8)), values)};
}

__attribute__((always_inline)) inline __m512 LoadHalves(const void* halves) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(halves)));
}

// The 16 bytes before the codes of Q4_K and Q5_K, of row r in lane r.
struct KHead {
  __m512 d, dmin;
  __m512i scales[3];
};

// The same block of 16 rows, which lie `step` bytes apart. The addresses are told so that they need
// four registers and two indices: GCC, left alone, keeps one for each row, in vector registers for
// want of others.
class RowStrip {
 public:
  __attribute__((always_inline)) inline RowStrip(const uint8_t* at, int64_t step)
      : even_{at, at + 8 * step}, odd_{at + step, at + 9 * step}, two_(2 * step), six_(6 * step) {
    asm("" : "+r"(even_[0]), "+r"(even_[1]), "+r"(odd_[0]), "+r"(odd_[1]), "+r"(two_), "+r"(six_));
  }
  // 16 bytes from `offset` on, of rows 8 g .. 8 g + 7.
  __attribute__((always_inline)) inline RowBytes Sixteen(int64_t offset, int g) const {
    const __m512i even = Four(even_[g] + offset), odd = Four(odd_[g] + offset);
    return {_mm512_unpacklo_epi64(even, odd), _mm512_unpackhi_epi64(even, odd)};
  }
  // float16 values, gathered by plain loads and stores: they keep the vector units free (volatile,
  // or GCC makes vector insertions of them). A vector load should come long after the stores.
  __attribute__((always_inline)) inline void Gather(int64_t offset, volatile uint16_t* out) const {
#pragma GCC unroll 16
    for (int r = 0; r < 16; ++r) {
      uint16_t half;
      __builtin_memcpy(&half, Row(r) + offset, 2);
      out[r] = half;
    }
  }
  __attribute__((always_inline)) inline __m512 Halves(int64_t offset) const {
    alignas(32) uint16_t halves[16];
    Gather(offset, halves);
    return LoadHalves(halves);
  }
  __attribute__((always_inline)) inline KHead Head() const {
    // Quarter q of these are rows 2 q, 2 q + 1, 8 + 2 q, 9 + 2 q: transposed in fours, then put in
    // order.
    const __m512i v[4] = {Four(even_[0]), Four(odd_[0]), Four(even_[1]), Four(odd_[1])};
    const __m512i low[2] = {_mm512_unpacklo_epi32(v[0], v[1]), _mm512_unpacklo_epi32(v[2], v[3])};
    const __m512i high[2] = {_mm512_unpackhi_epi32(v[0], v[1]), _mm512_unpackhi_epi32(v[2], v[3])};
    const auto rows = [](__m512i x) __attribute__((always_inline)) {
      return _mm512_permutexvar_epi32(
          _mm512_setr_epi32(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15), x);
    };
    const __m512i d = rows(_mm512_unpacklo_epi64(low[0], low[1]));
    return {
        _mm512_cvtph_ps(_mm512_cvtepi32_epi16(d)),
        _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(d, 16))),
        {rows(_mm512_unpackhi_epi64(low[0], low[1])), rows(_mm512_unpacklo_epi64(high[0], high[1])),
         rows(_mm512_unpackhi_epi64(high[0], high[1]))}};
  }

 private:
  __attribute__((always_inline)) inline const uint8_t* At(const uint8_t* base, int i) const {
    return i == 0 ? base : i == 1 ? base + two_ : i == 2 ? base + 2 * two_ : base + six_;
  }
  __attribute__((always_inline)) inline const uint8_t* Row(int r) const {
    return At((r % 2 ? odd_ : even_)[r / 8], r % 8 / 2);
  }
  // Loads that merge keep the shuffle units free.
  __attribute__((always_inline)) inline __m512i Four(const uint8_t* at) const {
    const auto load = [&](int i) __attribute__((always_inline)) {
      return _mm_loadu_si128(reinterpret_cast<const __m128i*>(At(at, i)));
    };
    __m512i v = _mm512_castsi128_si512(load(0));
    v = _mm512_mask_broadcast_i64x2(v, 0x0c, load(1));
    v = _mm512_mask_broadcast_i64x2(v, 0x30, load(2));
    return _mm512_mask_broadcast_i64x2(v, 0xc0, load(3));
  }
  const uint8_t *even_[2], *odd_[2];
  int64_t two_, six_;
};

// 16 of the 32 rows of a unit: eight bytes of eight rows are one aligned vector.
struct UnitStrip {
  const uint8_t* unit;
  int64_t half;
  __attribute__((always_inline)) inline RowBytes Sixteen(int64_t offset, int g) const {
    return {_mm512_load_si512(At(offset, 8) + 64 * g),
            _mm512_load_si512(At(offset + 8, 8) + 64 * g)};
  }
  __attribute__((always_inline)) inline __m512 Halves(int64_t offset) const {
    return LoadHalves(At(offset, 2));
  }
  __attribute__((always_inline)) inline KHead Head() const {
    return {
        Halves(0),
        Halves(2),
        {_mm512_load_si512(At(4, 4)), _mm512_load_si512(At(8, 4)), _mm512_load_si512(At(12, 4))}};
  }

 private:
  // Piece `size` bytes long at byte `offset` of a block, of the strip's first row.
  __attribute__((always_inline)) inline const uint8_t* At(int64_t offset, int64_t size) const {
    return unit + 32 * offset + 16 * size * half;
  }
};

// 16 rows of a weight in its layout, `first` being what RowAt (gemm_panels_avx512-inl.h) says of
// the first of them.
struct InRows {
  static constexpr bool kUnits = false;
  InRows(const uint8_t* first, int64_t row_bytes) : first_(first), row_bytes_(row_bytes) {}
  template <int64_t kBytes>
  __attribute__((always_inline)) inline RowStrip Block(int64_t block) const {
    return RowStrip(first_ + block * kBytes, row_bytes_);
  }
  // Asks for what Block of `count` blocks will read.
  template <int64_t kBytes>
  __attribute__((always_inline)) inline void PrefetchBlocks(int64_t block, int64_t count) const {
#pragma GCC unroll 16
    for (int r = 0; r < 16; ++r) {
      for (int64_t b = 0; b < count * kBytes; b += 64)
        Prefetch(first_ + r * row_bytes_ + block * kBytes + b);
    }
  }

 private:
  const uint8_t* first_;
  int64_t row_bytes_;
};

struct InUnits {
  static constexpr bool kUnits = true;
  InUnits(const uint8_t* first, int64_t)
      : group_(first - reinterpret_cast<uintptr_t>(first) % 32),
        half_(static_cast<int64_t>(reinterpret_cast<uintptr_t>(first) % 32 / 16)) {}
  template <int64_t kBytes>
  __attribute__((always_inline)) inline UnitStrip Block(int64_t block) const {
    return {group_ + block * 32 * kBytes, half_};
  }
  template <int64_t kBytes>
  __attribute__((always_inline)) inline void PrefetchBlocks(int64_t block, int64_t count) const {
    // Two strips ask for half of them each.
    const uint8_t* const at = group_ + (block * 32 + half_ * 16 * count) * kBytes;
    for (int64_t b = 0; b < count * 16 * kBytes; b += 64) Prefetch(at + b);
  }

 private:
  const uint8_t* group_;
  int64_t half_;
};

// Even bytes of a 64-bit lane to its lower half, odd ones to its upper half: byte 2 j + h is then
// bits 8 j .. 8 j + 7 of half h.
__attribute__((always_inline)) inline __m512i SplitParity(__m512i bytes) {
  return _mm512_shuffle_epi8(bytes, _mm512_broadcast_i32x4(_mm_setr_epi8(
                                        0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15)));
}

// Byte 2 j + h of a 64-bit lane as the top byte of half h, zeros below.
__attribute__((always_inline)) inline __m512i TopByte(__m512i bytes, int j) {
  const char z = -128, a = static_cast<char>(2 * j), b = static_cast<char>(2 * j + 1);
  const char c = static_cast<char>(a + 8), d = static_cast<char>(b + 8);
  return _mm512_shuffle_epi8(
      bytes, _mm512_broadcast_i32x4(_mm_setr_epi8(z, z, z, a, z, z, z, b, z, z, z, c, z, z, z, d)));
}

// v rotated left by the same number of bits in every lane.
__attribute__((always_inline)) inline __m512i Rotate(__m512i v, int64_t bits) {
  return _mm512_rolv_epi32(v, _mm512_set1_epi32(static_cast<int>(bits)));
}

// (v & mask) | other
__attribute__((always_inline)) inline __m512i MaskOr(__m512i v, __m512i mask, __m512i other) {
  return _mm512_ternarylogic_epi32(v, mask, other, 0xea);
}

}  // namespace
}  // namespace lapidary

#endif  // LAPIDARY_QUANT_PANELS_STRIP_AVX512_INL_H_
