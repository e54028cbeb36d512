// Panels straight from stored rows, for the NEON table. A row type R reads 32 consecutive weights:
//   static void Floats(const uint8_t* row, int64_t at, int64_t count, float32x4_t out[8]);
//   kBytes: what 32 weights take.
// `at` is a multiple of 32; only the first `count` (> 0) of the 32 exist, the others must come out
// as zeros.
#ifndef LAPIDARY_AUTOGRAD_KERNELS_GEMM_PANELS_NEON_INL_H_
#define LAPIDARY_AUTOGRAD_KERNELS_GEMM_PANELS_NEON_INL_H_

#include "autograd/kernels/gemm_neon-inl.h"
#include "autograd/weight.h"

namespace lapidary {
namespace {

inline const uint8_t* RowAt(const PanelRequest& q, int64_t row) {
  return static_cast<const uint8_t*>(q.w->data) + row * q.w->row_bytes;
}

// Layout kF32x16, outputs are rows: 4 rows x 32 k at a time.
template <class R, bool kRound>
void PackForwardF32(const PanelRequest& q) noexcept {
  float* const panel = static_cast<float*>(q.panel);
  for (int64_t out = 0; out < (q.outs + 15) / 16 * 16; out += 4) {
    const int64_t tile = out & ~int64_t{15}, count = q.outs - out < 4 ? q.outs - out : 4;
    float* to = panel + tile * (q.ks + kTileGap) + (out - tile);
    const uint8_t* const row = RowAt(q, q.out + out);
    for (int64_t i = 0; i < q.ks; i += 32) {
      const int64_t left = q.ks - i < 32 ? q.ks - i : 32;
      float32x4_t v[8][4];
      for (int c = 0; c < 4; ++c) {
        float32x4_t line[8];
        for (int j = 0; j < 8; ++j) line[j] = vdupq_n_f32(0);
        if (c < count) {
          const uint8_t* from = row + c * q.w->row_bytes;
          __builtin_prefetch(from + (q.k + i) / 32 * R::kBytes + 512);
          R::Floats(from, q.k + i, left, line);
        }
        for (int j = 0; j < 8; ++j) v[j][c] = In<kRound>(line[j]);
      }
      for (int j = 0; j < 8; ++j) {
        Transpose4x4(v[j]);
        for (int64_t l = 0; l < 4 && 4 * j + l < left; ++l)
          vst1q_f32(to + (i + 4 * j + l) * 16, v[j][l]);
      }
    }
  }
}

// Layout kF32x16, k runs over rows.
template <class R, bool kRound>
void PackInputGradF32(const PanelRequest& q) noexcept {
  float* const panel = static_cast<float*>(q.panel);
  for (int64_t i = 0; i < q.ks; ++i) {
    const uint8_t* const row = RowAt(q, q.k + i);
    // The same columns some rows later: rows lie far apart, and the CPU's own prefetch restarts
    // with each.
    const uint8_t* ahead = row + 12 * q.w->row_bytes + q.out / 32 * R::kBytes;
    for (int64_t b = 0; b < (q.outs + 31) / 32 * R::kBytes; b += 64) __builtin_prefetch(ahead + b);
    for (int64_t out = 0; out < q.outs; out += 32) {
      const int64_t left = q.outs - out < 32 ? q.outs - out : 32;
      float32x4_t line[8];
      R::Floats(row, q.out + out, left, line);
      for (int j = 0; j < 8 && (j < 4 || left > 16); ++j) {
        float* to = panel + (out + j / 4 * 16) * (q.ks + kTileGap) + i * 16 + j % 4 * 4;
        vst1q_f32(to, In<kRound>(line[j]));
      }
    }
  }
}

}  // namespace
}  // namespace lapidary

#endif  // LAPIDARY_AUTOGRAD_KERNELS_GEMM_PANELS_NEON_INL_H_
