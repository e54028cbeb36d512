#include "autograd/ops/basic.h"

#include <memory>

#include "autograd/kernels/kernels.h"
#include "autograd/ops/common.h"
#include "autograd/profile.h"

namespace lapidary {
namespace {

struct AddOp {
  static constexpr const char* kName = "add";
  int64_t size;
  void Backward(const float* dy, const InputGrads& d) const {
    PassGradient(dy, size, d, 0);
    PassGradient(dy, size, d, 1);
  }
};

struct ScaleOp {
  static constexpr const char* kName = "scale";
  int64_t size;
  float c;
  void Backward(const float* dy, const InputGrads& d) const {
    const InputGrads::Target dx = d.Write(0);
    if (dx.data) ScaleInto(dy, size, c, dx);
  }
};

struct AddBiasOp {
  static constexpr const char* kName = "add_bias";
  int64_t rows, cols;
  void Backward(const float* dy, const InputGrads& d) const {
    PassGradient(dy, rows * cols, d, 0);
    if (!d.needed(1)) return;
    const SumRowsArgs args = {.x = dy, .sum = d[1], .rows = rows, .cols = cols};
    ParallelFor(
        cols, [&](Range c) { ActiveKernels().SumRows(args, c); }, kColumnGrain);
  }
};

struct ScaleColumnsOp {
  static constexpr const char* kName = "scale_columns";
  Tensor x, g, constant;
  void Backward(const float* dy, const InputGrads& d) const {
    const int64_t cols = g.size(), rows = RowsOf(x.shape(), cols);
    const ScaleColumnsArgs args = {.x = x.data(),
                                   .g = g.data(),
                                   .k = constant.data(),
                                   .y = nullptr,
                                   .dy = dy,
                                   .dx = d[0],
                                   .dg = d[1],
                                   .rows = rows,
                                   .cols = cols};
    if (args.dx)
      ParallelFor(
          rows, [&](Range r) { ActiveKernels().ScaleColumnsGradX(args, r); }, RowGrain(cols));
    if (args.dg) {
      ParallelFor(
          cols, [&](Range c) { ActiveKernels().ScaleColumnsGradG(args, c); }, kColumnGrain);
    }
  }
};

struct RoundBf16Op {
  static constexpr const char* kName = "round_bf16";
  int64_t size;
  void Backward(const float* dy, const InputGrads& d) const { PassGradient(dy, size, d, 0); }
};

struct DropoutOp {
  static constexpr const char* kName = "dropout";
  DropoutArgs args;
  int64_t rows;
  std::shared_ptr<const std::vector<int64_t>> indices;
  void Backward(const float* dy, const InputGrads& d) const {
    const InputGrads::Target dx = d.Write(0);
    if (!dx.data) return;
    DropoutArgs back = args;
    back.x = dy;
    back.y = dx.data;
    back.add = dx.add;
    back.indices = indices->data();
    ParallelFor(rows, [&](Range r) { ActiveKernels().Dropout(back, r); });
  }
};

}  // namespace

void ScaleInto(const float* x, int64_t size, float c, const InputGrads::Target& y) {
  const ScaleArgs args = {.x = x, .y = y.data, .c = c, .add = y.add};
  ParallelFor(
      size, [&](Range r) { ActiveKernels().Scale(args, r); }, kElementGrain);
}

void PassGradient(const float* dy, int64_t size, const InputGrads& d, int input) {
  const InputGrads::Target dx = d.Write(input);
  if (dx.data) ScaleInto(dy, size, 1.0f, dx);
}

Var Add(Var a, Var b) {
  const ProfileScope scope(AddOp::kName);
  LAPIDARY_CHECK(a.shape() == b.shape(), "add: shapes must be equal; got ", a.shape(), " and ",
                 b.shape());
  Tensor y(a.shape());
  const AddArgs args = {.a = a.data(), .b = b.data(), .y = y.data()};
  ParallelFor(
      y.size(), [&](Range r) { ActiveKernels().Add(args, r); }, kElementGrain);
  return a.tape().Record(AddOp{y.size()}, {a, b}, y);
}

Var Scale(Var x, float c) {
  const ProfileScope scope(ScaleOp::kName);
  Tensor y(x.shape());
  ScaleInto(x.data(), y.size(), c, {y.data(), false});
  return x.tape().Record(ScaleOp{y.size(), c}, {x}, y);
}

Var AddBias(Var x, Var b) {
  const ProfileScope scope(AddBiasOp::kName);
  const Shape xs = x.shape();
  LAPIDARY_CHECK(xs.rank >= 1 && b.shape() == Shape{xs[-1]},
                 "add_bias: b must be [C], C the last axis of x; got x ", xs, ", b ", b.shape());
  const int64_t cols = xs[-1], rows = RowsOf(xs, cols);
  Tensor y(xs);
  const AddBiasArgs args = {.x = x.data(), .b = b.data(), .y = y.data(), .cols = cols};
  ParallelFor(
      rows, [&](Range r) { ActiveKernels().AddBias(args, r); }, RowGrain(cols));
  return x.tape().Record(AddBiasOp{rows, cols}, {x, b}, y);
}

Var ScaleColumns(Var x, Var g, Tensor constant) {
  const ProfileScope scope(ScaleColumnsOp::kName);
  const Shape xs = x.shape();
  LAPIDARY_CHECK(xs.rank >= 1 && g.shape() == Shape{xs[-1]} && constant.shape() == g.shape(),
                 "scale_columns: g and constant must be [C], C the last axis of x; got x ", xs,
                 ", g ", g.shape(), ", constant ", constant.shape());
  const int64_t cols = xs[-1], rows = RowsOf(xs, cols);
  Tensor y(xs);
  const ScaleColumnsArgs args = {.x = x.data(),
                                 .g = g.data(),
                                 .k = constant.data(),
                                 .y = y.data(),
                                 .dy = nullptr,
                                 .dx = nullptr,
                                 .dg = nullptr,
                                 .rows = rows,
                                 .cols = cols};
  ParallelFor(
      rows, [&](Range r) { ActiveKernels().ScaleColumns(args, r); }, RowGrain(cols));
  return x.tape().Record(ScaleColumnsOp{x.value(), g.value(), constant}, {x, g}, y);
}

Var RoundBf16(Var x) {
  const ProfileScope scope(RoundBf16Op::kName);
  Tensor y(x.shape());
  const RoundArgs args = {.x = x.data(), .y = y.data()};
  ParallelFor(
      y.size(), [&](Range r) { ActiveKernels().RoundBf16(args, r); }, kElementGrain);
  return x.tape().Record(RoundBf16Op{y.size()}, {x}, y);
}

Var Dropout(Var x, float p, const RandomKey& key, const std::vector<int64_t>& indices) {
  const ProfileScope scope(DropoutOp::kName);
  const Shape xs = x.shape();
  LAPIDARY_CHECK(p >= 0 && p < 1, "dropout: p must be at least 0 and below 1; got ", p);
  LAPIDARY_CHECK(xs.rank >= 1 && static_cast<int64_t>(indices.size()) == xs[0],
                 "dropout: indices must be [N], N the first axis of x; got ", indices.size(),
                 ", x ", xs);
  if (p == 0) return x;
  Tensor y(xs);
  DropoutOp op = {.args = {.x = x.data(),
                           .y = y.data(),
                           .indices = nullptr,
                           .cols = xs[0] ? xs.size() / xs[0] : 1,
                           .key = key,
                           .threshold = static_cast<uint32_t>(static_cast<double>(p) * (1 << 24)),
                           .scale = static_cast<float>(1.0 / (1.0 - static_cast<double>(p))),
                           .add = false},
                  .rows = xs[0],
                  .indices = std::make_shared<const std::vector<int64_t>>(indices)};
  op.args.indices = op.indices->data();
  ParallelFor(op.rows, [&](Range r) { ActiveKernels().Dropout(op.args, r); });
  op.args.x = nullptr;
  op.args.y = nullptr;
  return x.tape().Record(std::move(op), {x}, y);
}

}  // namespace lapidary
