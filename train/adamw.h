// AdamW in the arithmetic of torch.optim.AdamW, its state in float32, bf16 or 8 bits a value. One
// object belongs to one run; a step uses all threads and gives the same bits with any number of
// them.
#ifndef LAPIDARY_TRAIN_ADAMW_H_
#define LAPIDARY_TRAIN_ADAMW_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "autograd/tape.h"
#include "train/state_code.h"

namespace lapidary {

// How the two moments are kept (train/state_code.h); those of parameters with fewer than 4,096
// elements stay float32.
enum class OptimizerStates { kFloat32, kBf16, k8Bit };

struct AdamWOptions {
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  double weight_decay = 0;
  OptimizerStates states = OptimizerStates::kFloat32;
};

// What the optimizer remembers of one parameter.
struct AdamWSlot {
  Param* param = nullptr;
  double weight_decay = 0;
  int64_t step = 0;                 // updates that this parameter has had
  MomentState exp_avg, exp_avg_sq;  // zeros before the first update
};

// With t the number of updates this parameter has had, this one included:
//   p <- p (1 - lr weight_decay)
//   m <- m + (1 - beta1) (g - m)              v <- beta2 v + (1 - beta2) g^2
//   p <- p - lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + epsilon)
// elementwise in float32, the scalars in double; then m and v are rounded to how they are kept.
// Source: Loshchilov & Hutter 2019,
// arXiv:1711.05101, algorithm 2; the order of roundings is that of PyTorch's _single_tensor_adamw.
// A parameter without a gradient (undefined `grad`: a media embedder in a step of text) is passed
// over whole, as there: no decay, and its t does not advance.
class AdamW {
 public:
  // `decays(name)` says which parameters have weight decay; empty: all. The Params must outlive the
  // object. Throws Error if an option is out of range, or if a name occurs twice.
  AdamW(const std::vector<Param*>& params, const AdamWOptions& options,
        const std::function<bool(const std::string&)>& decays = nullptr);

  // Throws Error unless lr >= 0, or if a gradient's shape is not its parameter's.
  void Step(double learning_rate);

  const AdamWOptions& options() const { return options_; }
  std::vector<AdamWSlot>& slots() { return slots_; }
  const std::vector<AdamWSlot>& slots() const { return slots_; }

 private:
  AdamWOptions options_;
  std::vector<AdamWSlot> slots_;
};

// The rule of Hugging Face's Trainer: biases and the gains of norms do not decay; nor do the
// learned steps of fake quantization.
bool DecaysByName(const std::string& name);

}  // namespace lapidary

#endif  // LAPIDARY_TRAIN_ADAMW_H_
