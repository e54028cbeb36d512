// The kernel tables: complete, not secretly scalar, the same bits however a range is cut, accurate
// where the plain loops are not the yardstick.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>
#include <set>

#include "autograd/base/float16.h"
#include "autograd/kernels/kernels.h"
#include "tests/autograd/run_op.h"
#include "tests/check.h"

namespace lapidary {
namespace {

using check::CloseEach;
using check::CloseToMax;
using check::SameBits;
using Floats = std::vector<float>;

// --- Manifest ------------------------------------------------------------------------------------

// Names of entries that are missing or those of another table.
std::string SharedEntries(const Kernels& table, const Kernels& other) {
  std::string names;
#define LAPIDARY_COMPARE(Name, Args) \
  if (!table.Name || table.Name == other.Name) names += #Name " ";
  LAPIDARY_KERNELS(LAPIDARY_COMPARE)
#undef LAPIDARY_COMPARE
  return names;
}

TEST(KernelTable, EveryVectorTableHasItsOwnKernels) {
  for (const Isa isa : SupportedIsas()) {
    if (isa == Isa::kScalar) continue;
    EXPECT_EQ(SharedEntries(KernelsFor(isa), ScalarKernels()), "") << IsaName(isa);
    const bool wide = isa != Isa::kAvx2 && isa != Isa::kNeon;  // these share AVX-512's table
    EXPECT_STREQ(KernelsFor(isa).name, wide ? "avx512" : IsaName(isa));
    if (wide) {
      EXPECT_EQ(SharedEntries(KernelsFor(isa), KernelsFor(Isa::kAvx2)), "");
    }
  }
}

TEST(KernelTable, ABorrowedEntryIsCaught) {
  Kernels table = KernelsFor(SupportedIsas().front());
  table.Rope = ScalarKernels().Rope;
  EXPECT_NE(SharedEntries(table, ScalarKernels()).find("Rope"), std::string::npos);
  table.AdamW = nullptr;
  EXPECT_NE(SharedEntries(table, ScalarKernels()).find("AdamW"), std::string::npos);
}

// --- Ranges --------------------------------------------------------------------------------------

// Runs a kernel over [0, n) at once and in uneven pieces; `run(range)` works on buffers that
// `reset` restores and `read` returns.
struct RangeCase {
  const char* name;
  int64_t n;
  std::function<void(Range)> run;
  std::function<void()> reset;
  std::function<Floats()> read;
};

testing::AssertionResult SameInPieces(const RangeCase& c) {
  c.reset();
  c.run({0, c.n});
  const Floats whole = c.read();
  for (const std::vector<int64_t>& cuts : {std::vector<int64_t>{1}, {7, 8}, {3, 19, 20}}) {
    c.reset();
    int64_t begin = 0;
    for (const int64_t cut : cuts) {
      if (cut >= c.n) break;
      c.run({begin, cut});
      begin = cut;
    }
    c.run({begin, c.n});
    testing::AssertionResult same = SameBits(c.read(), whole);
    if (!same) return same << " after cutting at " << testing::PrintToString(cuts);
  }
  return testing::AssertionSuccess();
}

class KernelRanges : public EveryIsa {};
LAPIDARY_ON_EVERY_ISA(KernelRanges);

TEST_P(KernelRanges, CutsDoNotShow) {
  const Kernels& k = KernelsFor(GetParam());
  constexpr int64_t kRows = 21, kCols = 75, kSize = kRows * kCols;
  const Floats a = NormalFloats(kSize, 1), b = NormalFloats(kSize, 2), c = NormalFloats(kSize, 3);
  const Floats squares = [&] {
    Floats s = c;
    for (float& x : s) x *= x;
    return s;
  }();
  const Floats start = NormalFloats(kSize, 4);
  Floats y, y2, y3, row(kRows), row2(kRows);
  const auto reset = [&] { y = start, y2 = start, y3 = squares; };
  const auto read = [&] {
    Floats all = y;
    for (const Floats* more : {&y2, &y3, &row, &row2})
      all.insert(all.end(), more->begin(), more->end());
    return all;
  };
  for (float& x : row) x = 0.7f;
  for (float& x : row2) x = 0.3f;
  std::vector<int64_t> indices(kRows);
  std::iota(indices.begin(), indices.end(), 5);
  const auto cols = [&](bool add) {
    (void)add;
    return ScaleColumnsArgs{a.data(), b.data(),  c.data(), y.data(), c.data(),
                            y.data(), y2.data(), kRows,    kCols};
  };
  const auto rms = [&] {
    return RmsNormArgs{a.data(), b.data(),  y.data(), row.data(), c.data(),
                       y.data(), y2.data(), kRows,    kCols,      1e-6f};
  };
  const auto layer = [&] {
    return LayerNormArgs{a.data(),    b.data(), c.data(), y.data(),  row.data(),
                         row2.data(), c.data(), y.data(), y2.data(), y3.data(),
                         kRows,       kCols,    1e-6f};
  };
  const auto geglu = [&] {
    return GeGluArgs{a.data(), b.data(), y.data(), c.data(), y.data(), y2.data()};
  };
  const auto rope = [&](bool add) {
    return RopeArgs{a.data(), y.data(), b.data(), c.data(), 1, 74, -1.0f, add};
  };
  const auto dropout = [&] {
    return DropoutArgs{a.data(), y.data(), indices.data(), kCols, {1, 2, 3}, 1 << 22, 2.0f, true};
  };
  const std::vector<RangeCase> cases = {
      {"Add", kSize,
       [&](Range r) {
         k.Add({a.data(), b.data(), y.data()}, r);
       },
       reset, read},
      {"Scale", kSize,
       [&](Range r) {
         k.Scale({a.data(), y.data(), 1.7f, true}, r);
       },
       reset, read},
      {"RoundBf16", kSize,
       [&](Range r) {
         k.RoundBf16({a.data(), y.data()}, r);
       },
       reset, read},
      {"Softcap", kSize,
       [&](Range r) {
         k.Softcap({y.data(), 2.0f}, r);
       },
       reset, read},
      {"GeGlu", kSize, [&](Range r) { k.GeGlu(geglu(), r); }, reset, read},
      {"GeGluGrad", kSize, [&](Range r) { k.GeGluGrad(geglu(), r); }, reset, read},
      {"Dropout", kRows, [&](Range r) { k.Dropout(dropout(), r); }, reset, read},
      {"AddBias", kRows,
       [&](Range r) {
         k.AddBias({a.data(), b.data(), y.data(), kCols}, r);
       },
       reset, read},
      {"SumRows", kCols,
       [&](Range r) {
         k.SumRows({a.data(), y.data(), kRows, kCols}, r);
       },
       reset, read},
      {"ScaleColumns", kRows, [&](Range r) { k.ScaleColumns(cols(false), r); }, reset, read},
      {"ScaleColumnsGradX", kRows, [&](Range r) { k.ScaleColumnsGradX(cols(true), r); }, reset,
       read},
      {"ScaleColumnsGradG", kCols, [&](Range r) { k.ScaleColumnsGradG(cols(true), r); }, reset,
       read},
      {"RmsNorm", kRows, [&](Range r) { k.RmsNorm(rms(), r); }, reset, read},
      {"RmsNormGradX", kRows, [&](Range r) { k.RmsNormGradX(rms(), r); }, reset, read},
      {"RmsNormGradW", kCols, [&](Range r) { k.RmsNormGradW(rms(), r); }, reset, read},
      {"LayerNorm", kRows, [&](Range r) { k.LayerNorm(layer(), r); }, reset, read},
      {"LayerNormGradX", kRows, [&](Range r) { k.LayerNormGradX(layer(), r); }, reset, read},
      {"LayerNormGradW", kCols, [&](Range r) { k.LayerNormGradW(layer(), r); }, reset, read},
      {"Rope", kRows, [&](Range r) { k.Rope(rope(true), r); }, reset, read},
      {"AdamW", kSize,
       [&](Range r) {
         k.AdamW({y.data(), y2.data(), y3.data(), a.data(), 1e-2, 0.9, 0.99, 1e-8, 0.1, 0.1, 0.01,
                  0.5f},
                 r);
       },
       reset, read},
  };
  for (const RangeCase& range_case : cases) {
    EXPECT_TRUE(SameInPieces(range_case)) << range_case.name;
  }
}

TEST(KernelRangesCheck, CatchesAKernelWhoseTailDiffers) {
  Floats y(40);
  const RangeCase broken = {"broken", 40,
                            [&](Range r) {
                              int64_t i = r.begin;
                              for (; i + 8 <= r.end; i += 8) {
                                for (int64_t j = i; j < i + 8; ++j) y[j] = 1.0f / 3.0f;
                              }
                              for (; i < r.end; ++i) y[i] = std::nextafter(1.0f / 3.0f, 1.0f);
                            },
                            [&] { y.assign(40, 0.0f); }, [&] { return y; }};
  EXPECT_FALSE(SameInPieces(broken));
}

// --- Accuracy ------------------------------------------------------------------------------------

class KernelAccuracy : public EveryIsa {};
LAPIDARY_ON_EVERY_ISA(KernelAccuracy);

TEST_P(KernelAccuracy, RoundsToBf16Exactly) {
  Floats x = NormalFloats(1000, 5);
  for (const uint32_t bits : {0u, 0x80000000u, 0x7f800000u, 0xff800000u, 0x7fc00000u, 0x7f800001u,
                              0xffc12345u, 1u, 0x80000001u, 0x00008000u, 0x00018000u, 0x3f808000u,
                              0x3f818000u, 0x3f80ffffu, 0x7f7fffffu, 0x7f7f8000u, 0x7f7f7fffu}) {
    x.push_back(std::bit_cast<float>(bits));
  }
  Floats y(x.size()), want;
  for (const float value : x) want.push_back(RoundToBf16(value));
  KernelsFor(GetParam()).RoundBf16({x.data(), y.data()}, {0, static_cast<int64_t>(x.size())});
  EXPECT_TRUE(SameBits(y, want));
}

TEST_P(KernelAccuracy, TanhIsGoodToAFewUlp) {
  Floats x;
  for (int e = -30; e <= 5; ++e) {
    for (int i = 0; i < 40; ++i) x.push_back((i % 2 ? -1.0f : 1.0f) * std::ldexp(1 + i / 40.0f, e));
  }
  x.push_back(1e30f);
  x.push_back(-1e30f);
  Floats y = x;
  std::vector<double> want;
  for (const float value : x) want.push_back(std::tanh(static_cast<double>(value)));
  KernelsFor(GetParam()).Softcap({y.data(), 1.0f}, {0, static_cast<int64_t>(y.size())});
  EXPECT_TRUE(CloseEach(y, want, 3 * 0x1p-24));
}

TEST_P(KernelAccuracy, GeluKeepsItsLeftTail) {
  Floats x;
  for (int i = -900; i <= 900; ++i) x.push_back(static_cast<float>(i) * 0.01f);
  const Floats ones(x.size(), 1.0f);
  Floats y(x.size());
  std::vector<double> want;
  for (const float value : x) {
    const double u = std::sqrt(2 / M_PI) * (value + 0.044715 * value * value * value);
    want.push_back(value / (1 + std::exp(-2 * u)));
  }
  KernelsFor(GetParam())
      .GeGlu({x.data(), ones.data(), y.data(), nullptr, nullptr, nullptr},
             {0, static_cast<int64_t>(y.size())});
  // exp multiplies the rounding of its argument, up to 70 here.
  EXPECT_TRUE(CloseEach(y, want, 70 * 0x1p-23));
  EXPECT_TRUE(CloseToMax(y, want, 2e-7));
}

TEST_P(KernelAccuracy, GeluOfHugeInputsHasFiniteGradients) {
  const Floats gate = {-1e30f, -1e18f, -50.0f, 50.0f, 1e18f, 0.0f}, ones(6, 1.0f);
  Floats dgate(6), dup(6);
  KernelsFor(GetParam())
      .GeGluGrad({gate.data(), ones.data(), nullptr, ones.data(), dgate.data(), dup.data()},
                 {0, 6});
  EXPECT_TRUE(CloseToMax(dgate, Floats{0, 0, 0, 1, 1, 0.5f}, 1e-6));
  EXPECT_TRUE(CloseEach(dup, Floats{-0.0f, -0.0f, -0.0f, 50.0f, 1e18f, 0.0f}, 1e-6));
}

TEST_P(KernelAccuracy, ExpCoversItsRangeAndNanSurfaces) {
  // log sum exp of two scores (0, -x) is log1p(exp(-x)).
  const Kernels& k = KernelsFor(GetParam());
  for (const float x : {0.0f, 1e-3f, 0.5f, 1.0f, 10.0f, 50.0f, 87.0f, 100.0f, 103.0f, 1e4f}) {
    Floats z = {0.0f, -x}, loss(1);
    const int32_t target = 1;
    const float weight = 1;
    uint8_t correct = 9;
    k.CrossEntropyRows({z.data(), &target, &weight, loss.data(), &correct, 2, 0.0f, true}, {0, 1});
    const double p = std::exp(-static_cast<double>(x)) / (1 + std::exp(-static_cast<double>(x)));
    EXPECT_NEAR(loss[0], x + std::log1p(std::exp(-static_cast<double>(x))), 3e-7 * (1 + x)) << x;
    EXPECT_NEAR(z[0], 1 - p, 1e-7);
    EXPECT_NEAR(z[1], p - 1, 1e-7);
    EXPECT_EQ(correct, 0);
    if (x == 0 || x > 85) continue;  // the other way round z[1] is p itself, which must keep its
    const int32_t other = 0;         // relative accuracy far below 1
    z = {0.0f, -x};
    k.CrossEntropyRows({z.data(), &other, &weight, loss.data(), &correct, 2, 0.0f, true}, {0, 1});
    EXPECT_TRUE(CloseEach(Floats{z[1]}, std::vector<double>{p}, 5e-7)) << x;
  }
  for (const float bad : {std::nanf(""), std::numeric_limits<float>::infinity()}) {
    for (const float cap : {0.0f, 30.0f}) {
      if (cap > 0 && std::isinf(bad)) continue;  // capped: 30, and fine
      Floats z = NormalFloats(40, 6), loss(1);
      z[37] = bad;
      const int32_t target = 3;
      const float weight = 1;
      uint8_t correct = 0;
      k.CrossEntropyRows({z.data(), &target, &weight, loss.data(), &correct, 40, cap, true},
                         {0, 1});
      EXPECT_FALSE(std::isfinite(loss[0]));
    }
  }
}

TEST_P(KernelAccuracy, CrossEntropyNamesTheLowestBestId) {
  const Kernels& k = KernelsFor(GetParam());
  for (const int32_t target : {2, 35, 38, 5}) {
    Floats z(39, -1.0f), loss(1);
    z[2] = z[35] = z[38] = 4.0f;  // ties: the lowest is the answer
    const float weight = 1;
    uint8_t correct = 9;
    k.CrossEntropyRows({z.data(), &target, &weight, loss.data(), &correct, 39, 30.0f, false},
                       {0, 1});
    EXPECT_EQ(correct, target == 2) << target;
  }
}

TEST_P(KernelAccuracy, DropoutKeepsTheSameElementsOnEveryIsa) {
  constexpr int64_t kRows = 40, kCols = 131;
  const Floats x(kRows * kCols, 1.0f);
  std::vector<int64_t> indices(kRows);
  for (int64_t n = 0; n < kRows; ++n) indices[n] = n * 3 + (int64_t{1} << 31);
  const auto run = [&](const Kernels& k, std::vector<int64_t> at) {
    Floats y(x.size());
    k.Dropout({x.data(), y.data(), at.data(), kCols, {1, 2, 3}, (1 << 24) / 4, 4.0f / 3, false},
              {0, kRows});
    return y;
  };
  const Floats y = run(KernelsFor(GetParam()), indices);
  EXPECT_TRUE(SameBits(y, run(ScalarKernels(), indices)));
  const double kept = static_cast<double>(x.size() - std::count(y.begin(), y.end(), 0.0f));
  EXPECT_NEAR(kept / static_cast<double>(x.size()), 0.75, 0.02);  // 3.4 standard deviations
  // The choice belongs to the token: reversed tokens, reversed rows.
  std::vector<int64_t> reversed(indices.rbegin(), indices.rend());
  const Floats z = run(KernelsFor(GetParam()), reversed);
  for (int64_t n = 0; n < kRows; ++n) {
    EXPECT_TRUE(std::equal(y.begin() + n * kCols, y.begin() + (n + 1) * kCols,
                           z.begin() + (kRows - 1 - n) * kCols));
  }
}

TEST_P(KernelAccuracy, AdamWFollowsItsFormula) {
  const AdamWArgs base = {nullptr, nullptr, nullptr, nullptr, 1e-2,   0.9,
                          0.99,    1e-8,    0.1,     0.19,    0.0199, 0.5f};
  Floats p = NormalFloats(37, 1), m = NormalFloats(37, 2), v = NormalFloats(37, 3);
  const Floats g = NormalFloats(37, 4);
  for (float& x : v) x *= x;
  std::vector<double> want;
  for (size_t i = 0; i < p.size(); ++i) {
    const double grad = 0.5 * g[i], m1 = 0.9 * m[i] + 0.1 * grad;
    const double v1 = 0.99 * v[i] + 0.01 * grad * grad;
    want.push_back(p[i] * (1 - 1e-3) - 1e-2 * (m1 / 0.19) / (std::sqrt(v1 / 0.0199) + 1e-8));
  }
  AdamWArgs args = base;
  args.param = p.data(), args.m = m.data(), args.v = v.data(), args.grad = g.data();
  KernelsFor(GetParam()).AdamW(args, {0, 37});
  EXPECT_TRUE(CloseToMax(p, want, 3e-7));
}

}  // namespace
}  // namespace lapidary
