// The optimizers besides AdamW (adamw_test.cc): against PyTorch and Transformers
// (golden/training/optimizers.json), their papers, and what is promised of all of them.
#include "train/optim/optimizers.h"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "autograd/base/file.h"
#include "autograd/base/parallel.h"
#include "autograd/base/random.h"
#include "tests/golden.h"
#include "tests/message_of.h"
#include "train/ema.h"
#include "train/optim/muon.h"
#include "train/trainable.h"

namespace lapidary {
namespace {

using Json = nlohmann::json;

Shape ShapeOf(const Json& axes) {
  Shape shape;
  for (const auto& axis : axes) shape.dims[shape.rank++] = axis.get<int64_t>();
  return shape;
}

OptimizerOptions OptionsOf(const Json& c) {
  OptimizerOptions options;
  options.name = c.at("name");
  options.weight_decay = c.at("weight_decay");
  for (const auto& [key, value] : c.at("args").items()) {
    if (key == "momentum") options.args.momentum = value;
    if (key == "nesterov") options.args.nesterov = value;
    if (key == "clip_threshold") options.args.clip_threshold = value;
    if (key == "beta1") options.args.beta1 = value;
    if (key == "scale_parameter") options.args.scale_parameter = value;
    if (key == "adjust_lr_fn") options.args.adjust_lr_fn = value;
    if (key == "ns_steps") options.args.ns_steps = value;
  }
  return options;
}

// Runs a stored trajectory; the largest deviation of its end, relative to how far it went.
double Deviation(const Json& c, const OptimizerOptions& options) {
  std::vector<Param> params(c.at("shapes").size());
  std::vector<Param*> pointers;
  for (size_t i = 0; i < params.size(); ++i) {
    const auto start = c.at("start")[i].get<std::vector<float>>();
    params[i].name = StrCat("p", i);
    params[i].value = Tensor::FromFloats(ShapeOf(c.at("shapes")[i]), start.data());
    pointers.push_back(&params[i]);
  }
  const auto optimizer = MakeOptimizer(pointers, options);
  for (const auto& grads : c.at("grads")) {
    for (size_t i = 0; i < params.size(); ++i) {
      const auto grad = grads[i].get<std::vector<float>>();
      params[i].grad = Tensor::FromFloats(params[i].value.shape(), grad.data());
    }
    optimizer->Step(c.at("lr"));
  }
  double worst = 0;
  for (size_t i = 0; i < params.size(); ++i) {
    const auto start = c.at("start")[i].get<std::vector<double>>();
    const auto end = c.at("end")[i].get<std::vector<double>>();
    double off = 0, moved = 0;
    for (size_t k = 0; k < end.size(); ++k) {
      off += std::pow(params[i].value.data()[k] - end[k], 2);
      moved += std::pow(start[k] - end[k], 2);
    }
    worst = std::max(worst, std::sqrt(off / moved));
  }
  return worst;
}

std::vector<Json> Cases() {
  std::vector<Json> cases;
  for (const std::string& path : golden::Find("training/optimizers.json")) {
    for (const Json& c : Json::parse(ReadFile(path))) cases.push_back(c);
  }
  return cases;
}

TEST(Optimizers, FollowPyTorchAndTransformers) {
  const std::vector<Json> cases = Cases();
  ASSERT_GE(cases.size(), 8u);
  for (const Json& c : cases) {
    const double error = Deviation(c, OptionsOf(c));
    std::printf("%s %s: %.3g\n", c.at("name").get<std::string>().c_str(),
                c.at("args").dump().c_str(), error);

    // Where little moves, and in the powers of five iterations, roundings of float32 show.
    EXPECT_LE(error, c.at("name") == "sgd" ? 3e-6 : 3e-5) << c.at("args");
  }
}

// A checker that would pass anything is none: other momentum, decay or rule must show.
TEST(Optimizers, AMistakeShows) {
  for (const Json& c : Cases()) {
    OptimizerOptions wrong = OptionsOf(c);
    wrong.weight_decay += 0.05;
    EXPECT_GT(Deviation(c, wrong), 1e-3) << c.at("name");
    wrong = OptionsOf(c);
    if (c.at("name") == "sgd") wrong.args.momentum = wrong.args.momentum.value_or(0.9) * 0.9 + 0.05;
    if (c.at("name") == "adafactor") wrong.args.decay_rate = -0.7;
    if (c.at("name") == "muon") wrong.args.ns_steps = wrong.args.ns_steps.value_or(5) + 1;
    EXPECT_GT(Deviation(c, wrong), 1e-3) << c.at("name");
  }
}

// The recurrences of Lion's paper in double.
TEST(Optimizers, LionFollowsItsPaper) {
  constexpr int64_t kSize = 64;
  const double lr = 0.01, b1 = 0.9, b2 = 0.99, decay = 0.1;
  std::vector<float> start(kSize);
  std::vector<double> x(kSize), m(kSize, 0.0);
  for (int64_t i = 0; i < kSize; ++i) x[i] = start[i] = RandomNormal({1, 0, 0}, i);
  Param p;
  p.name = "p";
  p.value = Tensor::FromFloats({kSize}, start.data());
  const auto optimizer =
      MakeOptimizer({&p}, {.name = "lion_32bit", .beta1 = b1, .beta2 = b2, .weight_decay = decay});
  for (uint64_t t = 1; t <= 8; ++t) {
    std::vector<float> g(kSize);
    for (int64_t i = 0; i < kSize; ++i) {
      g[i] = RandomNormal({1, t, 0}, i);
      const double blend = b1 * m[i] + (1 - b1) * g[i];
      x[i] = x[i] * (1 - lr * decay) - lr * (blend > 0 ? 1 : blend < 0 ? -1 : 0);
      m[i] = b2 * m[i] + (1 - b2) * g[i];
    }
    p.grad = Tensor::FromFloats({kSize}, g.data());
    optimizer->Step(lr);
  }
  for (int64_t i = 0; i < kSize; ++i) {
    EXPECT_NEAR(p.value.data()[i], x[i], 1e-6);
    EXPECT_NEAR(optimizer->slots()[0].State("exp_avg").values.data()[i], m[i], 1e-6);
  }
}

// After the iteration every singular value is near 1: X X^T is nearly the identity.
TEST(Optimizers, MuonsIterationOrthogonalizes) {
  for (const Compute compute : {Compute::kFloat32, Compute::kBfloat16}) {
    Tensor x({6, 40});
    for (int64_t i = 0; i < x.size(); ++i) x.data()[i] = RandomNormal({2, 0, 0}, i);
    Orthogonalize(&x, 8, 1e-7, compute);
    for (int64_t r = 0; r < 6; ++r) {
      for (int64_t s = 0; s < 6; ++s) {
        double dot = 0;
        for (int64_t c = 0; c < 40; ++c) dot += x.data()[r * 40 + c] * x.data()[s * 40 + c];
        // The polynomial swings between about 0.7 and 1.2.
        EXPECT_NEAR(dot, r == s ? 1.0 : 0.0, 0.55);
        if (r != s) {
          EXPECT_NEAR(dot, 0.0, 0.4);
        }
      }
    }
  }
}

struct Trained {
  std::vector<float> values;
  std::vector<std::string> states;
};

// A few steps on one large matrix, a vector and an embedding, with every third gradient absent.
Trained Trajectory(const std::string& name, int threads) {
  SetThreads(threads);
  Param params[3];
  const Shape shapes[3] = {{70, 130}, {5000}, {40, 120}};
  const char* names[3] = {"layers.0.up_proj.weight", "norm_like", "embed_tokens.weight"};
  std::vector<Param*> pointers;
  for (int i = 0; i < 3; ++i) {
    params[i].name = names[i];
    params[i].value = Tensor(shapes[i]);
    for (int64_t k = 0; k < shapes[i].size(); ++k) {
      params[i].value.data()[k] = RandomNormal({9, 0, static_cast<uint64_t>(i)}, k);
    }
    pointers.push_back(&params[i]);
  }
  const auto optimizer = MakeOptimizer(pointers, {.name = name, .weight_decay = 0.1});
  for (uint64_t step = 1; step <= 4; ++step) {
    for (int i = 0; i < 3; ++i) {
      params[i].grad = Tensor();
      if (step % 3 == 0 && i == 2) continue;
      params[i].grad = Tensor(shapes[i]);
      for (int64_t k = 0; k < shapes[i].size(); ++k) {
        params[i].grad.data()[k] = RandomNormal({9, step, static_cast<uint64_t>(i)}, k);
      }
    }
    optimizer->Step(1e-2);
  }
  EXPECT_EQ(optimizer->slots()[0].step, 4);
  EXPECT_EQ(optimizer->slots()[2].step, 3);  // rested once
  Trained result;
  for (const Param& p : params) {
    result.values.insert(result.values.end(), p.value.data(), p.value.data() + p.value.size());
  }
  for (const OptimizerState& state : optimizer->slots()[0].states) {
    result.states.push_back(state.name);
  }
  optimizer->Reset();
  EXPECT_EQ(optimizer->slots()[0].step, 0);
  for (const OptimizerState& state : optimizer->slots()[0].states) {
    std::vector<float> first(kStateBlock);
    if (state.moment.values.dtype() != DType::kF32) continue;
    EXPECT_EQ(state.moment.values.data()[0], 0.0f);
  }
  return result;
}

TEST(Optimizers, SameBitsWithAnyNumberOfThreadsAndAllDiffer) {
  const int before = Threads();
  std::map<std::vector<float>, std::string> seen;
  for (const std::string& name : OptimizerNames()) {
    const Trained one = Trajectory(name, 1), three = Trajectory(name, 3);
    EXPECT_EQ(one.values, three.values) << name;
    for (const float value : one.values) ASSERT_TRUE(std::isfinite(value)) << name;
    if (name == "adamw_bnb_8bit") continue;  // adamw_8bit by another name
    EXPECT_TRUE(seen.emplace(one.values, name).second) << name << " is " << seen[one.values];
  }
  SetThreads(before);
  EXPECT_EQ(Trajectory("muon", before).states, std::vector<std::string>{"momentum_buffer"});
  EXPECT_EQ(Trajectory("adafactor", before).states,
            (std::vector<std::string>{"exp_avg_sq_row", "exp_avg_sq_col"}));
}

TEST(Optimizers, WrongArgumentsAreNamed) {
  OptimizerOptions options = {.name = "lion_32bit"};
  options.args.momentum = 0.5;
  EXPECT_EQ(MessageOf([&] { MakeOptimizer({}, options); }),
            "optim_args.momentum: must not be given with optim \"lion_32bit\"; got a value; try "
            "leaving it out");
  options = {.name = "sgd"};
  options.args.momentum = 1.5;
  EXPECT_EQ(MessageOf([&] { MakeOptimizer({}, options); }),
            "optim_args.momentum: must be in [0, 1); got 1.5; try 0.9");
  EXPECT_NE(MessageOf([&] { MakeOptimizer({}, {.name = "adamw"}); }).find("optim: must be one of"),
            std::string::npos);
}

TEST(Optimizers, GroupsAndLoraPlusSetRates) {
  Param a, b, norm;
  a.name = "base_model.model.layers.0.q_proj.lora_A.weight";
  b.name = "base_model.model.layers.0.q_proj.lora_B.weight";
  norm.name = "base_model.model.layers.1.norm.weight";
  for (Param* p : {&a, &b}) p->value = Tensor::Zeros({2, 2});
  norm.value = Tensor::Zeros({2});
  TrainConfig config;
  config.lora.emplace();
  config.learning_rate = 1e-3;
  config.weight_decay = 0.1;
  config.loraplus_lr_ratio = 16;
  config.param_groups = {{R"(layers\.1\.)", 5e-4, std::nullopt}, {"lora_A", std::nullopt, 0.7}};
  auto optimizer = MakeRunOptimizer({&a, &b, &norm}, config);
  const std::vector<OptimizerSlot>& slots = optimizer->slots();
  EXPECT_EQ(slots[0].learning_rate, 1);
  EXPECT_EQ(slots[0].weight_decay, 0.7);
  EXPECT_EQ(slots[1].learning_rate, 16);
  EXPECT_EQ(slots[1].weight_decay, 0.1);
  EXPECT_EQ(slots[2].learning_rate, 0.5);  // the group is more particular than LoRA+
  EXPECT_EQ(slots[2].weight_decay, 0);
  // A step goes so much farther.
  for (Param* p : {&a, &b}) {
    p->grad = Tensor({2, 2});
    p->grad.Fill(1.0f);
  }
  optimizer->Step(1e-3);
  EXPECT_NEAR(b.value.data()[0] / a.value.data()[0], 16, 1e-4);
  config.param_groups = {{"absent", 1e-3, std::nullopt}};
  EXPECT_NE(MessageOf([&] { MakeRunOptimizer({&a}, config); }).find("param_groups: a pattern"),
            std::string::npos);
}

TEST(Ema, IsTheAverageAndSwaps) {
  Param p;
  p.name = "p";
  const float start[] = {1, 2};
  p.value = Tensor::FromFloats({2}, start);
  Ema ema({&p}, 0.75);
  double want = 1;
  for (int step = 1; step <= 3; ++step) {
    p.value.data()[0] = static_cast<float>(1 + step);
    ema.Update();
    want = 0.75 * want + 0.25 * (1 + step);
  }
  {
    const EmaInPlace averaged(&ema);
    EXPECT_NEAR(p.value.data()[0], want, 1e-6);
    EXPECT_EQ(p.value.data()[1], 2.0f);
    EXPECT_TRUE(ema.swapped());
  }
  EXPECT_EQ(p.value.data()[0], 4.0f);
}

}  // namespace
}  // namespace lapidary
