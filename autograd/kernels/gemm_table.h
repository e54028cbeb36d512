// The matrix-product kernels of one instruction set and compute type, and the memory order of their
// operands.
//
// The product is C[rows, cols] (+)= A[rows, k] B[k, cols]. A comes from activations: blocks of
// `block_rows` rows, row-major with the constant row stride kChunk. B comes from weights (or, in a
// weight gradient, from activations): a panel of column tiles. The inner dimension is cut in chunks
// of kChunk; sums run on through C from chunk to chunk, every element of C through one chain of
// additions in the order of k, whatever the number of rows and columns beside it.
#ifndef LAPIDARY_AUTOGRAD_KERNELS_GEMM_TABLE_H_
#define LAPIDARY_AUTOGRAD_KERNELS_GEMM_TABLE_H_

#include <cstdint>

#include "autograd/gemm.h"
#include "autograd/kernels/isa.h"

namespace lapidary {

// The order of a panel of `outs` outputs and `ks` inner positions. Tile t holds outputs [t * width,
// (t + 1) * width) and starts at element PanelOffset(layout, t * width, ks'), where ks' is ks
// rounded up to the table's k_unit. The last tile of a 32-wide layout is stored 16 wide if at most
// 16 outputs are left.
enum class PanelLayout {
  kF32x16,   // float32 [ks][16]
  kF32x32,   // float32 [ks][32]
  kBf16x32,  // bfloat16 [ks'/2][32][2], the pair is (k, k + 1)
};

// The space of one more inner position (pair) between tiles moves them to different cache sets: a
// packer that walks along a row of the weight writes to all tiles in turn, and tiles 32 KB apart
// would share one.
inline int64_t PanelOffset(PanelLayout layout, int64_t out, int64_t ks) {
  return out * (ks + (layout == PanelLayout::kBf16x32 ? 2 : 1));
}

// One call of the kernel: all rows of a group against one panel and one chunk.
struct GemmCall {
  const void* a = nullptr;  // blocks of block_rows rows
  int64_t rows = 0;
  const void* b = nullptr;  // panel
  int64_t cols = 0;
  int64_t k = 0;  // <= chunk
  float* c = nullptr;
  int64_t ldc = 0;
  bool load = false;  // continue the sums in c; false: start from zero
  // For a table with `partials`: sums between chunks live here in the kernel's own order, c is only
  // read by the first chunk (if `load`) and written by the last.
  float* partials = nullptr;
  bool first = true, last = true;
  // For a table with `tails`: after the k positions the same sums run on through k_tail more, from
  // operands of their own in the same orders.
  const void* a_tail = nullptr;
  const void* b_tail = nullptr;
  int64_t k_tail = 0;  // <= chunk
};

struct GemmTable {
  PanelLayout layout = PanelLayout::kF32x16;
  int64_t tile_cols = 16;  // 16 or 32
  int64_t block_rows = 1;
  int64_t chunk =
      256;  // inner positions of a chunk, a multiple of 256; also A's row stride in elements
  int64_t k_unit = 1;  // a chunk is padded with zeros to a multiple of this
  int64_t element_bytes = 4;
  bool partials = false;  // wants GemmCall::partials: rows rounded up to blocks, columns to 32
  bool tails = false;     // reads GemmCall::k_tail
  // Up to block_rows rows of A: element (r, k) is a[r * row_stride + k * k_stride]; one of the
  // strides is 1.
  void (*pack_a)(const float* a, int64_t row_stride, int64_t k_stride, int64_t rows, int64_t k,
                 void* out) noexcept = nullptr;
  // One column tile of B from float32, `cols` <= tile_cols, k <= chunk; element (k, c) is b[c *
  // stride + k].
  void (*pack_b_columns)(const float* b, int64_t stride, int64_t cols, int64_t k,
                         void* out) noexcept = nullptr;
  // The same from b[k * stride + c].
  void (*pack_b_rows)(const float* b, int64_t stride, int64_t cols, int64_t k,
                      void* out) noexcept = nullptr;
  void (*multiply)(const GemmCall& call) noexcept = nullptr;
};

// A forward product with few rows straight from the blocks of a weight, without a panel: C[rows,
// outs] (+)= A W^T over all of W's columns, with the bits of the way through panels.
constexpr int64_t kMostFewRows = 8;  // or the table's block_rows, if they are less
struct FewRowsCall {
  const WeightView* w = nullptr;  // 16 n rows, 32 n columns
  int64_t out = 0, outs = 0;      // rows of W: a multiple of 32 and of 16
  const void* a = nullptr;  // one block of rows as pack_a writes it, its chunks `chunk_bytes` apart
  int64_t chunk_bytes = 0;
  int64_t rows = 0;    // 1 to kMostFewRows
  float* c = nullptr;  // of output `out`
  int64_t ldc = 0;
  bool load = false;  // continue the sums in c; false: start from zero
};
using FewRowsFunction = void (*)(const FewRowsCall& call) noexcept;

// The table of an instruction set. All of an architecture exist in its binary (one of another
// architecture is the reference); calling one that the CPU lacks is an illegal instruction.
const GemmTable& GetGemmTable(Isa isa, Compute compute);

// Registers a packer for one format, table, direction and layout; without one the GEMM dequantizes
// rows and packs those. Called while libraries initialize, before any thread uses the GEMM.
void RegisterPanelFunction(int32_t format, Isa isa, Compute compute, GemmSide side,
                           PanelFunction function, WeightLayout layout = WeightLayout::kRows);
// Null if none is registered.
PanelFunction FindPanelFunction(int32_t format, Isa isa, Compute compute, GemmSide side,
                                WeightLayout layout = WeightLayout::kRows);

// The same for products with few rows; without one they go through panels.
void RegisterFewRowsFunction(int32_t format, Isa isa, Compute compute, WeightLayout layout,
                             FewRowsFunction function);
// Null if none is registered.
FewRowsFunction FindFewRowsFunction(int32_t format, Isa isa, Compute compute, WeightLayout layout);

// The way that works for every format: dequantizes rows, then packs them with the table.
void PackPanelFromRows(const GemmTable& table, GemmSide side, const PanelRequest& request);

}  // namespace lapidary

#endif  // LAPIDARY_AUTOGRAD_KERNELS_GEMM_TABLE_H_
