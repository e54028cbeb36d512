// An exponential moving average of the trained parameters: what is evaluated and saved in their
// place while the run goes on with the parameters themselves.
#ifndef LAPIDARY_TRAIN_EMA_H_
#define LAPIDARY_TRAIN_EMA_H_

#include <vector>

#include "autograd/tape.h"

namespace lapidary {

class Ema {
 public:
  // Begins with the parameters as they are, which must outlive it. 0 < decay < 1.
  Ema(const std::vector<Param*>& params, double decay);

  // After a step: average <- average + (1 - decay) (parameter - average).
  void Update();
  // Exchanges parameters and averages; twice is as before.
  void Swap();
  bool swapped() const { return swapped_; }

  const std::vector<Param*>& params() const { return params_; }
  std::vector<Tensor>& values() { return values_; }
  const std::vector<Tensor>& values() const { return values_; }

 private:
  const std::vector<Param*> params_;
  const float rest_;
  std::vector<Tensor> values_;  // of params_, in order
  bool swapped_ = false;
};

// While it lives the averages stand in the parameters; nothing if `ema` is null.
class EmaInPlace {
 public:
  explicit EmaInPlace(Ema* ema) : ema_(ema) {
    if (ema_) ema_->Swap();
  }
  ~EmaInPlace() {
    if (ema_) ema_->Swap();
  }
  EmaInPlace(const EmaInPlace&) = delete;
  EmaInPlace& operator=(const EmaInPlace&) = delete;

 private:
  Ema* ema_;
};

}  // namespace lapidary

#endif  // LAPIDARY_TRAIN_EMA_H_
