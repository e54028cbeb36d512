#include "train/clip.h"

#include <cmath>

#include "autograd/base/parallel.h"

namespace lapidary {
namespace {

// The unit of the sum; changing it changes the last bits of every norm.
constexpr int64_t kBlock = 4096;

}  // namespace

double GlobalGradNorm(const std::vector<Param*>& params) {
  double total = 0;
  std::vector<double> sums;
  for (const Param* param : params) {
    if (!param->grad.defined()) continue;
    const int64_t size = param->grad.size();
    const int64_t blocks = (size + kBlock - 1) / kBlock;
    const float* g = param->grad.data();
    sums.assign(static_cast<size_t>(blocks), 0.0);
    ParallelFor(
        blocks,
        [&](Range range) {
          for (int64_t b = range.begin; b < range.end; ++b) {
            const int64_t end = std::min(size, (b + 1) * kBlock);
            double sum = 0;
            for (int64_t i = b * kBlock; i < end; ++i) sum += static_cast<double>(g[i]) * g[i];
            sums[static_cast<size_t>(b)] = sum;
          }
        },
        8);
    for (const double sum : sums) total += sum;
  }
  return std::sqrt(total);
}

double ClipGradNorm(const std::vector<Param*>& params, double max_norm) {
  LAPIDARY_CHECK(max_norm >= 0 && std::isfinite(max_norm),
                 "max_grad_norm: must be >= 0 (0: no clipping); got ", max_norm, "; try 1.0");
  const double norm = GlobalGradNorm(params);
  if (max_norm == 0 || !std::isfinite(norm)) return norm;
  const double factor = max_norm / (norm + 1e-6);
  if (factor >= 1) return norm;
  const float scale = static_cast<float>(factor);
  for (Param* param : params) {
    if (!param->grad.defined()) continue;
    float* g = param->grad.data();
    ParallelFor(
        param->grad.size(),
        [&](Range range) {
          for (int64_t i = range.begin; i < range.end; ++i) g[i] *= scale;
        },
        16384);
  }
  return norm;
}

}  // namespace lapidary
