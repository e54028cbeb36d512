#include "autograd/checkpoint.h"

#include <algorithm>
#include <cstring>
#include <memory>

#include "autograd/base/parallel.h"

namespace lapidary {
namespace {

void CopyBytes(const float* from, int64_t size, float* to) {
  if (from == to) return;
  ParallelFor(
      size,
      [&](Range r) {
        std::memcpy(to + r.begin, from + r.begin,
                    static_cast<size_t>(r.end - r.begin) * sizeof(float));
      },
      1 << 16);
}

// Calls visit(first, count) for every chunk.
template <class Visit>
void ForChunks(const RowsBody& rows, int64_t count, const Visit& visit) {
  LAPIDARY_CHECK(rows.chunk >= 1, "checkpoint: a chunk must have a row; got ", rows.chunk);
  for (int64_t first = 0; first < count; first += rows.chunk) {
    visit(first, std::min(rows.chunk, count - first));
  }
}

Tensor ForwardRows(const RowsBody& rows, Tensor x, const std::vector<Param*>& params) {
  Tensor y;
  if (x.shape()[0] > rows.chunk) y = Tensor(x.shape());
  ForChunks(rows, x.shape()[0], [&](int64_t first, int64_t count) {
    Tape inner(Tape::Mode::kNoGrad);
    inner.RestrictParams(&params);
    const Tensor part = rows.run(inner, inner.Constant(x.Rows(first, count)), first).value();
    LAPIDARY_CHECK(part.shape() == x.Rows(first, count).shape(),
                   "checkpoint: a piece by rows must keep the shape ", x.Rows(first, count).shape(),
                   "; got ", part.shape());
    if (!y.defined()) {
      y = part;
    } else {
      CopyBytes(part.data(), part.size(), y.Rows(first, count).data());
    }
  });
  return y;
}

// Replaces dy by the gradient of x, if `needed`, and adds the gradients of the params.
void BackwardRows(const RowsBody& rows, const Tensor& x, const std::vector<Param*>& params,
                  bool needed, Tensor* dy) {
  ForChunks(rows, x.shape()[0], [&](int64_t first, int64_t count) {
    Tape inner;
    inner.RestrictParams(&params);
    const Tensor part = x.Rows(first, count);
    const Var in = needed ? inner.Input(part) : inner.Constant(part);
    Var y = rows.run(inner, in, first);
    const Tensor slice = dy->Rows(first, count);
    if (y.needs_grad()) {
      y.ReleaseValue();
      inner.Backward(y, slice);
    }
    if (!needed) return;
    if (const Tensor grad = inner.Grad(in); grad.defined()) {
      CopyBytes(grad.data(), slice.size(), slice.data());
    } else {
      std::fill_n(slice.data(), slice.size(), 0.0f);
    }
  });
}

struct CheckpointRowsOp {
  static constexpr const char* kName = "checkpoint_rows";
  RowsBody rows;
  Tensor x;
  bool needed;
  std::vector<Param*> params;

  void Backward(Tensor dy, const InputGrads& d) const {
    BackwardRows(rows, x, params, needed, &dy);
    if (needed) d.Give(0, std::move(dy));
  }
};

struct CheckpointOp {
  static constexpr const char* kName = "checkpoint";
  CheckpointBody body;
  RowsBody rows;
  std::vector<Stash> inputs;
  std::vector<bool> needed;
  std::vector<Param*> params;

  void Backward(Tensor dy, const InputGrads& d) {
    Tape inner;
    inner.RestrictParams(&params);
    std::vector<Var> again;
    for (size_t i = 0; i < inputs.size(); ++i) {
      Tensor x = inputs[i].Take();
      again.push_back(needed[i] ? inner.Input(std::move(x)) : inner.Constant(std::move(x)));
    }
    Var y = body(inner, again);
    for (Var& v : again) v.ReleaseValue();
    if (rows.run) BackwardRows(rows, y.value(), params, y.needs_grad(), &dy);
    if (!y.needs_grad()) return;
    y.ReleaseValue();
    inner.Backward(y, std::move(dy));
    for (size_t i = 0; i < again.size(); ++i) {
      if (Tensor grad = inner.Grad(again[i]); grad.defined()) {
        d.Give(static_cast<int>(i), std::move(grad));
      }
    }
  }
};

bool AnyTrains(const std::vector<Param*>& params) {
  return std::any_of(params.begin(), params.end(), [](const Param* p) { return p->trainable; });
}

}  // namespace

Var Checkpoint(Tape& tape, CheckpointBody body, std::vector<Var> inputs, std::vector<Param*> params,
               const StashPolicy& keep, RowsBody rows) {
  Tensor y;
  {
    Tape inner(Tape::Mode::kNoGrad);
    inner.RestrictParams(&params);
    std::vector<Var> first;
    for (const Var& v : inputs) first.push_back(inner.Constant(v.value()));
    y = body(inner, first).value();
  }
  if (rows.run) y = ForwardRows(rows, std::move(y), params);
  const bool trains = AnyTrains(params);
  if (!tape.ShouldRecord(inputs, trains)) return tape.Constant(std::move(y));
  CheckpointOp op;
  for (const Var& v : inputs) {
    op.inputs.emplace_back(v.value(), keep);
    op.needed.push_back(v.needs_grad());
  }
  op.body = std::move(body);
  op.rows = std::move(rows);
  op.params = std::move(params);
  return tape.Record(std::move(op), inputs, std::move(y), trains);
}

Var CheckpointRows(Tape& tape, RowsBody rows, Var x, std::vector<Param*> params) {
  Tensor y = ForwardRows(rows, x.value(), params);
  const bool trains = AnyTrains(params);
  if (!tape.ShouldRecord({&x, 1}, trains)) return tape.Constant(std::move(y));
  CheckpointRowsOp op = {std::move(rows), x.value(), x.needs_grad(), std::move(params)};
  return tape.Record(std::move(op), {x}, std::move(y), trains);
}

}  // namespace lapidary
