// MXFP4 (formats.md 3.1): blocks of 32 = u8 e (E8M0), 16 bytes of nibbles (as Q4_0). e = 0 for a
// block of zeros, else floor(log2(max |x|)) - 2 + 127; d = 2^(e - 128), half of the E8M0 value,
// because the code table is doubled; q = the first code that minimizes |T[q] d - x|, x' = T[q] d.
#include <cfloat>

#include "quant/formats/blocks.h"
#include "quant/formats/rows.h"

namespace lapidary::formats {
namespace {

constexpr int64_t kBlock = 32;
constexpr int64_t kBytes = 17;
constexpr float kTable[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

// 2^(e - 128) for every byte: 0 and 1 are subnormal.
float Scale(uint8_t e) {
  return std::bit_cast<float>(e < 2 ? 0x00200000u << e : static_cast<uint32_t>(e - 1) << 23);
}

LAPIDARY_LANES void QuantizeBody(const float* row, int64_t n, uint8_t* out) {
  for (int64_t block = 0; block < n / kBlock; ++block) {
    const float* x = row + block * kBlock;
    uint8_t* y = out + block * kBytes;
    const float magnitude = std::fabs(FindExtremum<kBlock>(x));
    // Magnitudes below 2^-125 wrap around to a large e, whose codes are all 0: ggml's bytes.
    const uint8_t e =
        magnitude > 0
            ? static_cast<uint8_t>(static_cast<int32_t>(std::floor(std::log2(magnitude)) - 2 + 127))
            : uint8_t{0};
    y[0] = e;
    const float d = Scale(e);
    uint8_t codes[kBlock];
    for (int part = 0; part < kBlock / kLanes; ++part) {
      F8 v;
      std::memcpy(&v, x + part * kLanes, sizeof(v));
      F8 error = Abs(v);
      I8 best = {};
      for (int32_t q = 1; q < 16; ++q) {
        if (q == 8) continue;  // zero again, never the first
        const F8 off = Abs(kTable[q] * d - v);
        const I8 nearer = off < error;
        best = nearer ? I8{} + q : best;
        error = nearer ? off : error;
      }
      for (int k = 0; k < kLanes; ++k) codes[part * kLanes + k] = static_cast<uint8_t>(best[k]);
    }
    PackNibbles(codes, y + 1);
  }
}
LAPIDARY_QUANTIZE_IN_LANES(Quantize, QuantizeBody)

void Dequantize(const uint8_t* blocks, int64_t n, float* out) {
  for (int64_t block = 0; block < n / kBlock; ++block) {
    const uint8_t* y = blocks + block * kBytes;
    float* x = out + block * kBlock;
    const float d = Scale(y[0]);
    for (int64_t i = 0; i < kBlock / 2; ++i) {
      x[i] = kTable[y[1 + i] & 15] * d;
      x[i + kBlock / 2] = kTable[y[1 + i] >> 4] * d;
    }
  }
}

}  // namespace

Format MXFP4() {
  return {.id = 39,
          .name = "MXFP4",
          .block_size = kBlock,
          .block_bytes = kBytes,
          .max_abs = FLT_MAX,
          .dequantize = Dequantize,
          .rules = {{"ggml", Quantize}}};
}

}  // namespace lapidary::formats
