// Matrix products of every instruction set that this CPU has, against sums in double precision, and
// their promises: a row does not depend on the number of rows or threads.
#include "autograd/gemm.h"

#include <gtest/gtest.h>

#include <cstring>
#include <tuple>

#include "autograd/base/error.h"
#include "autograd/base/parallel.h"
#include "autograd/kernels/gemm_table.h"
#include "tests/autograd/gemm_check.h"
#include "tests/autograd/table_test.h"

namespace lapidary {
namespace {

struct Size {
  int64_t n, i, o;
};
// Odd sizes on both sides of every vector, tile, row block, chunk (256, 512) and panel (512);
// LoRA's thin shapes.
const Size kSizes[] = {{1, 1, 1},      {1, 3, 17},      {3, 17, 33},    {5, 300, 16},
                       {13, 64, 97},   {14, 160, 160},  {16, 97, 100},  {17, 33, 160},
                       {33, 700, 97},  {40, 16, 300},   {61, 256, 8},   {65, 512, 48},
                       {70, 513, 530}, {130, 1030, 61}, {20, 40, 1100}, {7, 1100, 20},
                       {1, 1024, 256}, {90, 16, 130},   {90, 5, 400},   {2, 300, 700}};

class GemmTest : public TableTest {};

std::vector<uint16_t> ToBf16(const std::vector<float>& v) {
  std::vector<uint16_t> out;
  for (float x : v) out.push_back(Bf16FromF32(x));
  return out;
}

std::vector<uint16_t> ToF16(const std::vector<float>& v) {
  std::vector<uint16_t> out;
  for (float x : v) out.push_back(F16FromF32(x));
  return out;
}

TEST_P(GemmTest, ForwardIsTheSum) {
  for (const Size& s : kSizes) {
    const std::vector<float> x = Values(s.n * s.i, 1), w = Values(s.o * s.i, 2);
    const std::vector<uint16_t> bf16 = ToBf16(w), f16 = ToF16(w);
    for (int32_t format : {kFormatF32, kFormatBF16, kFormatF16}) {
      WeightView view = F32View(w.data(), s.o, s.i);
      if (format == kFormatBF16) view = Bf16View(bf16.data(), s.o, s.i);
      if (format == kFormatF16) view = {kFormatF16, s.o, s.i, f16.data(), s.i * 2};
      std::vector<float> dense(s.o * s.i);
      DequantizeRows(view, 0, s.o, dense.data());
      for (bool add : {false, true}) {
        std::vector<float> y(s.n * s.o, add ? 0.5f : NAN);
        GemmForward(x.data(), s.n, view, y.data(), add, compute_);
        const Reference ref = Multiply(
            s.n, s.o, s.i, compute_, add ? 0.5f : 0.0f,
            [&](int64_t r, int64_t k) { return x[r * s.i + k]; },
            [&](int64_t k, int64_t c) { return dense[c * s.i + k]; });
        EXPECT_LE(WorstError(y, ref), Tolerance(s.i))
            << "n " << s.n << " i " << s.i << " o " << s.o << " format " << format;
      }
    }
  }
}

TEST_P(GemmTest, InputGradIsTheSum) {
  for (const Size& s : kSizes) {
    const std::vector<float> dy = Values(s.n * s.o, 3), w = Values(s.o * s.i, 4);
    const std::vector<uint16_t> bf16 = ToBf16(w), f16 = ToF16(w);
    for (int32_t format : {kFormatF32, kFormatBF16, kFormatF16}) {
      WeightView view = F32View(w.data(), s.o, s.i);
      if (format == kFormatBF16) view = Bf16View(bf16.data(), s.o, s.i);
      if (format == kFormatF16) view = {kFormatF16, s.o, s.i, f16.data(), s.i * 2};
      std::vector<float> dense(s.o * s.i);
      DequantizeRows(view, 0, s.o, dense.data());
      for (bool add : {false, true}) {
        std::vector<float> dx(s.n * s.i, add ? -0.25f : NAN);
        GemmInputGrad(dy.data(), s.n, view, dx.data(), add, compute_);
        const Reference ref = Multiply(
            s.n, s.i, s.o, compute_, add ? -0.25f : 0.0f,
            [&](int64_t r, int64_t k) { return dy[r * s.o + k]; },
            [&](int64_t k, int64_t c) { return dense[k * s.i + c]; });
        EXPECT_LE(WorstError(dx, ref), Tolerance(s.o))
            << "n " << s.n << " i " << s.i << " o " << s.o << " format " << format;
      }
    }
  }
}

TEST_P(GemmTest, WeightGradIsTheSum) {
  for (const Size& s : kSizes) {
    const std::vector<float> dy = Values(s.n * s.o, 5), x = Values(s.n * s.i, 6);
    for (bool add : {false, true}) {
      std::vector<float> dw(s.o * s.i, add ? 2.0f : NAN);
      GemmWeightGrad(dy.data(), x.data(), s.n, s.o, s.i, dw.data(), add, compute_);
      const Reference ref = Multiply(
          s.o, s.i, s.n, compute_, add ? 2.0f : 0.0f,
          [&](int64_t r, int64_t k) { return dy[k * s.o + r]; },
          [&](int64_t k, int64_t c) { return x[k * s.i + c]; });
      EXPECT_LE(WorstError(dw, ref), Tolerance(s.n)) << "n " << s.n << " i " << s.i << " o " << s.o;
    }
  }
}

// A product of a few terms that are exact in fp32 must be exact: no term is lost, doubled or taken
// from elsewhere.
TEST_P(GemmTest, SmallIntegersAreExact) {
  for (const Size& s : kSizes) {
    std::vector<float> x(s.n * s.i), w(s.o * s.i), y(s.n * s.o);
    for (size_t j = 0; j < x.size(); ++j)
      x[j] = static_cast<float>(static_cast<int>(j * 7 % 11) - 5);
    for (size_t j = 0; j < w.size(); ++j)
      w[j] = static_cast<float>(static_cast<int>(j * 5 % 13) - 6);
    GemmForward(x.data(), s.n, F32View(w.data(), s.o, s.i), y.data(), false, compute_);
    const Reference ref = Multiply(
        s.n, s.o, s.i, compute_, 0, [&](int64_t r, int64_t k) { return x[r * s.i + k]; },
        [&](int64_t k, int64_t c) { return w[c * s.i + k]; });
    EXPECT_EQ(WorstError(y, ref), 0) << "n " << s.n << " i " << s.i << " o " << s.o;
  }
}

// The checker must see the mistakes that kernels make: a lost last position of k, a neighbor's
// column.
TEST_P(GemmTest, CheckerSeesPlantedMistakes) {
  const int64_t n = 17, i = 517, o = 45;
  const std::vector<float> x = Values(n * i, 7), w = Values(o * i, 8);
  const auto a = [&](int64_t r, int64_t k) { return x[r * i + k]; };
  const auto b = [&](int64_t k, int64_t c) { return w[c * i + k]; };
  const Reference ref = Multiply(n, o, i, compute_, 0, a, b);
  std::vector<float> y(n * o);
  GemmForward(x.data(), n, F32View(w.data(), o, i), y.data(), false, compute_);
  ASSERT_LE(WorstError(y, ref), Tolerance(i));
  std::vector<float> short_k = y;
  for (int64_t r = 0; r < n; ++r) {
    for (int64_t c = 0; c < o; ++c) short_k[r * o + c] -= a(r, i - 1) * b(i - 1, c);
  }
  EXPECT_GT(WorstError(short_k, ref), 100 * Tolerance(i));
  std::vector<float> one_wrong = y;
  one_wrong[n * o - 1] = y[n * o - 2];
  EXPECT_GT(WorstError(one_wrong, ref), 100 * Tolerance(i));
}

// Rows 0.. of a product of many rows are the bytes of a product of fewer.
TEST_P(GemmTest, ARowDoesNotDependOnTheOthers) {
  for (const Size& s :
       {Size{150, 1030, 96}, Size{150, 300, 530}, Size{150, 16, 200}, Size{150, 600, 16}}) {
    const std::vector<float> x = Values(s.n * s.i, 9), w = Values(s.o * s.i, 10),
                             dy = Values(s.n * s.o, 11);
    const std::vector<uint16_t> bf16 = ToBf16(w);
    for (const WeightView& view : {F32View(w.data(), s.o, s.i), Bf16View(bf16.data(), s.o, s.i)}) {
      std::vector<float> y(s.n * s.o), dx(s.n * s.i);
      GemmForward(x.data(), s.n, view, y.data(), false, compute_);
      GemmInputGrad(dy.data(), s.n, view, dx.data(), false, compute_);
      for (int64_t n : {1, 2, 3, 4, 7, 14, 15, 16, 17, 31, 33, 64, 100}) {
        for (int64_t first : {int64_t{0}, s.n - n}) {
          std::vector<float> part(n * s.o), part_dx(n * s.i);
          GemmForward(x.data() + first * s.i, n, view, part.data(), false, compute_);
          EXPECT_EQ(std::memcmp(part.data(), y.data() + first * s.o, part.size() * 4), 0)
              << "n " << n << " i " << s.i;
          GemmInputGrad(dy.data() + first * s.o, n, view, part_dx.data(), false, compute_);
          EXPECT_EQ(std::memcmp(part_dx.data(), dx.data() + first * s.i, part_dx.size() * 4), 0)
              << "n " << n << " o " << s.o;
        }
      }
    }
  }
}

// Sums run on through C: adding the second half of k to the first is the whole.
TEST_P(GemmTest, SumsContinueThroughTheOutput) {
  const int64_t n = 37, o = 75, k = 1024;
  const std::vector<float> dy = Values(k * o, 12), x = Values(k * n, 13);
  std::vector<float> whole(o * n), parts(o * n);
  GemmWeightGrad(dy.data(), x.data(), k, o, n, whole.data(), false, compute_);
  GemmWeightGrad(dy.data(), x.data(), 352, o, n, parts.data(), false, compute_);
  GemmWeightGrad(dy.data() + 352 * o, x.data() + 352 * n, k - 352, o, n, parts.data(), true,
                 compute_);
  EXPECT_EQ(std::memcmp(whole.data(), parts.data(), whole.size() * 4), 0);
}

TEST_P(GemmTest, BytesAreTheSameForAnyNumberOfThreads) {
  for (const Size& s :
       {Size{33, 700, 1100}, Size{300, 96, 16}, Size{300, 16, 500}, Size{1, 600, 600}}) {
    const std::vector<float> x = Values(s.n * s.i, 14), w = Values(s.o * s.i, 15),
                             dy = Values(s.n * s.o, 16);
    const std::vector<uint16_t> bf16 = ToBf16(w);
    const WeightView view = Bf16View(bf16.data(), s.o, s.i);
    std::vector<float> want_y, want_dx, want_dw;
    for (int threads : {1, 2, 3}) {
      SetThreads(threads);
      std::vector<float> y(s.n * s.o), dx(s.n * s.i), dw(s.o * s.i);
      GemmForward(x.data(), s.n, view, y.data(), false, compute_);
      GemmInputGrad(dy.data(), s.n, view, dx.data(), false, compute_);
      GemmWeightGrad(dy.data(), x.data(), s.n, s.o, s.i, dw.data(), false, compute_);
      if (threads == 1) {
        want_y = y;
        want_dx = dx;
        want_dw = dw;
      }
      EXPECT_EQ(std::memcmp(y.data(), want_y.data(), y.size() * 4), 0) << threads << " threads";
      EXPECT_EQ(std::memcmp(dx.data(), want_dx.data(), dx.size() * 4), 0) << threads << " threads";
      EXPECT_EQ(std::memcmp(dw.data(), want_dw.data(), dw.size() * 4), 0) << threads << " threads";
    }
  }
}

// Packed activations are limited to 64 MB; more rows go in passes, which must not show.
TEST_P(GemmTest, ManyRowsGoInPasses) {
  const int64_t i = 16384, o = 3,
                n = GetGemmTable(ActiveIsa(), compute_).element_bytes == 4 ? 1100 : 2200;
  std::vector<float> x(n * i, 1.0f), w(o * i, 1.0f), y(n * o, -1);
  for (int64_t r = 0; r < n; ++r) x[r * i + i - 1] = static_cast<float>(r % 100);
  GemmForward(x.data(), n, F32View(w.data(), o, i), y.data(), false, compute_);
  for (int64_t r = 0; r < n; ++r) {
    for (int64_t c = 0; c < o; ++c)
      ASSERT_EQ(y[r * o + c], static_cast<float>(i - 1 + r % 100)) << "row " << r;
  }
}

TEST_P(GemmTest, EmptyProducts) {
  std::vector<float> x(8, 1), w(8, 1), y(4, 3);
  GemmForward(x.data(), 0, F32View(w.data(), 2, 4), y.data(), false, compute_);
  EXPECT_EQ(y[0], 3);
  GemmForward(x.data(), 2, F32View(w.data(), 2, 0), y.data(), true, compute_);
  EXPECT_EQ(y[3], 3);
  GemmForward(x.data(), 2, F32View(w.data(), 2, 0), y.data(), false, compute_);
  EXPECT_EQ(y[3], 0);
}

TEST_P(GemmTest, InfinityAndNanStayInTheirRow) {
  const int64_t n = 20, i = 50, o = 40;
  std::vector<float> x = Values(n * i, 17), y(n * o);
  const std::vector<float> w = Values(o * i, 18);
  x[7 * i + 3] = NAN;
  x[9 * i + 49] = INFINITY;
  GemmForward(x.data(), n, F32View(w.data(), o, i), y.data(), false, compute_);
  for (int64_t r = 0; r < n; ++r) {
    for (int64_t c = 0; c < o; ++c) {
      if (r == 7) {
        EXPECT_TRUE(std::isnan(y[r * o + c]));
      } else {
        EXPECT_EQ(std::isinf(y[r * o + c]), r == 9);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, GemmTest,
                         testing::Combine(testing::ValuesIn(SupportedIsas()),
                                          testing::Values(Compute::kFloat32, Compute::kBfloat16)),
                         [](const testing::TestParamInfo<GemmTest::ParamType>& info) {
                           return std::string(IsaName(std::get<0>(info.param))) + "_" +
                                  ComputeName(std::get<1>(info.param));
                         });

TEST(GemmErrors, SaysWhatIsWrong) {
  std::vector<float> x(64), y(64);
  WeightView w = F32View(x.data(), 2, 3);
  EXPECT_THROW(GemmForward(x.data(), -1, w, y.data(), false, Compute::kFloat32), Error);
  w.row_bytes = 8;
  EXPECT_THROW(GemmForward(x.data(), 1, w, y.data(), false, Compute::kFloat32), Error);
  w.format = 12345;
  EXPECT_THROW(GemmForward(x.data(), 1, w, y.data(), false, Compute::kFloat32), Error);
}

}  // namespace
}  // namespace lapidary
