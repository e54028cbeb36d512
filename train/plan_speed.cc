#include <algorithm>
#include <chrono>
#include <map>
#include <tuple>
#include <vector>

#include "autograd/gemm.h"
#include "model/load.h"
#include "train/plan.h"
#include "train/session.h"

namespace lapidary {
namespace {

using Clock = std::chrono::steady_clock;

constexpr double kBudget = 2.0;     // seconds of measuring in all
constexpr int64_t kRows = 256;      // tokens at a time
constexpr int64_t kOutputs = 1024;  // rows of a weight
// What is not a matrix product with a weight, of a step's time, at lengths where attention is a
// small part (bench_step shows it).
constexpr double kRest = 0.2;

struct Speed {
  double forward = 0, gradient = 0;  // FLOP/s
};

double Measure(double seconds, double flop, const std::function<void()>& run) {
  run();  // warms
  const Clock::time_point start = Clock::now();
  double spent = 0;
  int64_t calls = 0;
  do {
    run();
    ++calls;
    spent = std::chrono::duration<double>(Clock::now() - start).count();
  } while (spent < seconds);
  return flop * static_cast<double>(calls) / spent;
}

// On zeros, which take as long as any values.
Speed MeasureShape(int32_t format, int64_t rows, int64_t cols, int64_t tokens, Compute compute,
                   double seconds) {
  const WeightFormat& f = GetWeightFormat(format);
  WeightView w = {format, std::min(rows, kOutputs), cols, nullptr,
                  cols / f.block_size * f.block_bytes};
  const std::vector<uint64_t> bytes(static_cast<size_t>(w.rows * w.row_bytes + 7) / 8);
  w.data = bytes.data();
  const int64_t n = std::min(tokens, kRows);
  const Tensor x = Tensor::Zeros({n, cols}), y = Tensor::Zeros({n, w.rows});
  const double flop = 2.0 * static_cast<double>(n * cols * w.rows);
  return {
      Measure(seconds / 2, flop, [&] { GemmForward(x.data(), n, w, y.data(), false, compute); }),
      Measure(seconds / 2, flop, [&] { GemmInputGrad(y.data(), n, w, x.data(), false, compute); })};
}

// In what part of a run's steps a layer trains as float32, and in what part gradients pass through
// it on their way to a layer below.
struct LayerShare {
  double trains = 0, passes = 0;
};

std::vector<LayerShare> LayerShares(const TrainConfig& config, int64_t layers) {
  const LayerShare all = {config.lora ? 0.0 : 1.0, config.lora ? 1.0 : 0.0};
  std::vector<LayerShare> shares(static_cast<size_t>(layers), all);
  std::vector<std::vector<int64_t>> slices;  // each trained in an equal part of the steps
  if (!config.trainable_layers.empty()) slices.push_back(config.trainable_layers);
  if (config.block_coordinate) {
    const BlockSchedule schedule(*config.block_coordinate, layers, 0);
    for (int64_t b = 0; b < schedule.blocks(); ++b) slices.push_back(schedule.Layers(b));
  }
  if (slices.empty()) return shares;
  shares.assign(shares.size(), {});
  const double part = 1 / static_cast<double>(slices.size());
  for (const std::vector<int64_t>& slice : slices) {
    const int64_t lowest = *std::min_element(slice.begin(), slice.end());
    for (int64_t i = lowest; i < layers; ++i) {
      const bool trains = std::find(slice.begin(), slice.end(), i) != slice.end();
      LayerShare& share = shares[static_cast<size_t>(i)];
      (trains ? share.trains : share.passes) += part;
    }
  }
  return shares;
}

}  // namespace

SpeedEstimate EstimateSpeed(const TrainConfig& config, const MemoryPlan& plan) {
  const CheckpointFiles files = OpenCheckpointFiles(config.model_name_or_path);
  const Compute compute = ComputeOf(config.compute);
  using Key = std::tuple<int32_t, int64_t, int64_t>;
  const std::vector<LayerShare> shares =
      LayerShares(config, static_cast<int64_t>(files.config.text.layers.size()));
  const bool slices = config.block_coordinate || !config.trainable_layers.empty();
  // Multiply-adds of a token through each shape: forward passes, gradients of inputs, of weights.
  struct Work {
    double forward = 0, gradient = 0;
  };
  std::map<Key, Work> work;
  const std::string prefix = "model.language_model.layers.";
  for (const auto& [name, tensor] : files.tensors) {
    const bool head = name.find(files.tensors.contains("lm_head.weight")
                                    ? "lm_head.weight"
                                    : "embed_tokens.weight") != std::string::npos;
    double again = 0;
    LayerShare share = {config.lora || slices ? 0.0 : 1.0, config.lora || slices ? 1.0 : 0.0};
    if (name.compare(0, prefix.size(), prefix) == 0 && tensor.shape.size() == 2) {
      const size_t layer = static_cast<size_t>(std::stoll(name.substr(prefix.size())));
      share = shares.at(layer);
      const LayerKeep keep =
          plan.checkpointing ? plan.policy.Of(layer).keep : LayerKeep::kEverything;
      const bool feed_forward = name.find(".mlp.") != std::string::npos;
      again = keep == LayerKeep::kInput || (keep == LayerKeep::kAttention && feed_forward) ? 1 : 0;
    } else if (!head) {
      continue;
    }
    const double size = 2.0 * static_cast<double>(tensor.rows() * tensor.cols());
    if (share.trains > 0) {
      Work& w = work[Key{kFormatF32, tensor.rows(), tensor.cols()}];
      w.forward += size * share.trains * (1 + again);
      w.gradient += size * share.trains * 2;
    }
    if (share.trains < 1) {
      Work& w = work[Key{tensor.format->id, tensor.rows(), tensor.cols()}];
      w.forward += size * (1 - share.trains + share.passes * again);
      w.gradient += size * share.passes;
    }
  }
  SpeedEstimate estimate;
  double seconds = 0;
  for (const auto& [key, w] : work) {
    const auto& [format, rows, cols] = key;
    const Speed speed = MeasureShape(format, rows, cols, plan.tokens, compute,
                                     kBudget / static_cast<double>(work.size()));
    seconds += w.forward / speed.forward + w.gradient / speed.gradient;
    estimate.gflop_per_token += (w.forward + w.gradient) / 1e9;
  }
  estimate.gflops = estimate.gflop_per_token / seconds;
  // Attention: two products forward, twice if computed again, five in the gradient, at half the
  // rate.
  double pairs = 0;
  const TextConfig& text = files.config.text;
  for (size_t i = 0; i < text.layers.size(); ++i) {
    const LayerConfig& layer = text.layers[i];
    const double length = static_cast<double>(config.max_length);
    const double window = static_cast<double>(text.sliding_window);
    const double keys = layer.full_attention || length < window
                            ? length / 2
                            : window - window * window / (2 * length);
    const double products = 2 + 7 * (shares[i].trains + shares[i].passes);
    pairs += keys * static_cast<double>(text.num_attention_heads * layer.head_dim) * products / 9;
  }
  seconds += 2.0 * pairs * 9 / (0.5e9 * estimate.gflops);
  estimate.gflop_per_token += 2.0 * pairs * 9 / 1e9;
  seconds /= 1 - kRest;
  estimate.tokens_per_second = 1 / seconds;
  estimate.seconds_per_step = seconds * static_cast<double>(plan.tokens_per_step);
  return estimate;
}

}  // namespace lapidary
