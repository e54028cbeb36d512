// F64: read and written for checkpoints saved in double precision; reading rounds to the nearest
// float32.
#include <cfloat>
#include <cstring>

#include "quant/formats/rows.h"

namespace lapidary::formats {
namespace {

void Quantize(const float* row, int64_t n, uint8_t* out) {
  for (int64_t i = 0; i < n; ++i) {
    const double value = row[i];
    std::memcpy(out + i * 8, &value, 8);
  }
}

void Dequantize(const uint8_t* blocks, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) {
    double value;
    std::memcpy(&value, blocks + i * 8, 8);
    out[i] = static_cast<float>(value);
  }
}

}  // namespace

Format F64() {
  return {.id = 28,
          .name = "F64",
          .block_size = 1,
          .block_bytes = 8,
          .max_abs = FLT_MAX,
          .dequantize = Dequantize,
          .rules = {{"ggml", Quantize}}};
}

}  // namespace lapidary::formats
