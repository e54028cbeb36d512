// Cross-entropy over rows of raw scores. Included once per instruction set by kernels.cc.
HWY_BEFORE_NAMESPACE();
namespace lapidary::HWY_NAMESPACE {

// z = cap tanh(z / cap) in place (cap 0: z as it is); returns the largest.
HWY_INLINE float CapAndTop(float* z, int64_t n, float cap) {
  Vec top = Const(-std::numeric_limits<float>::infinity());
  const Vec vcap = Const(cap), inverse = Const(cap > 0 ? 1.0f / cap : 0.0f);
  const auto step = [&](int64_t i, const auto& io) LAPIDARY_INLINE {
    Vec v = io.Load(z + i);
    if (cap > 0) {
      v = hn::Mul(vcap, Tanh(hn::Mul(v, inverse)));
      io.Store(v, z + i);
    }
    return v;
  };
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) top = hn::Max(step(i, Whole()), top);
  if (i < n) {
    const Part part(n - i);
    top = hn::IfThenElse(part.mask, hn::Max(step(i, part), top), top);
  }
  return hn::GetLane(hn::MaxOfLanes(Tag(), top));
}

void CrossEntropyRows(const CrossEntropyArgs& a, Range rows) noexcept {
  for (int64_t n = rows.begin; n < rows.end; ++n) {
    float* z = a.z + n * a.vocab;
    const int64_t target = a.target[n];
    const float top = CapAndTop(z, a.vocab, a.cap);
    const Vec vtop = Const(top);
    double total = 0;
    for (int64_t block = 0; block < a.vocab; block += kVocabBlock) {
      const float* zb = z + block;
      const int64_t size = std::min(kVocabBlock, a.vocab - block);
      total += SweepSum(size, [&](int64_t i, const auto& io, Vec acc) LAPIDARY_INLINE {
        return hn::Add(acc, io.Keep(Exp(hn::Sub(io.Load(zb + i), vtop))));
      });
    }
    const float at_target = z[target];
    a.loss[n] = static_cast<float>(std::log(total) - (static_cast<double>(at_target) - top));
    a.correct[n] = at_target == top && std::find(z, z + target, top) == z + target;
    if (!a.grad) continue;
    const float scale = a.weight[n] * static_cast<float>(1.0 / total);
    const Vec vscale = Const(scale);
    const Vec inverse = Const(a.cap > 0 ? 1.0f / a.cap : 0.0f);
    // d cap tanh(u / cap) / du = 1 - tanh^2.
    Sweep(0, a.vocab, [&](int64_t i, const auto& io) LAPIDARY_INLINE {
      const Vec logit = io.Load(z + i), ratio = hn::Mul(logit, inverse);
      const Vec slope = hn::NegMulAdd(ratio, ratio, Const(1.0f));
      const Vec p = hn::Mul(vscale, Exp(hn::Sub(logit, vtop)));
      io.Store(hn::Mul(p, slope), z + i);
    });
    const float ratio = a.cap > 0 ? at_target / a.cap : 0.0f;
    const float p = static_cast<float>(std::exp(static_cast<double>(at_target) - top) / total);
    z[target] = a.weight[n] * (p - 1.0f) * (1.0f - ratio * ratio);
  }
}

}  // namespace lapidary::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
