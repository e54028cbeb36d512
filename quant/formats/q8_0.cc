// Q8_0 (formats.md 3.1): blocks of 32 = f16 d, i8 q[32]; d = max|x| / 127, q = round(x / d) half
// away from zero; x' = q d.
#include "quant/formats/blocks.h"
#include "quant/formats/rows.h"

namespace lapidary::formats {
namespace {

constexpr int64_t kBlock = 32;
constexpr int64_t kBytes = 34;

// The scale of a block and its codes as two's complement; returns the scale as it is stored in
// `half`.
LAPIDARY_LANES float BlockCodes(const float* x, uint8_t* half, uint8_t* codes) {
  const Extremes e = FindExtremes<kBlock>(x);
  const float d = (e.high > -e.low ? e.high : std::fabs(e.low)) / 127;
  const float inverse = d != 0 ? 1.0f / d : 0.0f;
  for (int64_t i = 0; i < kBlock; ++i) {
    // roundf in integers: the fraction is exact, so halves are seen as halves. Infinities and
    // NaNs (the inverse of a subnormal scale overflowed) give 0, as ggml's conversion does on
    // x86.
    const float v = x[i] * inverse;
    const float bounded = v > -1e6f && v < 1e6f ? v : 0.0f;
    const int32_t whole = static_cast<int32_t>(bounded);
    const float fraction = bounded - static_cast<float>(whole);
    const int32_t q = whole + (fraction >= 0.5f ? 1 : 0) - (fraction <= -0.5f ? 1 : 0);
    codes[i] = static_cast<uint8_t>(q);
  }
  return StoreHalf(d, half);
}

LAPIDARY_LANES void QuantizeBody(const float* row, int64_t n, uint8_t* out) {
  for (int64_t block = 0; block < n / kBlock; ++block)
    BlockCodes(row + block * kBlock, out + block * kBytes, out + block * kBytes + 2);
}

LAPIDARY_LANES void ProjectBody(float* values, int64_t n) {
  for (float* x = values; x < values + n; x += kBlock) {
    uint8_t half[2], codes[kBlock];
    const float d = BlockCodes(x, half, codes);
    for (int64_t i = 0; i < kBlock; ++i)
      x[i] = static_cast<float>(static_cast<int8_t>(codes[i])) * d;
  }
}
LAPIDARY_PROJECT_IN_LANES(Project, ProjectBody)
LAPIDARY_QUANTIZE_IN_LANES(Quantize, QuantizeBody)

void LoadHead(const uint8_t* head, float* steps, float* offsets) {
  *steps = LoadHalf(head);
  *offsets = 0;
}

void Dequantize(const uint8_t* blocks, int64_t n, float* out) {
  for (int64_t block = 0; block < n / kBlock; ++block) {
    const uint8_t* y = blocks + block * kBytes;
    const float d = LoadHalf(y);
    for (int64_t i = 0; i < kBlock; ++i)
      out[block * kBlock + i] = static_cast<float>(static_cast<int8_t>(y[2 + i])) * d;
  }
}

}  // namespace

Format Q8_0() {
  return {.id = 8,
          .name = "Q8_0",
          .block_size = kBlock,
          .block_bytes = kBytes,
          .max_abs = 65504.0f * 127,
          .dequantize = Dequantize,
          .rules = {{"ggml", Quantize, Project}},
          .head = {.sub = kBlock, .at = 0, .bytes = 2, .low = -127, .high = 127, .load = LoadHead}};
}

}  // namespace lapidary::formats
