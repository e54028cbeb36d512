#include "train/adamw.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "autograd/base/parallel.h"
#include "autograd/kernels/kernels.h"

namespace lapidary {
namespace {

// Elements that a share of the work is a multiple of: whole blocks of states, and enough to be
// worth a thread.
constexpr int64_t kPiece = 64 * kStateBlock;

// Below this many elements states stay float32: they weigh nothing (bitsandbytes' min_8bit_size).
constexpr int64_t kSmall = 4096;

DType TypeOf(OptimizerStates states, int64_t size) {
  if (size < kSmall || states == OptimizerStates::kFloat32) return DType::kF32;
  return states == OptimizerStates::kBf16 ? DType::kBf16 : DType::kI8;
}

// Elements [begin, end), at most kPiece, through float32 copies of their states.
void UpdatePiece(AdamWSlot& slot, AdamWArgs args, int64_t begin, int64_t end) {
  if (slot.exp_avg.values.dtype() == DType::kF32) {
    args.m = slot.exp_avg.values.data();
    args.v = slot.exp_avg_sq.values.data();
    ActiveKernels().AdamW(args, {begin, end});
    return;
  }
  float m[kStateBlock], v[kStateBlock];
  args.m = m;
  args.v = v;
  const uint64_t name = HashName(slot.param->name), step = static_cast<uint64_t>(slot.step);
  for (int64_t block = begin; block < end; block += kStateBlock) {
    const int64_t block_end = std::min(block + kStateBlock, end);
    slot.exp_avg.Load(block, block_end, m);
    slot.exp_avg_sq.Load(block, block_end, v);
    AdamWArgs here = args;
    here.param += block;
    here.grad += block;
    ActiveKernels().AdamW(here, {0, block_end - block});
    slot.exp_avg.Store(block, block_end, m, {1, step, name});
    slot.exp_avg_sq.Store(block, block_end, v, {2, step, name});
  }
}

}  // namespace

AdamW::AdamW(const std::vector<Param*>& params, const AdamWOptions& options,
             const std::function<bool(const std::string&)>& decays)
    : options_(options) {
  LAPIDARY_CHECK(options.beta1 >= 0 && options.beta1 < 1, "adam_beta1: must be in [0, 1); got ",
                 options.beta1, "; try 0.9");
  LAPIDARY_CHECK(options.beta2 >= 0 && options.beta2 < 1, "adam_beta2: must be in [0, 1); got ",
                 options.beta2, "; try 0.999");
  LAPIDARY_CHECK(options.epsilon > 0 && std::isfinite(options.epsilon),
                 "adam_epsilon: must be > 0; got ", options.epsilon, "; try 1e-8");
  LAPIDARY_CHECK(options.weight_decay >= 0 && std::isfinite(options.weight_decay),
                 "weight_decay: must be >= 0; got ", options.weight_decay, "; try 0.01");
  std::set<std::string> names;
  for (Param* param : params) {
    LAPIDARY_CHECK(names.insert(param->name).second,
                   "AdamW: parameters must have names of their own; got '", param->name, "' twice");
    AdamWSlot slot;
    slot.param = param;
    slot.weight_decay = !decays || decays(param->name) ? options.weight_decay : 0.0;
    const DType type = TypeOf(options.states, param->value.size());
    slot.exp_avg = MomentState(param->value.shape(), type, /*has_sign=*/true);
    slot.exp_avg_sq = MomentState(param->value.shape(), type, /*has_sign=*/false);
    slots_.push_back(std::move(slot));
  }
}

void AdamW::Step(double learning_rate) {
  LAPIDARY_CHECK(learning_rate >= 0 && std::isfinite(learning_rate),
                 "AdamW: the learning rate must be >= 0; got ", learning_rate);
  for (AdamWSlot& slot : slots_) {
    const Tensor& grad = slot.param->grad;
    if (!grad.defined()) continue;
    LAPIDARY_CHECK(grad.shape() == slot.param->value.shape(), "AdamW: the gradient of '",
                   slot.param->name, "' must be ", slot.param->value.shape(), "; got ",
                   grad.shape());
    ++slot.step;
    const double t = static_cast<double>(slot.step);
    const double correction1 = 1 - std::pow(options_.beta1, t);
    const double correction2 = 1 - std::pow(options_.beta2, t);
    const AdamWArgs args = {.param = slot.param->value.data(),
                            .m = nullptr,
                            .v = nullptr,
                            .grad = grad.data(),
                            .lr = learning_rate,
                            .beta1 = options_.beta1,
                            .beta2 = options_.beta2,
                            .eps = options_.epsilon,
                            .weight_decay = slot.weight_decay,
                            .bias1 = correction1,
                            .bias2 = correction2};
    const int64_t size = grad.size();
    ParallelFor((size + kPiece - 1) / kPiece, [&](Range range) {
      for (int64_t piece = range.begin; piece < range.end; ++piece) {
        UpdatePiece(slot, args, piece * kPiece, std::min((piece + 1) * kPiece, size));
      }
    });
  }
}

bool DecaysByName(const std::string& name) {
  if (name.find("bias") != std::string::npos) return false;
  if (name.ends_with(".qat_log_step")) return false;
  // "norm" as the end of a word of the path: ".norm.", "_norm.", "layernorm.", "pos_norm_"; "_ln1".
  return name.find("norm") == std::string::npos && name.find("_ln1") == std::string::npos &&
         name.find("_ln2") == std::string::npos;
}

}  // namespace lapidary
