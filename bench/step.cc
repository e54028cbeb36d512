// Seconds and tokens a second of LoRA training steps on a checkpoint: one sequence of random
// tokens, r = 16 on every text linear, AdamW.
//   bench_step MODEL [--tokens 512] [--steps 3] [--rank 16] [--compute bfloat16|float32]
//   [--checkpointing] [--control] [--table] [--profile] [--json]
// Prints the median and the fastest step, the operations of its matrix products with this model's
// weights as a share of the peak measured just before and after, peak resident memory (VmHWM), and
// where the last step's time went. The batch is made beforehand: nothing waits for data.
//   --control: one adapter of rank 1 in the first layer, so that gradients flow all the way down;
//     against it, what adapters cost.
//   --qat GRID: fake quantization of the linears (model/qat.h); against a plain run, what it costs.
//     --qat-refresh N: scales measured every N steps; what measuring takes is printed apart, and is
//     not in the steps (int8_channel measures before every step unless told otherwise).
//   --table: a line for 512, 2048, 8192 and 32768 tokens, up to --tokens; only the first warms up.
// "ready" is the time from opening the file to the first step: the base's blocks in the order of
// the kernels, adapters attached, the optimizer's state laid out. With LAPIDARY_THREADS=1 steps are
// timed by processor time, which other programs disturb less. bench/compare_torch.py sets PyTorch +
// PEFT beside it.
#include "train/step.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>

#include "autograd/arena.h"
#include "autograd/base/parallel.h"
#include "autograd/kernels/isa.h"
#include "autograd/profile.h"
#include "bench/gemm_peak.h"
#include "bench/peak.h"
#include "model/adapt.h"
#include "model/load.h"
#include "model/qat.h"
#include "train/optim/adamw.h"

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
  std::string model, compute = "bfloat16", qat;
  int64_t tokens = 512, steps = 3, rank = 16, chunk = 512;
  int64_t qat_refresh = 1;
  bool checkpointing = false, control = false, table = false, profile = false, json = false;
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

// Floating-point operations a token of the products with the model's weights: y = x W^T, dx = dy W
// and, where a layer is computed again, y once more; the head forward and backward. 69.4 G for the
// 12B when all is computed again. Attention's own products and the adapters are not counted.
double FlopsPerToken(Transformer& model, bool recompute) {
  double linears = 0;
  ForEachLinear(model, [&](Linear& l) {
    if (l.path.find(".layers.") == std::string::npos) return;  // of an embedder
    linears += static_cast<double>(l.w.rows()) * static_cast<double>(l.w.cols());
  });
  const Weight& head = model.head();
  return (recompute ? 6 : 4) * linears +
         4 * static_cast<double>(head.rows()) * static_cast<double>(head.cols());
}

// Of the multiply instruction in use, all threads, in operations a second.
double PeakFlops(Compute compute) {
  std::vector<double> flops(static_cast<size_t>(Threads()));
  const double start = bench::Now();
  ParallelForDynamic(Threads(),
                     [&](int64_t i, int) { flops[i] = RunPeakLoop(ActiveIsa(), compute, 100); });
  return std::accumulate(flops.begin(), flops.end(), 0.0) / (bench::Now() - start);
}

struct StepTimes {
  double median = 0, fastest = 0, loss = 0, peak = 0;
  double gemm = 0, attention = 0, rest = 0;     // shares of the last step
  std::map<std::string, ProfileEntry> entries;  // of the last step
};

class StepBench {
 public:
  StepBench(Transformer& model, const StepArgs& args)
      : model_(model), args_(args), optimizer_(TrainableParams(model), {}) {
    options_.forward.compute = args.compute == "float32" ? Compute::kFloat32 : Compute::kBfloat16;
    options_.forward.training = true;
    options_.forward.gradient_checkpointing = args.checkpointing;
    policy_.chunk = args.chunk;
    options_.forward.activations = &policy_;
  }

  // One step more than asked for comes first if it should `warm_up`.
  StepTimes Run(int64_t tokens, bool warm_up) {
    const std::vector<MicroBatch> micro = {RandomBatch(tokens, model_.config.text.vocab_size)};
    StepTimes t;
    std::vector<double> seconds;
    const double before = PeakFlops(options_.forward.compute);
    double wall = 0;
    for (int64_t step = warm_up ? 0 : 1; step <= args_.steps; ++step) {
      ResetProfile();
      EnableProfile(true);
      const auto wall_start = std::chrono::steady_clock::now();
      const double start = bench::Now();
      options_.forward.step = static_cast<uint64_t>(step);
      t.loss = OptimizerStep(model_, optimizer_, micro, 1e-4, options_).loss;
      if (step > 0) seconds.push_back(bench::Now() - start);
      EnableProfile(false);
      wall = std::chrono::duration<double>(std::chrono::steady_clock::now() - wall_start).count();
    }
    t.peak = (before + PeakFlops(options_.forward.compute)) / 2;
    std::sort(seconds.begin(), seconds.end());
    t.median = seconds[seconds.size() / 2];
    t.fastest = seconds.front();
    t.entries = ProfileEntries();
    for (const auto& [name, entry] : t.entries) {
      if (name.rfind("gemm", 0) == 0) t.gemm += entry.seconds / wall;
      if (name.rfind("attention", 0) == 0) t.attention += entry.seconds / wall;
    }
    t.rest = 1 - t.gemm - t.attention;
    return t;
  }

 private:
  Transformer& model_;
  const StepArgs& args_;
  AdamW optimizer_;
  ActivationPolicy policy_;
  StepOptions options_;
};

void Print(const StepArgs& args, int64_t tokens, double flops, double ready, const StepTimes& t) {
  const double n = static_cast<double>(tokens), rate = n / t.median;
  // The reference table has no peak loop.
  const double share = t.peak > 0 ? rate * flops / t.peak : 0;
  if (args.json) {
    nlohmann::ordered_json ops;
    for (const auto& [name, entry] : t.entries) ops[name] = entry.seconds;
    std::printf("%s\n",
                nlohmann::ordered_json(
                    {{"model", args.model},
                     {"isa", IsaName(ActiveIsa())},
                     {"threads", Threads()},
                     {"compute", args.compute},
                     {"tokens", tokens},
                     {"rank", args.control ? 0 : args.rank},
                     {"checkpointing", args.checkpointing},
                     {"ready_s", ready},
                     {"step_s", t.median},
                     {"fastest_s", t.fastest},
                     {"tok_s", rate},
                     {"gflop_token", flops * 1e-9},
                     {"peak_gflops", t.peak * 1e-9},
                     {"share_of_peak", share},
                     {"gemm_share", t.gemm},
                     {"attention_share", t.attention},
                     {"rest_share", t.rest},
                     {"peak_rss_gb", static_cast<double>(PeakMemory()) * 1e-9},
                     {"arena_gb", static_cast<double>(GetArenaStats().high_water_bytes) * 1e-9},
                     {"data_wait_s", 0.0},
                     {"loss", t.loss},
                     {"op_seconds", ops}})
                    .dump()
                    .c_str());
  } else {
    std::printf(
        "%6lld tokens: %8.2f s a step (fastest %.2f), %7.1f tokens/s, %4.1f %% of %.0f GFLOP/s; "
        "matrix products %4.1f %%, attention %4.1f %%, rest %4.1f %%; peak memory %.2f GB, loss "
        "%.4f\n",
        static_cast<long long>(tokens), t.median, t.fastest, rate, 100 * share, t.peak * 1e-9,
        100 * t.gemm, 100 * t.attention, 100 * t.rest, static_cast<double>(PeakMemory()) * 1e-9,
        t.loss);
  }
  if (args.profile && !args.json) {
    std::vector<std::pair<double, std::string>> rows;
    double total = 0;
    for (const auto& [name, entry] : t.entries) {
      rows.emplace_back(entry.seconds, name);
      total += entry.seconds;
    }
    std::sort(rows.rbegin(), rows.rend());
    for (const auto& [time, name] : rows)
      std::printf("  %-24s %8.3f s %5.1f %%\n", name.c_str(), time, 100 * time / total);
  }
  std::fflush(stdout);
}

int Run(const StepArgs& args) {
  const auto opened = std::chrono::steady_clock::now();
  LoadedModel loaded = LoadModel(args.model);
  AdapterConfig config;
  config.r = args.control ? 1 : args.rank;
  config.lora_alpha = 32;
  config.target_modules = {false, {args.control ? "layers.0.self_attn.q_proj" : "text-linear"}};
  AttachLora(loaded.model, config, 1);
  if (!args.qat.empty()) {
    QatConfig qat;
    qat.format = args.qat;
    qat.scale_refresh_steps = args.qat_refresh;
    AttachQat(loaded.model, ResolveQat(loaded.model, qat));
  }
  StepBench bench(loaded.model, args);
  const double ready =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - opened).count();
  const double flops = FlopsPerToken(loaded.model, args.checkpointing);
  if (!args.json) {
    std::printf(
        "%s, %d threads, %s, checkpointing %s, %s, %.2f GFLOP a token; ready in %.1f s\n",
        IsaName(ActiveIsa()), Threads(), args.compute.c_str(), args.checkpointing ? "on" : "off",
        args.control ? "control adapter" : StrCat("rank ", args.rank).c_str(), flops * 1e-9, ready);
  }
  if (!args.qat.empty() && !args.json) {
    const double start = bench::Now();
    RefreshQatScales(loaded.model);
    std::printf("measuring kept scales of %s: %.2f s\n", args.qat.c_str(), bench::Now() - start);
  }
  if (!args.table) {
    Print(args, args.tokens, flops, ready, bench.Run(args.tokens, true));
    return 0;
  }
  for (int64_t tokens = 512; tokens <= args.tokens; tokens *= 4)
    Print(args, tokens, flops, ready, bench.Run(tokens, tokens == 512));
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
  app.add_option("--qat", args.qat, "fake-quantize the linears to this grid");
  app.add_option("--qat-refresh", args.qat_refresh, "steps between measuring its scales")
      ->check(CLI::Range(1, 1000000));
  app.add_option("--chunk", args.chunk, "tokens of a feed-forward stage at a time");
  app.add_flag("--checkpointing", args.checkpointing);
  app.add_flag("--control", args.control, "one adapter of rank 1 in the first layer instead");
  app.add_flag("--table", args.table,
               "512, 2048, 8192, 32768 tokens, up to --tokens (default 32768)");
  app.add_flag("--profile", args.profile, "time by op of the last step");
  app.add_flag("--json", args.json);
  CLI11_PARSE(app, argc, argv);
  if (args.table && app.count("--tokens") == 0) args.tokens = 32768;
  try {
    return lapidary::Run(args);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 2;
  }
}
