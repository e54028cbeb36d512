#include "autograd/ops/matmul.h"

#include "autograd/ops/common.h"

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
  void Backward(const float* dy, const InputGrads& d) const {
    const int64_t o = w.shape()[0], i = w.shape()[1], rows = RowsOf(x.shape(), i);
    const InputGrads::Target dx = d.Write(0);
    if (dx.data) GemmInputGrad(dy, rows, F32View(w.data(), o, i), dx.data, dx.add, compute);
    const InputGrads::Target dw = d.Write(1);
    if (dw.data) GemmWeightGrad(dy, x.data(), rows, o, i, dw.data, dw.add, compute);
  }
};

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

Var MatMul(Var x, Var w, Compute compute) {
  const Shape xs = x.shape(), ws = w.shape();
  LAPIDARY_CHECK(ws.rank == 2 && xs.rank >= 1 && xs[-1] == ws[1] && ws[1] >= 1,
                 "matmul: w must be [O, I], I the last axis of x; got x ", xs, ", w ", ws);
  Tensor y(WithLast(xs, ws[0]));
  GemmForward(x.data(), RowsOf(xs, ws[1]), F32View(w.data(), ws[0], ws[1]), y.data(),
              /*add=*/false, compute);
  return x.tape().Record(MatMulOp{x.value(), w.value(), compute}, {x, w}, y);
}

}  // namespace lapidary
