// The tape: eager, append-only list of ops; backward is one reverse loop over it. Each op is a
// struct that holds what its gradient needs and nothing else; the tape holds gradients and shapes,
// never values, so an activation lives exactly as long as an op or a Var of the caller keeps it.
// Everything of an op is released as soon as its gradient has been formed. A tape and its Vars
// belong to one thread.
#ifndef LAPIDARY_AUTOGRAD_TAPE_H_
#define LAPIDARY_AUTOGRAD_TAPE_H_

#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "autograd/tensor.h"

namespace lapidary {

// A parameter that may be trained: float32 value, and a gradient that backward passes add to.
struct Param {
  std::string name;
  Tensor value;            // f32
  Tensor grad;             // undefined until the first gradient arrives, then f32 of value's shape
  bool trainable = false;  // false: leaves of it never get a gradient
};

class Tape;

// A value on a tape. Cheap to copy. Default-constructed: no value.
class Var {
 public:
  Var() = default;
  bool defined() const { return tape_ != nullptr; }
  const Tensor& value() const { return value_; }
  const Shape& shape() const { return value_.shape(); }
  const float* data() const { return value_.data(); }
  Tape& tape() const { return *tape_; }
  // True iff a gradient will be formed for it.
  bool needs_grad() const { return node_ >= 0; }
  // The same value under another shape; gradients flow through.
  Var Reshaped(const Shape& shape) const;
  // Lets go of the value, which nobody may read any more; shape and gradient stay.
  void ReleaseValue() { value_.Release(); }

 private:
  friend class Tape;
  Var(Tape* tape, int node, Tensor value) : tape_(tape), node_(node), value_(std::move(value)) {}
  Tape* tape_ = nullptr;
  int node_ = -1;
  Tensor value_;
};

// Where an op adds the gradients of its inputs.
class InputGrads {
 public:
  // The gradient buffer of input i, zero-filled on first use, to be added to; null if input i needs
  // none.
  float* operator[](int i) const;
  // For ops that write whole buffers: `add` false means that the bytes are undefined and must all
  // be written.
  struct Target {
    float* data;  // null if input i needs no gradient
    bool add;
  };
  Target Write(int i) const;
  // Hands over a whole gradient of input i: it becomes the buffer, or is added to the one there is.
  // Its bytes must not be used afterwards. Nothing if input i needs none.
  void Give(int i, Tensor grad) const;
  bool needed(int i) const;

 private:
  friend class Tape;
  InputGrads(Tape* tape, const std::vector<int>* inputs) : tape_(tape), inputs_(inputs) {}
  Tape* tape_;
  const std::vector<int>* inputs_;
};

class Tape {
 public:
  // kRecord: ops are recorded where an input needs a gradient. kNoGrad: nothing is (inference,
  // first pass of a checkpoint).
  enum class Mode { kRecord, kNoGrad };
  explicit Tape(Mode mode = Mode::kRecord) : mode_(mode) {}
  Tape(const Tape&) = delete;
  Tape& operator=(const Tape&) = delete;

  Mode mode() const { return mode_; }

  // The value of p; gradients are added to p.grad if p.trainable. p must outlive the tape.
  Var Leaf(Param& p);
  // A value without gradient.
  Var Constant(Tensor value);
  // A value whose gradient is wanted: read it with Grad after Backward. `grad`: a tensor of its
  // shape that the gradient is added to; undefined: a new one.
  Var Input(Tensor value, Tensor grad = {});

  // Appends an op with output y. Op has `static constexpr const char* kName` and `void
  // Backward(const float* dy, const InputGrads& d) const`, or `void Backward(Tensor dy, const
  // InputGrads& d)` if it wants to release or reuse dy's bytes. The op is dropped at once when
  // nothing needs a gradient (or none is recorded). `always`: record even if no input needs one.
  template <class Op>
  Var Record(Op op, std::span<const Var> inputs, Tensor y, bool always = false) {
    if (!ShouldRecord(inputs, always)) return Constant(std::move(y));
    return Append(std::make_unique<Holder<Op>>(std::move(op)), inputs, std::move(y));
  }
  template <class Op>
  Var Record(Op op, std::initializer_list<Var> inputs, Tensor y, bool always = false) {
    return Record(std::move(op), std::span<const Var>(inputs.begin(), inputs.size()), std::move(y),
                  always);
  }
  // The same for an op with several outputs, whose `Backward(std::span<const float* const> dy,
  // const InputGrads& d) const` gets the gradients of all of them, null where none arrived.
  template <class Op>
  std::vector<Var> RecordMany(Op op, std::span<const Var> inputs, std::vector<Tensor> ys) {
    if (ShouldRecord(inputs))
      return AppendMany(std::make_unique<Holder<Op>>(std::move(op)), inputs, std::move(ys));
    std::vector<Var> vars;
    for (Tensor& y : ys) vars.push_back(Constant(std::move(y)));
    return vars;
  }
  // True iff Record with these inputs would keep the op (an op may skip saving what only its
  // gradient needs).
  bool ShouldRecord(std::span<const Var> inputs, bool always = false) const;
  bool ShouldRecord(std::initializer_list<Var> inputs) const {
    return ShouldRecord(std::span<const Var>(inputs.begin(), inputs.size()));
  }

  // Forms all gradients of `loss`, a scalar. Throws Error if no trainable Param or Input reaches
  // it. Once per tape.
  void Backward(const Var& loss);
  // The same from a given gradient of y (y's shape).
  void Backward(const Var& y, Tensor dy);
  // The same for several values and the gradients of all of them; values that need none are passed
  // over.
  struct Root {
    Var y;
    Tensor dy;
  };
  void Backward(std::vector<Root> roots);
  // The gradient of an Input after Backward; undefined if none reached it.
  Tensor Grad(const Var& input) const;

  // If set, Leaf throws Error for a trainable Param that is not in the list
  // (autograd/checkpoint.h).
  void RestrictParams(const std::vector<Param*>* allowed) { allowed_params_ = allowed; }

  int64_t size() const { return static_cast<int64_t>(nodes_.size()); }

 private:
  friend class InputGrads;
  friend class Var;
  struct OpBase {
    virtual ~OpBase() = default;
    virtual const char* name() const = 0;
    // dy: one for each output, undefined where no gradient arrived; not all of them.
    virtual void Backward(std::span<Tensor> dy, const InputGrads& d) = 0;
  };
  template <class Op>
  struct Holder final : OpBase {
    explicit Holder(Op o) : op(std::move(o)) {}
    const char* name() const override { return Op::kName; }
    void Backward(std::span<Tensor> dy, const InputGrads& d) override {
      if constexpr (requires { op.Backward(dy, d); }) {
        op.Backward(dy, d);
      } else if constexpr (requires { op.Backward(std::move(dy[0]), d); }) {
        op.Backward(std::move(dy[0]), d);
      } else {
        op.Backward(std::as_const(dy[0]).data(), d);
      }
    }
    Op op;
  };
  struct Node {
    std::unique_ptr<OpBase> op;  // null: a leaf, an input or a further output of an op before
    std::vector<int> inputs;
    int outputs = 1;  // of op: this node and the next ones
    Shape shape;
    Tensor grad;
    Param* param = nullptr;
  };

  Var Append(std::unique_ptr<OpBase> op, std::span<const Var> inputs, Tensor y);
  // *slot += grad, or takes it if there is none.
  static void Accumulate(Tensor grad, Tensor* slot);
  std::vector<Var> AppendMany(std::unique_ptr<OpBase> op, std::span<const Var> inputs,
                              std::vector<Tensor> ys);
  Tensor& GradSlot(int node) {
    return nodes_[node].param ? nodes_[node].param->grad : nodes_[node].grad;
  }

  Mode mode_;
  bool done_ = false;
  std::vector<Node> nodes_;
  const std::vector<Param*>* allowed_params_ = nullptr;
};

}  // namespace lapidary

#endif  // LAPIDARY_AUTOGRAD_TAPE_H_
