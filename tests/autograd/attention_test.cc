// Attention against its composed twin (full softmax in double, gradients written out), for every
// kind of span, width and grouping; and the bits that must not depend on how work is grouped.
#include "autograd/ops/attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "autograd/base/float16.h"
#include "tests/autograd/run_op.h"
#include "tests/check.h"

namespace lapidary {
namespace {

using check::CloseInNorm;
using check::CloseToMax;
using check::SameBits;

struct Geometry {
  int64_t keys, heads, groups, width;
};

// --- Spans ---------------------------------------------------------------------------------------

AttentionSpans Causal(int32_t queries, int32_t cached, int32_t window) {
  AttentionSpans s;
  for (int32_t n = 0; n < queries; ++n) {
    s.lo.push_back(std::max(0, cached + n + 1 - window));
    s.hi.push_back(cached + n + 1);
    s.begin.push_back(0);
  }
  return s;
}

// Tokens [from, to) see each other. `outside_window`: also beyond the window, as a bare forward
// call of Hugging Face does.
AttentionSpans WithBlock(AttentionSpans s, int32_t from, int32_t to, bool outside_window) {
  for (int32_t n = from; n < to; ++n) {
    s.hi[n] = to;
    if (outside_window) s.lo[n] = std::min(s.lo[n], from);
  }
  return s;
}

AttentionSpans Packed(const std::vector<AttentionSpans>& documents) {
  AttentionSpans all;
  int32_t start = 0;
  for (const AttentionSpans& d : documents) {
    for (size_t n = 0; n < d.lo.size(); ++n) {
      all.lo.push_back(start + d.lo[n]);
      all.hi.push_back(start + d.hi[n]);
      all.begin.push_back(start);
    }
    start += d.hi.back();
  }
  return all;
}

struct SpanCase {
  const char* name;
  AttentionSpans spans;
  int64_t keys;
};
const std::vector<SpanCase>& SpanCases() {
  static const std::vector<SpanCase> cases = {
      {"one token", Causal(1, 0, 9), 1},
      {"causal", Causal(150, 0, 1000), 150},
      {"window of 70", Causal(200, 0, 70), 200},
      {"image block in a window", WithBlock(Causal(200, 0, 70), 90, 150, false), 200},
      {"image block longer than the window", WithBlock(Causal(220, 0, 70), 80, 190, true), 220},
      {"packed documents",
       Packed({Causal(65, 0, 1000), Causal(3, 0, 2), WithBlock(Causal(100, 0, 40), 10, 90, false),
               Causal(64, 0, 1000)}),
       232},
      {"after a cache", Causal(37, 130, 100), 167},
      {"one query after a cache", Causal(1, 200, 150), 201},
  };
  return cases;
}

// --- The twin ------------------------------------------------------------------------------------

struct Exact {
  std::vector<double> o, dq, dk, dv;
};

using Doubles = std::vector<double>;
Exact Twin(const Doubles& q, const Doubles& k, const Doubles& v, const Doubles& dout,
           const AttentionSpans& spans, const Geometry& g, double scale) {
  Exact e = {Doubles(q.size()), Doubles(q.size()), Doubles(k.size()), Doubles(k.size())};
  for (size_t n = 0; n < spans.lo.size(); ++n) {
    for (int64_t h = 0; h < g.heads; ++h) {
      const int64_t row = (static_cast<int64_t>(n) * g.heads + h) * g.width;
      const int64_t group = h / (g.heads / g.groups);
      const auto at = [&](int64_t m) { return (m * g.groups + group) * g.width; };
      Doubles p, dp;
      double top = -1e300, sum = 0, mean = 0;
      for (int64_t m = spans.lo[n]; m < spans.hi[n]; ++m) {
        double s = 0, d = 0;
        for (int64_t i = 0; i < g.width; ++i) {
          s += q[row + i] * k[at(m) + i];
          d += dout[row + i] * v[at(m) + i];
        }
        p.push_back(s * scale);
        dp.push_back(d);
        top = std::max(top, s * scale);
      }
      for (double& x : p) sum += x = std::exp(x - top);
      for (size_t i = 0; i < p.size(); ++i) mean += (p[i] /= sum) * dp[i];
      for (size_t j = 0; j < p.size(); ++j) {
        const int64_t m = at(spans.lo[n] + static_cast<int64_t>(j));
        const double ds = p[j] * (dp[j] - mean) * scale;
        for (int64_t i = 0; i < g.width; ++i) {
          e.o[row + i] += p[j] * v[m + i];
          e.dq[row + i] += ds * k[m + i];
          e.dk[m + i] += ds * q[row + i];
          e.dv[m + i] += p[j] * dout[row + i];
        }
      }
    }
  }
  return e;
}

std::vector<Tensor> Inputs(const AttentionSpans& spans, const Geometry& g, float spread = 1.0f) {
  const int64_t queries = static_cast<int64_t>(spans.lo.size());
  return {NormalTensor({queries, g.heads, g.width}, 1, spread),
          NormalTensor({g.keys, g.groups, g.width}, 2, spread),
          NormalTensor({g.keys, g.groups, g.width}, 3)};
}

OpResult RunAttention(const std::vector<Tensor>& in, const AttentionSpans& spans, float scale,
                      bool round) {
  const auto shared = std::make_shared<const AttentionSpans>(spans);
  return RunOp(
      [&](Tape&, const std::vector<Var>& v) {
        return Attention(v[0], v[1], v[2], shared, scale, round);
      },
      in);
}

Doubles ToDoubles(const Tensor& t, bool round) {
  Doubles d(t.data(), t.data() + t.size());
  if (round) {
    for (double& x : d) x = RoundToBf16(static_cast<float>(x));
  }
  return d;
}

Exact TwinOf(const std::vector<Tensor>& in, const AttentionSpans& spans, const Geometry& g,
             float scale, bool round) {
  const Tensor dout = NormalTensor(in[0].shape(), 77);
  return Twin(ToDoubles(in[0], round), ToDoubles(in[1], round), ToDoubles(in[2], round),
              ToDoubles(dout, round), spans, g, scale);
}

class AttentionOnIsa : public EveryIsa {};
LAPIDARY_ON_EVERY_ISA(AttentionOnIsa);

TEST_P(AttentionOnIsa, MatchesItsTwinForEverySpan) {
  for (const SpanCase& c : SpanCases()) {
    SCOPED_TRACE(c.name);
    const Geometry g = {c.keys, 4, 2, 40};
    const std::vector<Tensor> in = Inputs(c.spans, g);
    const OpResult got = RunAttention(in, c.spans, 0.3f, false);
    const Exact want = TwinOf(in, c.spans, g, 0.3f, false);
    EXPECT_TRUE(CloseToMax(got.y, want.o, 1e-6));
    EXPECT_TRUE(CloseToMax(got.grad[0], want.dq, 2e-6));
    EXPECT_TRUE(CloseToMax(got.grad[1], want.dk, 2e-6));
    EXPECT_TRUE(CloseToMax(got.grad[2], want.dv, 2e-6));
  }
}

TEST_P(AttentionOnIsa, MatchesItsTwinForEveryWidthAndGrouping) {
  const AttentionSpans spans = Causal(90, 0, 75);
  for (const Geometry& g : std::vector<Geometry>{{90, 1, 1, 1},
                                                 {90, 2, 1, 7},
                                                 {90, 2, 2, 16},
                                                 {90, 5, 1, 24},
                                                 {90, 3, 3, 37},
                                                 {90, 4, 2, 64},
                                                 {90, 2, 1, 72},
                                                 {90, 16, 1, 80},
                                                 {90, 70, 1, 16},
                                                 {90, 2, 1, 256},
                                                 {90, 2, 1, 512}}) {
    SCOPED_TRACE(StrCat(g.heads, "/", g.groups, " x ", g.width));
    const std::vector<Tensor> in = Inputs(spans, g);
    const float scale = 1.0f / std::sqrt(static_cast<float>(g.width));
    const OpResult got = RunAttention(in, spans, scale, false);
    const Exact want = TwinOf(in, spans, g, scale, false);
    EXPECT_TRUE(CloseToMax(got.y, want.o, 1e-6));
    EXPECT_TRUE(CloseToMax(got.grad[0], want.dq, 2e-6));
    // A key of 70 heads a group sums 6,300 terms.
    EXPECT_TRUE(CloseToMax(got.grad[1], want.dk, 5e-6));
    EXPECT_TRUE(CloseToMax(got.grad[2], want.dv, 5e-6));
  }
}

TEST_P(AttentionOnIsa, RoundsOperandsInBf16) {
  const AttentionSpans spans = Packed({Causal(90, 0, 75), Causal(30, 0, 75)});
  const Geometry g = {120, 4, 2, 40};
  const std::vector<Tensor> in = Inputs(spans, g);
  const OpResult got = RunAttention(in, spans, 0.2f, true);
  const Exact rounded = TwinOf(in, spans, g, 0.2f, true);
  const Exact plain = TwinOf(in, spans, g, 0.2f, false);
  const Doubles* want[] = {&rounded.o, &rounded.dq, &rounded.dk, &rounded.dv};
  const Doubles* far[] = {&plain.o, &plain.dq, &plain.dk, &plain.dv};
  for (int i = 0; i < 4; ++i) {
    const std::vector<float>& values = i ? got.grad[i - 1] : got.y;
    // Probabilities and score gradients are rounded, too: half a bf16 step each, 2^-9.
    EXPECT_TRUE(CloseInNorm(values, *want[i], 0x1p-8)) << i;
    EXPECT_FALSE(CloseInNorm(values, *want[i], 1e-6)) << i;
    EXPECT_FALSE(CloseInNorm(values, *far[i], 1e-4)) << i;
  }
}

TEST_P(AttentionOnIsa, LargeScoresAreStable) {
  const AttentionSpans spans = Causal(80, 0, 1000);
  const Geometry g = {80, 2, 1, 32};
  const std::vector<Tensor> in = Inputs(spans, g, 20.0f);  // scores of a few thousand
  const OpResult got = RunAttention(in, spans, 1.0f, false);
  const Exact want = TwinOf(in, spans, g, 1.0f, false);
  // A score of 4,000 is rounded by 2e-4, which its exponential shows.
  EXPECT_TRUE(CloseToMax(got.y, want.o, 2e-3));
  EXPECT_TRUE(CloseInNorm(got.grad[0], want.dq, 2e-3));
}

TEST_P(AttentionOnIsa, NanSurfacesInItsRowOnly) {
  const AttentionSpans spans = Causal(80, 0, 1000);
  const Geometry g = {80, 2, 1, 32};
  std::vector<Tensor> in = Inputs(spans, g);
  in[0].data()[(70 * 2 + 1) * 32 + 3] = std::nanf("");
  const OpResult got = RunAttention(in, spans, 0.2f, false);
  for (int64_t row = 0; row < 160; ++row) {
    EXPECT_EQ(std::isnan(got.y[row * 32 + 5]), row == 141) << row;
  }
}

// A NaN that a kernel meets outside a row's window shows, since it is multiplied by 0. So none is
// met: no block of keys and no block of rows beyond the window is visited, forward or backward,
// whichever way the gradient is shared out (by whole groups on one thread, by blocks on two).
TEST_P(AttentionOnIsa, BlocksOutsideTheWindowAreNotVisited) {
  const int64_t tokens = 8192, window = 1024, width = 16, bad = 4096, bad_end = bad + 64;
  const AttentionSpans spans = Causal(tokens, 0, window);
  const Geometry g = {tokens, 1, 1, width};
  // How many rows of a result are not as they must be: with a NaN in [begin, end), without one
  // beyond the blocks of 64 of these.
  const auto nans = [&](const std::vector<float>& x, int64_t begin, int64_t end) {
    int64_t wrong = 0;
    for (int64_t row = 0; row < tokens; ++row) {
      bool nan = false;
      for (int64_t i = 0; i < width; ++i) nan = nan || std::isnan(x[row * width + i]);
      const bool must = row >= begin && row < end;
      const bool may = row / 64 >= begin / 64 && row / 64 <= (end - 1) / 64;
      wrong += nan ? !may : must;
    }
    return wrong;
  };
  for (int threads : {1, 2}) {
    SetThreads(threads);
    for (const bool keys : {true, false}) {
      std::vector<Tensor> in = Inputs(spans, g);
      for (int64_t i = bad * width; i < bad_end * width; ++i) {
        in[keys ? 1 : 0].data()[i] = std::nanf("");
        if (keys) in[2].data()[i] = std::nanf("");
      }
      const OpResult got = RunAttention(in, spans, 0.2f, false);
      const int64_t seen_end = keys ? bad_end - 1 + window : bad_end;  // rows that see the NaNs
      EXPECT_EQ(nans(got.y, bad, seen_end), 0) << threads << " threads, keys " << keys;
      EXPECT_EQ(nans(got.grad[0], bad, seen_end), 0) << threads << " threads, keys " << keys;
      if (keys) continue;
      EXPECT_EQ(nans(got.grad[1], bad - window + 1, bad_end), 0) << threads << " threads";
    }
  }
}

// --- Bits ----------------------------------------------------------------------------------------

Tensor Rows(const Tensor& t, int64_t begin, int64_t end) {
  Shape shape = t.shape();
  const int64_t row = t.size() / shape.dims[0];
  shape.dims[0] = end - begin;
  return Tensor::FromFloats(shape, t.data() + begin * row);
}
std::vector<float> Slice(const std::vector<float>& x, int64_t begin, int64_t end, int64_t row) {
  return {x.begin() + begin * row, x.begin() + end * row};
}

TEST_P(AttentionOnIsa, SplitQueriesHaveTheSameBits) {
  const AttentionSpans spans =
      Packed({Causal(70, 0, 1000), WithBlock(Causal(150, 0, 66), 20, 120, false)});
  const Geometry g = {220, 4, 2, 40};
  const std::vector<Tensor> in = Inputs(spans, g);
  for (const bool round : {false, true}) {
    const OpResult whole = RunAttention(in, spans, 0.3f, round);
    for (const int64_t step : {1, 3, 64, 101}) {
      for (int64_t n = 0; n < 220; n += step) {
        const int64_t end = std::min<int64_t>(n + step, 220);
        AttentionSpans part;
        for (int64_t i = n; i < end; ++i) {
          part.lo.push_back(spans.lo[i]);
          part.hi.push_back(spans.hi[i]);
          part.begin.push_back(spans.begin[i]);
        }
        // A cache holds the keys so far: those that come later are not there yet.
        const int64_t keys = part.hi.back();
        const OpResult got = RunAttention(
            {Rows(in[0], n, end), Rows(in[1], 0, keys), Rows(in[2], 0, keys)}, part, 0.3f, round);
        ASSERT_TRUE(SameBits(got.y, Slice(whole.y, n, end, 160))) << "rows from " << n;
      }
    }
  }
}

// Gradients of runs of queries, one call after the other on the same dk and dv, are those of one
// call; the check sees runs in another order.
TEST_P(AttentionOnIsa, GradientsOfRunsHaveTheBitsOfOneCall) {
  const AttentionSpans spans =
      Packed({Causal(70, 0, 1000), WithBlock(Causal(150, 0, 66), 20, 120, false)});
  const Geometry g = {220, 4, 2, 40};
  const std::vector<Tensor> in = Inputs(spans, g);
  const Tensor dout = NormalTensor(in[0].shape(), 77);
  Tensor o(in[0].shape()), lse({220, 4}), delta({220, 4});
  AttentionForward(in[0], in[1], in[2], spans, 0.3f, false, &o, &lse);
  AttentionDelta(dout, o, &delta);
  const auto gradients = [&](int64_t step, bool backwards) {
    Tensor dq = Tensor::Zeros(in[0].shape()), dk = Tensor::Zeros(in[1].shape()), dv = dk.Clone();
    std::vector<int64_t> starts;
    for (int64_t n = 0; n < 220; n += step) starts.push_back(n);
    if (backwards) std::reverse(starts.begin(), starts.end());
    for (const int64_t n : starts) {
      const int64_t count = std::min<int64_t>(step, 220 - n);
      AttentionBackward(in[0].Rows(n, count), in[1], in[2], dout.Rows(n, count), lse.Rows(n, count),
                        delta.Rows(n, count), SpansOf(spans, n, count), 0.3f, false,
                        {dq.Rows(n, count).data(), dk.data(), dv.data()});
    }
    return std::vector<std::vector<float>>{FloatsOf(dq), FloatsOf(dk), FloatsOf(dv)};
  };
  const auto whole = gradients(220, false);
  const Exact want = TwinOf(in, spans, g, 0.3f, false);
  EXPECT_TRUE(CloseToMax(whole[1], want.dk, 2e-6));
  for (const int64_t step : {1, 3, 64, 101}) {
    const auto parts = gradients(step, false);
    for (int i = 0; i < 3; ++i) EXPECT_TRUE(SameBits(parts[i], whole[i])) << step << ", " << i;
  }
  EXPECT_FALSE(SameBits(gradients(64, true)[1], whole[1]));
}

// More keys than are laid out at a time for a gradient (8,192 of width 512).
TEST_P(AttentionOnIsa, MatchesItsTwinForManyKeys) {
  const AttentionSpans spans = Causal(3, 8300, 100000);
  const Geometry g = {8303, 2, 1, 512};
  const std::vector<Tensor> in = Inputs(spans, g);
  const OpResult got = RunAttention(in, spans, 0.04f, false);
  const Exact want = TwinOf(in, spans, g, 0.04f, false);
  EXPECT_TRUE(CloseToMax(got.y, want.o, 5e-6));
  EXPECT_TRUE(CloseToMax(got.grad[0], want.dq, 5e-6));
  EXPECT_TRUE(CloseToMax(got.grad[1], want.dk, 5e-6));
  EXPECT_TRUE(CloseToMax(got.grad[2], want.dv, 5e-6));
}

TEST_P(AttentionOnIsa, PackedDocumentsHaveTheBitsOfDocumentsAlone) {
  const std::vector<AttentionSpans> documents = {Causal(65, 0, 1000), Causal(3, 0, 2),
                                                 WithBlock(Causal(100, 0, 40), 10, 90, false)};
  const AttentionSpans spans = Packed(documents);
  const Geometry g = {168, 4, 2, 40};
  const std::vector<Tensor> in = Inputs(spans, g);
  const auto shared = std::make_shared<const AttentionSpans>(spans);
  const Tensor dout = NormalTensor(in[0].shape(), 77);
  const OpResult whole = RunAttention(in, spans, 0.3f, false);
  int64_t start = 0;
  for (const AttentionSpans& d : documents) {
    const int64_t end = start + static_cast<int64_t>(d.lo.size());
    Tape tape;
    std::vector<Var> v;
    for (const Tensor& t : in) v.push_back(tape.Input(Rows(t, start, end)));
    const Var y =
        Attention(v[0], v[1], v[2], std::make_shared<const AttentionSpans>(d), 0.3f, false);
    EXPECT_TRUE(SameBits(FloatsOf(y.value()), Slice(whole.y, start, end, 160)));
    tape.Backward(y, Rows(dout, start, end));
    for (int i = 0; i < 3; ++i) {
      EXPECT_TRUE(
          SameBits(FloatsOf(tape.Grad(v[i])), Slice(whole.grad[i], start, end, i ? 80 : 160)))
          << "gradient " << i << " of the document at " << start;
    }
    start = end;
  }
}

TEST_P(AttentionOnIsa, ThreadsDoNotShow) {
  for (const SpanCase& c : SpanCases()) {
    const Geometry g = {c.keys, 6, 2, 24};
    const std::vector<Tensor> in = Inputs(c.spans, g);
    OpResult first;
    for (const int threads : {1, 2, 3}) {
      const WithThreads with(threads);
      const OpResult got = RunAttention(in, c.spans, 0.3f, false);
      if (threads == 1) {
        first = got;
        continue;
      }
      EXPECT_TRUE(SameBits(got.y, first.y)) << c.name;
      for (int i = 0; i < 3; ++i) EXPECT_TRUE(SameBits(got.grad[i], first.grad[i])) << c.name;
    }
  }
}

// Each gradient alone has the bits that it has among the others.
TEST_P(AttentionOnIsa, FrozenInputsDoNotChangeTheOthers) {
  const AttentionSpans spans = Causal(130, 0, 100);
  const Geometry g = {130, 4, 2, 24};
  const std::vector<Tensor> in = Inputs(spans, g);
  const OpResult all = RunAttention(in, spans, 0.3f, false);
  for (int alone = 0; alone < 3; ++alone) {
    Tape tape;
    std::vector<Var> v;
    for (int i = 0; i < 3; ++i) v.push_back(i == alone ? tape.Input(in[i]) : tape.Constant(in[i]));
    const Var y =
        Attention(v[0], v[1], v[2], std::make_shared<const AttentionSpans>(spans), 0.3f, false);
    tape.Backward(y, NormalTensor(y.shape(), 77));
    EXPECT_TRUE(SameBits(FloatsOf(tape.Grad(v[alone])), all.grad[alone])) << alone;
  }
}

// --- Errors --------------------------------------------------------------------------------------

std::string SpanError(AttentionSpans spans) {
  Tape tape;
  const Var q = tape.Input(NormalTensor({3, 2, 8}, 1)), k = tape.Input(NormalTensor({3, 1, 8}, 2));
  try {
    Attention(q, k, k, std::make_shared<const AttentionSpans>(std::move(spans)), 1.0f, false);
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

TEST(AttentionErrors, SayWhatIsWrong) {
  EXPECT_EQ(SpanError(Causal(3, 0, 9)), "no error");
  EXPECT_EQ(SpanError(Causal(2, 0, 9)),
            "attention: spans must hold one lo, hi and begin per query; got 2, 2 and 2 for 3 "
            "queries");
  EXPECT_EQ(SpanError(Causal(3, 1, 9)),
            "attention: spans must satisfy 0 <= begin <= lo < hi <= 3; got begin 0, lo 0, hi 4 for "
            "query 2");
  EXPECT_EQ(SpanError({{0, 0, 0}, {2, 1, 3}, {0, 0, 0}}),
            "attention: spans must not decrease; got query 1 before query 0");
  EXPECT_EQ(SpanError({{0, 1, 1}, {2, 2, 3}, {0, 1, 1}}),
            "attention: documents must not share keys; got a document from 1 before the last one's "
            "end 2");
}

}  // namespace
}  // namespace lapidary
