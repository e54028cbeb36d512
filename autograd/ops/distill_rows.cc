#include "autograd/ops/distill_rows.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace lapidary {
namespace {

constexpr int64_t kBlock = 1024, kLanes = 16;

// e^x for x <= 0 and a little above, about 2 ulp: 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2]
// (Cephes). Written so that loops over it become vectors.
inline float Exp(float x) {
  x = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
  const float n = (x * 1.44269504088896341f + 12582912.0f) - 12582912.0f;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = (p * r * r + r) + 1.0f;
  return p * std::bit_cast<float>((static_cast<int32_t>(n) + 127) << 23);
}

// cap tanh(z / cap) in place, by 1 - 2 / (e^2u + 1), small arguments by a polynomial; the largest.
float CapAndTop(float* z, int64_t n, float cap) {
  if (cap > 0) {
    const float inverse = 1.0f / cap;
    for (int64_t i = 0; i < n; ++i) {
      const float u = z[i] * inverse, a = std::fabs(u), s = u * u;
      float small = -5.70498872745e-3f;
      small = small * s + 2.06390887954e-2f;
      small = small * s - 5.37397155531e-2f;
      small = small * s + 1.33314422036e-1f;
      small = small * s - 3.33332819422e-1f;
      small = small * s * u + u;
      const float large = std::copysign(1.0f - 2.0f / (Exp(2.0f * a) + 1.0f), u);
      z[i] = cap * (a < 0.625f ? small : large);
    }
  }
  float top = z[0];
  for (int64_t i = 1; i < n; ++i) top = z[i] > top ? z[i] : top;
  return top;
}

// sum over i of term(i), sixteen strands a block, blocks in double.
template <class Term>
inline double BlockSum(int64_t n, const Term& term) {
  double total = 0;
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t end = std::min(begin + kBlock, n);
    float strands[kLanes] = {};
    int64_t i = begin;
    for (; i + kLanes <= end; i += kLanes) {
      for (int64_t k = 0; k < kLanes; ++k) strands[k] += term(i + k);
    }
    double sum = 0;
    for (const float s : strands) sum += static_cast<double>(s);
    for (; i < end; ++i) sum += static_cast<double>(term(i));
    total += sum;
  }
  return total;
}

}  // namespace

DistillResult RunDistillRow(const DistillRow& row) noexcept {
  DistillResult result;
  float* const z = row.z;
  const int64_t vocab = row.vocab;
  const float top = CapAndTop(z, vocab, row.cap), inverse_t = 1.0f / row.temperature;
  const double total = BlockSum(vocab, [&](int64_t i) { return Exp(z[i] - top); });
  const double log_total = std::log(total);
  const float at_target = z[row.target];
  result.cross_entropy = log_total - (static_cast<double>(at_target) - top);
  result.correct = at_target == top && std::find(z, z + row.target, top) == z + row.target;

  // Of q at the temperature.
  const double cool_total = row.temperature == 1 ? total : BlockSum(vocab, [&](int64_t i) {
    return Exp((z[i] - top) * inverse_t);
  });
  const double cool_log = std::log(cool_total);
  const auto log_q = [&](int64_t i) {
    return (static_cast<double>(z[i]) - top) * static_cast<double>(inverse_t) - cool_log;
  };

  // gradient = weight * slope * (a q + b q_T - c p - (1 - mix) [target])
  const float data = row.weight * (1 - row.mix);
  const float teaching = row.weight * row.mix * row.temperature;
  const float a = data / static_cast<float>(total);
  float b = teaching / static_cast<float>(cool_total);
  const float inverse_cap = row.cap > 0 ? 1.0f / row.cap : 0.0f;
  const auto slope = [&](float s) {
    const float ratio = s * inverse_cap;
    return 1.0f - ratio * ratio;
  };
  const float target_slope = slope(at_target);

  if (row.teacher) {
    float* const t = row.teacher;
    const float t_top = CapAndTop(t, vocab, row.teacher_cap);
    const double t_total =
        BlockSum(vocab, [&](int64_t i) { return Exp((t[i] - t_top) * inverse_t); });
    const float t_inverse = static_cast<float>(1.0 / t_total);
    const float shift = static_cast<float>(cool_log - std::log(t_total));
    // p (log p - log q)
    result.divergence = BlockSum(vocab, [&](int64_t i) {
      const float from_t = (t[i] - t_top) * inverse_t, from_z = (z[i] - top) * inverse_t;
      return Exp(from_t) * t_inverse * ((from_t - from_z) + shift);
    });
    if (row.grad) {
      const float c = teaching * t_inverse;
      for (int64_t i = 0; i < vocab; ++i) {
        const float s = z[i], below = s - top;
        const float cool = b * Exp(below * inverse_t) - c * Exp((t[i] - t_top) * inverse_t);
        z[i] = (a * Exp(below) + cool) * slope(s);
      }
    }
  } else {
    // What is not stored is one event, with the probability that is left.
    double p_rest = 1, q_rest = 1;
    for (int64_t j = 0; j < row.k; ++j) {
      const double log_p = row.log_probs[j], p = std::exp(log_p), lq = log_q(row.ids[j]);
      result.divergence += p * (log_p - lq);
      p_rest -= p;
      q_rest -= std::exp(lq);
    }
    p_rest = std::max(p_rest, 0.0);
    q_rest = std::max(q_rest, 1e-12);
    if (p_rest > 1e-9) result.divergence += p_rest * std::log(p_rest / q_rest);
    const double stored_share = 1 - p_rest / q_rest;  // of q in the gradient outside the stored
    if (row.grad) {
      // Stored tokens: q - p; others: q (1 - p_rest / q_rest).
      double fixes[256];
      const int64_t k = std::min<int64_t>(row.k, 256);
      for (int64_t j = 0; j < k; ++j) {
        const double q = std::exp(log_q(row.ids[j]));
        fixes[j] =
            (static_cast<double>(teaching) * (q - std::exp(static_cast<double>(row.log_probs[j]))) +
             static_cast<double>(data) * std::exp(static_cast<double>(z[row.ids[j]]) - top) /
                 total) *
            static_cast<double>(slope(z[row.ids[j]]));
      }
      b *= static_cast<float>(stored_share);
      for (int64_t i = 0; i < vocab; ++i) {
        const float s = z[i];
        z[i] = (a + b) * Exp(s - top) * slope(s);
      }
      for (int64_t j = 0; j < k; ++j) z[row.ids[j]] = static_cast<float>(fixes[j]);
    }
  }
  if (row.grad) z[row.target] -= data * target_slope;
  return result;
}

}  // namespace lapidary
