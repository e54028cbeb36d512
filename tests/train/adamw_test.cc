#include "train/optim/adamw.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <functional>

#include "autograd/base/float16.h"
#include "autograd/base/parallel.h"
#include "autograd/base/random.h"
#include "tests/message_of.h"

namespace lapidary {
namespace {

Param MakeParam(const std::string& name, std::vector<float> values) {
  Param p;
  p.name = name;
  p.value = Tensor::FromFloats({static_cast<int64_t>(values.size())}, values.data());
  p.trainable = true;
  return p;
}

void SetGrad(Param& p, std::vector<float> values) {
  p.grad = Tensor::FromFloats({static_cast<int64_t>(values.size())}, values.data());
}

TEST(AdamW, FirstStepMovesByTheLearningRateTowardsMinusTheSign) {
  Param p = MakeParam("p", {1, -2, 3});
  AdamW optimizer({&p}, {});
  SetGrad(p, {5, -0.25f, 1e-3f});
  optimizer.Step(0.01);
  EXPECT_NEAR(p.value.data()[0], 1 - 0.01, 1e-7);
  EXPECT_NEAR(p.value.data()[1], -2 + 0.01, 3e-7);
  EXPECT_NEAR(p.value.data()[2], 3 - 0.01, 3e-7);
}

// The recurrences in double, written from the paper.
TEST(AdamW, TenStepsFollowTheRecurrences) {
  const double lr = 0.003, b1 = 0.8, b2 = 0.95, eps = 1e-6, decay = 0.1;
  Param p = MakeParam("p", {0.5f, -1.5f});
  AdamW optimizer({&p}, {.beta1 = b1, .beta2 = b2, .epsilon = eps, .weight_decay = decay});
  double x[2] = {0.5, -1.5}, m[2] = {0, 0}, v[2] = {0, 0};
  for (int t = 1; t <= 10; ++t) {
    const float g[2] = {std::sin(1.0f * t), 0.1f * t - 0.4f};
    SetGrad(p, {g[0], g[1]});
    optimizer.Step(lr);
    for (int i = 0; i < 2; ++i) {
      m[i] = b1 * m[i] + (1 - b1) * g[i];
      v[i] = b2 * v[i] + (1 - b2) * g[i] * g[i];
      const double m_hat = m[i] / (1 - std::pow(b1, t)), v_hat = v[i] / (1 - std::pow(b2, t));
      x[i] = x[i] - lr * decay * x[i] - lr * m_hat / (std::sqrt(v_hat) + eps);
    }
  }
  for (int i = 0; i < 2; ++i) {
    EXPECT_NEAR(p.value.data()[i], x[i], 5e-7);
    EXPECT_NEAR(optimizer.slots()[0].State("exp_avg").values.data()[i], m[i], 1e-6);
    EXPECT_NEAR(optimizer.slots()[0].State("exp_avg_sq").values.data()[i], v[i], 1e-6);
  }
  EXPECT_EQ(optimizer.slots()[0].step, 10);
}

TEST(AdamW, WithoutGradientAParameterRestsWholly) {
  Param a = MakeParam("a", {1}), b = MakeParam("b", {1});
  AdamW optimizer({&a, &b}, {.weight_decay = 0.5});
  SetGrad(a, {1});
  optimizer.Step(0.1);
  EXPECT_EQ(b.value.data()[0], 1.0f);
  EXPECT_EQ(optimizer.slots()[1].step, 0);
  EXPECT_NEAR(a.value.data()[0], 1 * (1 - 0.05) - 0.1, 1e-6);
  a.grad = Tensor();
  SetGrad(b, {1});
  optimizer.Step(0.1);
  // b's first update, with the bias corrections of a first update.
  EXPECT_NEAR(b.value.data()[0], 0.95 - 0.1, 1e-6);
  EXPECT_EQ(optimizer.slots()[0].step, 1);
}

TEST(AdamW, DecayIsChosenByName) {
  Param a = MakeParam("model.language_model.layers.0.mlp.up_proj.weight", {1});
  Param b = MakeParam("model.language_model.layers.0.input_layernorm.weight", {1});
  AdamW optimizer({&a, &b}, {.weight_decay = 0.5}, DecaysByName);
  SetGrad(a, {0});
  SetGrad(b, {0});
  optimizer.Step(0.1);
  EXPECT_EQ(a.value.data()[0], 0.95f);
  EXPECT_EQ(b.value.data()[0], 1.0f);
  EXPECT_FALSE(DecaysByName("model.language_model.norm.weight"));
  EXPECT_FALSE(DecaysByName("model.vision_embedder.patch_dense.bias"));
  EXPECT_FALSE(DecaysByName("model.vision_embedder.patch_ln2.weight"));
  EXPECT_FALSE(DecaysByName("model.language_model.layers.3.self_attn.q_norm.weight"));
  EXPECT_TRUE(DecaysByName("model.vision_embedder.pos_embedding"));
  EXPECT_TRUE(DecaysByName("model.language_model.embed_tokens.weight"));
}

TEST(AdamW, SameBitsWithAnyNumberOfThreads) {
  const int64_t n = 50001;
  std::vector<float> value(n), grad(n);
  for (int64_t i = 0; i < n; ++i) {
    value[i] = RandomNormal({1, 2, 3}, i);
    grad[i] = RandomNormal({1, 2, 4}, i);
  }
  const int before = Threads();
  for (const OptimizerStates states :
       {OptimizerStates::kFloat32, OptimizerStates::kBf16, OptimizerStates::k8Bit}) {
    std::vector<float> result[2];
    for (const int threads : {1, 2}) {
      SetThreads(threads);
      Param p = MakeParam("p", value);
      AdamW optimizer({&p}, {.weight_decay = 0.01, .states = states});
      for (int step = 0; step < 3; ++step) {
        SetGrad(p, grad);
        optimizer.Step(1e-3);
      }
      result[threads - 1].assign(p.value.data(), p.value.data() + n);
    }
    EXPECT_EQ(result[0], result[1]);
  }
  SetThreads(before);
}

// The code's values by its definition, and the nearest of them by trying all.
TEST(DynamicCode, IsTheOneOfThePaper) {
  for (const bool with_sign : {true, false}) {
    const DynamicCode& code = with_sign ? DynamicCode::Signed() : DynamicCode::Unsigned();
    for (int i = 1; i < 256; ++i) EXPECT_LT(code.Value(i - 1), code.Value(i));
    EXPECT_EQ(code.Value(255), 1.0f);
    EXPECT_EQ(code.Value(with_sign ? 127 : 0), 0.0f);
    EXPECT_FLOAT_EQ(code.Value(254), with_sign ? 1 - 0.9f / 128 : 1 - 0.9f / 256);
    EXPECT_FLOAT_EQ(code.Value(with_sign ? 128 : 1), with_sign ? 5.5e-7f : 3.25e-7f);
    EXPECT_FLOAT_EQ(code.Value(0), with_sign ? -(1 - 0.9f / 128) : 0.0f);
    for (int i = 0; i < 20000; ++i) {
      const double spread = std::pow(10.0, -8.0 * RandomUniform({1, 0, 0}, i));
      float x = static_cast<float>(spread * (2 * RandomUniform({2, 0, 0}, i) - 1));
      if (i < 4) x = std::array{0.0f, 1.0f, -1.0f, 1e-30f}[i];
      if (!with_sign) x = std::fabs(x);
      int best = 0;
      for (int c = 1; c < 256; ++c) {
        if (std::fabs(double{code.Value(c)} - x) < std::fabs(double{code.Value(best)} - x))
          best = c;
      }
      const double got = std::fabs(double{code.Value(code.Nearest(x))} - x);
      EXPECT_LE(got, std::fabs(double{code.Value(best)} - x) * (1 + 1e-6)) << x;
    }
  }
}

TEST(MomentState, ASecondMomentAboveZeroStaysAboveZero) {
  MomentState state(Shape{512}, DType::kI8, /*has_sign=*/false);
  std::vector<float> values(512, 1e-12f), back(512);
  values[3] = 1.0f;
  values[4] = 0.0f;
  state.Store(0, 512, values.data(), {});
  state.Load(0, 512, back.data());
  EXPECT_EQ(back[3], 1.0f);
  EXPECT_EQ(back[4], 0.0f);
  EXPECT_GT(back[5], 0.0f);
  EXPECT_FLOAT_EQ(back[400], 1e-12f);  // a block of its own
}

TEST(MomentState, StochasticRoundingKeepsTheMean) {
  const float x = 1.0f + 1.0f / 1024;  // an eighth of the way between bf16 neighbours
  double sum = 0;
  for (uint32_t random = 0; random < 65536; ++random) {
    sum += F32FromBf16(RoundStochastically(x, random));
  }
  EXPECT_NEAR(sum / 65536, x, 1e-9);
  EXPECT_EQ(F32FromBf16(RoundStochastically(1.5f, 0xffff)), 1.5f);
  EXPECT_TRUE(std::isinf(F32FromBf16(RoundStochastically(INFINITY, 0xffff))));
}

// A noisy quadratic, 300 steps: where 8-bit and bf16 states lead, relative to how far float32 went.
TEST(AdamW, SmallStatesFollowFloat32) {
  constexpr int64_t kSize = 8192;
  const auto run = [&](OptimizerStates states) {
    std::vector<float> start(kSize);
    for (int64_t i = 0; i < kSize; ++i) start[i] = RandomNormal({5, 0, 0}, i);
    Param p = MakeParam("p", start);
    AdamW optimizer({&p}, {.states = states});
    std::vector<float> grad(kSize);
    for (int step = 0; step < 300; ++step) {
      for (int64_t i = 0; i < kSize; ++i) {
        const float curvature = std::pow(10.0f, -3.0f * static_cast<float>(i) / kSize);
        grad[i] = curvature *
                  (p.value.data()[i] + 0.5f * RandomNormal({6, static_cast<uint64_t>(step), 0}, i));
      }
      SetGrad(p, grad);
      optimizer.Step(3e-3);
    }
    const int64_t bytes = optimizer.slots()[0].State("exp_avg").values.byte_size();
    EXPECT_EQ(bytes, kSize * (states == OptimizerStates::kFloat32 ? 4
                              : states == OptimizerStates::kBf16  ? 2
                                                                  : 1));
    return std::vector<float>(p.value.data(), p.value.data() + kSize);
  };
  const std::vector<float> exact = run(OptimizerStates::kFloat32);
  const auto distance = [&](const std::vector<float>& got) {
    double off = 0, moved = 0;
    for (int64_t i = 0; i < kSize; ++i) {
      off += std::pow(double{got[i]} - exact[i], 2);
      moved += std::pow(double{exact[i]} - RandomNormal({5, 0, 0}, i), 2);
    }
    return std::sqrt(off / moved);
  };
  EXPECT_LT(distance(run(OptimizerStates::kBf16)), 0.02);
  EXPECT_LT(distance(run(OptimizerStates::k8Bit)), 0.05);
  EXPECT_GT(distance(run(OptimizerStates::k8Bit)), 0.0);
}

TEST(AdamW, BadOptionsAreNamed) {
  Param p = MakeParam("p", {1});
  EXPECT_EQ(MessageOf([&] { AdamW({&p}, {.beta1 = 1.0}); }),
            "adam_beta1: must be in [0, 1); got 1; try 0.9");
  EXPECT_EQ(MessageOf([&] { AdamW({&p}, {.beta2 = -1}); }),
            "adam_beta2: must be in [0, 1); got -1; try 0.999");
  EXPECT_EQ(MessageOf([&] { AdamW({&p}, {.epsilon = 0}); }),
            "adam_epsilon: must be > 0; got 0; try 1e-8");
  EXPECT_EQ(MessageOf([&] { AdamW({&p}, {.weight_decay = -1}); }),
            "weight_decay: must be >= 0; got -1; try 0.01");
  EXPECT_EQ(MessageOf([&] {
              AdamW({&p, &p}, {});
            }),
            "optimizer: parameters must have names of their own; got 'p' twice");
  AdamW optimizer({&p}, {});
  SetGrad(p, {1, 2});
  EXPECT_EQ(MessageOf([&] { optimizer.Step(0.1); }),
            "optimizer: the gradient of 'p' must be [1]; got [2]");
  EXPECT_EQ(MessageOf([&] { optimizer.Step(NAN); }),
            "optimizer: the learning rate must be >= 0; got nan");
}

}  // namespace
}  // namespace lapidary
