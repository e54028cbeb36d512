// Feeds every comparator of tests/check.h every way of being wrong.
#include "tests/check.h"

#include <limits>
#include <vector>

namespace lapidary::check {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();
using Floats = std::vector<float>;

// Wrong against {1, -2, 3} at any tolerance below one half.
const std::vector<Floats>& WrongAnswers() {
  static const std::vector<Floats> wrong = {
      {-1, 2, -3},             // sign
      {1, -4, 3},              // both negative
      {1, -2, 6},              // the last element
      {4, -2, 3},              // the first element
      {kNan, -2, 3},           // NaN
      {1, -2, kNan},           // NaN at the end
      {kInf, -2, 3},           // infinite
      {1, -kInf, 3}, {1, -2},  // short
      {1, -2, 3, 4},           // long
      {0, 0, 0},     {},
  };
  return wrong;
}
const Floats kWant = {1, -2, 3};

TEST(Check, AcceptsWhatIsRight) {
  const Floats near = {1.0001f, -2.0001f, 2.9999f};
  EXPECT_TRUE(CloseToMax(near, kWant, 1e-3));
  EXPECT_TRUE(CloseEach(near, kWant, 1e-3));
  EXPECT_TRUE(CloseInNorm(near, kWant, 1e-3));
  EXPECT_TRUE(SameBits(kWant, kWant));
  EXPECT_TRUE(CloseToMax(Floats{0, 0}, Floats{0, 0}, 0.0));
  EXPECT_TRUE(SameBits(Floats{kNan, kInf}, Floats{kNan, kInf}));
}

TEST(Check, RejectsEveryWrongAnswer) {
  for (const Floats& got : WrongAnswers()) {
    SCOPED_TRACE(testing::PrintToString(got));
    EXPECT_FALSE(CloseToMax(got, kWant, 0.3));
    EXPECT_FALSE(CloseEach(got, kWant, 0.3));
    EXPECT_FALSE(CloseInNorm(got, kWant, 0.3));
    EXPECT_FALSE(SameBits(got, kWant));
  }
}

TEST(Check, RejectsJustBeyondTheTolerance) {
  EXPECT_TRUE(CloseToMax(Floats{1, 4.0f}, Floats{1, 4.1f}, 0.025));
  EXPECT_FALSE(CloseToMax(Floats{1, 4.0f}, Floats{1, 4.1f}, 0.024));
  EXPECT_TRUE(CloseEach(Floats{1, 4.0f}, Floats{1, 4.1f}, 0.025));
  EXPECT_FALSE(CloseEach(Floats{1.1f, 4.0f}, Floats{1, 4.0f}, 0.099));
  EXPECT_FALSE(CloseInNorm(Floats{3.3f, 4.4f}, Floats{3, 4}, 0.0999));
  EXPECT_TRUE(CloseInNorm(Floats{3.3f, 4.4f}, Floats{3, 4}, 0.1001));
}

TEST(Check, WantedValuesThatAreNotNumbersAreNeverMet) {
  for (const float bad : {kNan, kInf, -kInf}) {
    const Floats want = {1, bad};
    EXPECT_FALSE(CloseToMax(want, want, 1e9));
    EXPECT_FALSE(CloseEach(want, want, 1e9));
    EXPECT_FALSE(CloseInNorm(want, want, 1e9));
  }
}

TEST(Check, BitsTellSignedZerosApart) {
  EXPECT_FALSE(SameBits(Floats{0.0f}, Floats{-0.0f}));
  EXPECT_FALSE(SameBits(Floats{1.0f}, Floats{std::nextafter(1.0f, 2.0f)}));
  EXPECT_FALSE(CloseEach(Floats{1e-30f}, Floats{0.0f}, 1.0));
}

}  // namespace
}  // namespace lapidary::check
