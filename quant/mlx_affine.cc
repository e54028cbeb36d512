#include "quant/mlx_affine.h"

#include <algorithm>
#include <cmath>

namespace lapidary {

MlxGroup MlxQuantizeGroup(const MlxAffine& mode, const float* values, uint8_t* codes) {
  constexpr float kLeastScale = 1e-7f;
  const float top = static_cast<float>((1 << mode.bits) - 1);
  float lo = values[0], hi = values[0];
  for (int64_t i = 1; i < mode.group_size; ++i) {
    lo = std::min(lo, values[i]);
    hi = std::max(hi, values[i]);
  }
  MlxGroup group;
  group.scale = std::max((hi - lo) / top, kLeastScale);
  const bool low_end = std::fabs(lo) > std::fabs(hi);
  if (!low_end) group.scale = -group.scale;
  const float edge = low_end ? lo : hi;
  const float steps = std::rint(edge / group.scale);
  if (steps != 0) {
    group.scale = edge / steps;
    group.bias = edge;
  }
  for (int64_t i = 0; i < mode.group_size; ++i) {
    const float code = std::rint((values[i] - group.bias) / group.scale);
    codes[i] = static_cast<uint8_t>(std::clamp(code, 0.0f, top));
  }
  return group;
}

}  // namespace lapidary
