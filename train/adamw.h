// AdamW with float32 state, the arithmetic of torch.optim.AdamW. One object belongs to one run; a
// step uses all threads and gives the same bits with any number of them.
#ifndef LAPIDARY_TRAIN_ADAMW_H_
#define LAPIDARY_TRAIN_ADAMW_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "autograd/tape.h"

namespace lapidary {

struct AdamWOptions {
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  double weight_decay = 0;
};

// What the optimizer remembers of one parameter.
struct AdamWSlot {
  Param* param = nullptr;
  double weight_decay = 0;
  int64_t step = 0;   // updates that this parameter has had
  Tensor exp_avg;     // f32, the parameter's shape; zeros before the first update
  Tensor exp_avg_sq;  // f32
};

// With t the number of updates this parameter has had, this one included:
//   p <- p (1 - lr weight_decay)
//   m <- m + (1 - beta1) (g - m)              v <- beta2 v + (1 - beta2) g^2
//   p <- p - lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + epsilon)
// elementwise in float32, the scalars in double. Source: Loshchilov & Hutter 2019,
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

// The rule of Hugging Face's Trainer: biases and the gains of norms do not decay.
bool DecaysByName(const std::string& name);

}  // namespace lapidary

#endif  // LAPIDARY_TRAIN_ADAMW_H_
