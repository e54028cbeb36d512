// `lapidary plan`: what a training configuration will need, before it runs.
#include "train/plan.h"

#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "autograd/base/error.h"
#include "recipes/commands.h"
#include "train/config.h"
#include "train/make_model.h"

namespace lapidary {
namespace {

namespace fs = std::filesystem;

struct PlanArgs {
  std::string config, shape, format = "gguf:q4_0";
  std::vector<std::string> overrides;
  bool json = false, no_speed = false;
};

// A base of a shape that is not there: files with holes for tensors, in a folder that goes with
// this.
class ImaginedBase {
 public:
  ImaginedBase(const std::string& shape, const std::string& format) {
    std::string folder = (fs::temp_directory_path() / "lapidary-plan-XXXXXX").string();
    LAPIDARY_CHECK(::mkdtemp(folder.data()) != nullptr, folder,
                   ": must be a folder that can be created; got an error; try TMPDIR=/some/folder");
    folder_ = folder;
    MakeModelOptions options;
    options.format = format;
    options.hollow = true;
    MakeModel(MakeModelConfig(shape, 0), (folder_ / "base").string(), options, {});
    path_ = (format == "safetensors" ? folder_ / "base" : folder_ / "base/model.gguf").string();
  }
  ImaginedBase(const ImaginedBase&) = delete;
  ImaginedBase& operator=(const ImaginedBase&) = delete;
  ~ImaginedBase() {
    std::error_code ignored;
    fs::remove_all(folder_, ignored);
  }
  const std::string& path() const { return path_; }

 private:
  fs::path folder_;
  std::string path_;
};

void RunPlan(const PlanArgs& args) {
  std::unique_ptr<ImaginedBase> imagined;
  std::vector<std::string> overrides = args.overrides;
  if (!args.shape.empty()) {
    imagined = std::make_unique<ImaginedBase>(args.shape, args.format);
    overrides.push_back("model_name_or_path=" + imagined->path());
  }
  const TrainConfig config = LoadTrainConfig(args.config, overrides);
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
      "speed          about %.3g s a step of up to %lld tokens, %.3g tokens/s (%.3g GFLOP a token "
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
  CLI::Option* shape = app->add_option(
      "--shape", args->shape,
      "12b or tiny: plan for a base of this shape, whatever model_name_or_path says; nothing to "
      "download");
  app->add_option("--format", args->format, "of that base: safetensors (bf16) or gguf:MIX")
      ->needs(shape)
      ->capture_default_str();
  app->add_flag("--json", args->json, "machine-readable");
  app->add_flag("--no-speed", args->no_speed, "memory only: skip the two-second measurement");
  app->footer(
      "example, without the 12B at hand:\n  lapidary plan my.json --shape 12b --set "
      "memory_limit=16GB");
  app->callback([args] { RunPlan(*args); });
}

}  // namespace lapidary
