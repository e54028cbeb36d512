// MLX's affine quantization of one group of a row (formats.md 6.4): code * scale + bias, with one
// end of the range and zero exact. Byte for byte what mlx.core.quantize makes of the same float32.
#ifndef LAPIDARY_QUANT_MLX_AFFINE_H_
#define LAPIDARY_QUANT_MLX_AFFINE_H_

#include <cstdint>

namespace lapidary {

struct MlxAffine {
  int bits = 4;             // 4 or 8
  int64_t group_size = 64;  // 32, 64 or 128
};

struct MlxGroup {
  float scale = 0, bias = 0;  // before they are rounded to the type that they are stored in
};

// group_size finite values to as many codes in [0, 2^bits).
MlxGroup MlxQuantizeGroup(const MlxAffine& mode, const float* values, uint8_t* codes);

}  // namespace lapidary

#endif  // LAPIDARY_QUANT_MLX_AFFINE_H_
