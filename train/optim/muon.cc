#include "train/optim/muon.h"

#include <algorithm>
#include <cmath>

#include "autograd/base/parallel.h"

namespace lapidary {
namespace {

constexpr float kA = 3.4445f, kB = -4.7750f, kC = 2.0315f;

template <class Body>
void Elements(int64_t size, const Body& body) {
  ParallelFor(
      size,
      [&](Range range) {
        for (int64_t i = range.begin; i < range.end; ++i) body(i);
      },
      kOptimizerPiece);
}

Tensor Transposed(const Tensor& x) {
  const int64_t rows = x.shape()[0], cols = x.shape()[1];
  Tensor y({cols, rows});
  ParallelFor(
      cols,
      [&](Range range) {
        for (int64_t c = range.begin; c < range.end; ++c) {
          for (int64_t r = 0; r < rows; ++r) y.data()[c * rows + r] = x.data()[r * cols + c];
        }
      },
      64);
  return y;
}

double Adjustment(const std::string& rule, const Shape& shape) {
  const double a = static_cast<double>(shape[0]), b = static_cast<double>(shape[1]);
  if (rule == "original") return std::sqrt(std::max(1.0, a / b));
  if (rule == "spectral_unclamped") return std::sqrt(a / b);
  return 0.2 * std::sqrt(std::max(a, b));
}

}  // namespace

bool IsMuonMatrix(const Param& param) {
  return param.value.shape().rank == 2 && param.name.find("embed_tokens") == std::string::npos &&
         param.name.find("lm_head") == std::string::npos;
}

void Orthogonalize(Tensor* x, int64_t steps, double epsilon, Compute compute) {
  const int64_t rows = x->shape()[0], cols = x->shape()[1], size = x->size();
  const double norm = RootMeanSquare(x->data(), size) * std::sqrt(static_cast<double>(size));
  const float scale = static_cast<float>(1 / std::max(norm, epsilon));
  Elements(size, [&](int64_t i) { x->data()[i] *= scale; });
  Tensor gram({rows, rows}), square({rows, rows}), product({rows, cols});
  for (int64_t step = 0; step < steps; ++step) {
    GemmForward(x->data(), rows, F32View(x->data(), rows, cols), gram.data(), false, compute);
    // A is symmetric, so A A^T is A^2.
    GemmForward(gram.data(), rows, F32View(gram.data(), rows, rows), square.data(), false, compute);
    Elements(rows * rows,
             [&](int64_t i) { gram.data()[i] = kB * gram.data()[i] + kC * square.data()[i]; });
    GemmInputGrad(gram.data(), rows, F32View(x->data(), rows, cols), product.data(), false,
                  compute);
    Elements(size, [&](int64_t i) { x->data()[i] = kA * x->data()[i] + product.data()[i]; });
  }
}

Muon::Muon(const std::vector<Param*>& params, const MuonOptions& options)
    : Optimizer(params), options_(options) {
  CheckAdamW(options.adamw);
  LAPIDARY_CHECK(options.momentum >= 0 && options.momentum < 1,
                 "optim_args.momentum: must be in [0, 1); got ", options.momentum, "; try 0.95");
  LAPIDARY_CHECK(options.ns_steps >= 1 && options.ns_steps < 100,
                 "optim_args.ns_steps: must be from 1 to 99; got ", options.ns_steps, "; try 5");
  LAPIDARY_CHECK(options.adjust_lr_fn == "match_rms_adamw" || options.adjust_lr_fn == "original" ||
                     options.adjust_lr_fn == "spectral_unclamped",
                 "optim_args.adjust_lr_fn: must be match_rms_adamw, original or "
                 "spectral_unclamped; got ",
                 options.adjust_lr_fn);
  for (OptimizerSlot& slot : slots()) {
    slot.weight_decay = options.weight_decay;
    if (IsMuonMatrix(*slot.param)) {
      slot.states.push_back(
          {"momentum_buffer", MomentState(slot.param->value.shape(), DType::kF32, true)});
    } else {
      AddAdamWStates(slot, options.adamw.states);
    }
  }
}

void Muon::Update(OptimizerSlot& slot, double learning_rate) {
  if (!IsMuonMatrix(*slot.param)) {
    AdamWUpdate(slot, options_.adamw, learning_rate);
    return;
  }
  const Shape shape = slot.param->value.shape();
  const float momentum = static_cast<float>(options_.momentum);
  const float fresh = static_cast<float>(1 - options_.momentum);
  const bool nesterov = options_.nesterov;
  float* buffer = slot.states[0].moment.values.data();
  Tensor u(shape);
  Elements(shape.size(), [&](int64_t i) {
    const float g = slot.param->grad.data()[i];
    buffer[i] += fresh * (g - buffer[i]);
    u.data()[i] = nesterov ? g + momentum * (buffer[i] - g) : buffer[i];
  });
  const bool tall = shape[0] > shape[1];
  if (tall) u = Transposed(u);
  Orthogonalize(&u, options_.ns_steps, options_.epsilon, options_.compute);
  if (tall) u = Transposed(u);
  const float keep = static_cast<float>(1 - learning_rate * slot.weight_decay);
  const float rate = static_cast<float>(learning_rate * Adjustment(options_.adjust_lr_fn, shape));
  float* p = slot.param->value.data();
  Elements(shape.size(), [&](int64_t i) { p[i] = p[i] * keep - rate * u.data()[i]; });
}

}  // namespace lapidary
