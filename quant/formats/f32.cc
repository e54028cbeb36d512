// F32: the value itself.
#include <cfloat>
#include <cstring>

#include "quant/formats/rows.h"

namespace lapidary::formats {
namespace {

void Quantize(const float* row, int64_t n, uint8_t* out) {
  if (n > 0) std::memcpy(out, row, static_cast<size_t>(n) * sizeof(float));
}

void Dequantize(const uint8_t* blocks, int64_t n, float* out) {
  if (n > 0) std::memcpy(out, blocks, static_cast<size_t>(n) * sizeof(float));
}

}  // namespace

Format F32() {
  return {.id = 0,
          .name = "F32",
          .block_size = 1,
          .block_bytes = 4,
          .max_abs = FLT_MAX,
          .dequantize = Dequantize,
          .rules = {{"ggml", Quantize}}};
}

}  // namespace lapidary::formats
