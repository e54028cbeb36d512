// The reference table: plain loops, one thread, sums in the order they are written.
#include <algorithm>
#include <cmath>

#include "autograd/base/float16.h"
#include "autograd/kernels/attention_scalar.h"
#include "autograd/kernels/kernels.h"

namespace lapidary {
namespace scalar {

void Add(const AddArgs& a, Range r) noexcept {
  for (int64_t i = r.begin; i < r.end; ++i) a.y[i] = a.a[i] + a.b[i];
}

void Scale(const ScaleArgs& a, Range r) noexcept {
  for (int64_t i = r.begin; i < r.end; ++i) a.y[i] = (a.add ? a.y[i] : 0.0f) + a.c * a.x[i];
}

void RoundBf16(const RoundArgs& a, Range r) noexcept {
  for (int64_t i = r.begin; i < r.end; ++i) a.y[i] = RoundToBf16(a.x[i]);
}

void Softcap(const SoftcapArgs& a, Range r) noexcept {
  for (int64_t i = r.begin; i < r.end; ++i) a.x[i] = a.cap * std::tanh(a.x[i] / a.cap);
}

// gelu_tanh(x) = x s(x) with s = 0.5 (1 + tanh u) = 1 / (1 + exp(-2 u)),
// u = sqrt(2/pi) (x + 0.044715 x^3); s' = 2 s (1 - s) u'. The logistic form keeps the relative
// accuracy of the left tail, which 1 + tanh would cancel away.
constexpr float kSqrt2OverPi = 0.7978845608028654f;
constexpr float kGeluCubic = 0.044715f;

float GeluShare(float x) {
  const float u = kSqrt2OverPi * (x + kGeluCubic * x * x * x);
  return 1.0f / (1.0f + std::exp(-2.0f * u));
}

void GeGlu(const GeGluArgs& a, Range r) noexcept {
  for (int64_t i = r.begin; i < r.end; ++i) a.y[i] = a.gate[i] * GeluShare(a.gate[i]) * a.up[i];
}

void GeGluGrad(const GeGluArgs& a, Range r) noexcept {
  for (int64_t i = r.begin; i < r.end; ++i) {
    const float x = a.gate[i], s = GeluShare(x);
    const float du = kSqrt2OverPi * (1.0f + 3.0f * kGeluCubic * x * x);
    // x 2 s (1 - s) u': 0 in both tails, where s (1 - s) may be 0 and x u' infinite.
    const float bump = 2.0f * s * (1.0f - s);
    const float slope = s + (bump == 0.0f ? 0.0f : x * bump * du);
    if (a.dgate) a.dgate[i] += a.dy[i] * a.up[i] * slope;
    if (a.dup) a.dup[i] += a.dy[i] * x * s;
  }
}

void Dropout(const DropoutArgs& a, Range rows) noexcept {
  for (int64_t n = rows.begin; n < rows.end; ++n) {
    for (int64_t c = 0; c < a.cols; ++c) {
      const uint64_t j = static_cast<uint64_t>(a.indices[n] * a.cols + c);
      const uint32_t word = RandomBits(a.key, j / 4)[j % 4];
      const int64_t i = n * a.cols + c;
      const float kept = (word >> 8) >= a.threshold ? a.x[i] * a.scale : 0.0f;
      a.y[i] = (a.add ? a.y[i] : 0.0f) + kept;
    }
  }
}

void AddBias(const AddBiasArgs& a, Range rows) noexcept {
  for (int64_t n = rows.begin; n < rows.end; ++n) {
    for (int64_t c = 0; c < a.cols; ++c) a.y[n * a.cols + c] = a.x[n * a.cols + c] + a.b[c];
  }
}

void SumRows(const SumRowsArgs& a, Range cols) noexcept {
  for (int64_t c = cols.begin; c < cols.end; ++c) {
    for (int64_t n = 0; n < a.rows; ++n) a.sum[c] += a.x[n * a.cols + c];
  }
}

void ScaleColumns(const ScaleColumnsArgs& a, Range rows) noexcept {
  for (int64_t n = rows.begin; n < rows.end; ++n) {
    for (int64_t c = 0; c < a.cols; ++c) {
      a.y[n * a.cols + c] = a.x[n * a.cols + c] * (a.g[c] * a.k[c]);
    }
  }
}

void ScaleColumnsGradX(const ScaleColumnsArgs& a, Range rows) noexcept {
  for (int64_t n = rows.begin; n < rows.end; ++n) {
    for (int64_t c = 0; c < a.cols; ++c) {
      a.dx[n * a.cols + c] += a.dy[n * a.cols + c] * (a.g[c] * a.k[c]);
    }
  }
}

void ScaleColumnsGradG(const ScaleColumnsArgs& a, Range cols) noexcept {
  for (int64_t c = cols.begin; c < cols.end; ++c) {
    for (int64_t n = 0; n < a.rows; ++n) {
      a.dg[c] += a.dy[n * a.cols + c] * (a.k[c] * a.x[n * a.cols + c]);
    }
  }
}

void RmsNorm(const RmsNormArgs& a, Range rows) noexcept {
  for (int64_t n = rows.begin; n < rows.end; ++n) {
    const float* x = a.x + n * a.cols;
    float* y = a.y + n * a.cols;
    double sum = 0;
    for (int64_t c = 0; c < a.cols; ++c) sum += static_cast<double>(x[c]) * x[c];
    const float mean = static_cast<float>(sum / static_cast<double>(a.cols));
    const float rstd = 1.0f / std::sqrt(mean + a.eps);
    a.rstd[n] = rstd;
    for (int64_t c = 0; c < a.cols; ++c) y[c] = x[c] * rstd * (a.w ? a.w[c] : 1.0f);
  }
}

// With g = w dy and s = 1 / rms, per row: dx = s g - x s^3 mean(g x).
void RmsNormGradX(const RmsNormArgs& a, Range rows) noexcept {
  for (int64_t n = rows.begin; n < rows.end; ++n) {
    const float *x = a.x + n * a.cols, *dy = a.dy + n * a.cols;
    float* dx = a.dx + n * a.cols;
    double sum = 0;
    for (int64_t c = 0; c < a.cols; ++c) {
      sum += static_cast<double>((a.w ? a.w[c] : 1.0f) * dy[c]) * x[c];
    }
    const float s = a.rstd[n];
    const float shrink = static_cast<float>(sum / static_cast<double>(a.cols)) * s * s * s;
    for (int64_t c = 0; c < a.cols; ++c) {
      dx[c] += s * (a.w ? a.w[c] : 1.0f) * dy[c] - x[c] * shrink;
    }
  }
}

// dw = sum over rows of dy x s.
void RmsNormGradW(const RmsNormArgs& a, Range cols) noexcept {
  for (int64_t c = cols.begin; c < cols.end; ++c) {
    for (int64_t n = 0; n < a.rows; ++n) {
      a.dw[c] += a.dy[n * a.cols + c] * (a.x[n * a.cols + c] * a.rstd[n]);
    }
  }
}

void LayerNorm(const LayerNormArgs& a, Range rows) noexcept {
  const double cols = static_cast<double>(a.cols);
  for (int64_t n = rows.begin; n < rows.end; ++n) {
    const float* x = a.x + n * a.cols;
    float* y = a.y + n * a.cols;
    double sum = 0, squares = 0;
    for (int64_t c = 0; c < a.cols; ++c) sum += x[c];
    const float mean = static_cast<float>(sum / cols);
    for (int64_t c = 0; c < a.cols; ++c)
      squares += static_cast<double>(x[c] - mean) * (x[c] - mean);
    const float rstd = 1.0f / std::sqrt(static_cast<float>(squares / cols) + a.eps);
    a.mean[n] = mean;
    a.rstd[n] = rstd;
    for (int64_t c = 0; c < a.cols; ++c) y[c] = (x[c] - mean) * rstd * a.w[c] + a.b[c];
  }
}

// With g = w dy and h = (x - mean) s, per row: dx = s (g - mean(g) - h mean(g h)).
void LayerNormGradX(const LayerNormArgs& a, Range rows) noexcept {
  const double cols = static_cast<double>(a.cols);
  for (int64_t n = rows.begin; n < rows.end; ++n) {
    const float *x = a.x + n * a.cols, *dy = a.dy + n * a.cols;
    float* dx = a.dx + n * a.cols;
    const float mean = a.mean[n], s = a.rstd[n];
    double sum_g = 0, sum_gh = 0;
    for (int64_t c = 0; c < a.cols; ++c) {
      const float g = a.w[c] * dy[c];
      sum_g += g;
      sum_gh += static_cast<double>(g) * ((x[c] - mean) * s);
    }
    const float mean_g = static_cast<float>(sum_g / cols);
    const float mean_gh = static_cast<float>(sum_gh / cols);
    for (int64_t c = 0; c < a.cols; ++c) {
      dx[c] += s * (a.w[c] * dy[c] - mean_g - (x[c] - mean) * s * mean_gh);
    }
  }
}

void LayerNormGradW(const LayerNormArgs& a, Range cols) noexcept {
  for (int64_t c = cols.begin; c < cols.end; ++c) {
    for (int64_t n = 0; n < a.rows; ++n) {
      const float dy = a.dy[n * a.cols + c];
      if (a.dw) a.dw[c] += dy * ((a.x[n * a.cols + c] - a.mean[n]) * a.rstd[n]);
      if (a.db) a.db[c] += dy;
    }
  }
}

void Rope(const RopeArgs& a, Range tokens) noexcept {
  const int64_t half = a.width / 2;
  for (int64_t n = tokens.begin; n < tokens.end; ++n) {
    for (int64_t h = 0; h < a.heads; ++h) {
      const float* x = a.x + (n * a.heads + h) * a.width;
      float* y = a.y + (n * a.heads + h) * a.width;
      for (int64_t i = 0; i < half; ++i) {
        const float c = a.cos[n * half + i], s = a.sign * a.sin[n * half + i];
        const float low = x[i] * c - x[i + half] * s, high = x[i + half] * c + x[i] * s;
        y[i] = (a.add ? y[i] : 0.0f) + low;
        y[i + half] = (a.add ? y[i + half] : 0.0f) + high;
      }
    }
  }
}

void CrossEntropyRows(const CrossEntropyArgs& a, Range rows) noexcept {
  for (int64_t n = rows.begin; n < rows.end; ++n) {
    float* z = a.z + n * a.vocab;
    const int64_t target = a.target[n];
    int64_t best = 0;
    for (int64_t c = 0; c < a.vocab; ++c) {
      if (a.cap > 0) z[c] = a.cap * std::tanh(z[c] / a.cap);
      if (z[c] > z[best]) best = c;
    }
    const float top = z[best];
    double total = 0;
    for (int64_t block = 0; block < a.vocab; block += kVocabBlock) {
      const int64_t end = std::min(a.vocab, block + kVocabBlock);
      float sum = 0;
      for (int64_t c = block; c < end; ++c) sum += std::exp(z[c] - top);
      total += sum;
    }
    a.loss[n] = static_cast<float>(std::log(total) - (static_cast<double>(z[target]) - top));
    a.correct[n] = best == target;
    if (!a.grad) continue;
    const float weight = a.weight[n], inverse = static_cast<float>(1.0 / total);
    for (int64_t c = 0; c < a.vocab; ++c) {
      const float logit = z[c], ratio = a.cap > 0 ? logit / a.cap : 0.0f;
      const float p = std::exp(logit - top) * inverse - (c == target ? 1.0f : 0.0f);
      z[c] = weight * p * (1.0f - ratio * ratio);
    }
  }
}

void AdamW(const AdamWArgs& a, Range r) noexcept {
  const float decay = static_cast<float>(1.0 - a.lr * a.weight_decay);
  const float rest1 = static_cast<float>(1.0 - a.beta1), beta2 = static_cast<float>(a.beta2);
  const float rest2 = static_cast<float>(1.0 - a.beta2), eps = static_cast<float>(a.eps);
  const float step = static_cast<float>(-a.lr / a.bias1);
  const float root2 = static_cast<float>(std::sqrt(a.bias2));
  for (int64_t i = r.begin; i < r.end; ++i) {
    const float g = a.grad[i] * a.grad_scale;
    const float m = a.m[i] + rest1 * (g - a.m[i]);
    const float v = a.v[i] * beta2 + rest2 * g * g;
    a.m[i] = m;
    a.v[i] = v;
    a.param[i] = a.param[i] * decay + step * m / (std::sqrt(v) / root2 + eps);
  }
}

}  // namespace scalar

const Kernels& ScalarKernels() {
  static constexpr Kernels kTable = {"scalar",
#define LAPIDARY_ENTRY(Name, Args) &scalar::Name,
                                     LAPIDARY_KERNELS(LAPIDARY_ENTRY)
#undef LAPIDARY_ENTRY
  };
  return kTable;
}

}  // namespace lapidary
