// Muon: matrices move along the orthogonal factor of their momentum, in the formulas of
// torch.optim.Muon; everything else is left to AdamW.
#ifndef LAPIDARY_TRAIN_OPTIM_MUON_H_
#define LAPIDARY_TRAIN_OPTIM_MUON_H_

#include <string>
#include <vector>

#include "autograd/gemm.h"
#include "train/optim/adamw.h"

namespace lapidary {

struct MuonOptions {
  double momentum = 0.95;
  bool nesterov = true;
  int64_t ns_steps = 5;
  double epsilon = 1e-7;
  double weight_decay = 0;  // decoupled
  // How the step of an [A, B] matrix is scaled: "match_rms_adamw", 0.2 sqrt(max(A, B)), so that one
  // learning rate serves these and AdamW's parameters; "original", sqrt(max(1, A / B));
  // "spectral_unclamped", sqrt(A / B).
  std::string adjust_lr_fn = "match_rms_adamw";
  Compute compute = Compute::kFloat32;  // of the products; PyTorch rounds everything to bf16
  AdamWOptions adamw;                   // of the rest
};

// Of a matrix g with as many columns as rows or more (else of its transpose):
//   b <- momentum b + (1 - momentum) g;  u = b, or momentum b + (1 - momentum) g with nesterov
//   X = u / max(|u|, epsilon);  ns_steps times  A = X X^T,  X <- a X + (b A + c A^2) X
//   p <- p (1 - lr weight_decay) - lr adjust X        with (a, b, c) = (3.4445, -4.775, 2.0315)
// State: momentum_buffer. Source: Jordan et al. 2024, kellerjordan.github.io/posts/muon; Liu et al.
// 2025, arXiv:2502.16982.
class Muon : public Optimizer {
 public:
  // Throws Error if an option is out of range.
  Muon(const std::vector<Param*>& params, const MuonOptions& options);

 private:
  void Update(OptimizerSlot& slot, double learning_rate) override;
  MuonOptions options_;
};

// Whether Muon takes a parameter: two axes, and neither embedding nor head.
bool IsMuonMatrix(const Param& param);

// The Newton-Schulz iteration on x [rows, cols], rows <= cols, in place: towards the matrix of the
// same singular vectors whose singular values are all near 1.
void Orthogonalize(Tensor* x, int64_t steps, double epsilon, Compute compute);

}  // namespace lapidary

#endif  // LAPIDARY_TRAIN_OPTIM_MUON_H_
