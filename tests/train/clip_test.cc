#include "train/clip.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "autograd/base/parallel.h"
#include "autograd/base/random.h"

namespace lapidary {
namespace {

Param WithGrad(std::vector<float> grad) {
  Param p;
  p.name = "p";
  p.value = Tensor::Zeros({static_cast<int64_t>(grad.size())});
  p.grad = Tensor::FromFloats({static_cast<int64_t>(grad.size())}, grad.data());
  return p;
}

TEST(ClipGradNorm, ScalesDownToTheLimit) {
  Param a = WithGrad({3, 0}), b = WithGrad({4}), none;
  none.value = Tensor::Zeros({7});
  EXPECT_DOUBLE_EQ(ClipGradNorm({&a, &none, &b}, 1.0), 5.0);
  EXPECT_NEAR(a.grad.data()[0], 3.0 / 5.000001, 1e-7);
  EXPECT_EQ(a.grad.data()[1], 0.0f);
  EXPECT_NEAR(b.grad.data()[0], 4.0 / 5.000001, 1e-7);
  EXPECT_FALSE(none.grad.defined());
}

TEST(ClipGradNorm, LeavesSmallGradientsAlone) {
  Param a = WithGrad({0.3f, -0.4f});
  EXPECT_NEAR(ClipGradNorm({&a}, 1.0), 0.5, 1e-7);
  EXPECT_EQ(a.grad.data()[0], 0.3f);
  EXPECT_NEAR(ClipGradNorm({&a}, 0), 0.5, 1e-7);
  EXPECT_EQ(a.grad.data()[1], -0.4f);
}

TEST(ClipGradNorm, ReportsWhatIsNotFinite) {
  Param a = WithGrad({1, std::numeric_limits<float>::infinity()});
  EXPECT_TRUE(std::isinf(ClipGradNorm({&a}, 1.0)));
  EXPECT_EQ(a.grad.data()[0], 1.0f);
  Param b = WithGrad({1, std::numeric_limits<float>::quiet_NaN()});
  EXPECT_TRUE(std::isnan(ClipGradNorm({&b}, 1.0)));
}

TEST(ClipGradNorm, SameBitsWithAnyNumberOfThreads) {
  const int64_t n = 4096 * 37 + 11;  // many blocks and a tail
  std::vector<float> grad(n);
  for (int64_t i = 0; i < n; ++i) grad[i] = RandomNormal({7, 8, 9}, i);
  double norm[2];
  std::vector<float> clipped[2];
  const int before = Threads();
  for (const int threads : {1, 2}) {
    SetThreads(threads);
    Param p = WithGrad(grad);
    norm[threads - 1] = ClipGradNorm({&p}, 1.0);
    clipped[threads - 1].assign(p.grad.data(), p.grad.data() + n);
  }
  SetThreads(before);
  EXPECT_EQ(norm[0], norm[1]);
  EXPECT_EQ(clipped[0], clipped[1]);
  double sum = 0;
  for (const float g : grad) sum += static_cast<double>(g) * g;
  EXPECT_NEAR(norm[0], std::sqrt(sum), 1e-9 * norm[0]);
}

TEST(ClipGradNorm, RefusesANegativeLimit) {
  try {
    ClipGradNorm({}, -1);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "max_grad_norm: must be >= 0 (0: no clipping); got -1; try 1.0");
  }
}

}  // namespace
}  // namespace lapidary
