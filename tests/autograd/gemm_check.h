// What the tests of matrix products share: inputs, the double-precision reference, and the checker
// with its tolerance.
#ifndef LAPIDARY_TESTS_AUTOGRAD_GEMM_CHECK_H_
#define LAPIDARY_TESTS_AUTOGRAD_GEMM_CHECK_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "autograd/base/float16.h"
#include "autograd/gemm.h"
#include "autograd/kernels/isa.h"

namespace lapidary {

// Deterministic values in about [-1.3, 1.3] with full mantissas.
inline std::vector<float> Values(int64_t count, uint32_t seed) {
  std::vector<float> v(count);
  uint32_t s = seed * 2654435761u + 1;
  for (float& x : v) {
    s = s * 1664525u + 1013904223u;
    x = static_cast<float>(static_cast<int32_t>(s)) / 1.6e9f;
  }
  return v;
}

// The product's value and the sum of the magnitudes of its terms, which the error is measured
// against.
struct Reference {
  std::vector<double> value, magnitude;
};

// C[rows, cols] = start + sum over k of A(r, k) B(k, c), operands rounded as the compute type says.
template <class A, class B>
Reference Multiply(int64_t rows, int64_t cols, int64_t k, Compute compute, float start, A a, B b) {
  const auto in = [&](float v) { return compute == Compute::kBfloat16 ? RoundToBf16(v) : v; };
  Reference ref;
  ref.value.assign(rows * cols, start);
  ref.magnitude.assign(rows * cols, std::fabs(start));
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < k; ++i) {
      const double x = in(a(r, i));
      for (int64_t c = 0; c < cols; ++c) {
        const double term = x * in(b(i, c));
        ref.value[r * cols + c] += term;
        ref.magnitude[r * cols + c] += std::fabs(term);
      }
    }
  }
  return ref;
}

// The largest |got - value| / magnitude; infinity if anything is not finite.
inline double WorstError(const std::vector<float>& got, const Reference& ref) {
  double worst = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    const double e = std::fabs(got[i] - ref.value[i]) / (ref.magnitude[i] + 1e-30);
    if (!(e <= worst)) worst = std::isfinite(e) ? e : INFINITY;
  }
  return worst;
}

// A chain of k fp32 additions of rounded products: at most about k rounding errors of half an ulp,
// in practice sqrt(k).
inline double Tolerance(int64_t k) { return 6e-8 * (2 + 0.75 * std::sqrt(static_cast<double>(k))); }

}  // namespace lapidary

#endif  // LAPIDARY_TESTS_AUTOGRAD_GEMM_CHECK_H_
