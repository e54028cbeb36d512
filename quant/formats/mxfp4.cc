// MXFP4 (formats.md 3.1): blocks of 32 = u8 e (E8M0), 16 bytes of nibbles (as Q4_0). e = 0 for a
// block of zeros, else floor(log2(max |x|)) - 2 + 127; d = 2^(e - 128), half of the E8M0 value,
// because the code table is doubled; q = the first code that minimizes |T[q] d - x|, x' = T[q] d.
#include <cfloat>

#include "quant/formats/blocks.h"
#include "quant/formats/fp4.h"
#include "quant/formats/rows.h"

namespace lapidary::formats {
namespace {

constexpr int64_t kBlock = 32;
constexpr int64_t kBytes = 17;
constexpr int kParts = kBlock / kLanes;

// 2^(e - 128) for every byte: 0 and 1 are subnormal.
float Scale(uint8_t e) {
  return std::bit_cast<float>(e < 2 ? 0x00200000u << e : static_cast<uint32_t>(e - 1) << 23);
}

// The code of the block's scale, from the largest magnitude.
LAPIDARY_LANES uint8_t ScaleCode(float magnitude) {
  // Of a normal number the logarithm's floor is its exponent; but just below a power of two log2
  // rounds up to it.
  const uint32_t bits = std::bit_cast<uint32_t>(magnitude);
  if (bits >= 0x04000000u && (bits & 0x007fff00u) != 0x007fff00u)
    return static_cast<uint8_t>((bits >> 23) - 2);
  // Magnitudes below 2^-125 wrap around to a large e, whose codes are all 0: ggml's bytes.
  return magnitude > 0 ? static_cast<uint8_t>(
                             static_cast<int32_t>(std::floor(std::log2(magnitude)) - 2 + 127))
                       : uint8_t{0};
}

// Eight codes: the first that minimizes |T[q] d - v|. As d is a power of two and ties go to the
// smaller magnitude, its magnitude is the number of midpoints between neighbours that |v| exceeds.
// Where d is so small that midpoints are not exact, or so large that codes overflow, all codes are
// tried.
LAPIDARY_LANES I8 EightCodes(F8 v, float d) {
  if (d >= 0x1p-120f && d <= 0x1p124f) {
    const F8 a = Abs(v);
    I8 code = {};
    for (const float middle : {0.5f, 1.5f, 2.5f, 3.5f, 5.0f, 7.0f, 10.0f}) code -= a > middle * d;
    const I8 negative = (v < F8{}) & (code > I8{});
    return code + (negative & 8);
  }
  return NearestFp4(v, d);
}

// The scale code of a block; its codes as eight lanes a part.
LAPIDARY_LANES uint8_t BlockCodes(const float* x, I8* codes) {
  const uint8_t e = ScaleCode(std::fabs(FindExtremum<kBlock>(x)));
  const float d = Scale(e);
  for (int part = 0; part < kParts; ++part) {
    F8 v;
    std::memcpy(&v, x + part * kLanes, sizeof(v));
    codes[part] = EightCodes(v, d);
  }
  return e;
}

LAPIDARY_LANES void QuantizeBody(const float* row, int64_t n, uint8_t* out) {
  for (int64_t block = 0; block < n / kBlock; ++block) {
    uint8_t* y = out + block * kBytes;
    I8 codes[kParts];
    y[0] = BlockCodes(row + block * kBlock, codes);
    uint8_t bytes[kBlock];
    for (int i = 0; i < kBlock; ++i) bytes[i] = static_cast<uint8_t>(codes[i / kLanes][i % kLanes]);
    PackNibbles(bytes, y + 1);
  }
}
LAPIDARY_QUANTIZE_IN_LANES(Quantize, QuantizeBody)

LAPIDARY_LANES void ProjectBody(float* values, int64_t n) {
  for (float* x = values; x < values + n; x += kBlock) {
    I8 codes[kParts];
    const float d = Scale(BlockCodes(x, codes));
    for (int part = 0; part < kParts; ++part) {
      // T of the low three bits: c up to 4, then 6, 8, 12.
      const I8 c = codes[part] & 7;
      const I8 bonus = ((c > 4) & 1) + ((c > 5) & 1) + ((c > 6) & 3);
      const F8 level = Floats(c + bonus) * d;
      const I8 sign = (codes[part] & 8) << 28;
      const F8 v = std::bit_cast<F8>(std::bit_cast<I8>(level) | sign);
      std::memcpy(x + part * kLanes, &v, sizeof(v));
    }
  }
}
LAPIDARY_PROJECT_IN_LANES(Project, ProjectBody)

void Dequantize(const uint8_t* blocks, int64_t n, float* out) {
  for (int64_t block = 0; block < n / kBlock; ++block) {
    const uint8_t* y = blocks + block * kBytes;
    float* x = out + block * kBlock;
    const float d = Scale(y[0]);
    for (int64_t i = 0; i < kBlock / 2; ++i) {
      x[i] = kFp4Values[y[1 + i] & 15] * d;
      x[i + kBlock / 2] = kFp4Values[y[1 + i] >> 4] * d;
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
          .rules = {{"ggml", Quantize, Project}}};
}

}  // namespace lapidary::formats
