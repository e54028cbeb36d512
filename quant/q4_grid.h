// The solver of formats.md 4.1: whether 32 values, usually bf16 weights of a QAT checkpoint, lie on
// a 4-bit grid d * q with q in -8..7, and on which. No rule for the scale is assumed.
#ifndef LAPIDARY_QUANT_Q4_GRID_H_
#define LAPIDARY_QUANT_Q4_GRID_H_

#include <cstdint>
#include <string>

#include "quant/tensor_file.h"

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

// What the solver finds in a matrix.
struct Q4Survey {
  int64_t blocks = 0, zero = 0;  // of 32; zeros alone
  int64_t on_grid = 0;           // the others that are on a grid
  // Of those: by the code of the largest magnitude, with d > 0 and d < 0.
  int64_t minus8 = 0, minus8_negative = 0, seven = 0, other = 0;
  int64_t bf16_scale = 0, f16_scale = 0, f32_scale = 0;  // the narrowest type of the scale
  int64_t subnormal = 0;                                 // f16 does not hold the scale
  int64_t stock = 0;  // blocks that a stock Q4_0 quantizer gives back exactly, in bf16

  void Add(const Q4Survey& other_survey);
  // Of the blocks that are not all zero.
  double share() const;
  double stock_share() const;
  // "extremum / -8 (ggml)", "max / 7", "max / 7.5, or max / 8 clipped", "mixed", "none": the scale
  // rule that leaves such codes; none below 90 % on a grid.
  std::string Rule() const;
};

// Every row of a matrix whose columns are a multiple of 32; in parallel, a chunk of rows in memory.
Q4Survey SurveyQ4(const StoredTensor& tensor);

// For each block of 32 of n values that is on a grid whose scale f16 holds: its scale as f16 over
// scales[block], two bytes each; others keep what is there.
void KeepSolvedScales(const float* values, int64_t n, uint8_t* scales);

}  // namespace lapidary

#endif  // LAPIDARY_QUANT_Q4_GRID_H_
