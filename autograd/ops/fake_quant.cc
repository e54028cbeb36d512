#include "autograd/ops/fake_quant.h"

#include <cmath>

#include "autograd/ops/common.h"

namespace lapidary {
namespace {

struct FakeQuantInt8Op {
  static constexpr const char* kName = "fake_quant_int8";
  int64_t size;
  void Backward(const float* dy, const InputGrads& d) const { PassGradient(dy, size, d, 0); }
};

// By the reciprocal of d, rounding half to even: the sum's mantissa holds the integer.
void RoundGroup(const float* x, int64_t n, float* y) {
  float largest = 0;
  for (int64_t i = 0; i < n; ++i) largest = std::fmax(largest, std::fabs(x[i]));
  const float d = largest / 127, inverse = d > 0 ? 1.0f / d : 0.0f;
  for (int64_t i = 0; i < n; ++i) y[i] = ((x[i] * inverse + 12582912.0f) - 12582912.0f) * d;
}

}  // namespace

Var FakeQuantInt8(Var x, int64_t group) {
  const Shape shape = x.shape();
  LAPIDARY_CHECK(shape.rank >= 1 && shape[-1] >= 1, "fake_quant_int8: x must have an axis; got ",
                 shape);
  const int64_t run = group > 0 ? group : shape[-1];
  LAPIDARY_CHECK(group >= 0 && shape[-1] % run == 0,
                 "fake_quant_int8: groups must divide the last axis; got ", group, " of ", shape);
  Tensor y(shape);
  ParallelFor(
      y.size() / run,
      [&](Range r) {
        for (int64_t i = r.begin; i < r.end; ++i)
          RoundGroup(x.data() + i * run, run, y.data() + i * run);
      },
      RowGrain(run));
  return x.tape().Record(FakeQuantInt8Op{y.size()}, {x}, y);
}

}  // namespace lapidary
