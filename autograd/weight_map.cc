#include "autograd/weight_map.h"

#include <algorithm>
#include <cstring>

#include "autograd/kernels/isa.h"

namespace lapidary {
namespace {

#define LAPIDARY_INLINE inline __attribute__((always_inline))

// kRows rows by kVectors vectors, their sums in registers.
template <class V, int kRows, int kVectors>
LAPIDARY_INLINE void Tile(const float* a, int64_t a_stride, const float* b, int64_t rank,
                          float scale, float* values, int64_t stride) {
  constexpr int64_t kLanes = sizeof(V) / sizeof(float);
  V sum[kRows][kVectors] = {};
  for (int64_t k = 0; k < rank; ++k) {
    V row[kVectors];
    for (int v = 0; v < kVectors; ++v)
      std::memcpy(&row[v], a + k * a_stride + v * kLanes, sizeof(V));
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      const float factor = b[r * rank + k];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sum[r][v] += row[v] * factor;
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      V w;
      std::memcpy(&w, values + r * stride + v * kLanes, sizeof(V));
      w += sum[r][v] * scale;
      std::memcpy(values + r * stride + v * kLanes, &w, sizeof(V));
    }
  }
}

template <class V, int kVectors>
LAPIDARY_INLINE void LowRankBody(const float* a, int64_t a_stride, const float* b, int64_t rank,
                                 float scale, int64_t rows, int64_t cols, float* values,
                                 int64_t stride) {
  constexpr int64_t kWidth = kVectors * sizeof(V) / sizeof(float);
  // Columns outside, so that the part of A that all rows share stays in the first cache.
  int64_t c = 0;
  for (; c + kWidth <= cols; c += kWidth) {
    int64_t r = 0;
    for (; r + 4 <= rows; r += 4) {
      Tile<V, 4, kVectors>(a + c, a_stride, b + r * rank, rank, scale, values + r * stride + c,
                           stride);
    }
    for (; r < rows; ++r) {
      Tile<V, 1, kVectors>(a + c, a_stride, b + r * rank, rank, scale, values + r * stride + c,
                           stride);
    }
  }
  for (; c < cols; ++c) {
    for (int64_t r = 0; r < rows; ++r) {
      float sum = 0;
      for (int64_t k = 0; k < rank; ++k) sum += a[k * a_stride + c] * b[r * rank + k];
      values[r * stride + c] += sum * scale;
    }
  }
}

typedef float F4 __attribute__((vector_size(16)));
void LowRankPlain(const float* a, int64_t a_stride, const float* b, int64_t rank, float scale,
                  int64_t rows, int64_t cols, float* values, int64_t stride) {
  LowRankBody<F4, 2>(a, a_stride, b, rank, scale, rows, cols, values, stride);
}

#if defined(__x86_64__)
typedef float F8 __attribute__((vector_size(32)));
typedef float F16 __attribute__((vector_size(64)));
__attribute__((target("avx2"))) void LowRankAvx2(const float* a, int64_t a_stride, const float* b,
                                                 int64_t rank, float scale, int64_t rows,
                                                 int64_t cols, float* values, int64_t stride) {
  LowRankBody<F8, 2>(a, a_stride, b, rank, scale, rows, cols, values, stride);
}
__attribute__((target("avx512f"))) void LowRankAvx512(const float* a, int64_t a_stride,
                                                      const float* b, int64_t rank, float scale,
                                                      int64_t rows, int64_t cols, float* values,
                                                      int64_t stride) {
  LowRankBody<F16, 4>(a, a_stride, b, rank, scale, rows, cols, values, stride);
}
#endif

}  // namespace

int64_t TileBlock(const WeightView& w) {
  const int64_t block = GetWeightFormat(w.format).block_size;
  return w.map ? std::max(block, w.map->block) : block;
}

void AddLowRank(const float* a, int64_t a_stride, const float* b, int64_t rank, float scale,
                int64_t rows, int64_t cols, float* values, int64_t stride) noexcept {
#if defined(__x86_64__)
  switch (ActiveIsa()) {
    case Isa::kScalar:
      break;
    case Isa::kAvx2:
      LowRankAvx2(a, a_stride, b, rank, scale, rows, cols, values, stride);
      return;
    default:
      LowRankAvx512(a, a_stride, b, rank, scale, rows, cols, values, stride);
      return;
  }
#endif
  LowRankPlain(a, a_stride, b, rank, scale, rows, cols, values, stride);
}

void SlopeColumns(const WeightView& w, int64_t row, int64_t count, int64_t begin, int64_t end,
                  float* out, int64_t stride) {
  WeightMap sloped = *w.map;
  sloped.apply = sloped.slope;
  WeightView view = w;
  view.map = &sloped;
  MappedColumns(view, row, count, begin, end, out, stride);
}

void MappedColumns(const WeightView& w, int64_t row, int64_t count, int64_t begin, int64_t end,
                   float* out, int64_t stride) {
  const WeightMap& map = *w.map;
  WeightView base = w;
  base.map = nullptr;
  if (base.layout == WeightLayout::kRows) {
    const WeightFormat& format = GetWeightFormat(base.format);
    for (int64_t r = 0; r < count; ++r) {
      format.dequantize(static_cast<const char*>(base.data) + (row + r) * base.row_bytes, begin,
                        end, out + r * stride);
    }
  } else {
    for (int64_t r = 0; r < count; ++r)
      DequantizeColumns(base, row + r, begin, end, out + r * stride);
  }
  if (map.rank > 0) {
    AddLowRank(map.a + begin, w.cols, map.b + row * map.rank, map.rank, map.scale, count,
               end - begin, out, stride);
  }
  if (!map.apply) return;
  for (int64_t r = 0; r < count; ++r) map.apply(map.context, row + r, begin, end, out + r * stride);
}

}  // namespace lapidary
