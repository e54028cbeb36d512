// The table of storage formats: one row for each, the only definition of its bytes. Fake
// quantization, the exporter, the loaders and the tests all call the functions of a row, so "what
// was trained" and "what was shipped" are the same numbers. Bytes are those of ggml (formats.md 3),
// which the `ggml` rule of each row reproduces bit for bit.
//
// To add a format: one file in quant/formats/ that defines a `Format`, one line in
// quant/formats/rows.h. Thread-safety: everything here is constant or a pure function.
#ifndef LAPIDARY_QUANT_FORMAT_H_
#define LAPIDARY_QUANT_FORMAT_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace lapidary {

// How a block's scale is chosen. Every row has the rule "ggml" first (ggml_quantize_chunk without
// importance matrix); formats that fake quantization trains on have "qat" too (formats.md 4.2: d =
// bf16(extremum / -8) for Q4_0).
struct ScaleRule {
  const char* name = "";
  // n values (a multiple of block_size) to n / block_size blocks. Values must be finite and at most
  // Format::max_abs.
  void (*quantize)(const float* row, int64_t n, uint8_t* out) = nullptr;
  // n values replaced by what those blocks dequantize to; null: by way of the blocks
  // (quant/fake_quant.h). Formats that train fast have it, made of the same code as quantize.
  void (*project)(float* values, int64_t n) = nullptr;
};

// Where the scales of a block lie and what they mean, for values that move while their scales are
// kept: sub-blocks of `sub` elements with x' = step * code - offset, codes low..high.
struct ScaleHead {
  int64_t sub = 0;            // 0: the format does not offer it
  int64_t at = 0, bytes = 0;  // of the scales in a block
  int low = 0, high = 0;
  // block_size / sub steps and offsets from those bytes.
  void (*load)(const uint8_t* head, float* steps, float* offsets) = nullptr;
};

struct Format {
  int32_t id = 0;          // ggml type id (formats.md 2.2), also the id of WeightView
  const char* name = "";   // as ggml spells it: "Q4_0"; users write it in lower case
  int64_t block_size = 1;  // elements of a row that share a block
  int64_t block_bytes = 0;
  float max_abs = 0;  // the largest magnitude that is kept finite
  // n values (a multiple of block_size) from n / block_size blocks. `blocks` needs no alignment.
  void (*dequantize)(const uint8_t* blocks, int64_t n, float* out) = nullptr;
  std::vector<ScaleRule> rules;  // never empty
  ScaleHead head = {};
  // Rule "ggml" with an importance matrix (quant/formats/weighted.h): the n values of one whole row
  // and a weight >= 0, finite, for each of its columns. Null: the format takes no heed of one.
  void (*quantize_weighted)(const float* row, const float* importance, int64_t n,
                            uint8_t* out) = nullptr;
};

// Every row of the table, by ascending id.
const std::vector<const Format*>& AllFormats();

// By name, upper or lower case ("Q4_0", "q4_0"); null if there is none.
const Format* FindFormat(std::string_view name);
// By ggml type id; null if there is none.
const Format* FindFormat(int32_t id);
// By name; throws Error listing the names that exist.
const Format& GetFormat(std::string_view name);
// The rule `name` of a format; throws Error listing its rules.
const ScaleRule& GetScaleRule(const Format& format, std::string_view name = "ggml");
// The format's name as users write it ("q4_0").
std::string UserName(const Format& format);

// Bytes of n elements. Throws Error unless n is a non-negative multiple of block_size and the
// product fits.
int64_t FormatBytes(const Format& format, int64_t n);

// rows x cols values, row-major, to rows * FormatBytes(cols) bytes, in parallel over rows: the same
// bytes for any number of threads. cols must be a multiple of block_size (Error).
void QuantizeRows(const Format& format, const ScaleRule& rule, const float* values, int64_t rows,
                  int64_t cols, uint8_t* out);
// The same with the weights importance[cols] of Format::quantize_weighted, where the format has it.
void QuantizeRowsWeighted(const Format& format, const float* values, const float* importance,
                          int64_t rows, int64_t cols, uint8_t* out);
// The reverse.
void DequantizeRows(const Format& format, const uint8_t* blocks, int64_t rows, int64_t cols,
                    float* out);

}  // namespace lapidary

#endif  // LAPIDARY_QUANT_FORMAT_H_
