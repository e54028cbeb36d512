// Linear against its formula in double precision (Eigen): weights frozen and trained, bias, LoRA,
// DoRA, dropout.
#include "model/linear.h"

#include <gtest/gtest.h>

#include <Eigen/Dense>
#include <cmath>
#include <vector>

#include "autograd/base/float16.h"
#include "autograd/base/random.h"

namespace lapidary {
namespace {

using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

constexpr int64_t kTokens = 7, kIn = 96, kOut = 40, kRank = 5;

Tensor Random(const Shape& shape, uint64_t op, float deviation = 1.0f) {
  Tensor t(shape);
  for (int64_t i = 0; i < t.size(); ++i)
    t.data()[i] = RoundToBf16(deviation * RandomNormal({11, 0, op}, static_cast<uint64_t>(i)));
  return t;
}

Matrix ToEigen(const Tensor& t) {
  const int64_t rows = t.shape().rank == 2 ? t.shape()[0] : 1;
  return Eigen::Map<const Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>>(
             t.data(), rows, t.size() / rows)
      .cast<double>();
}

struct Case {
  Tensor weight = Random({kOut, kIn}, 1, 0.1f);
  Tensor x = Random({kTokens, kIn}, 2);
  Linear linear;

  Case(bool lora, bool dora, bool bias) {
    linear.path = "model.language_model.layers.0.mlp.up_proj";
    linear.w.name = linear.path + ".weight";
    linear.w.view = F32View(weight.data(), kOut, kIn);
    if (bias)
      linear.bias = std::make_unique<Param>(Param{"bias", Random(Shape{kOut}, 3), Tensor(), true});
    if (!lora) return;
    linear.lora = std::make_unique<Lora>();
    linear.lora->a = {"a", Random({kRank, kIn}, 4, 0.1f), Tensor(), true};
    linear.lora->b = {"b", Random({kOut, kRank}, 5, 0.3f), Tensor(), true};
    linear.lora->scale = 1.75f;
    if (dora)
      linear.lora->magnitude =
          std::make_unique<Param>(Param{"m", Random(Shape{kOut}, 6), Tensor(), true});
  }

  Matrix Adapted() const {
    return ToEigen(weight) + double{linear.lora->scale} * ToEigen(linear.lora->b.value) *
                                 ToEigen(linear.lora->a.value);
  }
};

std::vector<int64_t> Positions() {
  std::vector<int64_t> positions;
  for (int64_t i = 0; i < kTokens; ++i) positions.push_back(100 + 3 * i);
  return positions;
}

Tensor Output(Case& c, const LinearContext& context) {
  Tape tape;
  return Forward(c.linear, tape.Constant(c.x), context).value();
}

void ExpectNear(const Tensor& got, const Matrix& want, double tolerance) {
  const Matrix difference = ToEigen(got) - want;
  EXPECT_TRUE(difference.norm() <= tolerance * want.norm()) << difference.norm() / want.norm();
}

TEST(Linear, FrozenWeightAndBias) {
  Case c(false, false, true);
  const Matrix want = (ToEigen(c.x) * ToEigen(c.weight).transpose()).rowwise() +
                      Eigen::RowVectorXd(ToEigen(c.linear.bias->value).row(0));
  ExpectNear(Output(c, {}), want, 1e-6);
  c.linear.w.MakeTrainable();
  ExpectNear(Output(c, {}), want, 1e-6);
}

TEST(Linear, Bf16ComputeRoundsOperandsOnly) {
  Case c(false, false, false);  // operands are exact in bf16 already
  LinearContext context;
  context.compute = Compute::kBfloat16;
  ExpectNear(Output(c, context), ToEigen(c.x) * ToEigen(c.weight).transpose(), 1e-6);
}

TEST(Linear, LoraAddsScaledLowRankProduct) {
  Case c(true, false, false);
  ExpectNear(Output(c, {}), ToEigen(c.x) * c.Adapted().transpose(), 1e-6);
}

TEST(Linear, AdaptedRowNorms) {
  Case c(true, false, false);
  ExpectNear(AdaptedRowNorms(c.linear), c.Adapted().rowwise().norm().transpose(), 1e-6);
}

TEST(Linear, DoraScalesRowsToMagnitudesAndLeavesBias) {
  Case c(true, true, true);
  const Matrix v = c.Adapted();
  Matrix scaled = v;
  for (int64_t o = 0; o < kOut; ++o)
    scaled.row(o) *= c.linear.lora->magnitude->value.data()[o] / v.row(o).norm();
  const Matrix want = (ToEigen(c.x) * scaled.transpose()).rowwise() +
                      Eigen::RowVectorXd(ToEigen(c.linear.bias->value).row(0));
  ExpectNear(Output(c, {}), want, 1e-6);
}

// base(x) + (m/norm - 1) W d(x) + (m/norm) s B A d(x), d the dropout that the op itself applies.
TEST(Linear, DropoutActsOnTheAdapterOnly) {
  for (const bool dora : {false, true}) {
    Case c(true, dora, false);
    c.linear.lora->dropout = 0.4f;
    const std::vector<int64_t> positions = Positions();
    LinearContext context;
    context.step_positions = &positions;
    context.random = {5, 9, 0};
    ExpectNear(
        Output(c, context),
        dora ? Matrix(ToEigen(Output(c, {}))) : Matrix(ToEigen(c.x) * c.Adapted().transpose()),
        1e-6);  // not training
    context.training = true;
    RandomKey key = context.random;
    key.op = HashName(c.linear.path);
    Tape tape;
    const Matrix dropped = ToEigen(Dropout(tape.Constant(c.x), 0.4f, key, positions).value());
    EXPECT_GT((dropped - ToEigen(c.x)).norm(), 0.1);
    const Matrix w = ToEigen(c.weight), low = dropped * (c.Adapted() - w).transpose();
    Matrix want = ToEigen(c.x) * w.transpose() + low;
    if (dora) {
      const Eigen::VectorXd norms = c.Adapted().rowwise().norm();
      Eigen::RowVectorXd gain(kOut);
      for (int64_t o = 0; o < kOut; ++o)
        gain[o] = c.linear.lora->magnitude->value.data()[o] / norms[o];
      const Matrix base = ToEigen(c.x) * w.transpose(), base_dropped = dropped * w.transpose();
      want = base + ((base_dropped + low).array().rowwise() * gain.array()).matrix() - base_dropped;
    }
    ExpectNear(Output(c, context), want, 1e-6);
  }
}

// Dropout is a function of the token's place in the step: the same tokens in another batch are
// dropped alike.
TEST(Linear, DropoutFollowsTheToken) {
  Case c(true, false, false);
  c.linear.lora->dropout = 0.5f;
  std::vector<int64_t> positions = Positions();
  LinearContext context;
  context.training = true;
  context.step_positions = &positions;
  const Tensor all = Output(c, context);
  Case last(true, false, false);
  last.linear.lora->dropout = 0.5f;
  last.x = Tensor::FromFloats({1, kIn}, c.x.data() + (kTokens - 1) * kIn);
  std::vector<int64_t> one = {positions.back()};
  context.step_positions = &one;
  const Tensor alone = Output(last, context);
  for (int64_t o = 0; o < kOut; ++o)
    EXPECT_EQ(alone.data()[o], all.data()[(kTokens - 1) * kOut + o]);
}

}  // namespace
}  // namespace lapidary
