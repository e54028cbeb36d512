// The loss beyond its gradient: chunks do not show, statistics are those of every token, logits
// agree with it.
#include "autograd/ops/loss.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/autograd/references.h"
#include "tests/autograd/run_op.h"
#include "tests/check.h"
#include "tests/message_of.h"

namespace lapidary {
namespace {

using check::CloseToMax;
using check::SameBits;

constexpr int64_t kTokens = 300, kVocab = 1100, kCols = 24;

struct Problem {
  Tensor x = NormalTensor({kTokens, kCols}, 1), head = NormalTensor({kVocab, kCols}, 2);
  std::vector<int32_t> targets;
  std::vector<float> weights;
  Problem() {
    for (int32_t n = 0; n < kTokens; ++n) {
      targets.push_back(n % 7 == 3 ? -100 : (n * 37) % kVocab);
      weights.push_back(n % 7 == 3 ? 0.0f : 1.0f / 128);
    }
  }
  WeightView view() const { return F32View(head.data(), kVocab, kCols); }
};

class Loss : public EveryIsa {};
LAPIDARY_ON_EVERY_ISA(Loss);

TEST_P(Loss, ChunksDoNotShow) {
  const Problem p;
  for (const Compute compute : {Compute::kFloat32, Compute::kBfloat16}) {
    OpResult first[2];
    for (const int64_t chunk : {64, 128, 192, 256, 320}) {
      const CrossEntropyOptions options = {.softcap = 30, .chunk = chunk, .compute = compute};
      const OpResult frozen = RunOp(
          [&](Tape&, const std::vector<Var>& v) {
            return CrossEntropyFrozen(v[0], p.view(), p.targets, p.weights, options, nullptr);
          },
          {p.x});
      const OpResult trained = RunOp(
          [&](Tape&, const std::vector<Var>& v) {
            return CrossEntropy(v[0], v[1], p.targets, p.weights, options, nullptr);
          },
          {p.x, p.head});
      EXPECT_TRUE(SameBits(trained.y, frozen.y));
      EXPECT_TRUE(SameBits(trained.grad[0], frozen.grad[0]));
      if (chunk == 64) {
        first[0] = frozen;
        first[1] = trained;
        continue;
      }
      SCOPED_TRACE(StrCat("chunk ", chunk, " ", ComputeName(compute)));
      EXPECT_TRUE(SameBits(frozen.y, first[0].y));
      EXPECT_TRUE(SameBits(frozen.grad[0], first[0].grad[0]));
      EXPECT_TRUE(SameBits(trained.grad[1], first[1].grad[1]));
    }
  }
}

TEST_P(Loss, StatisticsAreThoseOfEveryToken) {
  const Problem p;
  Tape tape(Tape::Mode::kNoGrad);
  TokenStats stats;
  const Var loss = CrossEntropyFrozen(tape.Constant(p.x), p.view(), p.targets, p.weights,
                                      {.softcap = 5.0f}, &stats);
  const Tensor logits = Logits(p.x, p.view(), 5.0f, Compute::kFloat32);
  std::vector<double> want;
  double total = 0;
  for (int64_t n = 0; n < kTokens; ++n) {
    const float* z = logits.data() + n * kVocab;
    if (p.weights[n] == 0) {
      want.push_back(0);
      EXPECT_EQ(stats.correct[n], 0);
      EXPECT_EQ(stats.loss[n], 0.0f);
      continue;
    }
    double sum = 0;
    for (int64_t c = 0; c < kVocab; ++c) sum += std::exp(static_cast<double>(z[c]));
    want.push_back(std::log(sum) - z[p.targets[n]]);
    total += want.back() * p.weights[n];
    EXPECT_EQ(stats.correct[n], std::max_element(z, z + kVocab) - z == p.targets[n]) << n;
  }
  EXPECT_TRUE(CloseToMax(stats.loss, want, 1e-6));
  EXPECT_NEAR(loss.data()[0], total, 1e-6 * total);
}

TEST_P(Loss, LogitsAreTheReference) {
  const Problem p;
  const std::vector<double> x(p.x.data(), p.x.data() + p.x.size());
  const std::vector<double> h(p.head.data(), p.head.data() + p.head.size());
  std::vector<double> want = ref::MatMul(x, h, kTokens, kVocab, kCols);
  EXPECT_TRUE(CloseToMax(FloatsOf(Logits(p.x, p.view(), 0.0f, Compute::kFloat32)), want, 1e-6));
  for (double& z : want) z = 3 * std::tanh(z / 3);
  EXPECT_TRUE(CloseToMax(FloatsOf(Logits(p.x, p.view(), 3.0f, Compute::kFloat32)), want, 2e-6));
}

TEST_P(Loss, NothingWeightedIsZero) {
  const Problem p;
  const std::vector<float> none(kTokens, 0.0f);
  const OpResult r = RunOp(
      [&](Tape&, const std::vector<Var>& v) {
        return CrossEntropy(v[0], v[1], p.targets, none, {}, nullptr);
      },
      {p.x, p.head});
  EXPECT_EQ(r.y, std::vector<float>{0.0f});
  for (const std::vector<float>& grad : r.grad) {
    EXPECT_EQ(std::count(grad.begin(), grad.end(), 0.0f), static_cast<int64_t>(grad.size()));
  }
}

TEST(LossErrors, SayWhatIsWrong) {
  Problem p;
  Tape tape;
  const auto run = [&](CrossEntropyOptions options) {
    return MessageOf([&] {
      CrossEntropyFrozen(tape.Input(p.x), p.view(), p.targets, p.weights, options, nullptr);
    });
  };
  EXPECT_EQ(run({.chunk = 100}), "cross_entropy: chunk must be a positive multiple of 64; got 100");
  EXPECT_EQ(run({.softcap = -1}), "cross_entropy: softcap must be >= 0; got -1");
  p.targets[4] = kVocab;
  EXPECT_EQ(run({}), "cross_entropy: targets must be in [0, 1100); got 1100 at 4");
  p.targets.pop_back();
  EXPECT_EQ(run({}),
            "cross_entropy: targets and weights must be [N]; got 299 and 300, x [300, 24]");
}

}  // namespace
}  // namespace lapidary
