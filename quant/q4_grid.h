// The solver of formats.md 4.1: whether 32 values, usually bf16 weights of a QAT checkpoint, lie on
// a 4-bit grid d * q with q in -8..7, and on which. No rule for the scale is assumed.
#ifndef LAPIDARY_QUANT_Q4_GRID_H_
#define LAPIDARY_QUANT_Q4_GRID_H_

#include <cstdint>

namespace lapidary {

struct Q4Solution {
  bool on_grid = false;
  bool zero = false;  // all values are zero: on every grid
  float d = 0;        // bf16(d * q) gives every value back
  int extremum = 0;   // the code of the value of largest magnitude: -8, 7, ...
  enum class Scale { kBf16, kF16, kF32 } scale = Scale::kF32;  // the narrowest type d is found in
  bool subnormal = false;                                      // f16(d) is not d
};

// Of 32 values that are exact in bf16 (others are never on a grid).
Q4Solution SolveQ4Block(const float* w);

// For each block of 32 of n values that is on a grid whose scale f16 holds: its scale as f16 over
// scales[block], two bytes each; others keep what is there.
void KeepSolvedScales(const float* values, int64_t n, uint8_t* scales);

}  // namespace lapidary

#endif  // LAPIDARY_QUANT_Q4_GRID_H_
