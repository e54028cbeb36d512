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

constexpr int64_t kTokens = 64;    // of one sum; changing it changes bits
constexpr int64_t kTile = 256;     // rows and columns: what the second cache holds twice
constexpr int64_t kWideRows = 32;  // of a tile of whole rows
constexpr int64_t kLanes = 16;     // of a block's sum; changing it changes bits

typedef float Lanes __attribute__((vector_size(kLanes * sizeof(float))));

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
      float lanes[kLanes];
      std::memcpy(lanes, &part, sizeof(part));
      for (int64_t half = kLanes / 2; half > 0; half /= 2)
        for (int64_t j = 0; j < half; ++j) lanes[j] += lanes[j + half];
      float sum = lanes[0];
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
  if (DryRun()) return;
  const int64_t block = w.map->slope_block, steps = w.cols / block;
  const bool wide = block == w.cols && w.cols > kTile;
  const int64_t tile_cols = wide ? w.cols : kTile, tile_rows = wide ? kWideRows : kTile;
  const int64_t across = (w.cols + tile_cols - 1) / tile_cols;
  const int64_t down = (w.rows + tile_rows - 1) / tile_rows;
  if (!add) std::fill_n(dsteps, w.rows * steps, 0.0f);
  const Isa isa = ActiveIsa();
  const GemmTable& table = GetGemmTable(isa, compute);
  BlockSumsFunction* const block_sums = BlockSums();
  ParallelForDynamic(across * down, [&](int64_t tile, int) {
    const int64_t row = tile / across * tile_rows, rows = std::min(tile_rows, w.rows - row);
    const int64_t col = tile % across * tile_cols, cols = std::min(tile_cols, w.cols - col);
    thread_local std::vector<float> slope, dw;
    slope.resize(static_cast<size_t>(rows * cols));
    dw.resize(slope.size());
    SlopeColumns(w, row, rows, col, col + cols, slope.data(), cols);
    for (int64_t at = 0; at < n; at += kTokens) {
      const int64_t count = std::min(kTokens, n - at);
      GemmOutput out;
      out.c = dw.data();
      out.ldc = out.cols = cols;
      out.side = GemmSide::kInputGrad;
      WeightView inputs = F32View(x + at * w.cols + col, count, cols);
      inputs.row_bytes = w.cols * static_cast<int64_t>(sizeof(float));
      out.terms[0].w = inputs;
      out.terms[0].a = Pack(table, {dy + at * w.rows + row, 1, w.rows, rows, count},
                            PackingBuffer(PackedBytes(table, rows, count)));
      MultiplyPacked(isa, compute, {&out, 1});
      block_sums(dw.data(), slope.data(), rows, cols, block, dsteps + row * steps + col / block,
                 steps);
    }
  });
}

}  // namespace lapidary
