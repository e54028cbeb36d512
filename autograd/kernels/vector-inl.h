// What the vector kernels share: sweeps over floats with masked tails, sums in a fixed order, and
// exp and tanh. Included once per instruction set by kernels.cc.
#if defined(LAPIDARY_AUTOGRAD_KERNELS_VECTOR_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LAPIDARY_AUTOGRAD_KERNELS_VECTOR_INL_H_
#undef LAPIDARY_AUTOGRAD_KERNELS_VECTOR_INL_H_
#else
#define LAPIDARY_AUTOGRAD_KERNELS_VECTOR_INL_H_
#endif

#include "hwy/highway.h"

// A lambda that must become part of the loop that calls it.
#define LAPIDARY_INLINE __attribute__((always_inline))

HWY_BEFORE_NAMESPACE();
namespace lapidary::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using Tag = hn::ScalableTag<float>;
using IntTag = hn::RebindToSigned<Tag>;
using UintTag = hn::RebindToUnsigned<Tag>;
using Vec = hn::Vec<Tag>;
constexpr int64_t kLanes = hn::MaxLanes(Tag());

// How a sweep loads and stores: whole vectors, or the first few lanes (others read as 0 and are not
// written). Both see the same arithmetic, so an element's result does not depend on which it was.
struct Whole {
  HWY_INLINE Vec Load(const float* p) const { return hn::LoadU(Tag(), p); }
  HWY_INLINE void Store(Vec v, float* p) const { hn::StoreU(v, Tag(), p); }
  HWY_INLINE Vec Keep(Vec v) const { return v; }
};
struct Part {
  explicit HWY_INLINE Part(int64_t first)
      : count(first), mask(hn::FirstN(Tag(), static_cast<size_t>(first))) {}
#if HWY_MEM_OPS_MIGHT_FAULT
  // NEON has no masked moves: Highway's read and write whole vectors, beyond the end and over what
  // another thread is writing there.
  HWY_INLINE Vec Load(const float* p) const {
    HWY_ALIGN float lanes[kLanes] = {};
    std::copy_n(p, count, lanes);
    return hn::Load(Tag(), lanes);
  }
  HWY_INLINE void Store(Vec v, float* p) const {
    HWY_ALIGN float lanes[kLanes];
    hn::Store(v, Tag(), lanes);
    std::copy_n(lanes, count, p);
  }
#else
  HWY_INLINE Vec Load(const float* p) const { return hn::MaskedLoad(mask, Tag(), p); }
  HWY_INLINE void Store(Vec v, float* p) const { hn::BlendedStore(v, mask, Tag(), p); }
#endif
  HWY_INLINE Vec Keep(Vec v) const { return hn::IfThenElseZero(mask, v); }  // 0 beyond the end
  int64_t count;
  hn::Mask<Tag> mask;
};

// body(i, io) for every vector that starts at i in [begin, end).
template <class Body>
HWY_INLINE void Sweep(int64_t begin, int64_t end, const Body& body) {
  int64_t i = begin;
  for (; i + kLanes <= end; i += kLanes) body(i, Whole());
  if (i < end) body(i, Part(end - i));
}

HWY_INLINE float Total(Vec v) { return hn::GetLane(hn::SumOfLanes(Tag(), v)); }

// Sum over i in [0, n) of the lanes that body(i, io) returns (0 beyond the end), in four chains.
template <class Body>
HWY_INLINE float SweepSum(int64_t n, const Body& body) {
  Vec sum0 = hn::Zero(Tag()), sum1 = sum0, sum2 = sum0, sum3 = sum0;
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    sum0 = body(i, Whole(), sum0);
    sum1 = body(i + kLanes, Whole(), sum1);
    sum2 = body(i + 2 * kLanes, Whole(), sum2);
    sum3 = body(i + 3 * kLanes, Whole(), sum3);
  }
  for (; i + kLanes <= n; i += kLanes) sum0 = body(i, Whole(), sum0);
  if (i < n) sum1 = body(i, Part(n - i), sum1);
  return Total(hn::Add(hn::Add(sum0, sum1), hn::Add(sum2, sum3)));
}

HWY_INLINE Vec Const(float x) { return hn::Set(Tag(), x); }

// x between two constants; NaN stays NaN.
HWY_INLINE Vec Bounded(float low, Vec x, float high) {
#if HWY_TARGET == HWY_NEON  // its Min and Max return the number where one operand is NaN
  x = hn::IfThenElse(hn::Gt(x, Const(high)), Const(high), x);
  return hn::IfThenElse(hn::Lt(x, Const(low)), Const(low), x);
#else  // on x86 they return the second operand
  return hn::Max(Const(low), hn::Min(Const(high), x));
#endif
}

// e^x within 2 ulp, overflow to infinity, underflow through subnormals to 0, NaN to NaN. x = n ln 2
// + r, |r| <= ln 2 / 2; polynomial of Cephes' expf (Moshier).
HWY_INLINE Vec Exp(Vec x) {
  const IntTag di;
  x = Bounded(-104.0f, x, 89.0f);
  const Vec n = hn::Round(hn::Mul(x, Const(1.44269504088896341f)));
  Vec r = hn::NegMulAdd(n, Const(0.693359375f), x);
  r = hn::NegMulAdd(n, Const(-2.12194440e-4f), r);
  Vec p = Const(1.9875691500e-4f);
  p = hn::MulAdd(p, r, Const(1.3981999507e-3f));
  p = hn::MulAdd(p, r, Const(8.3334519073e-3f));
  p = hn::MulAdd(p, r, Const(4.1665795894e-2f));
  p = hn::MulAdd(p, r, Const(1.6666665459e-1f));
  p = hn::MulAdd(p, r, Const(5.0000001201e-1f));
  const Vec y = hn::Add(hn::MulAdd(p, hn::Mul(r, r), r), Const(1.0f));
  // 2^n in two factors, because n runs from -150 to 128.
  const auto whole = hn::ConvertTo(di, n);
  const auto half = hn::ShiftRight<1>(whole);
  const auto bias = hn::Set(di, 127);
  const auto power = [&](hn::Vec<IntTag> e) LAPIDARY_INLINE {
    return hn::BitCast(Tag(), hn::ShiftLeft<23>(hn::Add(e, bias)));
  };
  return hn::Mul(hn::Mul(y, power(half)), power(hn::Sub(whole, half)));
}

// tanh x within 2 ulp: an odd polynomial (Cephes' tanhf) below 0.625, 1 - 2 / (e^2|x| + 1) above.
HWY_INLINE Vec Tanh(Vec x) {
  const Vec size = hn::Abs(x), z = hn::Mul(x, x);
  Vec p = Const(-5.70498872745e-3f);
  p = hn::MulAdd(p, z, Const(2.06390887954e-2f));
  p = hn::MulAdd(p, z, Const(-5.37397155531e-2f));
  p = hn::MulAdd(p, z, Const(1.33314422036e-1f));
  p = hn::MulAdd(p, z, Const(-3.33332819422e-1f));
  const Vec small = hn::MulAdd(hn::Mul(p, z), x, x);
  const Vec tail = hn::Div(Const(2.0f), hn::Add(Exp(hn::Add(size, size)), Const(1.0f)));
  const Vec large = hn::CopySign(hn::Sub(Const(1.0f), tail), x);
  return hn::IfThenElse(hn::Lt(size, Const(0.625f)), small, large);
}

// Nearest bf16, ties to even; NaN stays NaN. Exactly RoundToBf16 of base/float16.h.
HWY_INLINE Vec ToBf16(Vec x) {
  const UintTag du;
  const auto bits = hn::BitCast(du, x);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1u));
  const auto rounded = hn::Add(bits, hn::Add(odd, hn::Set(du, 0x7fffu)));
  const auto quiet = hn::Or(bits, hn::Set(du, 0x400000u));
  const Vec y =
      hn::IfThenElse(hn::IsNaN(x), hn::BitCast(Tag(), quiet), hn::BitCast(Tag(), rounded));
  return hn::BitCast(Tag(), hn::And(hn::BitCast(du, y), hn::Set(du, 0xffff0000u)));
}

}  // namespace lapidary::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // LAPIDARY_AUTOGRAD_KERNELS_VECTOR_INL_H_
