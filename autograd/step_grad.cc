#include "autograd/step_grad.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "autograd/base/dry_run.h"
#include "autograd/base/error.h"
#include "autograd/base/parallel.h"
#include "autograd/kernels/gemm_driver.h"
#include "autograd/weight_map.h"

namespace lapidary {
namespace {

constexpr int64_t kTokens = 64;  // of one sum; changing it changes bits
constexpr int64_t kRows = 512;   // of a tile: inputs are packed once for so many outputs
constexpr int64_t kFewestRows = 64;
constexpr int64_t kTileSize = 1 << 16;  // elements of a tile; the second cache holds it twice
constexpr int64_t kLanes = 16;          // of a block's sum; changing it changes bits
constexpr int64_t kPacked = int64_t{64} << 20;  // bytes of packed dy at a time

typedef float Lanes __attribute__((vector_size(kLanes * sizeof(float))));
typedef float Lanes8 __attribute__((vector_size(32)));
typedef float Lanes4 __attribute__((vector_size(16)));

// sums[r, b] += sum over block b of d * slope, [rows, cols] both.
inline __attribute__((always_inline)) void BlockSumsBody(const float* d, const float* slope,
                                                         int64_t rows, int64_t cols, int64_t block,
                                                         float* sums, int64_t stride) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t b = 0; b < cols / block; ++b, d += block, slope += block) {
      Lanes part = {};
      int64_t k = 0;
      for (; k + kLanes <= block; k += kLanes) {
        Lanes x, y;
        std::memcpy(&x, d + k, sizeof(x));
        std::memcpy(&y, slope + k, sizeof(y));
        part += x * y;
      }
      const Lanes8 eight = __builtin_shufflevector(part, part, 0, 1, 2, 3, 4, 5, 6, 7) +
                           __builtin_shufflevector(part, part, 8, 9, 10, 11, 12, 13, 14, 15);
      const Lanes4 four = __builtin_shufflevector(eight, eight, 0, 1, 2, 3) +
                          __builtin_shufflevector(eight, eight, 4, 5, 6, 7);
      float sum = (four[0] + four[2]) + (four[1] + four[3]);
      for (; k < block; ++k) sum += d[k] * slope[k];
      sums[r * stride + b] += sum;
    }
  }
}

using BlockSumsFunction = void(const float* d, const float* slope, int64_t rows, int64_t cols,
                               int64_t block, float* sums, int64_t stride);
void BlockSumsPlain(const float* d, const float* slope, int64_t rows, int64_t cols, int64_t block,
                    float* sums, int64_t stride) {
  BlockSumsBody(d, slope, rows, cols, block, sums, stride);
}
#if defined(__x86_64__)
__attribute__((target("avx2"))) void BlockSumsAvx2(const float* d, const float* slope, int64_t rows,
                                                   int64_t cols, int64_t block, float* sums,
                                                   int64_t stride) {
  BlockSumsBody(d, slope, rows, cols, block, sums, stride);
}
__attribute__((target("avx512f"))) void BlockSumsAvx512(const float* d, const float* slope,
                                                        int64_t rows, int64_t cols, int64_t block,
                                                        float* sums, int64_t stride) {
  BlockSumsBody(d, slope, rows, cols, block, sums, stride);
}
#endif

BlockSumsFunction* BlockSums() {
#if defined(__x86_64__)
  if (ActiveIsa() == Isa::kAvx2) return BlockSumsAvx2;
  if (ActiveIsa() != Isa::kScalar) return BlockSumsAvx512;
#endif
  return BlockSumsPlain;
}

}  // namespace

void StepGrad(const float* dy, const float* x, int64_t n, const WeightView& w, float* dsteps,
              bool add, Compute compute) {
  CheckWeight("StepGrad", w, n);
  LAPIDARY_CHECK(
      w.map && w.map->slope && w.map->slope_block >= 1 && w.cols % w.map->slope_block == 0 &&
          (w.map->slope_block == w.cols || 256 % w.map->slope_block == 0),
      "StepGrad: the weight must have a map that learns, blocks of 256 or less, or rows; "
      "got ",
      w.map ? w.map->slope_block : 0, " of ", w.cols, " columns");
  const int64_t block = w.map->slope_block, steps = w.cols / block;
  const Isa isa = ActiveIsa();
  const GemmTable& table = GetGemmTable(isa, compute);
  // Whole blocks of columns, and whole packed blocks of rows.
  const int64_t tile_cols = std::max(block, kTileSize / kRows);
  const int64_t row_blocks = std::max<int64_t>(
      std::clamp(kTileSize / tile_cols, kFewestRows, kRows) / table.block_rows, 1);
  const int64_t tile_rows = row_blocks * table.block_rows;
  const int64_t across = (w.cols + tile_cols - 1) / tile_cols;
  const int64_t down = (w.rows + tile_rows - 1) / tile_rows;
  const int64_t pass =
      std::max<int64_t>(kPacked / PackedBytes(table, w.rows, table.chunk), 1) * table.chunk;
  BlockSumsFunction* const block_sums = BlockSums();
  if (!add && !DryRun()) std::fill_n(dsteps, w.rows * steps, 0.0f);
  for (int64_t first = 0; first < n; first += pass) {
    const int64_t tokens = std::min(pass, n - first);
    const PackedActivations packed = Pack(table, {dy + first * w.rows, 1, w.rows, w.rows, tokens},
                                          PackingBuffer(PackedBytes(table, w.rows, tokens)));
    ParallelForDynamic(across * down, [&](int64_t tile, int) {
      const int64_t row = tile / across * tile_rows, rows = std::min(tile_rows, w.rows - row);
      const int64_t col = tile % across * tile_cols, cols = std::min(tile_cols, w.cols - col);
      thread_local std::vector<float> slope, dw;
      slope.resize(static_cast<size_t>(rows * cols));
      dw.resize(slope.size());
      SlopeColumns(w, row, rows, col, col + cols, slope.data(), cols);
      for (int64_t at = 0; at < tokens; at += kTokens) {
        const int64_t count = std::min(kTokens, tokens - at), chunk = at / table.chunk;
        // These rows and tokens of the packed dy: rows of a block are a chunk apart.
        PackedActivations part = packed;
        part.data +=
            ((chunk * packed.blocks + row / table.block_rows) * table.block_rows * table.chunk +
             (at - chunk * table.chunk)) *
            table.element_bytes;
        part.rows = rows;
        part.k = count;
        WeightView inputs = F32View(x + (first + at) * w.cols + col, count, cols);
        inputs.row_bytes = w.cols * static_cast<int64_t>(sizeof(float));
        GemmOutput out;
        out.c = dw.data();
        out.ldc = out.cols = cols;
        out.side = GemmSide::kInputGrad;
        out.terms[0] = {part, inputs};
        MultiplyPacked(isa, compute, {&out, 1});
        block_sums(dw.data(), slope.data(), rows, cols, block, dsteps + row * steps + col / block,
                   steps);
      }
    });
  }
}

}  // namespace lapidary
