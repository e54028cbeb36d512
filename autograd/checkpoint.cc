#include "autograd/checkpoint.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>

#include "autograd/base/float16.h"
#include "autograd/base/parallel.h"

namespace lapidary {
namespace {

Tensor ToBf16Exactly(const Tensor& x) {
  Tensor kept(x.shape(), DType::kBf16);
  const float* from = x.data();
  uint16_t* to = kept.data<uint16_t>();
  std::atomic<bool> exact{true};
  ParallelFor(
      x.size(),
      [&](Range r) {
        uint32_t lost = 0;
        for (int64_t i = r.begin; i < r.end; ++i) {
          uint32_t bits;
          std::memcpy(&bits, from + i, 4);
          lost |= bits;
          to[i] = static_cast<uint16_t>(bits >> 16);
        }
        if (lost & 0xffffu) exact = false;
      },
      1 << 14);
  LAPIDARY_CHECK(exact, "checkpoint: inputs kept as bf16 must be representable in it");
  return kept;
}

Tensor FromBf16(const Tensor& kept) {
  Tensor x(kept.shape());
  const uint16_t* from = kept.data<uint16_t>();
  float* to = x.data();
  ParallelFor(
      x.size(),
      [&](Range r) {
        for (int64_t i = r.begin; i < r.end; ++i) to[i] = F32FromBf16(from[i]);
      },
      1 << 14);
  return x;
}

struct CheckpointOp {
  static constexpr const char* kName = "checkpoint";
  CheckpointBody body;
  std::vector<Tensor> inputs;
  std::vector<bool> input_needs_grad;
  std::vector<Param*> params;
  Shape output_shape;

  void Backward(const float* dy, const InputGrads& d) const {
    Tape inner;
    inner.RestrictParams(&params);
    std::vector<Var> again;
    for (size_t i = 0; i < inputs.size(); ++i) {
      Tensor x = inputs[i].dtype() == DType::kBf16 ? FromBf16(inputs[i]) : inputs[i];
      again.push_back(input_needs_grad[i] ? inner.Input(std::move(x))
                                          : inner.Constant(std::move(x)));
    }
    Tensor seed(output_shape);
    std::memcpy(seed.data(), dy, static_cast<size_t>(seed.byte_size()));
    {
      const Var y = body(inner, again);
      if (!y.needs_grad()) return;
      inner.Backward(y, std::move(seed));
    }
    for (size_t i = 0; i < inputs.size(); ++i) {
      const Tensor grad = inner.Grad(again[i]);
      if (!grad.defined()) continue;
      const InputGrads::Target target = d.Write(static_cast<int>(i));
      const float* from = grad.data();
      ParallelFor(
          grad.size(),
          [&](Range r) {
            if (target.add) {
              for (int64_t k = r.begin; k < r.end; ++k) target.data[k] += from[k];
            } else {
              std::memcpy(target.data + r.begin, from + r.begin,
                          static_cast<size_t>(r.end - r.begin) * sizeof(float));
            }
          },
          1 << 14);
    }
  }
};

}  // namespace

Var Checkpoint(Tape& tape, CheckpointBody body, std::vector<Var> inputs, std::vector<Param*> params,
               bool inputs_are_bf16) {
  Tape inner(Tape::Mode::kNoGrad);
  inner.RestrictParams(&params);
  std::vector<Var> first;
  for (const Var& v : inputs) first.push_back(inner.Constant(v.value()));
  Tensor y = body(inner, first).value();
  const bool trains =
      std::any_of(params.begin(), params.end(), [](const Param* p) { return p->trainable; });
  if (!tape.ShouldRecord(inputs, trains)) return tape.Constant(std::move(y));
  CheckpointOp op;
  for (const Var& v : inputs) {
    op.inputs.push_back(inputs_are_bf16 ? ToBf16Exactly(v.value()) : v.value());
    op.input_needs_grad.push_back(v.needs_grad());
  }
  op.body = std::move(body);
  op.params = std::move(params);
  op.output_shape = y.shape();
  return tape.Record(std::move(op), inputs, std::move(y), trains);
}

}  // namespace lapidary
