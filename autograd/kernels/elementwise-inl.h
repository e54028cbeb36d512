// Elementwise kernels: sums, scaling, rounding, softcap, GeGLU, dropout, AdamW. Included once per
// instruction set by kernels.cc.
HWY_BEFORE_NAMESPACE();
namespace lapidary::HWY_NAMESPACE {

void Add(const AddArgs& a, Range r) noexcept {
  Sweep(r.begin, r.end, [&](int64_t i, const auto& io) LAPIDARY_INLINE {
    io.Store(hn::Add(io.Load(a.a + i), io.Load(a.b + i)), a.y + i);
  });
}

void Scale(const ScaleArgs& a, Range r) noexcept {
  const Vec c = Const(a.c);
  if (a.add) {
    Sweep(r.begin, r.end, [&](int64_t i, const auto& io) LAPIDARY_INLINE {
      io.Store(hn::MulAdd(c, io.Load(a.x + i), io.Load(a.y + i)), a.y + i);
    });
  } else {
    Sweep(r.begin, r.end, [&](int64_t i, const auto& io) LAPIDARY_INLINE {
      io.Store(hn::Mul(c, io.Load(a.x + i)), a.y + i);
    });
  }
}

void RoundBf16(const RoundArgs& a, Range r) noexcept {
  Sweep(r.begin, r.end, [&](int64_t i, const auto& io) LAPIDARY_INLINE {
    io.Store(ToBf16(io.Load(a.x + i)), a.y + i);
  });
}

void Softcap(const SoftcapArgs& a, Range r) noexcept {
  const Vec cap = Const(a.cap);
  Sweep(r.begin, r.end, [&](int64_t i, const auto& io) LAPIDARY_INLINE {
    io.Store(hn::Mul(cap, Tanh(hn::Div(io.Load(a.x + i), cap))), a.x + i);
  });
}

// gelu_tanh(x) = x s(x); the logistic form of s as in kernels_scalar.cc.
constexpr float kSqrt2OverPi = 0.7978845608028654f;
constexpr float kGeluCubic = 0.044715f;

HWY_INLINE Vec GeluShare(Vec x) {
  const Vec inner = hn::MulAdd(hn::Mul(Const(kGeluCubic), hn::Mul(x, x)), x, x);
  const Vec e = Exp(hn::Mul(Const(-2.0f * kSqrt2OverPi), inner));
  return hn::Div(Const(1.0f), hn::Add(Const(1.0f), e));
}

void GeGlu(const GeGluArgs& a, Range r) noexcept {
  Sweep(r.begin, r.end, [&](int64_t i, const auto& io) LAPIDARY_INLINE {
    const Vec x = io.Load(a.gate + i);
    io.Store(hn::Mul(hn::Mul(x, GeluShare(x)), io.Load(a.up + i)), a.y + i);
  });
}

void GeGluGrad(const GeGluArgs& a, Range r) noexcept {
  Sweep(r.begin, r.end, [&](int64_t i, const auto& io) LAPIDARY_INLINE {
    const Vec x = io.Load(a.gate + i), dy = io.Load(a.dy + i), s = GeluShare(x);
    const Vec du =
        hn::MulAdd(Const(3.0f * kGeluCubic * kSqrt2OverPi), hn::Mul(x, x), Const(kSqrt2OverPi));
    const Vec bump = hn::Mul(Const(2.0f), hn::Mul(s, hn::Sub(Const(1.0f), s)));
    // x bump u' is 0 in both tails, where bump may be 0 and x u' infinite.
    const Vec bent =
        hn::IfThenZeroElse(hn::Eq(bump, hn::Zero(Tag())), hn::Mul(hn::Mul(x, bump), du));
    if (a.dgate) {
      const Vec slope = hn::Mul(io.Load(a.up + i), hn::Add(s, bent));
      io.Store(hn::MulAdd(dy, slope, io.Load(a.dgate + i)), a.dgate + i);
    }
    if (a.dup) io.Store(hn::MulAdd(dy, hn::Mul(x, s), io.Load(a.dup + i)), a.dup + i);
  });
}

// Philox4x32-10 of kLanes consecutive indices: words[4 * lane + k] (base/random.h).
HWY_INLINE void PhiloxWords(const RandomState& state, uint64_t index, uint32_t* words) {
  const UintTag du;
  using U = hn::Vec<UintTag>;
  const hn::Repartition<uint64_t, UintTag> du64;
  HWY_ALIGN uint32_t low[kLanes], high[kLanes];
  for (int64_t lane = 0; lane < kLanes; ++lane) {
    low[lane] = static_cast<uint32_t>(index + static_cast<uint64_t>(lane));
    high[lane] = static_cast<uint32_t>((index + static_cast<uint64_t>(lane)) >> 32);
  }
  const auto high_half = [&](U a, U b) LAPIDARY_INLINE {
    const auto even = hn::MulEven(a, b);
    const auto odd = hn::MulEven(hn::BitCast(du, hn::ShiftRight<32>(hn::BitCast(du64, a))), b);
    return hn::OddEven(hn::BitCast(du, odd), hn::BitCast(du, hn::ShiftRight<32>(even)));
  };
  U c0 = hn::Load(du, low), c1 = hn::Load(du, high);
  U c2 = hn::Set(du, state.stream[0]), c3 = hn::Set(du, state.stream[1]);
  const U m0 = hn::Set(du, 0xD2511F53u), m1 = hn::Set(du, 0xCD9E8D57u);
  uint32_t k0 = state.seed[0], k1 = state.seed[1];
  for (int round = 0; round < 10; ++round) {
    const U next0 = hn::Xor(hn::Xor(high_half(c2, m1), c1), hn::Set(du, k0));
    const U next1 = hn::Mul(c2, m1);
    const U next2 = hn::Xor(hn::Xor(high_half(c0, m0), c3), hn::Set(du, k1));
    c3 = hn::Mul(c0, m0);
    c0 = next0;
    c1 = next1;
    c2 = next2;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  hn::StoreInterleaved4(c0, c1, c2, c3, du, words);
}

void Dropout(const DropoutArgs& a, Range rows) noexcept {
  const RandomState state = StateOf(a.key);
  const Vec scale = Const(a.scale);
  const IntTag di;
  const auto threshold = hn::Set(di, static_cast<int32_t>(a.threshold));
  HWY_ALIGN uint32_t words[8 * kLanes] = {};  // half of it, and room for a vector beyond
  for (int64_t n = rows.begin; n < rows.end; ++n) {
    const int64_t first = a.indices[n] * a.cols;  // of the row's elements, in the step
    const float* x = a.x + n * a.cols - first;
    float* y = a.y + n * a.cols - first;
    for (int64_t j = first / 4 * 4; j < first + a.cols; j += 4 * kLanes) {
      PhiloxWords(state, static_cast<uint64_t>(j / 4), words);
      const int64_t begin = std::max(j, first), end = std::min(j + 4 * kLanes, first + a.cols);
      Sweep(begin, end, [&](int64_t i, const auto& io) LAPIDARY_INLINE {
        const auto word = hn::LoadU(UintTag(), words + (i - j));
        const auto drop = hn::Lt(hn::BitCast(di, hn::ShiftRight<8>(word)), threshold);
        const Vec kept =
            hn::IfThenZeroElse(hn::RebindMask(Tag(), drop), hn::Mul(io.Load(x + i), scale));
        io.Store(a.add ? hn::Add(io.Load(y + i), kept) : kept, y + i);
      });
    }
  }
}

void AdamW(const AdamWArgs& a, Range r) noexcept {
  const Vec decay = Const(static_cast<float>(1.0 - a.lr * a.weight_decay));
  const Vec rest1 = Const(static_cast<float>(1.0 - a.beta1));
  const Vec beta2 = Const(static_cast<float>(a.beta2));
  const Vec rest2 = Const(static_cast<float>(1.0 - a.beta2));
  const Vec eps = Const(static_cast<float>(a.eps)), scale = Const(a.grad_scale);
  const Vec step = Const(static_cast<float>(-a.lr / a.bias1));
  const Vec root2 = Const(static_cast<float>(std::sqrt(a.bias2)));
  Sweep(r.begin, r.end, [&](int64_t i, const auto& io) LAPIDARY_INLINE {
    const Vec g = hn::Mul(io.Load(a.grad + i), scale), m0 = io.Load(a.m + i);
    const Vec m = hn::Add(m0, hn::Mul(rest1, hn::Sub(g, m0)));
    const Vec v = hn::Add(hn::Mul(io.Load(a.v + i), beta2), hn::Mul(hn::Mul(rest2, g), g));
    const Vec root = hn::Add(hn::Div(hn::Sqrt(v), root2), eps);
    const Vec kept = hn::Mul(io.Load(a.param + i), decay);
    io.Store(m, a.m + i);
    io.Store(v, a.v + i);
    io.Store(hn::Add(kept, hn::Div(hn::Mul(step, m), root)), a.param + i);
  });
}

}  // namespace lapidary::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
