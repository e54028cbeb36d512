// Fake quantization: what a weight is rounded to while it is trained, and what is shipped. A grid
// is a storage format seen from the values' side: Project() replaces values by what the exported
// bytes will dequantize to, with the code that makes those bytes (quant/format.h), bit for bit.
//
//   name         scales                                   shipped as
//   q4_0         bf16(extremum / -8), 32 (formats.md 4.2) GGUF, rule "qat"
//   q8_0 mxfp4   as ggml                                  GGUF
//   q4_k q6_k q3_k ... and every other block format: as ggml
//   int4_g32 int4_g128 int3_g32  bf16(max|w| / 7.5 or 3.5)  compressed-tensors, symmetric groups
//   int8_channel bf16(max|w| / 127.5) of the whole row    compressed-tensors, per channel
//
// Scales follow the values (Project), or are taken once and kept while the values move (Measure,
// then ProjectOn, which takes the nearest code), or are learned like a weight (Fit, then StepSlope
// or StepGrad: LSQ, Esser et al. 2020, arXiv:1902.08153). Everything is a pure function, row by
// row: any thread, any order, same bits on every instruction set.
#ifndef LAPIDARY_QUANT_FAKE_QUANT_H_
#define LAPIDARY_QUANT_FAKE_QUANT_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "quant/format.h"

namespace lapidary {

class Grid {
 public:
  virtual ~Grid() = default;

  const std::string& name() const { return name_; }
  // Elements of a row that share scales; 0: all of the row.
  int64_t block() const { return block_; }
  // The blocks that hold the grid, with the rule that makes them; null: integer codes.
  const Format* format() const { return format_; }
  const ScaleRule* rule() const { return rule_; }
  // Of integer codes, two's complement: 3, 4, 8.
  int bits() const { return bits_; }
  // Bytes of the scales of a block; 0: scales cannot be kept.
  int64_t scale_bytes() const { return scale_bytes_; }
  // Whether bf16(value) of every value on the grid keeps code and scale, so that a bf16 checkpoint
  // of projected values is the quantized model.
  bool exact_in_bf16() const { return exact_in_bf16_; }

  // n values, whole blocks (block() 0: a whole row), in place.
  virtual void Project(float* values, int64_t n) const = 0;
  // The scales of n values, scale_bytes() a block.
  virtual void Measure(const float* values, int64_t n, uint8_t* scales) const = 0;
  // Values to the nearest code on given scales. `columns`: how many columns a set of scales covers
  // (block(), or the part of a row that is asked for).
  virtual void ProjectOn(const uint8_t* scales, float* values, int64_t n) const = 0;
  // Values that lie on the grid of `scales` as its bytes: blocks of format(), or one int8_t code a
  // value. Exact for values that ProjectOn or Project (with the scales of the same values) made.
  virtual void Encode(const uint8_t* scales, const float* values, int64_t n,
                      uint8_t* out) const = 0;
  // The float32 step of every `sub` elements (codes are value / step); integer grids and formats
  // without offsets.
  virtual float Step(const uint8_t* scales) const = 0;

  // Whether steps can be learned: one step a block, any value, no offset.
  bool learns() const { return high_ > 0; }
  // The stored scales of a block whose step is `step`, rounded as the grid keeps it. Grids that
  // learn.
  virtual void StoreStep(float step, uint8_t* scales) const = 0;
  // Scales as Measure, then of 13 multiples 0.64, 0.68, ..., 1.12 of each step the one with the
  // least squared error of its block on the nearest codes (the first on ties). Grids that learn.
  void Fit(const float* values, int64_t n, uint8_t* scales) const;
  // The largest code of a grid that learns: step * high() is the end of the range.
  float high() const { return high_; }
  // Values w become  d w' / d log s  of  w' = s q(w / s), q = rne(clamp(v, low, high)):
  //   s (q(v) - v) where low <= v <= high, else s low or s high                    (eq. 3 there)
  // 0 where the step is 0. `n` as for ProjectOn. Grids that learn.
  void StepSlope(const uint8_t* scales, float* values, int64_t n) const;
  // The gradients of the same from dw' [n], which becomes dw:
  //   dw = dw' where low <= w / s <= high, else 0                                  (eq. 5 there)
  //   dlog = sum over the block of dw' * slope, one float for every block, sums in double in order
  // The factor 1 / sqrt(block * high) of section 2.2 there, which balances plain gradient descent,
  // is left out: steps are learned by their logarithm, with an optimizer that scales by itself. A
  // step of 0 has no gradient, and dw = dw'. Grids that learn.
  void StepGrad(const uint8_t* scales, const float* values, int64_t n, float* dvalues,
                float* dlog) const;

 protected:
  std::string name_;
  int64_t block_ = 0;
  const Format* format_ = nullptr;
  const ScaleRule* rule_ = nullptr;
  int bits_ = 0;
  int64_t scale_bytes_ = 0;
  bool exact_in_bf16_ = false;
  float low_ = 0, high_ = 0;  // codes of a grid that learns
};

// All grids, the ones named above first.
const std::vector<const Grid*>& AllGrids();
// By name, upper or lower case; null if there is none.
const Grid* FindGrid(std::string_view name);
// Throws Error "WHERE: rule; got; try" listing the names.
const Grid& GetGrid(std::string_view name, const std::string& where);

}  // namespace lapidary

#endif  // LAPIDARY_QUANT_FAKE_QUANT_H_
