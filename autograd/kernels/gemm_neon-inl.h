// What the NEON files share: rounding, lanes and transposition. AArch64 always has Advanced SIMD,
// so these files need no flags of their own.
#ifndef LAPIDARY_AUTOGRAD_KERNELS_GEMM_NEON_INL_H_
#define LAPIDARY_AUTOGRAD_KERNELS_GEMM_NEON_INL_H_

#include <arm_neon.h>

#include <cstdint>

namespace lapidary {
namespace {

constexpr int64_t kTileGap = 1;  // PanelOffset

// Rounded to bf16 (nearest even), as float32. NaN keeps its upper half and becomes quiet.
inline float32x4_t RoundBf16(float32x4_t value) {
  const uint32x4_t bits = vreinterpretq_u32_f32(value);
  const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
  const uint32x4_t rounded = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
  const uint32x4_t quiet = vorrq_u32(bits, vdupq_n_u32(0x400000));
  const uint32x4_t chosen = vbslq_u32(vceqq_f32(value, value), rounded, quiet);
  return vreinterpretq_f32_u32(vandq_u32(chosen, vdupq_n_u32(0xffff0000u)));
}

template <bool kRound>
inline float32x4_t In(float32x4_t value) {
  return kRound ? RoundBf16(value) : value;
}

// The first n of 4 floats, zeros in the other lanes; reads nothing beyond them.
inline float32x4_t LoadFirst(const float* p, int64_t n) {
  if (n >= 4) return vld1q_f32(p);
  float edge[4] = {};
  for (int64_t i = 0; i < n; ++i) edge[i] = p[i];
  return vld1q_f32(edge);
}

inline void Transpose4x4(float32x4_t r[4]) {
  const float64x2_t a = vreinterpretq_f64_f32(vtrn1q_f32(r[0], r[1]));
  const float64x2_t b = vreinterpretq_f64_f32(vtrn2q_f32(r[0], r[1]));
  const float64x2_t c = vreinterpretq_f64_f32(vtrn1q_f32(r[2], r[3]));
  const float64x2_t d = vreinterpretq_f64_f32(vtrn2q_f32(r[2], r[3]));
  r[0] = vreinterpretq_f32_f64(vtrn1q_f64(a, c));
  r[1] = vreinterpretq_f32_f64(vtrn1q_f64(b, d));
  r[2] = vreinterpretq_f32_f64(vtrn2q_f64(a, c));
  r[3] = vreinterpretq_f32_f64(vtrn2q_f64(b, d));
}

}  // namespace
}  // namespace lapidary

#endif  // LAPIDARY_AUTOGRAD_KERNELS_GEMM_NEON_INL_H_
