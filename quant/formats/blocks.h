// What the block formats share: halves and nibbles in a block's bytes, rounding as ggml does it,
// and the extremes of a block.
#ifndef LAPIDARY_QUANT_FORMATS_BLOCKS_H_
#define LAPIDARY_QUANT_FORMATS_BLOCKS_H_

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "autograd/base/float16.h"
#include "quant/formats/lanes.h"

namespace lapidary::formats {

inline float LoadHalf(const uint8_t* at) {
  uint16_t bits;
  std::memcpy(&bits, at, 2);
  return F32FromF16(bits);
}

// Stores x as f16 and returns the value that is now there.
inline float StoreHalf(float x, uint8_t* at) {
  const uint16_t bits = F16FromF32(x);
  std::memcpy(at, &bits, 2);
  return F32FromF16(bits);
}

// Round half to even for |v| < 2^22, as ggml does it: the sum's mantissa holds the integer.
inline int32_t Nearest(float v) {
  const int32_t bits = std::bit_cast<int32_t>(v + 12582912.0f);
  return (bits & 0x007fffff) - 0x00400000;
}

inline int32_t Clamp(int32_t v, int32_t low, int32_t high) {
  return v < low ? low : v > high ? high : v;
}

// codes[kCount] = min(high, trunc((x - origin) * inverse + half)), the argument known to be at
// least 0 for a finite inverse. An infinite one (of a subnormal scale) gives 0 everywhere, as
// ggml's conversion does on x86.
template <int kCount>
LAPIDARY_LANES void TruncatedCodes(const float* x, float origin, float inverse, float half,
                                   float high, uint8_t* codes) {
  if (std::isinf(inverse)) {
    std::memset(codes, 0, kCount);
    return;
  }
  for (int i = 0; i < kCount; ++i) {
    const float v = (x[i] - origin) * inverse + half;
    codes[i] = static_cast<uint8_t>(static_cast<int32_t>(v < high ? v : high));
  }
}

struct Extremes {
  float low, high;
};

// Smallest and largest of kCount values (a multiple of 8), in eight strands that the compiler puts
// into vectors. A zero keeps the sign of the first zero, as a scan from the front does.
template <int kCount>
LAPIDARY_LANES Extremes FindExtremes(const float* x) {
  float low[8], high[8];
  for (int k = 0; k < 8; ++k) low[k] = high[k] = x[k];
  for (int i = 8; i < kCount; i += 8) {
    for (int k = 0; k < 8; ++k) low[k] = x[i + k] < low[k] ? x[i + k] : low[k];
    for (int k = 0; k < 8; ++k) high[k] = x[i + k] > high[k] ? x[i + k] : high[k];
  }
  Extremes e = {low[0], high[0]};
  for (int k = 1; k < 8; ++k) {
    e.low = low[k] < e.low ? low[k] : e.low;
    e.high = high[k] > e.high ? high[k] : e.high;
  }
  if (e.low == 0 || e.high == 0) {
    int first = 0;
    while (x[first] != 0) ++first;
    if (e.low == 0) e.low = x[first];
    if (e.high == 0) e.high = x[first];
  }
  return e;
}

// The element of largest magnitude, the first of several; +0 for a block of zeros.
template <int kCount>
LAPIDARY_LANES float FindExtremum(const float* x) {
  const Extremes e = FindExtremes<kCount>(x);
  if (e.high > -e.low) return e.high;
  if (e.high < -e.low) return e.low;
  if (e.high == 0) return 0.0f;
  int first = 0;
  while (std::fabs(x[first]) != e.high) ++first;
  return x[first];
}

// 32 codes of 4 bits to 16 bytes: byte j holds code j in bits 0-3 and code j + 16 in bits 4-7.
LAPIDARY_LANES void PackNibbles(const uint8_t* codes, uint8_t* out) {
  for (int j = 0; j < 16; ++j)
    out[j] = static_cast<uint8_t>((codes[j] & 15) | (codes[j + 16] & 15) << 4);
}

// The fifth bits of 32 codes as ggml's qh: bit j is that of code j. Eight at a time: the product
// moves bit 0 of byte i to bit 56 + i.
inline uint32_t FifthBits(const uint8_t* codes) {
  uint32_t bits = 0;
  for (int j = 0; j < 32; j += 8) {
    uint64_t eight;
    std::memcpy(&eight, codes + j, 8);
    eight = (eight >> 4 & 0x0101010101010101u) * 0x0102040810204080u >> 56;
    bits |= static_cast<uint32_t>(eight) << j;
  }
  return bits;
}

// Codes of 5 bits from nibbles (as PackNibbles) and fifth bits. Eight at a time: bit i of a byte
// selects byte i of the copies, adding 0x7f carries it to the top bit.
inline void UnpackFiveBits(const uint8_t* nibbles, uint32_t fifth, uint8_t* codes) {
  for (int j = 0; j < 32; j += 8) {
    uint64_t low;
    std::memcpy(&low, nibbles + j % 16, 8);
    low = (j < 16 ? low : low >> 4) & 0x0f0f0f0f0f0f0f0fu;
    const uint64_t picked = (fifth >> j & 0xff) * 0x0101010101010101u & 0x8040201008040201u;
    low |= (picked + 0x7f7f7f7f7f7f7f7fu) >> 3 & 0x1010101010101010u;
    std::memcpy(codes + j, &low, 8);
  }
}

}  // namespace lapidary::formats

#endif  // LAPIDARY_QUANT_FORMATS_BLOCKS_H_
