// Strips: 16 rows of blocks at once, turned into pairs of bf16 with a row in each lane. Packing a
// panel from single rows converts first and transposes floats or pairs afterwards (64 shuffles for
// 512 weights); here the codes are transposed, four to eight times fewer bytes. Included by files
// compiled for AVX-512 BF16 only, everything has internal linkage.
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

__attribute__((always_inline)) inline __m128i Load16(const uint8_t* at) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
}

__attribute__((always_inline)) inline RowBytes LoadRows(const uint8_t* at, int64_t stride) {
  __m512i even = _mm512_castsi128_si512(Load16(at));
  even = _mm512_inserti32x4(even, Load16(at + 2 * stride), 1);
  even = _mm512_inserti32x4(even, Load16(at + 4 * stride), 2);
  even = _mm512_inserti32x4(even, Load16(at + 6 * stride), 3);
  __m512i odd = _mm512_castsi128_si512(Load16(at + stride));
  odd = _mm512_inserti32x4(odd, Load16(at + 3 * stride), 1);
  odd = _mm512_inserti32x4(odd, Load16(at + 5 * stride), 2);
  odd = _mm512_inserti32x4(odd, Load16(at + 7 * stride), 3);
  return {_mm512_unpacklo_epi64(even, odd), _mm512_unpackhi_epi64(even, odd)};
}

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

// float16 values of 16 rows, gathered by plain loads and stores: they keep the vector units free
// (volatile, or GCC makes vector insertions of them). The vector load comes long after the stores.
__attribute__((always_inline)) inline void GatherHalves(const uint8_t* at, int64_t stride,
                                                        volatile uint16_t* out) {
#pragma GCC unroll 16
  for (int r = 0; r < 16; ++r) {
    uint16_t half;
    __builtin_memcpy(&half, at + r * stride, 2);
    out[r] = half;
  }
}

__attribute__((always_inline)) inline __m512 LoadHalves(const void* halves) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(halves)));
}

__attribute__((always_inline)) inline void StorePairs(uint16_t* to, __m512 first, __m512 second) {
  _mm512_storeu_si512(to, (__m512i)_mm512_cvtne2ps_pbh(second, first));
}

// Even bytes of a 64-bit lane to its lower half, odd ones to its upper half: byte 2 j + h is then
// bits 8 j .. 8 j + 7 of half h.
__attribute__((always_inline)) inline __m512i SplitParity(__m512i bytes) {
  return _mm512_shuffle_epi8(bytes, _mm512_broadcast_i32x4(_mm_setr_epi8(
                                        0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15)));
}

// Byte 2 j + h of a 64-bit lane as the top byte of half h, zeros below.
template <int j>
__attribute__((always_inline)) inline __m512i TopByte(__m512i bytes) {
  constexpr char z = -128, a = 2 * j, b = 2 * j + 1;
  return _mm512_shuffle_epi8(bytes, _mm512_broadcast_i32x4(_mm_setr_epi8(
                                        z, z, z, a, z, z, z, b, z, z, z, a + 8, z, z, z, b + 8)));
}

// 8 positions of 16 rows from signed bytes, times a scale each; the scale carries a factor 2^-24.
__attribute__((always_inline)) inline void StoreSignedBytes(__m512i first, __m512i second,
                                                            const RowValues& scale, uint16_t* to,
                                                            int64_t pair) {
  const auto values = [](__m512i top, __m512 s) {
    return _mm512_mul_ps(_mm512_cvtepi32_ps(top), s);
  };
  StorePairs(to, values(TopByte<0>(first), scale.first), values(TopByte<0>(second), scale.second));
  StorePairs(to + pair, values(TopByte<1>(first), scale.first),
             values(TopByte<1>(second), scale.second));
  StorePairs(to + 2 * pair, values(TopByte<2>(first), scale.first),
             values(TopByte<2>(second), scale.second));
  StorePairs(to + 3 * pair, values(TopByte<3>(first), scale.first),
             values(TopByte<3>(second), scale.second));
}

// 8 positions of 16 rows from the nibbles of SplitParity'd bytes: the lower nibbles go to `low`,
// the upper ones to `high`. value = table[code] * scale.
__attribute__((always_inline)) inline void StoreNibbles(__m512i first, __m512i second, __m512 table,
                                                        const RowValues& scale, uint16_t* low,
                                                        uint16_t* high, int64_t pair) {
  // vpermps reads four bits of an index, so the rest needs no mask.
  const auto values = [table](__m512i index, __m512 s) {
    return _mm512_mul_ps(_mm512_permutexvar_ps(index, table), s);
  };
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    StorePairs(low + j * pair, values(_mm512_srli_epi32(first, 8 * j), scale.first),
               values(_mm512_srli_epi32(second, 8 * j), scale.second));
    StorePairs(high + j * pair, values(_mm512_srli_epi32(first, 8 * j + 4), scale.first),
               values(_mm512_srli_epi32(second, 8 * j + 4), scale.second));
  }
}

// Strip types (gemm_panels_avx512-inl.h). Scales of up to kBlocks blocks are gathered ahead of
// their use.
constexpr int64_t kBlocks = 16;

struct Q4Strip {
  static int64_t Pack(const uint8_t* rows, int64_t step, int64_t at, int64_t count, uint16_t* to,
                      int64_t pair) {
    alignas(64) uint16_t scales[kBlocks][16];
    const __m512 levels = _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);
    const int64_t blocks = count / 32;
    const uint8_t* block = rows + at / 32 * 18;
    for (int64_t begin = 0; begin < blocks; begin += kBlocks) {
      const int64_t n = blocks - begin < kBlocks ? blocks - begin : kBlocks;
      for (int64_t b = 0; b < n; ++b) GatherHalves(block + b * 18, step, scales[b]);
      for (int64_t b = 0; b < n; ++b, block += 18, to += 16 * pair) {
        const RowValues d = Spread(LoadHalves(scales[b]));
        const RowBytes first = LoadRows(block + 2, step);
        const RowBytes second = LoadRows(block + 2 + 8 * step, step);
        StoreNibbles(SplitParity(first.low), SplitParity(second.low), levels, d, to, to + 8 * pair,
                     pair);
        StoreNibbles(SplitParity(first.high), SplitParity(second.high), levels, d, to + 4 * pair,
                     to + 12 * pair, pair);
      }
    }
    return blocks * 32;
  }
};

struct Q8Strip {
  static int64_t Pack(const uint8_t* rows, int64_t step, int64_t at, int64_t count, uint16_t* to,
                      int64_t pair) {
    alignas(64) uint16_t scales[kBlocks][16];
    const int64_t blocks = count / 32;
    const uint8_t* block = rows + at / 32 * 34;
    for (int64_t begin = 0; begin < blocks; begin += kBlocks) {
      const int64_t n = blocks - begin < kBlocks ? blocks - begin : kBlocks;
      for (int64_t b = 0; b < n; ++b) GatherHalves(block + b * 34, step, scales[b]);
      for (int64_t b = 0; b < n; ++b, block += 34, to += 16 * pair) {
        const RowValues d = Spread(_mm512_mul_ps(LoadHalves(scales[b]), _mm512_set1_ps(0x1p-24f)));
#pragma GCC unroll 2
        for (int half = 0; half < 2; ++half) {
          const uint8_t* codes = block + 2 + 16 * half;
          const RowBytes first = LoadRows(codes, step);
          const RowBytes second = LoadRows(codes + 8 * step, step);
          StoreSignedBytes(first.low, second.low, d, to + 8 * half * pair, pair);
          StoreSignedBytes(first.high, second.high, d, to + (8 * half + 4) * pair, pair);
        }
      }
    }
    return blocks * 32;
  }
};

// Codes are kept as (q - 32) * 4 in signed bytes: the lower nibble in bits 2..5, the pair in bits
// 6, 7, its upper bit flipped. The scale carries a factor 2^-26 for it.
struct Q6Strip {
  static int64_t Pack(const uint8_t* rows, int64_t step, int64_t at, int64_t count, uint16_t* to,
                      int64_t pair) {
    const int64_t blocks = count / 256;
    const uint8_t* block = rows + at / 256 * 210;
    for (int64_t b = 0; b < blocks; ++b, block += 210) {
      alignas(64) uint16_t halves[16];
      GatherHalves(block + 208, step, halves);
      const RowBytes first_scales = LoadRows(block + 192, step);
      const RowBytes second_scales = LoadRows(block + 192 + 8 * step, step);
      // Byte 3 of a half becomes the scale of a sub-block: 2^24 here, 2^26 for the codes.
      const RowValues d = Spread(_mm512_mul_ps(LoadHalves(halves), _mm512_set1_ps(0x1p-50f)));
      for (int h = 0; h < 2; ++h, to += 64 * pair) {
        const __m512i scales[2] = {h ? first_scales.high : first_scales.low,
                                   h ? second_scales.high : second_scales.low};
        for (int part = 0; part < 2; ++part) {
          const uint8_t* low = block + 64 * h + 16 * part;
          const uint8_t* high = block + 128 + 32 * h + 16 * part;
          RowBytes a[2], c[2], t[2];
#pragma GCC unroll 2
          for (int g = 0; g < 2; ++g) {
            a[g] = LoadRows(low + 8 * g * step, step);
            c[g] = LoadRows(low + 32 + 8 * g * step, step);
            t[g] = LoadRows(high + 8 * g * step, step);
          }
          const auto line = [&](int j, const RowBytes* nibbles) __attribute__((always_inline)) {
            RowValues s;
            s.first = SubScale(scales[0], 2 * j + part, d.first);
            s.second = SubScale(scales[1], 2 * j + part, d.second);
            uint16_t* out = to + (16 * j + 8 * part) * pair;
            StoreSignedBytes(Codes(nibbles[0].low, t[0].low, j), Codes(nibbles[1].low, t[1].low, j),
                             s, out, pair);
            StoreSignedBytes(Codes(nibbles[0].high, t[0].high, j),
                             Codes(nibbles[1].high, t[1].high, j), s, out + 4 * pair, pair);
          };
          line(0, a);
          line(1, c);
          line(2, a);
          line(3, c);
        }
      }
    }
    return blocks * 256;
  }

 private:
  __attribute__((always_inline)) static inline __m512 SubScale(__m512i scales, int index,
                                                               __m512 d) {
    const __m512i where = _mm512_or_si512(
        _mm512_set1_epi32(static_cast<int>((static_cast<unsigned>(index) << 24) | 0x808080u)),
        _mm512_set4_epi32(0x08000000, 0x08000000, 0, 0));
    return _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_shuffle_epi8(scales, where)), d);
  }
  __attribute__((always_inline)) static inline __m512i Codes(__m512i nibbles, __m512i pairs,
                                                             int j) {
    const __m512i low = j < 2 ? _mm512_slli_epi32(nibbles, 2) : _mm512_srli_epi32(nibbles, 2);
    const __m512i high = j == 0   ? _mm512_slli_epi32(pairs, 6)
                         : j == 1 ? _mm512_slli_epi32(pairs, 4)
                         : j == 2 ? _mm512_slli_epi32(pairs, 2)
                                  : pairs;
    const __m512i top = _mm512_ternarylogic_epi32(high, _mm512_set1_epi8(static_cast<char>(0xc0)),
                                                  _mm512_set1_epi8(static_cast<char>(0x80)),
                                                  0x6a);                       // (a & b) ^ c
    return _mm512_ternarylogic_epi32(low, _mm512_set1_epi8(0x3c), top, 0xea);  // (a & b) | c
  }
};

}  // namespace
}  // namespace lapidary

#endif  // LAPIDARY_QUANT_PANELS_STRIP_AVX512_INL_H_
