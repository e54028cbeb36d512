// Comparators of numbers. Each is written `!(err <= tol)`, so that NaN is wrong; each checks sizes
// and names the worst element. check_test.cc feeds them every way of being wrong.
#ifndef LAPIDARY_TESTS_CHECK_H_
#define LAPIDARY_TESTS_CHECK_H_

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <span>

namespace lapidary::check {

namespace internal {
inline testing::AssertionResult SameSize(size_t got, size_t want) {
  if (got == want) return testing::AssertionSuccess();
  return testing::AssertionFailure() << got << " elements instead of " << want;
}
}  // namespace internal

// |got - want| <= tol * max |want| (tol itself if want is all zero), element by element. Infinities
// and NaN are never close.
template <class Got, class Want>
testing::AssertionResult CloseToMax(const Got& got, const Want& want, double tol) {
  const testing::AssertionResult size = internal::SameSize(std::size(got), std::size(want));
  if (!size) return size;
  double scale = 0;
  for (size_t i = 0; i < std::size(want); ++i) {
    if (!std::isfinite(static_cast<double>(want[i]))) {
      return testing::AssertionFailure() << "wanted [" << i << "] is " << want[i];
    }
    scale = std::max(scale, std::abs(static_cast<double>(want[i])));
  }
  if (scale == 0) scale = 1;
  for (size_t i = 0; i < std::size(want); ++i) {
    const double err = std::abs(static_cast<double>(got[i]) - static_cast<double>(want[i]));
    if (!(err <= tol * scale)) {
      return testing::AssertionFailure()
             << "[" << i << "] is " << got[i] << ", wanted " << want[i] << ": off by "
             << err / scale << " of the largest, allowed " << tol;
    }
  }
  return testing::AssertionSuccess();
}

// |got - want| <= tol * |want| for each element; 0 only equals 0.
template <class Got, class Want>
testing::AssertionResult CloseEach(const Got& got, const Want& want, double tol) {
  const testing::AssertionResult size = internal::SameSize(std::size(got), std::size(want));
  if (!size) return size;
  for (size_t i = 0; i < std::size(want); ++i) {
    const double exact = static_cast<double>(want[i]);
    const double err = std::abs(static_cast<double>(got[i]) - exact);
    if (!(err <= tol * std::abs(exact)) || !std::isfinite(exact)) {
      return testing::AssertionFailure() << "[" << i << "] is " << got[i] << ", wanted " << want[i]
                                         << ": allowed " << tol << " of it";
    }
  }
  return testing::AssertionSuccess();
}

// ||got - want|| <= tol * ||want||.
template <class Got, class Want>
testing::AssertionResult CloseInNorm(const Got& got, const Want& want, double tol) {
  const testing::AssertionResult size = internal::SameSize(std::size(got), std::size(want));
  if (!size) return size;
  double err = 0, norm = 0;
  for (size_t i = 0; i < std::size(want); ++i) {
    const double exact = static_cast<double>(want[i]);
    const double diff = static_cast<double>(got[i]) - exact;
    err += diff * diff;
    norm += exact * exact;
  }
  if (!(std::sqrt(err) <= tol * std::sqrt(norm)) || !std::isfinite(norm)) {
    return testing::AssertionFailure()
           << "relative L2 distance " << std::sqrt(err / norm) << ", allowed " << tol;
  }
  return testing::AssertionSuccess();
}

// The same bits; -0 differs from 0, and NaN equals only the same NaN.
template <class Got, class Want>
testing::AssertionResult SameBits(const Got& got, const Want& want) {
  const testing::AssertionResult size = internal::SameSize(std::size(got), std::size(want));
  if (!size) return size;
  for (size_t i = 0; i < std::size(want); ++i) {
    const float g = got[i], w = want[i];
    if (std::bit_cast<uint32_t>(g) != std::bit_cast<uint32_t>(w)) {
      return testing::AssertionFailure()
             << "[" << i << "] is " << std::hexfloat << g << ", wanted " << w;
    }
  }
  return testing::AssertionSuccess();
}

}  // namespace lapidary::check

#endif  // LAPIDARY_TESTS_CHECK_H_
