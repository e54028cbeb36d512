// What all optimizers have in common: parameters with what is remembered of each, and one update a
// step. optimizers.h has the list. An optimizer belongs to one run; a step uses all threads and
// gives the same bits with any number of them.
#ifndef LAPIDARY_TRAIN_OPTIM_OPTIMIZER_H_
#define LAPIDARY_TRAIN_OPTIM_OPTIMIZER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "autograd/tape.h"
#include "train/optim/state_code.h"

namespace lapidary {

// How moments are kept (state_code.h); those of parameters with fewer than 4,096 elements stay
// float32.
enum class OptimizerStates { kFloat32, kBf16, k8Bit };

struct OptimizerState {
  std::string name;    // as PyTorch calls it: "exp_avg"
  MomentState moment;  // zeros before the first update
};

// What an optimizer remembers of one parameter.
struct OptimizerSlot {
  Param* param = nullptr;
  double learning_rate = 1;  // times that of the step
  double weight_decay = 0;
  int64_t step = 0;                    // updates that this parameter has had
  std::vector<OptimizerState> states;  // in an order of the optimizer's own

  // The state of that name; Error if there is none.
  const MomentState& State(const std::string& name) const;
};

class Optimizer {
 public:
  virtual ~Optimizer() = default;
  Optimizer(const Optimizer&) = delete;
  Optimizer& operator=(const Optimizer&) = delete;

  // Updates every parameter that has a gradient; the others rest wholly (a media embedder in a step
  // of text): no decay, no state, as in PyTorch. Gradients are used up: what they hold afterwards
  // means nothing. Throws Error unless learning_rate >= 0, or if a gradient's shape is not its
  // parameter's.
  void Step(double learning_rate);
  // As before the first step.
  void Reset();

  std::vector<OptimizerSlot>& slots() { return slots_; }
  const std::vector<OptimizerSlot>& slots() const { return slots_; }

 protected:
  // One slot a parameter, without states. The Params must outlive the object. Throws Error if a
  // name occurs twice.
  explicit Optimizer(const std::vector<Param*>& params);

  // One update with a gradient of the right shape; slot.step counts it already, `learning_rate` is
  // the slot's.
  virtual void Update(OptimizerSlot& slot, double learning_rate) = 0;

 private:
  std::vector<OptimizerSlot> slots_;
};

// The type in which states of `size` elements are kept.
DType StateType(OptimizerStates states, int64_t size);

// Elements that a share of the work is a multiple of: whole blocks of states, and enough to be
// worth a thread.
inline constexpr int64_t kOptimizerPiece = 64 * kStateBlock;

// Calls body(begin, end, states) for pieces of the parameter, on all threads: at most
// kOptimizerPiece elements where states are float32, else kStateBlock, in float32 copies that are
// stored as the state is kept. states[s] points at the values of the slot's s-th state for [begin,
// end).
template <class Body>
void ForEachPiece(OptimizerSlot& slot, const Body& body);

// sqrt of the mean square of n values: squares summed in double in blocks of 4,096, blocks in
// order.
double RootMeanSquare(const float* values, int64_t n);

}  // namespace lapidary

#include "train/optim/optimizer-inl.h"

#endif  // LAPIDARY_TRAIN_OPTIM_OPTIMIZER_H_
