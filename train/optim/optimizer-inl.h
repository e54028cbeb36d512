// The template of optimizer.h.
#ifndef LAPIDARY_TRAIN_OPTIM_OPTIMIZER_INL_H_
#define LAPIDARY_TRAIN_OPTIM_OPTIMIZER_INL_H_

#include <algorithm>
#include <array>

#include "autograd/base/parallel.h"
#include "train/optim/optimizer.h"

namespace lapidary {

inline constexpr size_t kMaxStates = 2;

template <class Body>
void ForEachPiece(OptimizerSlot& slot, const Body& body) {
  const int64_t size = slot.param->value.size();
  const size_t count = slot.states.size();
  LAPIDARY_CHECK(count <= kMaxStates, "optimizer: at most 2 states of a parameter; got ", count);
  const bool plain = count == 0 || slot.states[0].moment.values.dtype() == DType::kF32;
  const uint64_t name = HashName(slot.param->name), step = static_cast<uint64_t>(slot.step);
  const auto piece = [&](int64_t begin, int64_t end) {
    std::array<float*, kMaxStates> states = {};
    if (plain) {
      for (size_t s = 0; s < count; ++s) states[s] = slot.states[s].moment.values.data() + begin;
      body(begin, end, states);
      return;
    }
    float copies[kMaxStates][kStateBlock];
    for (int64_t block = begin; block < end; block += kStateBlock) {
      const int64_t block_end = std::min(block + kStateBlock, end);
      for (size_t s = 0; s < count; ++s) {
        slot.states[s].moment.Load(block, block_end, copies[s]);
        states[s] = copies[s];
      }
      body(block, block_end, states);
      for (size_t s = 0; s < count; ++s) {
        slot.states[s].moment.Store(block, block_end, copies[s], {s + 1, step, name});
      }
    }
  };
  ParallelFor((size + kOptimizerPiece - 1) / kOptimizerPiece, [&](Range range) {
    for (int64_t p = range.begin; p < range.end; ++p) {
      piece(p * kOptimizerPiece, std::min((p + 1) * kOptimizerPiece, size));
    }
  });
}

}  // namespace lapidary

#endif  // LAPIDARY_TRAIN_OPTIM_OPTIMIZER_INL_H_
