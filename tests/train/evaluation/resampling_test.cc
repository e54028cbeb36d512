// Intervals and tests against closed forms, and the planted cases that they must see.
#include "train/evaluation/resampling.h"

#include <gtest/gtest.h>

#include <cmath>

#include "autograd/base/error.h"
#include "autograd/base/random.h"

namespace lapidary {
namespace {

const ResamplingOptions kOptions = {2000, 0.95, 7};

StatRows Coins(int n, int right) {
  StatRows rows;
  for (int i = 0; i < n; ++i) rows.push_back({i < right ? 1.0 : 0.0, 1.0});
  return rows;
}

// 95 % of a share p of n: p +- 1.96 sqrt(p (1 - p) / n), to the grain of the draws.
TEST(Bootstrap, OfAShareIsTheBinomialInterval) {
  const Interval interval = BootstrapInterval(Coins(400, 120), RatioFigure, kOptions);
  const double half = 1.96 * std::sqrt(0.3 * 0.7 / 400);
  EXPECT_DOUBLE_EQ(interval.value, 0.3);
  EXPECT_NEAR(interval.low, 0.3 - half, 0.006);
  EXPECT_NEAR(interval.high, 0.3 + half, 0.006);
}

TEST(Bootstrap, IsAFunctionOfTheSeed) {
  const StatRows rows = Coins(50, 20);
  const Interval a = BootstrapInterval(rows, RatioFigure, {500, 0.95, 1});
  const Interval b = BootstrapInterval(rows, RatioFigure, {500, 0.95, 1});
  const Interval c = BootstrapInterval(rows, RatioFigure, {499, 0.93, 2});
  EXPECT_EQ(a.low, b.low);
  EXPECT_EQ(a.high, b.high);
  EXPECT_TRUE(c.low != a.low || c.high != a.high);
}

TEST(Bootstrap, EdgesAreDefined) {
  EXPECT_EQ(BootstrapInterval({}, RatioFigure, kOptions).value, 0);
  const Interval one = BootstrapInterval({{3, 4}}, RatioFigure, kOptions);
  EXPECT_EQ(one.low, 0.75);
  EXPECT_EQ(one.high, 0.75);
  EXPECT_THROW(BootstrapInterval({{1, 2}, {1}}, RatioFigure, kOptions), Error);
  EXPECT_THROW(ComparePaired(Coins(3, 1), Coins(4, 1), RatioFigure, kOptions), Error);
}

// A planted difference is seen in pairs although the systems' own intervals overlap.
TEST(ComparePaired, SeesASmallSteadyDifference) {
  StatRows first, second;
  for (int i = 0; i < 60; ++i) {
    const double base = 1 + 5 * RandomUniform({3, 0, 0}, static_cast<uint64_t>(i));
    first.push_back({base, 1});
    second.push_back({base + 0.05 + 0.02 * RandomUniform({4, 0, 0}, static_cast<uint64_t>(i)), 1});
  }
  const PairedFigures pair = ComparePaired(first, second, RatioFigure, kOptions);
  EXPECT_GT(pair.difference.low, 0.05);
  EXPECT_LT(pair.difference.high, 0.07);
  EXPECT_LT(pair.p, 0.001);
  const Interval a = BootstrapInterval(first, RatioFigure, kOptions),
                 b = BootstrapInterval(second, RatioFigure, kOptions);
  EXPECT_LT(b.low, a.high);
  EXPECT_EQ(ComparePaired(first, first, RatioFigure, kOptions).p, 1);
}

// Closed forms: 2 * (1 + 10) / 2^10 for 1 against 9; scipy.stats.binomtest(15, 20).pvalue.
TEST(BinomialTest, ClosedForms) {
  EXPECT_EQ(BinomialTest(0, 0), 1);
  EXPECT_NEAR(BinomialTest(1, 9), 22.0 / 1024, 1e-12);
  EXPECT_NEAR(BinomialTest(9, 1), 22.0 / 1024, 1e-12);
  EXPECT_NEAR(BinomialTest(5, 15), 0.04138946533203125, 1e-12);
  EXPECT_EQ(BinomialTest(5, 5), 1);
  EXPECT_GT(BinomialTest(100000, 100400), 0.3);
}

TEST(SignFlip, SmallOnesAreCountedOut) {
  EXPECT_EQ(SignFlipTest({}, kOptions), 1);
  EXPECT_EQ(SignFlipTest({0, 0}, kOptions), 1);
  EXPECT_EQ(SignFlipTest({1, 2, 3, 4}, kOptions), 2.0 / 16);
  EXPECT_EQ(SignFlipTest({1, 2, 3, -4, 0}, kOptions), 14.0 / 16);  // |2| or more: all but +-0
  EXPECT_EQ(SmallestSignFlip(4), 2.0 / 16);
}

// Noise has a small p rarely, a shift always.
TEST(SignFlip, TellsShiftsFromNoise) {
  int found = 0;
  for (uint64_t trial = 0; trial < 100; ++trial) {
    std::vector<double> noise, shifted;
    for (uint64_t i = 0; i < 40; ++i) {
      noise.push_back(RandomUniform({trial, 1, 1}, i) - 0.5);
      shifted.push_back(noise.back() + 0.4);
    }
    const ResamplingOptions options = {300, 0.95, trial};
    found += SignFlipTest(noise, options) < 0.05;
    EXPECT_LT(SignFlipTest(shifted, options), 0.01);
  }
  EXPECT_LE(found, 12);  // 5 expected; more than 12 of 100 have a chance of 0.1 %
}

TEST(Holm, AdjustsAsInTheTextbook) {
  const std::vector<double> adjusted = HolmAdjusted({0.01, 0.04, 0.03, 0.005});
  const std::vector<double> want = {0.03, 0.06, 0.06, 0.02};
  for (size_t i = 0; i < want.size(); ++i) EXPECT_NEAR(adjusted[i], want[i], 1e-12) << i;
  EXPECT_TRUE(HolmAdjusted({}).empty());
}

}  // namespace
}  // namespace lapidary
