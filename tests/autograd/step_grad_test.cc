// Gradients of the parameters of a weight's map: against sums in double precision, on every
// instruction set; the same bits for any number of threads and any cut of the tokens.
#include "autograd/step_grad.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <tuple>
#include <vector>

#include "autograd/base/error.h"
#include "autograd/base/parallel.h"
#include "autograd/dtype.h"
#include "autograd/weight_map.h"
#include "tests/autograd/gemm_check.h"
#include "tests/autograd/table_test.h"
#include "tests/check.h"

namespace lapidary {
namespace {

void Slope(const void*, int64_t row, int64_t begin, int64_t end, float* values) noexcept {
  for (int64_t i = begin; i < end; ++i)
    values[i - begin] = 0.5f * values[i - begin] + 0.01f * static_cast<float>((row + i) % 7);
}

struct Size {
  int64_t n, o, i, block;
};
// Tiles that end early, in every direction; blocks of a format, of a whole row, and of a row that
// is wider than a tile.
const Size kSizes[] = {
    {150, 300, 320, 32}, {64, 33, 512, 128}, {70, 20, 96, 96}, {65, 70, 352, 352}};

struct Data {
  Size size;
  std::vector<float> dy, x, w, a, b;
  WeightMap map;
  WeightView view;

  explicit Data(const Size& s)
      : size(s),
        dy(Values(s.n * s.o, 1)),
        x(Values(s.n * s.i, 2)),
        w(Values(s.o * s.i, 3)),
        a(Values(3 * s.i, 4)),
        b(Values(3 * s.o, 5)) {
    map.a = a.data();
    map.b = b.data();
    map.rank = 3;
    map.scale = 1.5f;
    map.block = s.block == s.i ? 1 : s.block;
    map.slope = Slope;
    map.slope_block = s.block;
    view = F32View(w.data(), s.o, s.i);
    view.map = &map;
  }
  std::vector<float> Got(Compute compute) const {
    std::vector<float> d(static_cast<size_t>(size.o * size.i / size.block));
    StepGrad(dy.data(), x.data(), size.n, view, d.data(), false, compute);
    return d;
  }
  // `shift` plants a mistake: the slope of the next column.
  std::vector<double> Wanted(Compute compute, int64_t shift) const {
    const auto rounded = [&](float v) {
      return double{compute == Compute::kBfloat16 ? F32FromBf16(Bf16FromF32(v)) : v};
    };
    const auto at = [](int64_t i) { return static_cast<size_t>(i); };
    std::vector<double> d(at(size.o * size.i / size.block));
    for (int64_t o = 0; o < size.o; ++o) {
      std::vector<float> slope(at(size.i));
      for (int64_t i = 0; i < size.i; ++i) {
        float sum = 0;
        for (int64_t k = 0; k < 3; ++k) sum += a[at(k * size.i + i)] * b[at(o * 3 + k)];
        slope[at(i)] = w[at(o * size.i + i)] + sum * map.scale;
      }
      Slope(nullptr, o, 0, size.i, slope.data());
      for (int64_t i = 0; i < size.i; ++i) {
        double dw = 0;
        for (int64_t t = 0; t < size.n; ++t)
          dw += rounded(dy[at(t * size.o + o)]) * rounded(x[at(t * size.i + i)]);
        d[at((o * size.i + i) / size.block)] += dw * slope[at((i + shift) % size.i)];
      }
    }
    return d;
  }
};

class StepGradTest : public TableTest {};

TEST_P(StepGradTest, IsTheSumInDouble) {
  for (const Size& size : kSizes) {
    const Data data(size);
    const std::vector<float> got = data.Got(compute_);
    EXPECT_TRUE(check::CloseInNorm(got, data.Wanted(compute_, 0), 1e-5)) << size.i;
    EXPECT_FALSE(check::CloseInNorm(got, data.Wanted(compute_, 1), 1e-2)) << size.i;
  }
}

TEST_P(StepGradTest, SameBitsForThreadsAndCuts) {
  for (const Size& size : kSizes) {
    const Data data(size);
    SetThreads(1);
    const std::vector<float> one = data.Got(compute_);
    SetThreads(3);
    EXPECT_EQ(data.Got(compute_), one) << size.i;
    std::vector<float> parts(one.size());
    for (int64_t at = 0; at < size.n; at += 64) {
      StepGrad(data.dy.data() + at * size.o, data.x.data() + at * size.i,
               std::min<int64_t>(64, size.n - at), data.view, parts.data(), at > 0, compute_);
    }
    EXPECT_EQ(parts, one) << size.i;
  }
}

INSTANTIATE_TEST_SUITE_P(Tables, StepGradTest,
                         testing::Combine(testing::ValuesIn(SupportedIsas()),
                                          testing::Values(Compute::kFloat32, Compute::kBfloat16)),
                         [](const auto& info) {
                           return std::string(IsaName(std::get<0>(info.param))) + "_" +
                                  ComputeName(std::get<1>(info.param));
                         });

TEST(StepGrad, MapsThatDoNotLearnAreRefused) {
  Data data(kSizes[0]);
  data.map.slope = nullptr;
  EXPECT_THROW(data.Got(Compute::kFloat32), Error);
  data.map.slope = Slope;
  data.map.slope_block = 48;
  std::vector<float> d(4000);
  EXPECT_THROW(
      StepGrad(data.dy.data(), data.x.data(), 1, data.view, d.data(), false, Compute::kFloat32),
      Error);
}

}  // namespace
}  // namespace lapidary
