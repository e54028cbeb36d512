// Every block format as lines: 32 consecutive weights are 32 signed bytes and, for each half, a
// scale and for some an offset,
//   weight = code * scale - offset        (or code * scale)
// in the order of operations of the format table's dequantize (formats.md 3). AVX2 instructions
// only, so that the AVX2 and the AVX-512 packers share it; a format's entry here is all that its
// panels need. Included by files compiled for AVX2 or more, everything has internal linkage.
//   kBlock, kBlockBytes; kOffset: there are offsets.
//   Codes(row, at): the 32 bytes of the line at position `at`, a multiple of 32.
//   Scale(row, at, half), Offset(row, at, half): of weights [at + 16 half, at + 16 half + 16).
//   Optional, for blocks of 256: EightScales(block, half), EightOffsets(block, half), those of all
//   lines.
#ifndef LAPIDARY_QUANT_PANELS_LINES_INL_H_
#define LAPIDARY_QUANT_PANELS_LINES_INL_H_

#include <immintrin.h>

#include <cstdint>

namespace lapidary {
namespace {

__attribute__((always_inline)) inline float Half(const uint8_t* at) {
  return _cvtsh_ss(static_cast<uint16_t>(at[0] | at[1] << 8));
}

__attribute__((always_inline)) inline __m256i Join(__m128i low, __m128i high) {
  return _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1);
}

__attribute__((always_inline)) inline __m128i Sixteen(const uint8_t* at) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
}

__attribute__((always_inline)) inline __m256i ThirtyTwo(const uint8_t* at) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
}

// Bits [shift, shift + n) of every byte, mask = 2^n - 1.
__attribute__((always_inline)) inline __m256i Field(__m256i bytes, int shift, int mask) {
  return _mm256_and_si256(_mm256_srl_epi16(bytes, _mm_cvtsi32_si128(shift)),
                          _mm256_set1_epi8(static_cast<char>(mask)));
}

// 16 bytes of nibbles: element j in the lower, j + 16 in the upper.
__attribute__((always_inline)) inline __m256i Nibbles(const uint8_t* at) {
  const __m128i bytes = Sixteen(at);
  return _mm256_and_si256(Join(bytes, _mm_srli_epi16(bytes, 4)), _mm256_set1_epi8(15));
}

// Bit j of 32 as the bit 4 of byte j.
__attribute__((always_inline)) inline __m256i FifthBits(const uint8_t* at) {
  int bits;
  __builtin_memcpy(&bits, at, 4);
  const __m256i spread = _mm256_shuffle_epi8(
      _mm256_set1_epi32(bits), _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2,
                                                2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3));
  const __m256i each = _mm256_set1_epi64x(static_cast<int64_t>(0x8040201008040201ull));
  return _mm256_and_si256(_mm256_cmpeq_epi8(_mm256_and_si256(spread, each), each),
                          _mm256_set1_epi8(16));
}

// A table of 16 signed bytes at the codes 0..15.
__attribute__((always_inline)) inline __m256i LookUp(__m128i table, __m256i codes) {
  return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), codes);
}

template <int64_t kSize, int64_t kBytesOf>
struct Blocks {
  static constexpr int64_t kBlock = kSize, kBlockBytes = kBytesOf;
  static constexpr bool kOffset = false;
  __attribute__((always_inline)) static inline const uint8_t* Block(const uint8_t* row,
                                                                    int64_t at) {
    return row + at / kSize * kBytesOf;
  }
};

struct Q4_0Lines : Blocks<32, 18> {
  static inline __m256i Codes(const uint8_t* row, int64_t at) {
    return _mm256_sub_epi8(Nibbles(Block(row, at) + 2), _mm256_set1_epi8(8));
  }
  static inline float Scale(const uint8_t* row, int64_t at, int) { return Half(Block(row, at)); }
};

struct Q4_1Lines : Blocks<32, 20> {
  static constexpr bool kOffset = true;
  static inline __m256i Codes(const uint8_t* row, int64_t at) {
    return Nibbles(Block(row, at) + 4);
  }
  static inline float Scale(const uint8_t* row, int64_t at, int) { return Half(Block(row, at)); }
  static inline float Offset(const uint8_t* row, int64_t at, int) {
    return -Half(Block(row, at) + 2);
  }
};

struct Q5_0Lines : Blocks<32, 22> {
  static inline __m256i Codes(const uint8_t* row, int64_t at) {
    const uint8_t* block = Block(row, at);
    return _mm256_sub_epi8(_mm256_or_si256(Nibbles(block + 6), FifthBits(block + 2)),
                           _mm256_set1_epi8(16));
  }
  static inline float Scale(const uint8_t* row, int64_t at, int) { return Half(Block(row, at)); }
};

struct Q5_1Lines : Blocks<32, 24> {
  static constexpr bool kOffset = true;
  static inline __m256i Codes(const uint8_t* row, int64_t at) {
    const uint8_t* block = Block(row, at);
    return _mm256_or_si256(Nibbles(block + 8), FifthBits(block + 4));
  }
  static inline float Scale(const uint8_t* row, int64_t at, int) { return Half(Block(row, at)); }
  static inline float Offset(const uint8_t* row, int64_t at, int) {
    return -Half(Block(row, at) + 2);
  }
};

struct Q8_0Lines : Blocks<32, 34> {
  static inline __m256i Codes(const uint8_t* row, int64_t at) {
    return ThirtyTwo(Block(row, at) + 2);
  }
  static inline float Scale(const uint8_t* row, int64_t at, int) { return Half(Block(row, at)); }
};

// The codebook of IQ4_NL and IQ4_XS.
__attribute__((always_inline)) inline __m128i Iq4Book() {
  return _mm_setr_epi8(-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113);
}

struct Iq4NlLines : Blocks<32, 18> {
  static inline __m256i Codes(const uint8_t* row, int64_t at) {
    return LookUp(Iq4Book(), Nibbles(Block(row, at) + 2));
  }
  static inline float Scale(const uint8_t* row, int64_t at, int) { return Half(Block(row, at)); }
};

struct Mxfp4Lines : Blocks<32, 17> {
  static inline __m256i Codes(const uint8_t* row, int64_t at) {
    const __m128i book = _mm_setr_epi8(0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12);
    return LookUp(book, Nibbles(Block(row, at) + 1));
  }
  // 2^(e - 128); the two smallest are subnormal.
  static inline float Scale(const uint8_t* row, int64_t at, int) {
    const uint32_t e = *Block(row, at), bits = e < 2 ? 0x200000u << e : (e - 1) << 23;
    return _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128(static_cast<int>(bits))));
  }
};

// Blocks of 256 from here on. Q4_K and Q5_K share a head of 16 bytes: d, dmin and eight pairs.
struct KPairs {
  __attribute__((always_inline)) static inline float Scale(const uint8_t* block, int64_t j) {
    const uint8_t* p = block + 4;
    const int s = j < 4 ? p[j] & 63 : (p[j + 4] & 15) | (p[j - 4] >> 6) << 4;
    return Half(block) * static_cast<float>(s);
  }
  __attribute__((always_inline)) static inline float Offset(const uint8_t* block, int64_t j) {
    const uint8_t* p = block + 4;
    const int m = j < 4 ? p[j + 4] & 63 : p[j + 4] >> 4 | (p[j] >> 6) << 4;
    return Half(block + 2) * static_cast<float>(m);
  }
  // The same of all j, four bytes at a time.
  __attribute__((always_inline)) static inline __m256 EightScales(const uint8_t* block) {
    return Eight(Word(block + 4) & 0x3f3f3f3f,
                 (Word(block + 12) & 0x0f0f0f0f) | (Word(block + 4) >> 2 & 0x30303030),
                 Half(block));
  }
  __attribute__((always_inline)) static inline __m256 EightOffsets(const uint8_t* block) {
    return Eight(Word(block + 8) & 0x3f3f3f3f,
                 (Word(block + 12) >> 4 & 0x0f0f0f0f) | (Word(block + 8) >> 2 & 0x30303030),
                 Half(block + 2));
  }

 private:
  __attribute__((always_inline)) static inline uint32_t Word(const uint8_t* at) {
    uint32_t word;
    __builtin_memcpy(&word, at, 4);
    return word;
  }
  __attribute__((always_inline)) static inline __m256 Eight(uint32_t low, uint32_t high, float d) {
    const __m128i bytes =
        _mm_cvtsi64_si128(static_cast<int64_t>(low | static_cast<uint64_t>(high) << 32));
    return _mm256_mul_ps(_mm256_set1_ps(d), _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes)));
  }
};

struct Q4KLines : Blocks<256, 144> {
  static constexpr bool kOffset = true;
  static inline __m256i Codes(const uint8_t* row, int64_t at) {
    const int64_t line = at % 256 / 32;
    return Field(ThirtyTwo(Block(row, at) + 16 + line / 2 * 32), line % 2 * 4, 15);
  }
  static inline float Scale(const uint8_t* row, int64_t at, int) {
    return KPairs::Scale(Block(row, at), at % 256 / 32);
  }
  static inline float Offset(const uint8_t* row, int64_t at, int) {
    return KPairs::Offset(Block(row, at), at % 256 / 32);
  }
  static inline __m256 EightScales(const uint8_t* block, int) { return KPairs::EightScales(block); }
  static inline __m256 EightOffsets(const uint8_t* block, int) {
    return KPairs::EightOffsets(block);
  }
};

struct Q5KLines : Blocks<256, 176> {
  static constexpr bool kOffset = true;
  static inline __m256i Codes(const uint8_t* row, int64_t at) {
    const int line = static_cast<int>(at % 256 / 32);
    const uint8_t* block = Block(row, at);
    const __m256i low = Field(ThirtyTwo(block + 48 + line / 2 * 32), line % 2 * 4, 15);
    const __m256i high = Field(ThirtyTwo(block + 16), line, 1);
    return _mm256_or_si256(low, _mm256_slli_epi16(high, 4));
  }
  static inline float Scale(const uint8_t* row, int64_t at, int) {
    return KPairs::Scale(Block(row, at), at % 256 / 32);
  }
  static inline float Offset(const uint8_t* row, int64_t at, int) {
    return KPairs::Offset(Block(row, at), at % 256 / 32);
  }
  static inline __m256 EightScales(const uint8_t* block, int) { return KPairs::EightScales(block); }
  static inline __m256 EightOffsets(const uint8_t* block, int) {
    return KPairs::EightOffsets(block);
  }
};

struct Q6KLines : Blocks<256, 210> {
  static inline __m256i Codes(const uint8_t* row, int64_t at) {
    const int line = static_cast<int>(at % 256 / 32), h = line / 4, j = line % 4;
    const uint8_t* block = Block(row, at);
    const __m256i low = Field(ThirtyTwo(block + 64 * h + 32 * (j % 2)), j / 2 * 4, 15);
    const __m256i high = Field(ThirtyTwo(block + 128 + 32 * h), 2 * j, 3);
    return _mm256_sub_epi8(_mm256_or_si256(low, _mm256_slli_epi16(high, 4)), _mm256_set1_epi8(32));
  }
  static inline float Scale(const uint8_t* row, int64_t at, int half) {
    const uint8_t* block = Block(row, at);
    const int8_t scale = static_cast<int8_t>(block[192 + at % 256 / 16 + half]);
    return Half(block + 208) * static_cast<float>(scale);
  }
  static inline __m256 EightScales(const uint8_t* block, int half) {
    const __m128i order = _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
    const __m128i halves = _mm_shuffle_epi8(Sixteen(block + 192), order);
    const __m128i bytes = half ? _mm_unpackhi_epi64(halves, halves) : halves;
    return _mm256_mul_ps(_mm256_set1_ps(Half(block + 208)),
                         _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)));
  }
};

struct Q2KLines : Blocks<256, 84> {
  static constexpr bool kOffset = true;
  static inline __m256i Codes(const uint8_t* row, int64_t at) {
    const int line = static_cast<int>(at % 256 / 32);
    return Field(ThirtyTwo(Block(row, at) + 16 + line / 4 * 32), line % 4 * 2, 3);
  }
  static inline float Scale(const uint8_t* row, int64_t at, int half) {
    const uint8_t* block = Block(row, at);
    return Half(block + 80) * static_cast<float>(block[at % 256 / 16 + half] & 15);
  }
  static inline float Offset(const uint8_t* row, int64_t at, int half) {
    const uint8_t* block = Block(row, at);
    return Half(block + 82) * static_cast<float>(block[at % 256 / 16 + half] >> 4);
  }
};

struct Q3KLines : Blocks<256, 110> {
  static inline __m256i Codes(const uint8_t* row, int64_t at) {
    const int line = static_cast<int>(at % 256 / 32);
    const uint8_t* block = Block(row, at);
    const __m256i low = Field(ThirtyTwo(block + 32 + line / 4 * 32), line % 4 * 2, 3);
    const __m256i high = Field(ThirtyTwo(block), line, 1);
    return _mm256_sub_epi8(_mm256_or_si256(low, _mm256_slli_epi16(high, 2)), _mm256_set1_epi8(4));
  }
  // 16 scales of 6 bits, less 32: four lower bits in bytes 0..7, two upper ones in bytes 8..11.
  static inline float Scale(const uint8_t* row, int64_t at, int half) {
    const uint8_t* block = Block(row, at);
    const uint8_t* packed = block + 96;
    const int64_t s = at % 256 / 16 + half;
    const int low = packed[s % 8] >> (s / 8 * 4) & 15, high = packed[8 + s % 4] >> (s / 4 * 2) & 3;
    return Half(block + 108) * static_cast<float>((low | high << 4) - 32);
  }
};

struct Iq4XsLines : Blocks<256, 136> {
  static inline __m256i Codes(const uint8_t* row, int64_t at) {
    return LookUp(Iq4Book(), Nibbles(Block(row, at) + 8 + at % 256 / 32 * 16));
  }
  static inline float Scale(const uint8_t* row, int64_t at, int) {
    const uint8_t* block = Block(row, at);
    const int64_t k = at % 256 / 32;
    const int high = (block[2] | block[3] << 8) >> (2 * k) & 3;
    const int scale = (block[4 + k / 2] >> (k % 2 * 4) & 15) | high << 4;
    return Half(block) * static_cast<float>(scale - 32);
  }
};

}  // namespace
}  // namespace lapidary

#endif  // LAPIDARY_QUANT_PANELS_LINES_INL_H_
