// How an optimizer keeps its moments: float32, bf16 with stochastic rounding, or 8 bits a value in
// blocks of 256 with a dynamic code. Dettmers et al. 2021, arXiv:2110.02861.
#ifndef LAPIDARY_TRAIN_OPTIM_STATE_CODE_H_
#define LAPIDARY_TRAIN_OPTIM_STATE_CODE_H_

#include <array>
#include <cstdint>

#include "autograd/base/random.h"
#include "autograd/tensor.h"

namespace lapidary {

inline constexpr int64_t kStateBlock = 256;

// The dynamic code: 256 values in increasing order, relative to the largest magnitude of a block.
// A decade 10^(i-6), i = 0 to 6, is cut at 2^i + 1 (signed) or 2^(i+1) + 1 (unsigned) evenly spaced
// points from 0.1 to 1; the middles of neighbouring points times the decade are values. Signed:
// their negatives too. Besides these, 0 and 1. (bitsandbytes, create_dynamic_map.)
class DynamicCode {
 public:
  static const DynamicCode& Signed();
  static const DynamicCode& Unsigned();

  float Value(uint8_t code) const { return values_[code]; }
  // The nearest code of x in [-1, 1]; of two equally near, the lower.
  uint8_t Nearest(float x) const;

 private:
  explicit DynamicCode(bool with_sign);
  std::array<float, 256> values_;
  std::array<float, 255> middles_;    // between neighbours, float32
  std::array<uint8_t, 65536> first_;  // the code of the least x whose upper 16 bits are the index
};

// x rounded to bf16, up or down with the chances that make the mean x; `random`: 16 uniform bits.
uint16_t RoundStochastically(float x, uint32_t random);

// One moment of one parameter.
struct MomentState {
  Tensor values;  // f32 or bf16 in the parameter's shape, or codes (i8, as unsigned bytes)
  Tensor scales;  // of codes: f32 [blocks], the largest magnitude of each block; else undefined
  bool is_signed = true;

  // Zeros.
  MomentState() = default;
  MomentState(const Shape& shape, DType dtype, bool has_sign);

  // Elements [begin, end) as float32 out[end - begin]; begin a multiple of kStateBlock.
  void Load(int64_t begin, int64_t end, float* out) const;
  // The reverse, rounding as the type says. bf16: random bits of element i are those of (key, i).
  // Codes: a value of an unsigned moment that is above 0 becomes at least the lowest code above 0,
  // because a second moment of 0 beside a first one that is not would make a step without bound.
  void Store(int64_t begin, int64_t end, const float* in, const RandomKey& key);
};

}  // namespace lapidary

#endif  // LAPIDARY_TRAIN_OPTIM_STATE_CODE_H_
