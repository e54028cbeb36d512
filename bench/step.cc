// Seconds and tokens a second of LoRA training steps on a checkpoint: one sequence of random
// tokens, r = 16 on every text linear, AdamW.
//   bench_step MODEL [--tokens 512] [--steps 3] [--rank 16] [--compute bfloat16|float32]
//   [--checkpointing] [--profile] [--json]
// Prints the median and the fastest step, peak resident memory (VmHWM), and with --profile the time
// by op of the last step. bench/compare_torch.py sets PyTorch + PEFT beside it.
#include "train/step.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>

#include "autograd/arena.h"
#include "autograd/base/parallel.h"
#include "autograd/kernels/isa.h"
#include "autograd/profile.h"
#include "model/adapt.h"
#include "model/load.h"

namespace lapidary {
namespace {

// Peak resident memory in bytes, from the kernel's counter.
int64_t PeakMemory() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.rfind("VmHWM:", 0) == 0) return std::stoll(line.substr(6)) * 1024;
  }
  return 0;
}

struct StepArgs {
  std::string model, compute = "bfloat16";
  int64_t tokens = 512, steps = 3, rank = 16;
  bool checkpointing = false, profile = false, json = false;
};

MicroBatch RandomBatch(int64_t tokens, int64_t vocab) {
  MicroBatch batch;
  for (int64_t i = 0; i < tokens; ++i) {
    batch.input.ids.push_back(static_cast<int32_t>(
        10 + RandomBelow({7, 0, 0}, static_cast<uint64_t>(i), static_cast<uint64_t>(vocab - 30))));
  }
  batch.input.document_starts = {0};
  batch.targets.assign(batch.input.ids.begin() + 1, batch.input.ids.end());
  batch.targets.push_back(0);
  batch.weights.assign(static_cast<size_t>(tokens), 1.0f);
  batch.weights.back() = 0;
  batch.names = {"random"};
  return batch;
}

int Run(const StepArgs& args) {
  LoadedModel loaded = LoadModel(args.model);
  Transformer& model = loaded.model;
  AdapterConfig config;
  config.r = args.rank;
  config.lora_alpha = 32;
  config.target_modules = {false, {"text-linear"}};
  AttachLora(model, config, 1);
  AdamW optimizer(TrainableParams(model), {});
  StepOptions options;
  options.forward.compute = args.compute == "float32" ? Compute::kFloat32 : Compute::kBfloat16;
  options.forward.training = true;
  options.forward.gradient_checkpointing = args.checkpointing;
  const std::vector<MicroBatch> micro = {RandomBatch(args.tokens, model.config.text.vocab_size)};
  std::vector<double> seconds;
  double loss = 0;
  for (int64_t step = 0; step <= args.steps; ++step) {  // the first one warms up
    EnableProfile(args.profile && step == args.steps);
    const auto start = std::chrono::steady_clock::now();
    options.forward.step = static_cast<uint64_t>(step);
    loss = OptimizerStep(model, optimizer, micro, 1e-4, options).loss;
    if (step > 0)
      seconds.push_back(
          std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  std::sort(seconds.begin(), seconds.end());
  const double median = seconds[seconds.size() / 2];
  const double tokens = static_cast<double>(args.tokens);
  if (args.json) {
    std::printf("%s\n",
                nlohmann::ordered_json(
                    {{"model", args.model},
                     {"isa", IsaName(ActiveIsa())},
                     {"threads", Threads()},
                     {"compute", args.compute},
                     {"tokens", args.tokens},
                     {"checkpointing", args.checkpointing},
                     {"step_s", median},
                     {"fastest_s", seconds.front()},
                     {"tok_s", tokens / median},
                     {"peak_rss_gb", static_cast<double>(PeakMemory()) * 1e-9},
                     {"arena_gb", static_cast<double>(GetArenaStats().high_water_bytes) * 1e-9},
                     {"loss", loss}})
                    .dump()
                    .c_str());
  } else {
    std::printf(
        "%s, %d threads, %s, %lld tokens, checkpointing %s: %.2f s a step (fastest %.2f), %.1f "
        "tokens/s, peak memory %.2f GB, loss %.4f\n",
        IsaName(ActiveIsa()), Threads(), args.compute.c_str(), static_cast<long long>(args.tokens),
        args.checkpointing ? "on" : "off", median, seconds.front(), tokens / median,
        static_cast<double>(PeakMemory()) * 1e-9, loss);
  }
  if (args.profile && !args.json) {
    std::vector<std::pair<double, std::string>> rows;
    for (const auto& [name, entry] : ProfileEntries()) rows.emplace_back(entry.seconds, name);
    std::sort(rows.rbegin(), rows.rend());
    for (const auto& [time, name] : rows)
      std::printf("  %-24s %8.3f s %5.1f %%\n", name.c_str(), time, 100 * time / seconds.back());
  }
  return 0;
}

}  // namespace
}  // namespace lapidary

int main(int argc, char** argv) {
  lapidary::StepArgs args;
  CLI::App app("Times LoRA training steps", "bench_step");
  app.add_option("model", args.model)->required();
  app.add_option("--tokens", args.tokens)->check(CLI::Range(2, 1 << 20));
  app.add_option("--steps", args.steps)->check(CLI::Range(1, 1000));
  app.add_option("--rank", args.rank)->check(CLI::Range(1, 4096));
  app.add_option("--compute", args.compute)->check(CLI::IsMember({"float32", "bfloat16"}));
  app.add_flag("--checkpointing", args.checkpointing);
  app.add_flag("--profile", args.profile);
  app.add_flag("--json", args.json);
  CLI11_PARSE(app, argc, argv);
  try {
    return lapidary::Run(args);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 2;
  }
}
