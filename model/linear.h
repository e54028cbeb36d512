// Linear: the one place where a weight meets an activation. LoRA, DoRA and fake quantization live
// here.
//   y = x W^T [+ bias] + s (dropout(x) A^T) B^T        Hu et al. 2021, arXiv:2106.09685; rsLoRA:
//   arXiv:2312.03732 DoRA: y = m / ||W + s B A|| * (x W^T + s x A^T B^T), the norm without gradient
//   Liu et al. 2024, arXiv:2402.09353
//   Fake quantization: y = x Q(W + s B A)^T with the gradient straight through Q (model/qat.h)
#ifndef LAPIDARY_MODEL_LINEAR_H_
#define LAPIDARY_MODEL_LINEAR_H_

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "autograd/gemm.h"
#include "autograd/ops/basic.h"
#include "autograd/tape.h"
#include "autograd/weight_map.h"
#include "quant/fake_quant.h"

namespace lapidary {

// Fake quantization of one matrix, as the map of the views that products see. Not to be moved.
struct FakeWeight {
  const Grid* grid = nullptr;
  bool on = true;           // false: products see the weight as it is
  bool kept = false;        // scales are those below, not taken from the values in every product
  bool int8_input = false;  // its input is fake-quantized, int8 with a scale per token
  bool fixed = false;       // kept ones are never taken anew
  Tensor scales;            // kept: bytes [rows, row_scale_bytes()], the blocks of a row in order
  // Learned scales (quant/fake_quant.h, StepSlope): step = that of `first` * exp(log_gain *
  // log_steps), rounded to `scales` by UpdateLearnedScales (model/qat.h), which also sets log_gain.
  // log_steps [rows, blocks of a row] is trained.
  std::unique_ptr<Param> log_steps;
  Tensor first;
  float log_gain = 1;
  WeightMap map;

  FakeWeight(const Grid& which, int64_t cols);
  FakeWeight(const FakeWeight&) = delete;
  FakeWeight& operator=(const FakeWeight&) = delete;
  int64_t row_scale_bytes() const { return row_scale_bytes_; }
  // Room for the scales of so many rows.
  void AllocateScales(int64_t rows) { scales = Tensor({rows, row_scale_bytes_}, DType::kI8); }
  uint8_t* scale_row(int64_t row) { return scales.data<uint8_t>() + row * row_scale_bytes_; }
  const uint8_t* scale_row(int64_t row) const {
    return scales.data<uint8_t>() + row * row_scale_bytes_;
  }

 private:
  static void Apply(const void* self, int64_t row, int64_t begin, int64_t end,
                    float* values) noexcept;
  static void Slope(const void* self, int64_t row, int64_t begin, int64_t end,
                    float* values) noexcept;
  int64_t row_scale_bytes_ = 0;
};

// A matrix [rows, cols]: read-only bytes in any format (frozen), or a float32 Param once it is to
// be trained.
struct Weight {
  std::string name;                   // canonical tensor name
  WeightView view;                    // what the frozen bytes are; invalid once `param` is set
  std::shared_ptr<const void> owner;  // keeps the bytes alive (a memory map, an arena block)
  std::unique_ptr<Param> param;       // set: trainable, float32
  std::unique_ptr<FakeWeight> fake;   // set: fake-quantized

  int64_t rows() const { return view.rows; }
  int64_t cols() const { return view.cols; }
  // What GEMM multiplies by: the param's values or the frozen bytes, fake-quantized if they are.
  WeightView Current() const;
  // The same without fake quantization.
  WeightView Plain() const;
  // The map of Current(); null: none.
  const WeightMap* Map() const { return fake && fake->on ? &fake->map : nullptr; }
  // Learned steps whose gradient products form (of a weight that is trained whole it is formed from
  // the weight's own, FormStepGradients); null: none.
  Param* StepsInProducts() const {
    return Map() && !param && fake->log_steps ? fake->log_steps.get() : nullptr;
  }
  // Turns the frozen bytes into a trainable float32 Param.
  void MakeTrainable();
};

struct Lora {
  Param a;                           // [r, I]
  Param b;                           // [O, r]
  std::unique_ptr<Param> magnitude;  // [O], DoRA only
  float scale = 1;                   // lora_alpha / r, or / sqrt(r)
  float alpha = 1;                   // lora_alpha as configured
  float dropout = 0;
  int64_t rank() const { return a.value.shape()[0]; }
};

struct Linear {
  std::string path;  // canonical module path, "model.language_model.layers.0.mlp.up_proj"
  Weight w;
  std::unique_ptr<Param> bias;  // [O]
  std::unique_ptr<Lora> lora;
  int64_t in_features() const { return w.cols(); }
  int64_t out_features() const { return w.rows(); }
};

// Sees the input x [N, I] of linears, which they share, in every forward product of them: every
// token once.
using LinearObserver = std::function<void(std::span<Linear* const> linears, const Tensor& x)>;

// What one forward pass needs to know besides its input.
struct LinearContext {
  Compute compute = Compute::kFloat32;
  bool training = false;  // dropout acts
  RandomKey random;       // seed and step; `op` is filled from the module path
  const std::vector<int64_t>* step_positions = nullptr;  // [N], the index of dropout
  bool base_only = false;  // without adapters and fake quantization: the teacher of a distillation
  const LinearObserver* observer = nullptr;  // called in Forward; null: nobody looks
};

// x [N, I] -> [N, O]. A frozen weight and its LoRA are one product (autograd/gemm_group.h); with
// dropout, DoRA or a trainable weight they are composed of several.
Var Forward(Linear& linear, Var x, const LinearContext& context);
// The same for several linears of one input: x is packed once for all of them, and their gradients
// of x are summed inside the products. The values are those of separate calls, bit for bit.
std::vector<Var> Forward(std::span<Linear* const> linears, Var x, const LinearContext& context);

// The same for their gradients alone: values that no gradient reads are left out (the Vars have
// shapes, and may have no bytes), so that nothing is multiplied but what the gradients need.
std::vector<Var> ForwardForGradient(std::span<Linear* const> linears, Var x,
                                    const LinearContext& context);

// Some output features of a linear.
struct LinearRows {
  Linear* linear = nullptr;
  int64_t first = 0, count = 0;
};
// Whether runs of `unit` output features can be computed apart: a frozen weight that holds them
// together, without dropout, DoRA or a bias.
bool RowsApart(const Linear& linear, int64_t unit, const LinearContext& context);
// Those features of Forward, bit for bit, without gradients: [N, count] each, packing x once.
std::vector<Tensor> ForwardRows(std::span<const LinearRows> parts, const Tensor& x,
                                const LinearContext& context);

// Lets the map of a fake-quantized weight add the linear's adapter. Forward does it; needed before
// reading rows of linear.w.Current().
void BindAdapter(Linear& linear);

// Row norms ||W + s B A|| [O] in float32, sums in double. For DoRA, and to initialize its
// magnitudes.
Tensor AdaptedRowNorms(const Linear& linear);

template <class Visit>
void ForEachParam(Linear& linear, Visit&& visit) {
  if (linear.w.param) visit(*linear.w.param);
  if (linear.bias) visit(*linear.bias);
  if (linear.lora) {
    visit(linear.lora->a);
    visit(linear.lora->b);
    if (linear.lora->magnitude) visit(*linear.lora->magnitude);
  }
}

}  // namespace lapidary

#endif  // LAPIDARY_MODEL_LINEAR_H_
