// Panels from Q4_0, Q8_0 and Q6_K blocks (formats.md 3.1, 3.3) for the NEON table. Values are those
// of the format table's dequantize, d * q in float32, rounded to bf16 once where the product wants
// bf16.
#include <cstring>

#include "autograd/kernels/gemm_panels_neon-inl.h"
#include "quant/panels.h"

namespace lapidary {
namespace {

inline float32x4_t Scale(const uint8_t* stored) {
  uint16_t bits;
  std::memcpy(&bits, stored, 2);
  return vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(bits)));
}

// 16 codes times d.
inline void Scaled(int8x16_t codes, float32x4_t d, float32x4_t out[4]) {
  const int16x8_t low = vmovl_s8(vget_low_s8(codes)), high = vmovl_s8(vget_high_s8(codes));
  out[0] = vmulq_f32(vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))), d);
  out[1] = vmulq_f32(vcvtq_f32_s32(vmovl_s16(vget_high_s16(low))), d);
  out[2] = vmulq_f32(vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))), d);
  out[3] = vmulq_f32(vcvtq_f32_s32(vmovl_s16(vget_high_s16(high))), d);
}

struct Q4Row {
  static constexpr int64_t kBytes = 18;
  static inline void Floats(const uint8_t* row, int64_t at, int64_t, float32x4_t out[8]) {
    const uint8_t* block = row + at / 32 * 18;
    const float32x4_t d = Scale(block);
    const uint8x16_t bytes = vld1q_u8(block + 2);
    const int8x16_t eight = vdupq_n_s8(8);
    Scaled(vsubq_s8(vreinterpretq_s8_u8(vandq_u8(bytes, vdupq_n_u8(15))), eight), d, out);
    Scaled(vsubq_s8(vreinterpretq_s8_u8(vshrq_n_u8(bytes, 4)), eight), d, out + 4);
  }
};

struct Q8Row {
  static constexpr int64_t kBytes = 34;
  static inline void Floats(const uint8_t* row, int64_t at, int64_t, float32x4_t out[8]) {
    const uint8_t* block = row + at / 32 * 34;
    const float32x4_t d = Scale(block);
    const int8_t* codes = reinterpret_cast<const int8_t*>(block + 2);
    Scaled(vld1q_s8(codes), d, out);
    Scaled(vld1q_s8(codes + 16), d, out + 4);
  }
};

// A block of 256 is eight lines of 32, each with two scales: line 4 h + j holds the elements whose
// low bits are the low (j < 2) or high nibbles of ql[64 h + 32 (j % 2)..] and whose high bits are
// bits 2 j, 2 j + 1 of qh[32 h..].
struct Q6Row {
  static constexpr int64_t kBytes = 26;  // 210 / 8, for prefetching only
  static inline void Floats(const uint8_t* row, int64_t at, int64_t, float32x4_t out[8]) {
    const uint8_t* block = row + at / 256 * 210;
    const int64_t line = at % 256 / 32, h = line / 4, j = line % 4;
    const float32x4_t d = Scale(block + 208);
    const int8x16_t low_shift = vdupq_n_s8(static_cast<int8_t>(-(j / 2 * 4)));
    const int8x16_t high_shift = vdupq_n_s8(static_cast<int8_t>(-2 * j));
    for (int half = 0; half < 2; ++half) {
      const uint8x16_t low = vld1q_u8(block + 64 * h + 32 * (j % 2) + 16 * half);
      const uint8x16_t high = vld1q_u8(block + 128 + 32 * h + 16 * half);
      const uint8x16_t nibble = vandq_u8(vshlq_u8(low, low_shift), vdupq_n_u8(15));
      const uint8x16_t pair = vandq_u8(vshlq_u8(high, high_shift), vdupq_n_u8(3));
      const uint8x16_t code = vorrq_u8(nibble, vshlq_n_u8(pair, 4));
      const int8_t scale = static_cast<int8_t>(block[192 + 2 * line + half]);
      const float32x4_t step = vmulq_n_f32(d, static_cast<float>(scale));
      Scaled(vsubq_s8(vreinterpretq_s8_u8(code), vdupq_n_s8(32)), step, out + 4 * half);
    }
  }
};

template <class R, bool kRound>
constexpr FormatPanels Row(int32_t format) {
  return {format, WeightLayout::kRows, {PackForwardF32<R, kRound>, PackInputGradF32<R, kRound>}};
}

template <bool kRound>
struct Lists {
  static constexpr FormatPanels kRows[] = {Row<Q4Row, kRound>(kFormatQ4_0),
                                           Row<Q8Row, kRound>(kFormatQ8_0),
                                           Row<Q6Row, kRound>(kFormatQ6_K)};
  static constexpr PanelList kList = {kRows, sizeof(kRows) / sizeof(kRows[0])};
};

}  // namespace

const PanelList kPanelsNeon = Lists<false>::kList;
const PanelList kPanelsNeonRound = Lists<true>::kList;

}  // namespace lapidary
