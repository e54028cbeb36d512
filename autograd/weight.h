// A read-only matrix [rows, cols] in some storage format, as the GEMM sees it. autograd knows no
// formats: it asks the registry for functions that turn a range of rows and columns into float32
// (every format has this one) or straight into a packed panel of the running kernel table (fast
// formats). quant/ registers the block formats; float32 and bfloat16 are built in.
#ifndef LAPIDARY_AUTOGRAD_WEIGHT_H_
#define LAPIDARY_AUTOGRAD_WEIGHT_H_

#include <cstdint>

namespace lapidary {

// Format ids are those of ggml (formats.md 2.2), so that files, panels and views agree: 0 F32, 1
// F16, 2 Q4_0, 8 Q8_0, 14 Q6_K, 30 BF16.
enum : int32_t {
  kFormatF32 = 0,
  kFormatF16 = 1,
  kFormatQ4_0 = 2,
  kFormatQ8_0 = 8,
  kFormatQ6_K = 14,
  kFormatBF16 = 30
};

// The order of a weight's blocks.
enum class WeightLayout : int32_t {
  kRows,   // row-major, as files have it
  kUnits,  // of 32 rows x one block, see below
};

// Units are for formats that list the pieces of their blocks (Q4_0: scale 2, codes 8 and 8) and
// weights of 32 n rows: rows are taken in groups of 32, a group is its blocks' columns in order,
// and a column is a unit: the first piece of all 32 blocks, then the second, and so on. The same
// bytes in another order, read in order by a kernel that works on 32 rows at a time. A group takes
// 32 * row_bytes; piece p of row r in block column b lies at
//   data + (r / 32) * 32 * row_bytes + b * 32 * block_bytes + 32 * (bytes of earlier pieces)
//   + (r % 32) * (bytes of p)
struct WeightMap;  // autograd/weight_map.h

struct WeightView {
  int32_t format = kFormatF32;
  int64_t rows = 0;            // O, output features
  int64_t cols = 0;            // I, input features; a multiple of the format's block size
  const void* data = nullptr;  // rows * row_bytes bytes, row-major; need not be aligned to more
                               // than 2 bytes for block formats
  int64_t row_bytes = 0;
  WeightLayout layout = WeightLayout::kRows;  // kUnits: data is aligned to 64 bytes, no gaps
  // What becomes of the values before a product or a look-up sees them (fake quantization); null:
  // nothing. Must outlive every use of the view.
  const WeightMap* map = nullptr;
};

inline WeightView F32View(const float* data, int64_t rows, int64_t cols) {
  return {kFormatF32, rows, cols, data, cols * 4};
}
inline WeightView Bf16View(const void* data, int64_t rows, int64_t cols) {
  return {kFormatBF16, rows, cols, data, cols * 2};
}

// What the registry holds for one format.
struct WeightFormat {
  int32_t id = 0;
  const char* name = "";   // "Q4_0"
  int64_t block_size = 1;  // elements of a row that share a block
  int64_t block_bytes = 4;
  // Columns [begin, end) of one row as float32; both multiples of block_size.
  void (*dequantize)(const void* row, int64_t begin, int64_t end, float* out) = nullptr;
  // The sizes of the pieces of a block, ended by a zero; null: cannot be laid out in units.
  const uint8_t* pieces = nullptr;
};

// A packed panel, what the GEMM asks for: outputs [out, out + outs) of the product and the part [k,
// k + ks) of its inner dimension, in the order that one kernel table reads
// (autograd/kernels/gemm_table.h, PanelLayout). In a forward product the outputs are rows of the
// weight and k runs over its columns; in an input gradient it is the other way round. Values are
// dequantized to float32 and, for a bfloat16 product, rounded to bf16 to nearest even. Outputs and
// inner positions that the layout pads are zeros.
struct PanelRequest {
  const WeightView* w = nullptr;
  int64_t out = 0;        // a multiple of 32
  int64_t outs = 0;       // a multiple of 32 unless the panel ends with the matrix
  int64_t k = 0;          // a multiple of 256
  int64_t ks = 0;         // a multiple of 256 unless the panel ends with the matrix
  void* panel = nullptr;  // aligned to 64 bytes
};
using PanelFunction = void (*)(const PanelRequest& request) noexcept;
enum class GemmSide { kForward, kInputGrad };

// Adds (or replaces) a format. Called while libraries initialize, before any thread uses the GEMM.
// Throws Error on a null function.
void RegisterWeightFormat(const WeightFormat& format);
// Throws Error if the id is unknown.
const WeightFormat& GetWeightFormat(int32_t id);
bool HasWeightFormat(int32_t id);

// Columns [begin, end) (multiples of the block size, and of the map's) of one row, as float32, from
// any layout, with the map applied.
void DequantizeColumns(const WeightView& w, int64_t row, int64_t begin, int64_t end, float* out);

// Rows [row, row + count), whole, as float32 out[count, cols], with the map applied.
void DequantizeRows(const WeightView& w, int64_t row, int64_t count, float* out);

}  // namespace lapidary

#endif  // LAPIDARY_AUTOGRAD_WEIGHT_H_
