#include "train/schedule.h"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "autograd/base/error.h"
#include "autograd/base/file.h"
#include "tests/golden.h"

namespace lapidary {
namespace {

std::string MessageOf(const ScheduleOptions& options) {
  try {
    LearningRate(options, 0);
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

void SetOption(ScheduleOptions& o, const std::string& key, const nlohmann::json& value) {
  const std::map<std::string, std::optional<double>*> reals = {
      {"num_cycles", &o.num_cycles},   {"power", &o.power},
      {"lr_end", &o.lr_end},           {"min_lr", &o.min_lr},
      {"min_lr_rate", &o.min_lr_rate}, {"min_lr_ratio", &o.min_lr_ratio},
      {"timescale", &o.timescale},
  };
  if (reals.contains(key)) {
    *reals.at(key) = value.get<double>();
  } else if (key == "num_decay_steps") {
    o.num_decay_steps = value.get<int64_t>();
  } else if (key == "num_stable_steps") {
    o.num_stable_steps = value.get<int64_t>();
  } else if (key == "decay_type") {
    o.decay_type = value.get<std::string>();
  } else if (key == "warmup_type") {
    o.warmup_type = value.get<std::string>();
  } else {
    FAIL() << "golden option " << key << " is not known";
  }
}

// Every schedule of every golden model: the same double at every step.
TEST(Schedule, EqualsTransformers) {
  int cases = 0;
  for (const std::string& folder : golden::FindFolders("model")) {
    const std::string path = folder + "/schedules.json";
    if (!std::filesystem::exists(path)) {
      std::printf("absent: %s\n", path.c_str());
      continue;
    }
    const nlohmann::json file = nlohmann::json::parse(ReadFile(path));
    for (const auto& [name, entry] : file.items()) {
      ScheduleOptions o;
      o.type = name;
      o.learning_rate = entry["peak_lr"];
      o.warmup_steps = entry["warmup_steps"];
      o.total_steps = entry["total_steps"];
      for (const auto& [key, value] : entry["options"].items()) SetOption(o, key, value);
      double worst = 0;
      for (size_t step = 0; step < entry["lr_used_at_step"].size(); ++step) {
        const double want = entry["lr_used_at_step"][step];
        const double got = LearningRate(o, static_cast<int64_t>(step));
        EXPECT_EQ(got, want) << name << " step " << step;
        worst = std::max(worst, std::abs(got - want));
      }
      std::printf("%s %s: %zu steps, largest difference %g\n", path.c_str(), name.c_str(),
                  entry["lr_used_at_step"].size(), worst);
      ++cases;
    }
  }
  EXPECT_GT(cases, 0) << "no golden schedules found";
}

TEST(Schedule, ClosedForms) {
  ScheduleOptions o = {.type = "linear", .learning_rate = 1, .warmup_steps = 4, .total_steps = 8};
  EXPECT_EQ(LearningRate(o, 0), 0.0);
  EXPECT_EQ(LearningRate(o, 1), 0.25);
  EXPECT_EQ(LearningRate(o, 4), 1.0);
  EXPECT_EQ(LearningRate(o, 6), 0.5);
  EXPECT_EQ(LearningRate(o, 8), 0.0);
  EXPECT_EQ(LearningRate(o, 9), 0.0);
  o.type = "cosine";
  EXPECT_NEAR(LearningRate(o, 6), 0.5, 1e-15);
  EXPECT_NEAR(LearningRate(o, 8), 0.0, 1e-15);
  o.type = "cosine_with_min_lr";
  o.min_lr = 0.25;
  EXPECT_NEAR(LearningRate(o, 8), 0.25, 1e-15);
  EXPECT_NEAR(LearningRate(o, 6), 0.625, 1e-15);
  o.min_lr.reset();
  o.type = "warmup_stable_decay";
  o.num_decay_steps = 2;
  o.decay_type = "linear";
  o.min_lr_ratio = 0.5;
  EXPECT_EQ(LearningRate(o, 0), 0.5);
  EXPECT_EQ(LearningRate(o, 5), 1.0);
  EXPECT_EQ(LearningRate(o, 7), 0.75);
  EXPECT_EQ(LearningRate(o, 8), 0.5);
}

TEST(Schedule, NoWarmupStartsAtThePeak) {
  for (const std::string& name : ScheduleNames()) {
    ScheduleOptions o = {.type = name, .learning_rate = 2e-4, .total_steps = 100};
    if (name == "warmup_stable_decay") o.num_decay_steps = 10;
    EXPECT_DOUBLE_EQ(LearningRate(o, 0), 2e-4) << name;
    for (int64_t step = 0; step < 120; ++step) {
      const double lr = LearningRate(o, step);
      EXPECT_TRUE(lr >= 0 && lr <= 2e-4 * (1 + 1e-12)) << name << " " << step << " " << lr;
    }
  }
}

TEST(Schedule, BadOptionsAreNamed) {
  EXPECT_EQ(MessageOf({.type = "cosin"}),
            "lr_scheduler_type: must be a known schedule; got 'cosin'; try one of linear, cosine, "
            "cosine_with_restarts, cosine_with_min_lr, polynomial, constant, constant_with_warmup, "
            "inverse_sqrt, warmup_stable_decay");
  EXPECT_EQ(MessageOf({.learning_rate = 0}),
            "learning_rate: must be > 0; got 0; try 2e-4 for LoRA");
  EXPECT_EQ(MessageOf({.warmup_steps = -1}), "warmup_steps: must be >= 0; got -1");
  EXPECT_EQ(MessageOf({.type = "linear", .power = 2}),
            "lr_scheduler_kwargs.power: the schedule 'linear' must know it; got one that knows: ");
  EXPECT_EQ(MessageOf({.type = "warmup_stable_decay"}),
            "lr_scheduler_kwargs.num_decay_steps: warmup_stable_decay must have it; got none");
}

}  // namespace
}  // namespace lapidary
