// References of the ops, generic in the number type and written for reading. On
// std::complex<double> they give exact derivatives: Im f(x + i h) / h with h = 1e-30 has no
// cancellation (Squire & Trapp 1998). Hence they are analytic: branches look at real parts only.
#ifndef LAPIDARY_TESTS_AUTOGRAD_REFERENCES_H_
#define LAPIDARY_TESTS_AUTOGRAD_REFERENCES_H_

#include <cmath>
#include <complex>
#include <cstdint>
#include <vector>

#include "autograd/base/random.h"
#include "autograd/ops/attention.h"

namespace lapidary::ref {

using C64 = std::complex<double>;
inline double Real(double x) { return x; }
inline double Real(const C64& x) { return x.real(); }

template <class T>
using Vector = std::vector<T>;

template <class T>
Vector<T> MatMul(const Vector<T>& x, const Vector<T>& w, int64_t n, int64_t o, int64_t i) {
  Vector<T> y(static_cast<size_t>(n * o));
  for (int64_t r = 0; r < n; ++r) {
    for (int64_t c = 0; c < o; ++c) {
      for (int64_t k = 0; k < i; ++k) y[r * o + c] += x[r * i + k] * w[c * i + k];
    }
  }
  return y;
}

template <class T>
Vector<T> RmsNorm(const Vector<T>& x, const Vector<T>* w, int64_t cols, double eps) {
  Vector<T> y(x.size());
  for (size_t row = 0; row < x.size(); row += cols) {
    T mean_sq = 0;
    for (int64_t c = 0; c < cols; ++c) {
      mean_sq += x[row + c] * x[row + c] / static_cast<double>(cols);
    }
    for (int64_t c = 0; c < cols; ++c) {
      y[row + c] = x[row + c] / std::sqrt(mean_sq + eps) * (w ? (*w)[c] : T(1));
    }
  }
  return y;
}

template <class T>
Vector<T> LayerNorm(const Vector<T>& x, const Vector<T>& w, const Vector<T>& b, int64_t cols,
                    double eps) {
  Vector<T> y(x.size());
  for (size_t row = 0; row < x.size(); row += cols) {
    T mean = 0, var = 0;
    for (int64_t c = 0; c < cols; ++c) mean += x[row + c] / static_cast<double>(cols);
    for (int64_t c = 0; c < cols; ++c) {
      var += (x[row + c] - mean) * (x[row + c] - mean) / static_cast<double>(cols);
    }
    for (int64_t c = 0; c < cols; ++c) {
      y[row + c] = (x[row + c] - mean) / std::sqrt(var + eps) * w[c] + b[c];
    }
  }
  return y;
}

template <class T>
Vector<T> GeGlu(const Vector<T>& gate, const Vector<T>& up) {
  const double k = std::sqrt(2.0 / 3.14159265358979323846);
  Vector<T> y(gate.size());
  for (size_t i = 0; i < y.size(); ++i) {
    const T x = gate[i];
    y[i] = 0.5 * x * (1.0 + std::tanh(k * (x + 0.044715 * x * x * x))) * up[i];
  }
  return y;
}

template <class T>
Vector<T> Rope(const Vector<T>& x, const std::vector<int32_t>& positions,
               const std::vector<float>& inv_freq, int64_t heads) {
  const int64_t half = static_cast<int64_t>(inv_freq.size());
  Vector<T> y(x.size());
  for (size_t n = 0; n < positions.size(); ++n) {
    for (int64_t h = 0; h < heads; ++h) {
      const int64_t at = (static_cast<int64_t>(n) * heads + h) * 2 * half;
      for (int64_t i = 0; i < half; ++i) {
        const double f = static_cast<float>(positions[n]) * inv_freq[i];
        y[at + i] = x[at + i] * std::cos(f) - x[at + i + half] * std::sin(f);
        y[at + i + half] = x[at + i + half] * std::cos(f) + x[at + i] * std::sin(f);
      }
    }
  }
  return y;
}

// Full softmax over [lo, hi): the composed twin of the blockwise kernel.
template <class T>
Vector<T> Attention(const Vector<T>& q, const Vector<T>& k, const Vector<T>& v,
                    const AttentionSpans& spans, int64_t heads, int64_t groups, int64_t width,
                    double scale) {
  Vector<T> o(q.size());
  for (size_t n = 0; n < spans.lo.size(); ++n) {
    for (int64_t h = 0; h < heads; ++h) {
      const int64_t g = h / (heads / groups);
      const int64_t row = (static_cast<int64_t>(n) * heads + h) * width;
      Vector<T> score;
      double top = -1e300;
      for (int64_t m = spans.lo[n]; m < spans.hi[n]; ++m) {
        T s = 0;
        for (int64_t d = 0; d < width; ++d) s += q[row + d] * k[(m * groups + g) * width + d];
        score.push_back(s * scale);
        top = std::max(top, Real(score.back()));
      }
      T sum = 0;
      for (T& s : score) sum += s = std::exp(s - top);
      for (int64_t m = spans.lo[n]; m < spans.hi[n]; ++m) {
        const T p = score[m - spans.lo[n]] / sum;
        for (int64_t d = 0; d < width; ++d) o[row + d] += p * v[(m * groups + g) * width + d];
      }
    }
  }
  return o;
}

template <class T>
T CrossEntropy(const Vector<T>& x, const Vector<T>& head, const std::vector<int32_t>& targets,
               const std::vector<float>& weights, int64_t vocab, int64_t cols, double cap) {
  const int64_t tokens = static_cast<int64_t>(targets.size());
  Vector<T> z = MatMul(x, head, tokens, vocab, cols);
  T loss = 0;
  for (int64_t n = 0; n < tokens; ++n) {
    if (weights[n] == 0) continue;
    double top = -1e300;
    for (int64_t c = 0; c < vocab; ++c) {
      T& logit = z[n * vocab + c];
      if (cap > 0) logit = cap * std::tanh(logit / cap);
      top = std::max(top, Real(logit));
    }
    T sum = 0;
    for (int64_t c = 0; c < vocab; ++c) sum += std::exp(z[n * vocab + c] - top);
    loss += static_cast<double>(weights[n]) * (std::log(sum) + top - z[n * vocab + targets[n]]);
  }
  return loss;
}

}  // namespace lapidary::ref

#endif  // LAPIDARY_TESTS_AUTOGRAD_REFERENCES_H_
