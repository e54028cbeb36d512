// Panels of bfloat16 and float32 weights for the NEON table.
#include <cstring>

#include "autograd/kernels/gemm_panels_isa.h"
#include "autograd/kernels/gemm_panels_neon-inl.h"

namespace lapidary {
namespace {

struct Bf16Row {
  static constexpr int64_t kBytes = 64;
  static inline void Floats(const uint8_t* row, int64_t at, int64_t count, float32x4_t out[8]) {
    uint16_t bits[32] = {};
    std::memcpy(bits, row + at * 2, (count < 32 ? count : 32) * 2);
    for (int j = 0; j < 8; ++j)
      out[j] = vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(bits + 4 * j), 16));
  }
};

struct F32Row {
  static constexpr int64_t kBytes = 128;
  static inline void Floats(const uint8_t* row, int64_t at, int64_t count, float32x4_t out[8]) {
    const float* from = reinterpret_cast<const float*>(row) + at;
    for (int j = 0; j < 8; ++j) out[j] = LoadFirst(from + 4 * j, count - 4 * j);
  }
};

}  // namespace

const DensePanels kDensePanelsNeon = {
    {PackForwardF32<Bf16Row, false>, PackInputGradF32<Bf16Row, false>},
    {PackForwardF32<F32Row, false>, PackInputGradF32<F32Row, false>}};
const DensePanels kDensePanelsNeonRound = {
    {PackForwardF32<Bf16Row, false>, PackInputGradF32<Bf16Row, false>},
    {PackForwardF32<F32Row, true>, PackInputGradF32<F32Row, true>}};

}  // namespace lapidary
