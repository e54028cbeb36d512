#include "autograd/ops/matmul.h"

#include <algorithm>

#include "autograd/gemm_group.h"
#include "autograd/ops/common.h"
#include "autograd/weight_map.h"

namespace lapidary {
namespace {

struct MatMulFrozenOp {
  static constexpr const char* kName = "matmul_frozen";
  WeightView w;
  int64_t rows;
  Compute compute;
  void Backward(const float* dy, const InputGrads& d) const {
    const InputGrads::Target dx = d.Write(0);
    if (dx.data) GemmInputGrad(dy, rows, w, dx.data, dx.add, compute);
  }
};

struct MatMulOp {
  static constexpr const char* kName = "matmul";
  Tensor x, w;
  Compute compute;
  const WeightMap* map;
  WeightView View() const {
    WeightView view = F32View(w.data(), w.shape()[0], w.shape()[1]);
    view.map = map;
    return view;
  }
  void Backward(const float* dy, const InputGrads& d) const {
    const int64_t o = w.shape()[0], i = w.shape()[1], rows = RowsOf(x.shape(), i);
    const InputGrads::Target dx = d.Write(0);
    if (dx.data) GemmInputGrad(dy, rows, View(), dx.data, dx.add, compute);
    const InputGrads::Target dw = d.Write(1);
    if (dw.data) GemmWeightGrad(dy, x.data(), rows, o, i, dw.data, dw.add, compute);
  }
};

// Inputs: x, then A and B of each weight that has them, then the steps of each that has them.
struct MatMulGroupOp {
  static constexpr const char* kName = "matmul_group";
  struct Weight {
    WeightView w;
    Tensor a, b;
    float scale;
    bool learns;
  };
  std::vector<Weight> weights;
  Tensor x, z;  // undefined where no gradient reads them
  int64_t rows;
  Compute compute;

  std::vector<GroupPart> Parts() const {
    std::vector<GroupPart> parts;
    for (const Weight& w : weights) {
      parts.push_back({w.w, nullptr, nullptr, 0, w.scale});
      if (!w.a.defined()) continue;
      parts.back().a = w.a.data();
      parts.back().b = w.b.data();
      parts.back().rank = w.a.shape()[0];
    }
    return parts;
  }

  void Backward(std::span<Tensor> dy, const InputGrads& d) const {
    const std::vector<GroupPart> parts = Parts();
    std::vector<GroupPartGrads> grads(parts.size());
    const auto target = [&](int input) {
      const InputGrads::Target t = d.Write(input);
      return GroupTarget{t.data, t.add};
    };
    int input = 1;
    for (size_t j = 0; j < parts.size(); ++j) {
      if (dy[j].defined()) grads[j].dy = dy[j].data();
      if (parts[j].rank == 0) continue;
      if (grads[j].dy) {
        grads[j].da = target(input);
        grads[j].db = target(input + 1);
      }
      input += 2;
    }
    for (size_t j = 0; j < parts.size(); ++j) {
      if (!weights[j].learns) continue;
      if (grads[j].dy) grads[j].dsteps = target(input);
      ++input;
    }
    GemmGroupGrad(x.defined() ? x.data() : nullptr, z.defined() ? z.data() : nullptr, rows, parts,
                  grads, target(0), compute);
  }
};

// z of all parts side by side, without the y: x times all A_j on top of each other.
void LowRankValues(const float* x, int64_t n, std::span<const GroupPart> parts, float* z,
                   Compute compute) {
  const int64_t rank = GroupRank(parts), cols = parts[0].w.cols;
  const Tensor stacked({rank, cols});
  int64_t at = 0;
  for (const GroupPart& p : parts) {
    const float* a = p.a;
    float* to = stacked.data() + at * cols;
    ParallelFor(
        p.rank * cols, [&](Range r) { std::copy(a + r.begin, a + r.end, to + r.begin); },
        kElementGrain);
    at += p.rank;
  }
  GemmForward(x, n, F32View(stacked.data(), rank, cols), z, /*add=*/false, compute);
}

// x's shape with its last axis replaced.
Shape WithLast(Shape shape, int64_t size) {
  shape.dims[shape.rank - 1] = size;
  return shape;
}

}  // namespace

Var MatMulFrozen(Var x, const WeightView& w, Compute compute) {
  const Shape xs = x.shape();
  LAPIDARY_CHECK(xs.rank >= 1 && xs[-1] == w.cols && w.cols >= 1,
                 "matmul_frozen: w must be [O, I], I the last axis of x; got x ", xs, ", w [",
                 w.rows, ", ", w.cols, "]");
  const int64_t rows = RowsOf(xs, w.cols);
  Tensor y(WithLast(xs, w.rows));
  GemmForward(x.data(), rows, w, y.data(), /*add=*/false, compute);
  return x.tape().Record(MatMulFrozenOp{w, rows, compute}, {x}, y);
}

std::vector<Var> MatMulGroup(Var x, std::span<const AdaptedWeight> weights, Compute compute,
                             bool values) {
  const Shape xs = x.shape();
  LAPIDARY_CHECK(!weights.empty(), "matmul_group: must have a weight; got none");
  MatMulGroupOp op;
  op.compute = compute;
  std::vector<Var> inputs = {x};
  bool a_trains = false, b_trains = false;
  for (const AdaptedWeight& w : weights) {
    LAPIDARY_CHECK(xs.rank >= 1 && xs[-1] == w.w.cols && w.w.cols >= 1 && w.w.rows >= 1,
                   "matmul_group: w must be [O, I], I the last axis of x; got x ", xs, ", w [",
                   w.w.rows, ", ", w.w.cols, "]");
    op.weights.push_back({w.w, Tensor(), Tensor(), w.scale, w.steps.defined()});
    if (!w.a.defined()) continue;
    const Shape as = w.a.shape();
    LAPIDARY_CHECK(as.rank == 2 && as[0] >= 1 && as[1] == w.w.cols && w.b.defined() &&
                       w.b.shape() == (Shape{w.w.rows, as[0]}),
                   "matmul_group: A must be [r, I] and B [O, r] for w [", w.w.rows, ", ", w.w.cols,
                   "]; got A ", as, ", B ", w.b.defined() ? w.b.shape() : Shape{});
    op.weights.back().a = w.a.value();
    op.weights.back().b = w.b.value();
    inputs.push_back(w.a);
    inputs.push_back(w.b);
    a_trains = a_trains || w.a.needs_grad();
    b_trains = b_trains || w.b.needs_grad();
  }
  bool steps_train = false;
  for (const AdaptedWeight& w : weights) {
    if (!w.steps.defined()) continue;
    const WeightMap* map = w.w.map;
    LAPIDARY_CHECK(map && map->slope && map->slope_block >= 1 &&
                       w.steps.shape() == (Shape{w.w.rows, w.w.cols / map->slope_block}),
                   "matmul_group: steps must be those of a map that learns, [O, I / block]; got ",
                   w.steps.shape());
    inputs.push_back(w.steps);
    steps_train = steps_train || w.steps.needs_grad();
  }
  op.rows = RowsOf(xs, weights[0].w.cols);
  const std::vector<GroupPart> parts = op.Parts();
  const int64_t rank = GroupRank(parts);
  Tensor z;
  if (rank > 0 && (values || b_trains)) z = Tensor({op.rows, rank});
  std::vector<Tensor> ys;
  std::vector<float*> y;
  for (const AdaptedWeight& w : weights) {
    const Shape shape = WithLast(xs, w.w.rows);
    ys.push_back(values ? Tensor(shape) : Tensor::WithoutBytes(shape));
    y.push_back(ys.back().data());
  }
  if (values) {
    GemmGroupForward(x.data(), op.rows, parts, y, rank > 0 ? z.data() : nullptr, compute);
  } else if (b_trains) {
    LowRankValues(x.data(), op.rows, parts, z.data(), compute);
  }
  if (a_trains || steps_train) op.x = x.value();
  if (b_trains) op.z = z;
  return x.tape().RecordMany(std::move(op), inputs, std::move(ys));
}

Var MatMul(Var x, Var w, Compute compute, bool values, const WeightMap* map) {
  const Shape xs = x.shape(), ws = w.shape();
  LAPIDARY_CHECK(ws.rank == 2 && xs.rank >= 1 && xs[-1] == ws[1] && ws[1] >= 1,
                 "matmul: w must be [O, I], I the last axis of x; got x ", xs, ", w ", ws);
  if (!values) {
    return x.tape().Record(MatMulOp{x.value(), w.value(), compute, map}, {x, w},
                           Tensor::WithoutBytes(WithLast(xs, ws[0])));
  }
  Tensor y(WithLast(xs, ws[0]));
  MatMulOp op = {x.value(), w.value(), compute, map};
  GemmForward(x.data(), RowsOf(xs, ws[1]), op.View(), y.data(), /*add=*/false, compute);
  return x.tape().Record(std::move(op), {x, w}, y);
}

}  // namespace lapidary
