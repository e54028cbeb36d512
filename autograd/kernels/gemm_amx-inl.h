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

// Operands of one block: 32 rows of A, a column tile of B, k inner positions, a multiple of 32.
struct BlockOperands {
  const uint16_t *a, *b;
  int64_t k;
};

// What will be needed soon: the sums of the next block (to L1, 4 lines a step) and A's next rows
// (to L2, 2 lines a step). Any addresses.
struct Ahead {
  const char *sums, *rows;
};

// sums += A B. kLow: there are rows 16..31. kWide: there are columns 16..31.
template <class Ops, bool kLow, bool kWide>
inline void AmxSteps(BlockOperands t, const Ahead& ahead) {
  constexpr int64_t kAStride = kAmxChunk * 2, kBStride = kWide ? 128 : 64;
  constexpr int64_t kBStep = kWide ? 32 * 32 : 32 * 16;
  Ops::template Stream<6>(t.b, kBStride);
  for (int64_t i = 0; i < t.k; i += 32) {
    for (int line = 0; line < 4; ++line) __builtin_prefetch(ahead.sums + i * 8 + line * 64);
    for (int line = 0; line < 2; ++line) Ops::Prefetch(ahead.rows + i * 4 + line * 64);
    Ops::template Load<4>(t.a + i, kAStride);
    Ops::template Multiply<0, 4, 6>();
    if constexpr (kLow) {
      Ops::template Load<5>(t.a + 16 * kAmxChunk + i, kAStride);
      Ops::template Multiply<2, 5, 6>();
    }
    if constexpr (kWide) Ops::template Stream<7>(t.b + 32, kBStride);
    t.b += kBStep;
    if (i + 32 < t.k) Ops::template Stream<6>(t.b, kBStride);
    if constexpr (kWide) Ops::template Multiply<1, 4, 7>();
    if constexpr (kWide && kLow) Ops::template Multiply<3, 5, 7>();
  }
}

// The sums of one block: from `in` (null: zeros), through the chunk and the tail, to `out`. Strides
// in elements.
template <class Ops, bool kLow, bool kWide>
inline void AmxBlock(const BlockOperands& chunk, const BlockOperands& tail, const float* in,
                     int64_t in_stride, float* out, int64_t out_stride, const Ahead& ahead) {
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
  AmxSteps<Ops, kLow, kWide>(chunk, ahead);
  if (tail.k > 0) AmxSteps<Ops, kLow, kWide>(tail, ahead);
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
  BlockOperands chunk = {static_cast<const uint16_t*>(call.a) + row * kAmxChunk, nullptr, kp};
  BlockOperands tail = {};
  if (call.k_tail > 0) {
    tail.a = static_cast<const uint16_t*>(call.a_tail) + row * kAmxChunk;
    tail.k = (call.k_tail + 31) / 32 * 32;
  }
  // A's next block of rows, a part of it with every block of columns.
  const char* const next_rows = reinterpret_cast<const char*>(chunk.a + kAmxRows * kAmxChunk);
  const int64_t part = kAmxRows * kAmxChunk * 2 / tiles;
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
    const Ahead ahead = {reinterpret_cast<const char*>(kept ? kept + kAmxRows * kAmxCols : call.c),
                         next_rows + col / kAmxCols * part};
    chunk.b = static_cast<const uint16_t*>(call.b) + col * (kp + kTileGap);
    if (tail.k > 0) tail.b = static_cast<const uint16_t*>(call.b_tail) + col * (tail.k + kTileGap);
    if (cols > 16) {
      AmxBlock<Ops, kLow, true>(chunk, tail, in, in_stride, out, out_stride, ahead);
    } else {
      AmxBlock<Ops, kLow, false>(chunk, tail, in, in_stride, out, out_stride, ahead);
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
