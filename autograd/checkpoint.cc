#include "autograd/checkpoint.h"

#include <algorithm>
#include <memory>

namespace lapidary {
namespace {

struct CheckpointOp {
  static constexpr const char* kName = "checkpoint";
  CheckpointBody body;
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
               const StashPolicy& keep) {
  Tensor y;
  {
    Tape inner(Tape::Mode::kNoGrad);
    inner.RestrictParams(&params);
    std::vector<Var> first;
    for (const Var& v : inputs) first.push_back(inner.Constant(v.value()));
    y = body(inner, first).value();
  }
  const bool trains = AnyTrains(params);
  if (!tape.ShouldRecord(inputs, trains)) return tape.Constant(std::move(y));
  CheckpointOp op;
  for (const Var& v : inputs) {
    op.inputs.emplace_back(v.value(), keep);
    op.needed.push_back(v.needs_grad());
  }
  op.body = std::move(body);
  op.params = std::move(params);
  return tape.Record(std::move(op), inputs, std::move(y), trains);
}

}  // namespace lapidary
