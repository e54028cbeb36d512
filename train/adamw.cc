#include "train/adamw.h"

#include <cmath>
#include <set>

#include "autograd/base/parallel.h"

namespace lapidary {
namespace {

struct UpdateArgs {
  float* p;
  float* m;
  float* v;
  const float* g;
  float keep;        // 1 - lr * weight_decay
  float grad_share;  // 1 - beta1
  float beta2, square_share;
  float root_correction;  // sqrt(1 - beta2^t)
  float epsilon;
  float negative_step;  // -lr / (1 - beta1^t)
};

void Update(const UpdateArgs& a, Range range) {
  float* __restrict p = a.p;
  float* __restrict m = a.m;
  float* __restrict v = a.v;
  const float* __restrict g = a.g;
  for (int64_t i = range.begin; i < range.end; ++i) {
    const float mi = m[i] + a.grad_share * (g[i] - m[i]);
    const float vi = v[i] * a.beta2 + a.square_share * g[i] * g[i];
    m[i] = mi;
    v[i] = vi;
    const float denominator = std::sqrt(vi) / a.root_correction + a.epsilon;
    p[i] = p[i] * a.keep + a.negative_step * mi / denominator;
  }
}

// Elements below which a share of the work is not worth a thread.
constexpr int64_t kGrain = 16384;

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
    slot.exp_avg = Tensor::Zeros(param->value.shape());
    slot.exp_avg_sq = Tensor::Zeros(param->value.shape());
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
    const UpdateArgs args = {
        .p = slot.param->value.data(),
        .m = slot.exp_avg.data(),
        .v = slot.exp_avg_sq.data(),
        .g = grad.data(),
        .keep = static_cast<float>(1 - learning_rate * slot.weight_decay),
        .grad_share = static_cast<float>(1 - options_.beta1),
        .beta2 = static_cast<float>(options_.beta2),
        .square_share = static_cast<float>(1 - options_.beta2),
        .root_correction = static_cast<float>(std::sqrt(correction2)),
        .epsilon = static_cast<float>(options_.epsilon),
        .negative_step = static_cast<float>(-(learning_rate / correction1)),
    };
    ParallelFor(
        grad.size(), [&](Range range) { Update(args, range); }, kGrain);
  }
}

bool DecaysByName(const std::string& name) {
  if (name.find("bias") != std::string::npos) return false;
  // "norm" as the end of a word of the path: ".norm.", "_norm.", "layernorm.", "pos_norm_"; "_ln1".
  return name.find("norm") == std::string::npos && name.find("_ln1") == std::string::npos &&
         name.find("_ln2") == std::string::npos;
}

}  // namespace lapidary
