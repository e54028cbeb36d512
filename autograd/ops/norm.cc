#include "autograd/ops/norm.h"

#include "autograd/kernels/kernels.h"
#include "autograd/ops/common.h"
#include "autograd/profile.h"

namespace lapidary {
namespace {

struct RmsNormOp {
  static constexpr const char* kName = "rms_norm";
  Tensor x, w, rstd;  // w undefined: no gain
  void Backward(const float* dy, const InputGrads& d) const {
    const RmsNormArgs args = {.x = x.data(),
                              .w = w.data(),
                              .y = nullptr,
                              .rstd = rstd.data(),
                              .dy = dy,
                              .dx = d[0],
                              .dw = w.defined() ? d[1] : nullptr,
                              .rows = rstd.size(),
                              .cols = x.shape()[-1],
                              .eps = 0};
    if (args.dx)
      ParallelFor(
          args.rows, [&](Range r) { ActiveKernels().RmsNormGradX(args, r); }, RowGrain(args.cols));
    if (args.dw) {
      ParallelFor(
          args.cols, [&](Range c) { ActiveKernels().RmsNormGradW(args, c); }, kColumnGrain);
    }
  }
};

struct LayerNormOp {
  static constexpr const char* kName = "layer_norm";
  Tensor x, w, mean, rstd;
  void Backward(const float* dy, const InputGrads& d) const {
    const LayerNormArgs args = {.x = x.data(),
                                .w = w.data(),
                                .b = nullptr,
                                .y = nullptr,
                                .mean = mean.data(),
                                .rstd = rstd.data(),
                                .dy = dy,
                                .dx = d[0],
                                .dw = d[1],
                                .db = d[2],
                                .rows = rstd.size(),
                                .cols = w.size(),
                                .eps = 0};
    if (args.dx)
      ParallelFor(
          args.rows, [&](Range r) { ActiveKernels().LayerNormGradX(args, r); },
          RowGrain(args.cols));
    if (args.dw || args.db) {
      ParallelFor(
          args.cols, [&](Range c) { ActiveKernels().LayerNormGradW(args, c); }, kColumnGrain);
    }
  }
};

}  // namespace

Var RmsNorm(Var x, Var w, float eps) {
  const ProfileScope scope(RmsNormOp::kName);
  const Shape xs = x.shape();
  LAPIDARY_CHECK(xs.rank >= 1 && xs[-1] >= 1 && (!w.defined() || w.shape() == Shape{xs[-1]}),
                 "rms_norm: w must be [C], C the last axis of x; got x ", xs, ", w ",
                 w.defined() ? w.shape() : Shape{});
  LAPIDARY_CHECK(eps > 0, "rms_norm: eps must be > 0; got ", eps);
  const int64_t cols = xs[-1], rows = RowsOf(xs, cols);
  Tensor y(xs), rstd(Shape{rows});
  const RmsNormArgs args = {.x = x.data(),
                            .w = w.value().data(),
                            .y = y.data(),
                            .rstd = rstd.data(),
                            .dy = nullptr,
                            .dx = nullptr,
                            .dw = nullptr,
                            .rows = rows,
                            .cols = cols,
                            .eps = eps};
  ParallelFor(
      rows, [&](Range r) { ActiveKernels().RmsNorm(args, r); }, RowGrain(cols));
  RmsNormOp op = {x.value(), w.value(), rstd};
  if (!w.defined()) return x.tape().Record(std::move(op), {x}, y);
  return x.tape().Record(std::move(op), {x, w}, y);
}

Var LayerNorm(Var x, Var w, Var b, float eps) {
  const ProfileScope scope(LayerNormOp::kName);
  const Shape xs = x.shape();
  LAPIDARY_CHECK(
      xs.rank >= 1 && xs[-1] >= 1 && w.shape() == Shape{xs[-1]} && b.shape() == w.shape(),
      "layer_norm: w and b must be [C], C the last axis of x; got x ", xs, ", w ", w.shape(),
      ", b ", b.shape());
  LAPIDARY_CHECK(eps > 0, "layer_norm: eps must be > 0; got ", eps);
  const int64_t cols = xs[-1], rows = RowsOf(xs, cols);
  Tensor y(xs), mean(Shape{rows}), rstd(Shape{rows});
  const LayerNormArgs args = {.x = x.data(),
                              .w = w.data(),
                              .b = b.data(),
                              .y = y.data(),
                              .mean = mean.data(),
                              .rstd = rstd.data(),
                              .dy = nullptr,
                              .dx = nullptr,
                              .dw = nullptr,
                              .db = nullptr,
                              .rows = rows,
                              .cols = cols,
                              .eps = eps};
  ParallelFor(
      rows, [&](Range r) { ActiveKernels().LayerNorm(args, r); }, RowGrain(cols));
  return x.tape().Record(LayerNormOp{x.value(), w.value(), mean, rstd}, {x, w, b}, y);
}

}  // namespace lapidary
