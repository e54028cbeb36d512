#include "train/ema.h"

#include <algorithm>
#include <utility>

#include "autograd/base/error.h"
#include "autograd/base/parallel.h"

namespace lapidary {
namespace {

constexpr int64_t kGrain = 1 << 14;

}  // namespace

Ema::Ema(const std::vector<Param*>& params, double decay)
    : params_(params), rest_(static_cast<float>(1 - decay)) {
  LAPIDARY_CHECK(decay > 0 && decay < 1, "ema_decay: must be in (0, 1); got ", decay,
                 "; try 0.999");
  for (const Param* param : params) {
    Tensor& value = values_.emplace_back(param->value.shape());
    ParallelFor(
        value.size(),
        [&](Range r) {
          std::copy_n(param->value.data() + r.begin, r.end - r.begin, value.data() + r.begin);
        },
        kGrain);
  }
}

void Ema::Update() {
  for (size_t k = 0; k < params_.size(); ++k) {
    float* average = values_[k].data();
    const float* p = params_[k]->value.data();
    ParallelFor(
        values_[k].size(),
        [&](Range r) {
          for (int64_t i = r.begin; i < r.end; ++i) average[i] += rest_ * (p[i] - average[i]);
        },
        kGrain);
  }
}

void Ema::Swap() {
  for (size_t k = 0; k < params_.size(); ++k) std::swap(params_[k]->value, values_[k]);
  swapped_ = !swapped_;
}

}  // namespace lapidary
