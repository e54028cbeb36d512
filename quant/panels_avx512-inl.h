// Rows of block formats (formats.md 3) as the AVX-512 packers read them: every format by its lines,
// Q4_0 and Q6_K in ways of their own; those with units also from units. Values are those of the
// format table's dequantize, d * q in float32, rounded to bf16 once where the product wants bf16.
// Included by files compiled for AVX-512 only, everything has internal linkage.
#ifndef LAPIDARY_QUANT_PANELS_AVX512_INL_H_
#define LAPIDARY_QUANT_PANELS_AVX512_INL_H_

#include "autograd/kernels/gemm_panels_avx512-inl.h"
#include "quant/panels.h"
#include "quant/panels_lines-inl.h"

namespace lapidary {
namespace {

inline __m512 Scale(const uint8_t* block) {
  return _mm512_cvtph_ps(_mm256_set1_epi16(static_cast<short>(block[0] | block[1] << 8)));
}

// A piece of a block: `size` bytes at byte `offset` of the block that holds position `at`.
template <bool kUnits, int64_t kBlock, int64_t kBlockBytes>
__attribute__((always_inline)) inline const uint8_t* Piece(const uint8_t* row, int64_t at,
                                                           int64_t offset, int64_t size) {
  if (!kUnits) return row + at / kBlock * kBlockBytes + offset;
  const int64_t r = reinterpret_cast<uintptr_t>(row) % 32;
  return row - r + at / kBlock * kBlockBytes * 32 + 32 * offset + r * size;
}

// 16 bytes of a block: in units they are two pieces.
template <bool kUnits, int64_t kBlock, int64_t kBlockBytes>
__attribute__((always_inline)) inline __m128i SixteenOf(const uint8_t* row, int64_t at,
                                                        int64_t offset) {
  const auto piece = [&](int64_t o) __attribute__((always_inline)) {
    return Piece<kUnits, kBlock, kBlockBytes>(row, at, o, 8);
  };
  if (!kUnits) return _mm_loadu_si128(reinterpret_cast<const __m128i*>(piece(offset)));
  const __m128i first = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(piece(offset)));
  return _mm_castpd_si128(
      _mm_loadh_pd(_mm_castsi128_pd(first), reinterpret_cast<const double*>(piece(offset + 8))));
}

struct NoUnits {};
struct IsInUnits {
  using Units = void;
};
template <bool kUnits>
struct RowLayout : NoUnits {};
template <>
struct RowLayout<true> : IsInUnits {};

template <bool kUnits>
struct Q4RowIn : RowLayout<kUnits> {
  static constexpr int64_t kBytes = 18, kLineWeights = 64, kAhead = 512;
  static inline const uint8_t* ScaleOf(const uint8_t* row, int64_t at) {
    return Piece<kUnits, 32, 18>(row, at, 0, 2);
  }
  static inline __m128i Bytes(const uint8_t* row, int64_t at) {
    return SixteenOf<kUnits, 32, 18>(row, at, 2);
  }
  // The codes 0..15 of a block as 32 bytes in order.
  static inline __m128i Codes(__m128i bytes, int half) {
    return half ? _mm_and_si128(_mm_srli_epi16(bytes, 4), _mm_set1_epi8(15))
                : _mm_and_si128(bytes, _mm_set1_epi8(15));
  }
  template <int kHalf>
  static inline __m512 Floats(const uint8_t* row, int64_t at, int64_t) {
    const __m512i code =
        _mm512_sub_epi32(_mm512_cvtepu8_epi32(Codes(Bytes(row, at), kHalf)), _mm512_set1_epi32(8));
    return _mm512_mul_ps(_mm512_cvtepi32_ps(code), Scale(ScaleOf(row, at)));
  }
  // The 16 values that a block can take are rounded once and looked up.
  static inline __m512i Line(const uint8_t* row, int64_t at, int64_t) {
    const __m512 levels = _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);
    const __m512 values = _mm512_mul_ps(levels, Scale(ScaleOf(row, at)));
    // vpermw reads five bits of an index. The table is there twice, so that the fifth may be
    // anything: the low half of the line uses its bytes as they are, the high half shifts them.
    const __m512i words = _mm512_cvtepu8_epi16(_mm256_broadcastsi128_si256(Bytes(row, at)));
    const __m512i shifts = _mm512_inserti64x4(_mm512_setzero_si512(), _mm256_set1_epi16(4), 1);
    const __m512i index = _mm512_srlv_epi16(words, shifts);
    return _mm512_permutexvar_epi16(index, Bf16Line(values, values));
  }
};

using Q4Row = Q4RowIn<false>;

// A block of 256 is eight lines: line 4 h + j holds the elements whose low bits are the low (j < 2)
// or high nibbles of ql[64 h + 32 (j % 2)..] and whose high bits are bits 2 j, 2 j + 1 of qh[32
// h..].
template <bool kUnits>
struct Q6RowIn : RowLayout<kUnits> {
  static constexpr int64_t kBytes = 26;  // 210 / 8, for prefetching only
  static constexpr int64_t kLineWeights = 64, kAhead = 256;
  template <int kHalf>
  static inline __m512 Floats(const uint8_t* row, int64_t at, int64_t) {
    const auto piece = [ row, at ](int64_t offset, int64_t size) __attribute__((always_inline)) {
      return Piece<kUnits, 256, 210>(row, at, offset, size);
    };
    const int64_t line = at % 256 / 32, h = line / 4, j = line % 4;
    const auto sixteen = [ row, at ](int64_t offset) __attribute__((always_inline)) {
      return SixteenOf<kUnits, 256, 210>(row, at, offset);
    };
    const __m128i low = sixteen(64 * h + 32 * (j % 2) + 16 * kHalf);
    const __m128i high = sixteen(128 + 32 * h + 16 * kHalf);
    const __m512i nibble =
        _mm512_and_si512(_mm512_srl_epi32(_mm512_cvtepu8_epi32(low), _mm_cvtsi64_si128(j / 2 * 4)),
                         _mm512_set1_epi32(15));
    const __m512i pair =
        _mm512_and_si512(_mm512_srl_epi32(_mm512_cvtepu8_epi32(high), _mm_cvtsi64_si128(2 * j)),
                         _mm512_set1_epi32(3));
    const __m512i code = _mm512_sub_epi32(_mm512_or_si512(nibble, _mm512_slli_epi32(pair, 4)),
                                          _mm512_set1_epi32(32));
    const int8_t scale = static_cast<int8_t>(kUnits ? piece(192 + line / 4 * 8, 8)[2 * j + kHalf]
                                                    : piece(192, 16)[2 * line + kHalf]);
    const __m512 d = _mm512_mul_ps(Scale(piece(208, 2)), _mm512_set1_ps(static_cast<float>(scale)));
    return _mm512_mul_ps(d, _mm512_cvtepi32_ps(code));
  }
  static inline __m512i Line(const uint8_t* row, int64_t at, int64_t count) {
    return Bf16Line(Floats<0>(row, at, count), Floats<1>(row, at, count));
  }
};

using Q6Row = Q6RowIn<false>;

template <class F>
struct LineRow {
  static constexpr int64_t kBytes = 32 * F::kBlockBytes / F::kBlock;
  static constexpr int64_t kLineWeights = kBytes <= 24 ? 64 : 32, kAhead = 512;
  template <int kHalf>
  static inline __m512 Floats(const uint8_t* row, int64_t at, int64_t) {
    const __m256i codes = F::Codes(row, at);
    const __m128i half = kHalf ? _mm256_extracti128_si256(codes, 1) : _mm256_castsi256_si128(codes);
    const __m512 v = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(half)),
                                   _mm512_set1_ps(F::Scale(row, at, kHalf)));
    if constexpr (F::kOffset) return _mm512_sub_ps(v, _mm512_set1_ps(F::Offset(row, at, kHalf)));
    return v;
  }
  static inline __m512i Line(const uint8_t* row, int64_t at, int64_t count) {
    return Bf16Line(Floats<0>(row, at, count), Floats<1>(row, at, count));
  }
};

// Formats in units as lines (panels_lines-inl.h); `row` names a row of a group.
template <int64_t kSize, int64_t kBytesOf>
struct UnitBlocks : Blocks<kSize, kBytesOf> {
  __attribute__((always_inline)) static inline const uint8_t* At(const uint8_t* row, int64_t at,
                                                                 int64_t offset, int64_t size) {
    return Piece<true, kSize, kBytesOf>(row, at, offset, size);
  }
  __attribute__((always_inline)) static inline __m256i ThirtyTwoOf(const uint8_t* row, int64_t at,
                                                                   int64_t offset) {
    return Join(SixteenOf<true, kSize, kBytesOf>(row, at, offset),
                SixteenOf<true, kSize, kBytesOf>(row, at, offset + 16));
  }
};

struct Q8_0UnitLines : UnitBlocks<32, 34> {
  static inline __m256i Codes(const uint8_t* row, int64_t at) { return ThirtyTwoOf(row, at, 2); }
  static inline float Scale(const uint8_t* row, int64_t at, int) { return Half(At(row, at, 0, 2)); }
};

template <int64_t kBytesOf>
struct KPairUnits : UnitBlocks<256, kBytesOf> {
  static constexpr bool kOffset = true;
  // The 16 bytes before the codes, put together again.
  struct Head {
    alignas(16) uint8_t bytes[16];
    __attribute__((always_inline)) inline Head(const uint8_t* row, int64_t at) {
      const auto copy = [&](int64_t offset, int64_t size) __attribute__((always_inline)) {
        __builtin_memcpy(bytes + offset, KPairUnits::At(row, at, offset, size), size);
      };
      copy(0, 2), copy(2, 2), copy(4, 4), copy(8, 4), copy(12, 4);
    }
  };
  static inline float Scale(const uint8_t* row, int64_t at, int) {
    return KPairs::Scale(Head(row, at).bytes, at % 256 / 32);
  }
  static inline float Offset(const uint8_t* row, int64_t at, int) {
    return KPairs::Offset(Head(row, at).bytes, at % 256 / 32);
  }
};

struct Q4KUnitLines : KPairUnits<144> {
  static inline __m256i Codes(const uint8_t* row, int64_t at) {
    const int64_t line = at % 256 / 32;
    return Field(ThirtyTwoOf(row, at, 16 + line / 2 * 32), line % 2 * 4, 15);
  }
};

struct Q5KUnitLines : KPairUnits<176> {
  static inline __m256i Codes(const uint8_t* row, int64_t at) {
    const int line = static_cast<int>(at % 256 / 32);
    const __m256i low = Field(ThirtyTwoOf(row, at, 48 + line / 2 * 32), line % 2 * 4, 15);
    const __m256i high = Field(ThirtyTwoOf(row, at, 16), line, 1);
    return _mm256_or_si256(low, _mm256_slli_epi16(high, 4));
  }
};

template <class F>
struct UnitLineRow : LineRow<F>, IsInUnits {};

struct F16Row {
  static constexpr int64_t kBytes = 64, kLineWeights = 32, kAhead = 256;
  template <int kHalf>
  static inline __m512 Floats(const uint8_t* row, int64_t at, int64_t count) {
    const __mmask16 lanes = FirstLanes(count - 16 * kHalf);
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(lanes, row + (at + 16 * kHalf) * 2));
  }
  static inline __m512i Line(const uint8_t* row, int64_t at, int64_t count) {
    return Bf16Line(Floats<0>(row, at, count), Floats<1>(row, at, count));
  }
};

}  // namespace
}  // namespace lapidary

#endif  // LAPIDARY_QUANT_PANELS_AVX512_INL_H_
