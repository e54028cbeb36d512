// The bf16 tile kernel over a small set of tile instructions, so that the same code runs on real
// tiles (gemm_amx.cc) and on emulated ones (the unit test), which checks packing, strides, tails
// and the order of loads on any CPU.
//
// A block of 32 rows x 32 columns is 2 x 2 tiles of sums (tiles 0..3), fed by two tiles of A (4, 5:
// 16 rows x 32 k) and two of B (6, 7: 16 pairs of k x 16 columns). The block of A (32 rows of a
// chunk: 32 KB) stays in L1, B streams from L2 with the load that does not push it out, and the
// first B tile of the next step is loaded before the last two products of this one. Sums between
// chunks are kept as blocks of 32 x 32 (`partials`): the row stride of C would put a tile's rows in
// one cache set.
#ifndef LAPIDARY_AUTOGRAD_KERNELS_GEMM_AMX_INL_H_
#define LAPIDARY_AUTOGRAD_KERNELS_GEMM_AMX_INL_H_

#include <cstdint>

#include "autograd/kernels/gemm_table.h"

namespace lapidary {

namespace {  // internal linkage: this is compiled for several instruction sets

// The 64-byte operand of ldtilecfg.
struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};
static_assert(sizeof(TileConfig) == 64);

constexpr int64_t kAmxRows = 32, kAmxCols = 32, kAmxChunk = 512;
constexpr int64_t kTileGap = 2;  // PanelOffset

// Tiles 0, 1 (sums) and 4 (A) have `upper` rows, 2, 3 and 5 have `lower`.
inline void FillConfig(TileConfig* config, int64_t upper, int64_t lower) {
  *config = TileConfig();
  for (int t = 0; t < 8; ++t) {
    const bool low = t == 2 || t == 3 || t == 5;
    config->row_bytes[t] = 64;
    config->rows[t] = static_cast<uint8_t>(t >= 6 ? 16 : low ? lower : upper);
  }
}

// The sums of one block: from `in` (null: zeros) to `out`; `next` is what the next block will load,
// prefetched at 4 lines a step. kLow: there are rows 16..31. kWide:
// there are columns 16..31. `k` is a multiple of 32. Strides in elements.
template <class Ops, bool kLow, bool kWide>
inline void AmxBlock(const uint16_t* a, const uint16_t* b, int64_t k, const float* in,
                     int64_t in_stride, float* out, int64_t out_stride, const char* next) {
  constexpr int64_t kAStride = kAmxChunk * 2, kBStride = kWide ? 128 : 64;
  constexpr int64_t kBStep = kWide ? 32 * 32 : 32 * 16;
  if (in) {
    Ops::template Load<0>(in, in_stride * 4);
    if constexpr (kWide) Ops::template Load<1>(in + 16, in_stride * 4);
    if constexpr (kLow) Ops::template Load<2>(in + 16 * in_stride, in_stride * 4);
    if constexpr (kLow && kWide) Ops::template Load<3>(in + 16 * in_stride + 16, in_stride * 4);
  } else {
    Ops::template Zero<0>();
    if constexpr (kWide) Ops::template Zero<1>();
    if constexpr (kLow) Ops::template Zero<2>();
    if constexpr (kLow && kWide) Ops::template Zero<3>();
  }
  Ops::template Stream<6>(b, kBStride);
  for (int64_t i = 0; i < k; i += 32) {
    for (int line = 0; line < 4; ++line) __builtin_prefetch(next + i * 8 + line * 64);
    Ops::template Load<4>(a + i, kAStride);
    Ops::template Multiply<0, 4, 6>();
    if constexpr (kLow) {
      Ops::template Load<5>(a + 16 * kAmxChunk + i, kAStride);
      Ops::template Multiply<2, 5, 6>();
    }
    if constexpr (kWide) Ops::template Stream<7>(b + 32, kBStride);
    b += kBStep;
    if (i + 32 < k) Ops::template Stream<6>(b, kBStride);
    if constexpr (kWide) Ops::template Multiply<1, 4, 7>();
    if constexpr (kWide && kLow) Ops::template Multiply<3, 5, 7>();
  }
  Ops::template Store<0>(out, out_stride * 4);
  if constexpr (kWide) Ops::template Store<1>(out + 16, out_stride * 4);
  if constexpr (kLow) Ops::template Store<2>(out + 16 * out_stride, out_stride * 4);
  if constexpr (kLow && kWide) Ops::template Store<3>(out + 16 * out_stride + 16, out_stride * 4);
}

// Columns that end inside a tile go through a block of their own.
inline void CopyEdge(const float* from, int64_t from_stride, float* to, int64_t to_stride,
                     int64_t rows, int64_t cols) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < cols; ++c) to[r * to_stride + c] = from[r * from_stride + c];
  }
}

template <class Ops, bool kLow>
inline void AmxRowBlock(const GemmCall& call, int64_t row) {
  const int64_t kp = (call.k + 31) / 32 * 32;
  const int64_t tiles = (call.cols + kAmxCols - 1) / kAmxCols;
  const int64_t rows = call.rows - row < kAmxRows ? call.rows - row : kAmxRows;
  const uint16_t* a = static_cast<const uint16_t*>(call.a) + row * kAmxChunk;
  const uint16_t* b = static_cast<const uint16_t*>(call.b);
  float* partials = call.partials ? call.partials + row * tiles * kAmxCols : nullptr;
  alignas(64) float edge[kAmxRows * kAmxCols];
  for (int64_t col = 0; col < call.cols; col += kAmxCols) {
    const int64_t cols = call.cols - col < kAmxCols ? call.cols - col : kAmxCols;
    const bool partial = cols != 16 && cols != kAmxCols;
    float* const c = call.c + row * call.ldc + col;
    float* const kept = partials ? partials + col * kAmxRows : nullptr;
    const float* in = nullptr;
    int64_t in_stride = kAmxCols;
    if (kept && !call.first) {
      in = kept;
    } else if (call.load && partial) {
      CopyEdge(c, call.ldc, edge, kAmxCols, rows, cols);
      in = edge;
    } else if (call.load) {
      in = c;
      in_stride = call.ldc;
    }
    float* out = c;
    int64_t out_stride = call.ldc;
    const bool to_edge = (!kept || call.last) && partial;
    if (kept && !call.last) {
      out = kept;
      out_stride = kAmxCols;
    } else if (to_edge) {
      out = edge;
      out_stride = kAmxCols;
    }
    const char* next = reinterpret_cast<const char*>(kept ? kept + kAmxRows * kAmxCols : call.c);
    if (cols > 16) {
      AmxBlock<Ops, kLow, true>(a, b + col * (kp + kTileGap), kp, in, in_stride, out, out_stride,
                                next);
    } else {
      AmxBlock<Ops, kLow, false>(a, b + col * (kp + kTileGap), kp, in, in_stride, out, out_stride,
                                 next);
    }
    if (to_edge) CopyEdge(edge, kAmxCols, c, call.ldc, rows, cols);
  }
}

template <class Ops>
void AmxMultiply(const GemmCall& call) noexcept {
  TileConfig config;
  const int64_t full = call.rows / kAmxRows * kAmxRows;
  if (full > 0) {
    FillConfig(&config, 16, 16);
    Ops::Configure(config);
    for (int64_t row = 0; row < full; row += kAmxRows) AmxRowBlock<Ops, true>(call, row);
  }
  const int64_t left = call.rows - full;
  if (left > 16) {
    FillConfig(&config, 16, left - 16);
    Ops::Configure(config);
    AmxRowBlock<Ops, true>(call, full);
  } else if (left > 0) {
    FillConfig(&config, left, 16);
    Ops::Configure(config);
    AmxRowBlock<Ops, false>(call, full);
  }
  Ops::Release();
}

}  // namespace
}  // namespace lapidary

#endif  // LAPIDARY_AUTOGRAD_KERNELS_GEMM_AMX_INL_H_
