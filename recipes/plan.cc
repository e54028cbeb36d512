// `lapidary plan`: what a training configuration will need, before it runs.
#include "train/plan.h"

#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "autograd/base/error.h"
#include "recipes/commands.h"
#include "train/config.h"

namespace lapidary {
namespace {

struct PlanArgs {
  std::string config;
  std::vector<std::string> overrides;
  bool json = false, no_speed = false;
};

void RunPlan(const PlanArgs& args) {
  const TrainConfig config = LoadTrainConfig(args.config, args.overrides);
  const MemoryPlan plan = PlanMemory(config);
  SpeedEstimate speed;
  if (!args.no_speed) speed = EstimateSpeed(config, plan);
  if (args.json) {
    nlohmann::ordered_json json = PlanJson(plan, config);
    if (!args.no_speed) {
      json["speed"] = {{"seconds_per_step", speed.seconds_per_step},
                       {"tokens_per_s", speed.tokens_per_second},
                       {"gflop_per_token", speed.gflop_per_token},
                       {"measured_gflops", speed.gflops}};
    }
    std::printf("%s\n", json.dump(2).c_str());
    return;
  }
  std::printf("%s", PlanText(plan, config).c_str());
  if (args.no_speed) return;
  std::printf(
      "speed          about %.3g s a step of up to %lld tokens, %.3g tokens/s (%.1f GFLOP a token "
      "at %.0f GFLOP/s, measured now)\n",
      speed.seconds_per_step, static_cast<long long>(plan.tokens_per_step), speed.tokens_per_second,
      speed.gflop_per_token, speed.gflops);
}

}  // namespace

void AddPlan(CLI::App& cli) {
  auto args = std::make_shared<PlanArgs>();
  CLI::App* app = cli.add_subcommand(
      "plan",
      "memory and speed of a training run before it starts: reads only headers of the base");
  app->add_option("config", args->config, "training configuration (JSON)")->required();
  app->add_option("--set", args->overrides, "key=value, overrides the file; repeatable");
  app->add_flag("--json", args->json, "machine-readable");
  app->add_flag("--no-speed", args->no_speed, "memory only: skip the two-second measurement");
  app->callback([args] { RunPlan(*args); });
}

}  // namespace lapidary
