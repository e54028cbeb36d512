#include "autograd/tape.h"

#include <algorithm>

#include "autograd/base/parallel.h"
#include "autograd/kernels/kernels.h"
#include "autograd/profile.h"

namespace lapidary {

Var Var::Reshaped(const Shape& shape) const {
  Var v = *this;
  v.value_ = value_.Reshaped(shape);
  return v;
}

bool InputGrads::needed(int i) const { return (*inputs_)[i] >= 0; }

InputGrads::Target InputGrads::Write(int i) const {
  const int node = (*inputs_)[i];
  if (node < 0) return {nullptr, true};
  Tensor& grad = tape_->GradSlot(node);
  const bool fresh = !grad.defined();
  if (fresh) grad = Tensor(tape_->nodes_[node].shape);
  return {grad.data(), !fresh};
}

void InputGrads::Give(int i, Tensor grad) const {
  const int node = (*inputs_)[i];
  if (node < 0) return;
  Tape::Accumulate(std::move(grad), &tape_->GradSlot(node));
}

float* InputGrads::operator[](int i) const {
  const int node = (*inputs_)[i];
  if (node < 0) return nullptr;
  Tensor& grad = tape_->GradSlot(node);
  if (!grad.defined()) grad = Tensor::Zeros(tape_->nodes_[node].shape);
  return grad.data();
}

Var Tape::Leaf(Param& p) {
  if (mode_ == Mode::kNoGrad || !p.trainable) {
    LAPIDARY_CHECK(!p.trainable || !allowed_params_ ||
                       std::find(allowed_params_->begin(), allowed_params_->end(), &p) !=
                           allowed_params_->end(),
                   "checkpoint: every trainable Param used inside must be in its list; got ",
                   p.name);
    return Var(this, -1, p.value);
  }
  LAPIDARY_CHECK(!allowed_params_ || std::find(allowed_params_->begin(), allowed_params_->end(),
                                               &p) != allowed_params_->end(),
                 "checkpoint: every trainable Param used inside must be in its list; got ", p.name);
  Node node;
  node.shape = p.value.shape();
  node.param = &p;
  nodes_.push_back(std::move(node));
  return Var(this, static_cast<int>(nodes_.size()) - 1, p.value);
}

Var Tape::Constant(Tensor value) { return Var(this, -1, std::move(value)); }

Var Tape::Input(Tensor value, Tensor grad) {
  if (mode_ == Mode::kNoGrad) return Constant(std::move(value));
  LAPIDARY_CHECK(!grad.defined() || grad.shape() == value.shape(),
                 "Input: the gradient must have the value's shape ", value.shape(), "; got ",
                 grad.shape());
  Node node;
  node.shape = value.shape();
  node.grad = std::move(grad);
  nodes_.push_back(std::move(node));
  return Var(this, static_cast<int>(nodes_.size()) - 1, std::move(value));
}

bool Tape::ShouldRecord(std::span<const Var> inputs, bool always) const {
  if (mode_ == Mode::kNoGrad) return false;
  return always ||
         std::any_of(inputs.begin(), inputs.end(), [](const Var& v) { return v.needs_grad(); });
}

Var Tape::Append(std::unique_ptr<OpBase> op, std::span<const Var> inputs, Tensor y) {
  LAPIDARY_CHECK(!done_, "Record: the tape must not have run backward; got an op ", op->name(),
                 " after it");
  Node node;
  node.op = std::move(op);
  node.shape = y.shape();
  node.inputs.reserve(inputs.size());
  for (const Var& v : inputs) {
    LAPIDARY_CHECK(!v.needs_grad() || v.tape_ == this, node.op->name(),
                   ": inputs must be on the same tape");
    node.inputs.push_back(v.node_);
  }
  nodes_.push_back(std::move(node));
  return Var(this, static_cast<int>(nodes_.size()) - 1, std::move(y));
}

std::vector<Var> Tape::AppendMany(std::unique_ptr<OpBase> op, std::span<const Var> inputs,
                                  std::vector<Tensor> ys) {
  LAPIDARY_CHECK(!ys.empty(), op->name(), ": must have an output; got none");
  std::vector<Var> vars = {Append(std::move(op), inputs, std::move(ys[0]))};
  nodes_.back().outputs = static_cast<int>(ys.size());
  for (size_t j = 1; j < ys.size(); ++j) {
    Node node;
    node.shape = ys[j].shape();
    nodes_.push_back(std::move(node));
    vars.push_back(Var(this, static_cast<int>(nodes_.size()) - 1, std::move(ys[j])));
  }
  return vars;
}

void Tape::Backward(const Var& loss) {
  LAPIDARY_CHECK(loss.value().size() == 1, "Backward: the loss must be a scalar; got ",
                 loss.shape());
  Tensor one(loss.shape());
  one.Fill(1.0f);
  Backward(loss, std::move(one));
}

void Tape::Backward(const Var& y, Tensor dy) {
  LAPIDARY_CHECK(y.needs_grad(),
                 "Backward: a trainable Param must reach this value; got none; try attaching LoRA "
                 "or unfreezing a Param");
  std::vector<Root> roots;
  roots.push_back({y, std::move(dy)});
  Backward(std::move(roots));
}

void Tape::Backward(std::vector<Root> roots) {
  LAPIDARY_CHECK(!done_, "Backward: must run once per tape; got a second call");
  done_ = true;
  int last = -1;
  for (Root& root : roots) {
    if (!root.y.needs_grad()) continue;
    LAPIDARY_CHECK(root.dy.size() == root.y.shape().size(),
                   "Backward: the gradient must have the value's size; got ", root.dy.shape(),
                   ", value ", root.y.shape());
    last = std::max(last, root.y.node_);
    Accumulate(std::move(root.dy), &GradSlot(root.y.node_));
  }
  roots.clear();
  for (int i = last; i >= 0; --i) {
    Node& node = nodes_[i];
    if (!node.op) continue;
    std::vector<Tensor> dy;
    bool reached = false;
    for (int j = i; j < i + node.outputs; ++j) {
      dy.push_back(std::move(nodes_[j].grad));
      nodes_[j].grad = Tensor();
      reached = reached || dy.back().defined();
    }
    const std::unique_ptr<OpBase> op = std::move(node.op);
    if (!reached) continue;
    const ProfileScope scope(op->name(), /*backward=*/true);
    op->Backward(dy, InputGrads(this, &node.inputs));
  }
}

void Tape::Accumulate(Tensor grad, Tensor* slot) {
  if (!slot->defined()) {
    *slot = std::move(grad);
    return;
  }
  const ScaleArgs args = {.x = grad.data(), .y = slot->data(), .c = 1.0f, .add = true};
  ParallelFor(
      grad.size(), [&](Range r) { ActiveKernels().Scale(args, r); }, 1 << 14);
}

Tensor Tape::Grad(const Var& input) const {
  return input.node_ < 0 ? Tensor() : nodes_[input.node_].grad;
}

}  // namespace lapidary
