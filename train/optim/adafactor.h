// Adafactor: the second moment of a matrix as the product of a column and a row, in the arithmetic
// of Transformers' Adafactor with the relative step off, as its Trainer uses it.
#ifndef LAPIDARY_TRAIN_OPTIM_ADAFACTOR_H_
#define LAPIDARY_TRAIN_OPTIM_ADAFACTOR_H_

#include <vector>

#include "train/optim/optimizer.h"

namespace lapidary {

struct AdafactorOptions {
  double epsilon = 1e-30;        // added to squares of the gradient
  double epsilon_scale = 1e-3;   // the least scale of a parameter
  double clip_threshold = 1.0;   // most root mean square of an update
  double decay_rate = -0.8;      // of the second moment: beta2 = 1 - t^decay_rate
  double beta1 = 0;              // momentum of updates; 0: none, and no state
  bool scale_parameter = false;  // updates relative to the size of the parameter
  double weight_decay = 0;       // times lr
};

// With t the number of updates, b = 1 - t^decay_rate, s = g^2 + epsilon, and v of a parameter with
// two axes or more (leading axes: a batch of matrices):
//   row <- b row + (1 - b) mean of s along the columns;  col likewise along the rows
//   1 / sqrt(v) = 1 / sqrt(row / mean(row)) * 1 / sqrt(col)
// and v itself, b v + (1 - b) s, of a vector;
//   u = g / sqrt(v);  u <- lr u / max(1, rms(u) / clip_threshold)
//   p <- p - lr weight_decay p - u
// lr times max(epsilon_scale, rms(p)) with scale_parameter; with beta1 u is averaged over updates.
// States: exp_avg_sq_row and exp_avg_sq_col, or exp_avg_sq; exp_avg with beta1. Sums in double.
// Source: Shazeer & Stern 2018, arXiv:1804.04235, algorithms 4 and 5.
class Adafactor : public Optimizer {
 public:
  // Throws Error if an option is out of range.
  Adafactor(const std::vector<Param*>& params, const AdafactorOptions& options);

 private:
  void Update(OptimizerSlot& slot, double learning_rate) override;
  AdafactorOptions options_;
};

}  // namespace lapidary

#endif  // LAPIDARY_TRAIN_OPTIM_ADAFACTOR_H_
