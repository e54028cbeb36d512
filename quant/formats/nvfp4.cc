// NVFP4 (formats.md 3.2): blocks of 64 = u8 d[4] (UE4M3, one for 16 elements), 32 bytes of nibbles;
// byte 8 s + j holds element 16 s + j in bits 0-3 and element 16 s + 8 + j in bits 4-7. d[s] =
// UE4M3(max |x| / 6), decoded to half its value because the code table is doubled; q = the first
// code that minimizes |T[q] d - x|, x' = T[q] d.
#include <algorithm>

#include "quant/formats/blocks.h"
#include "quant/formats/fp4.h"
#include "quant/formats/rows.h"

namespace lapidary::formats {
namespace {

constexpr int64_t kBlock = 64;
constexpr int64_t kBytes = 36;
constexpr int kSub = 16;

// Four exponent bits of bias 7, three of mantissa, no sign; rounded half up, at most 448.
uint8_t EncodeScale(float x) {
  if (!(x > 0)) return 0;
  x = std::min(x, 448.0f);
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  int32_t exponent = static_cast<int32_t>(bits >> 23) - 127 + 7;
  if (exponent <= 0) {
    const int32_t m = std::min(static_cast<int32_t>(x * 512.0f + 0.5f), 7);
    return static_cast<uint8_t>(m < 1 ? 0 : m);
  }
  int32_t m = static_cast<int32_t>(bits >> 20 & 7) + static_cast<int32_t>(bits >> 19 & 1);
  if (m > 7) {
    m = 0;
    ++exponent;
  }
  return exponent >= 15 ? uint8_t{0x7e} : static_cast<uint8_t>(exponent << 3 | m);
}

// Half of what the byte means.
float DecodeScale(uint8_t byte) {
  if (byte == 0 || byte == 0x7f) return 0;
  const int e = byte >> 3 & 15;
  const float m = static_cast<float>(byte & 7);
  return 0.5f * (e ? std::ldexp(1 + m / 8, e - 7) : m * 0x1p-9f);
}

LAPIDARY_LANES void QuantizeBody(const float* row, int64_t n, uint8_t* out) {
  for (int64_t sub = 0; sub < n / kSub; ++sub) {
    const float* x = row + sub * kSub;
    uint8_t* block = out + sub / 4 * kBytes;
    const int s = static_cast<int>(sub % 4);
    float largest = 0;
    for (int i = 0; i < kSub; ++i) largest = std::max(largest, std::fabs(x[i]));
    block[s] = EncodeScale(largest / 6.0f);
    const float d = DecodeScale(block[s]);
    I8 codes[2];
    for (int half = 0; half < 2; ++half) {
      F8 v;
      std::memcpy(&v, x + half * kLanes, sizeof(v));
      codes[half] = NearestFp4(v, d);
    }
    for (int j = 0; j < kLanes; ++j)
      block[4 + 8 * s + j] = static_cast<uint8_t>(codes[0][j] | codes[1][j] << 4);
  }
}
LAPIDARY_QUANTIZE_IN_LANES(Quantize, QuantizeBody)

void Dequantize(const uint8_t* blocks, int64_t n, float* out) {
  for (int64_t sub = 0; sub < n / kSub; ++sub) {
    const uint8_t* block = blocks + sub / 4 * kBytes;
    const int64_t s = sub % 4;
    const float d = DecodeScale(block[s]);
    float* x = out + sub * kSub;
    for (int j = 0; j < 8; ++j) {
      x[j] = kFp4Values[block[4 + 8 * s + j] & 15] * d;
      x[j + 8] = kFp4Values[block[4 + 8 * s + j] >> 4] * d;
    }
  }
}

}  // namespace

Format NVFP4() {
  return {.id = 40,
          .name = "NVFP4",
          .block_size = kBlock,
          .block_bytes = kBytes,
          .max_abs = 448.0f * 6,
          .dequantize = Dequantize,
          .rules = {{"ggml", Quantize}}};
}

}  // namespace lapidary::formats
