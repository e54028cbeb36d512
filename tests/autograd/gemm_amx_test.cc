// The tile kernel on emulated tiles: packing, strides, tails and the order of loads, bit for bit,
// on any CPU. An emulated product adds the two products of a pair one after the other in fp32, so
// the reference is the same chain written as two loops.
#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "autograd/kernels/gemm_amx-inl.h"
#include "tests/autograd/gemm_check.h"

namespace lapidary {
namespace {

struct EmulatedTiles {
  struct Tile {
    uint8_t bytes[16][64];
  };
  static inline TileConfig config;
  static inline bool configured = false;
  static inline Tile tiles[8];
  static inline int64_t products = 0;

  static void Configure(const TileConfig& c) {
    ASSERT_EQ(c.palette, 1);
    for (int t = 0; t < 8; ++t) {
      ASSERT_GE(c.rows[t], 1);
      ASSERT_LE(c.rows[t], 16);
      ASSERT_LE(c.row_bytes[t], 64);
      ASSERT_EQ(c.row_bytes[t] % 4, 0);
    }
    config = c;
    configured = true;
    std::memset(tiles, 0xff, sizeof(tiles));  // NaN until loaded
  }
  static void Release() { configured = false; }
  static void Prefetch(const char*) {}
  template <int kTile>
  static void Zero() {
    ASSERT_TRUE(configured);
    std::memset(&tiles[kTile], 0, sizeof(Tile));
  }
  template <int kTile>
  static void Load(const void* base, int64_t stride) {
    ASSERT_TRUE(configured);
    std::memset(&tiles[kTile], 0, sizeof(Tile));
    for (int r = 0; r < config.rows[kTile]; ++r) {
      std::memcpy(tiles[kTile].bytes[r], static_cast<const char*>(base) + r * stride,
                  config.row_bytes[kTile]);
    }
  }
  template <int kTile>
  static void Stream(const void* base, int64_t stride) {
    Load<kTile>(base, stride);
  }
  template <int kTile>
  static void Store(void* base, int64_t stride) {
    ASSERT_TRUE(configured);
    for (int r = 0; r < config.rows[kTile]; ++r) {
      std::memcpy(static_cast<char*>(base) + r * stride, tiles[kTile].bytes[r],
                  config.row_bytes[kTile]);
    }
  }
  template <int kSum, int kA, int kB>
  static void Multiply() {
    ASSERT_TRUE(configured);
    ASSERT_EQ(config.rows[kSum], config.rows[kA]);
    ASSERT_EQ(config.row_bytes[kA], config.rows[kB] * 4);
    ++products;
    for (int m = 0; m < config.rows[kA]; ++m) {
      for (int k = 0; k < config.rows[kB]; ++k) {
        for (int n = 0; n < config.row_bytes[kSum] / 4; ++n) {
          float sum;
          uint16_t a[2], b[2];
          std::memcpy(&sum, tiles[kSum].bytes[m] + 4 * n, 4);
          std::memcpy(a, tiles[kA].bytes[m] + 4 * k, 4);
          std::memcpy(b, tiles[kB].bytes[k] + 4 * n, 4);
          sum += F32FromBf16(a[0]) * F32FromBf16(b[0]);
          sum += F32FromBf16(a[1]) * F32FromBf16(b[1]);
          std::memcpy(tiles[kSum].bytes[m] + 4 * n, &sum, 4);
        }
      }
    }
  }
};

// The documented layouts, written out element by element.
std::vector<uint16_t> PackedA(const std::vector<float>& a, int64_t rows, int64_t k, int64_t begin,
                              int64_t count) {
  std::vector<uint16_t> out((rows + 31) / 32 * 32 * kAmxChunk,
                            0x7fc0);  // NaN where nothing may be read into a result
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < (count + 31) / 32 * 32; ++i) {
      out[r * kAmxChunk + i] = i < count ? Bf16FromF32(a[r * k + begin + i]) : 0;
    }
  }
  return out;
}

std::vector<uint16_t> PackedB(const std::vector<float>& b, int64_t cols, int64_t k, int64_t begin,
                              int64_t count) {
  const int64_t kp = (count + 31) / 32 * 32;
  std::vector<uint16_t> out(PanelOffset(PanelLayout::kBf16x32, (cols + 31) / 32 * 32, kp), 0);
  for (int64_t c = 0; c < cols; ++c) {
    const int64_t tile = c / 32 * 32, width = cols - tile <= 16 ? 16 : 32;
    uint16_t* at = out.data() + PanelOffset(PanelLayout::kBf16x32, tile, kp);
    for (int64_t i = 0; i < count; ++i) {
      at[i / 2 * 2 * width + (c - tile) * 2 + i % 2] = Bf16FromF32(b[c * k + begin + i]);
    }
  }
  return out;
}

TEST(GemmAmx, EmulatedTilesGiveTheChainBitForBit) {
  for (int64_t rows : {1, 3, 15, 16, 17, 31, 32, 33, 48, 49, 70}) {
    for (int64_t cols : {1, 5, 16, 17, 31, 32, 33, 48, 50, 64, 97}) {
      for (int64_t k : {1, 31, 32, 33, 100, 512, 513, 1100}) {
        const std::vector<float> a = Values(rows * k, 1), b = Values(cols * k, 2);
        for (bool add : {false, true}) {
          const int64_t ldc = cols + 3;
          std::vector<float> c(rows * ldc, 0.5f), want(rows * ldc, 0.5f);
          std::vector<float> partials((rows + 31) / 32 * 32 * ((cols + 31) / 32 * 32), NAN);
          for (int64_t begin = 0; begin < k; begin += kAmxChunk) {
            const int64_t count = std::min(kAmxChunk, k - begin);
            const std::vector<uint16_t> pa = PackedA(a, rows, k, begin, count),
                                        pb = PackedB(b, cols, k, begin, count);
            GemmCall call;
            call.a = pa.data();
            call.rows = rows;
            call.b = pb.data();
            call.cols = cols;
            call.k = count;
            call.c = c.data();
            call.ldc = ldc;
            call.load = add || begin > 0;
            call.partials = k > kAmxChunk ? partials.data() : nullptr;
            call.first = begin == 0;
            call.last = begin + count == k;
            AmxMultiply<EmulatedTiles>(call);
          }
          ASSERT_FALSE(EmulatedTiles::configured) << "tiles must be released";
          for (int64_t r = 0; r < rows; ++r) {
            for (int64_t j = 0; j < cols; ++j) {
              float sum = add ? 0.5f : 0.0f;
              for (int64_t i = 0; i < k; ++i)
                sum += RoundToBf16(a[r * k + i]) * RoundToBf16(b[j * k + i]);
              want[r * ldc + j] = sum;
            }
          }
          ASSERT_EQ(std::memcmp(c.data(), want.data(), c.size() * 4), 0)
              << "rows " << rows << " cols " << cols << " k " << k << " add " << add;
        }
      }
    }
  }
  EXPECT_GT(EmulatedTiles::products, 0);
}

// A second pair of operands continues the sums of the last chunk.
TEST(GemmAmx, TailContinuesTheChain) {
  for (int64_t rows : {5, 16, 32, 49}) {
    for (int64_t cols : {7, 32, 50}) {
      for (int64_t k_tail : {1, 16, 33, 100}) {
        const int64_t k = 600;
        const std::vector<float> a = Values(rows * k, 1), b = Values(cols * k, 2),
                                 a2 = Values(rows * k_tail, 3), b2 = Values(cols * k_tail, 4);
        std::vector<float> c(rows * cols, NAN), want(rows * cols);
        std::vector<float> partials((rows + 31) / 32 * 32 * ((cols + 31) / 32 * 32), NAN);
        const std::vector<uint16_t> pa2 = PackedA(a2, rows, k_tail, 0, k_tail),
                                    pb2 = PackedB(b2, cols, k_tail, 0, k_tail);
        for (int64_t begin = 0; begin < k; begin += kAmxChunk) {
          const int64_t count = std::min(kAmxChunk, k - begin);
          const std::vector<uint16_t> pa = PackedA(a, rows, k, begin, count),
                                      pb = PackedB(b, cols, k, begin, count);
          GemmCall call;
          call.a = pa.data();
          call.rows = rows;
          call.b = pb.data();
          call.cols = cols;
          call.k = count;
          call.c = c.data();
          call.ldc = cols;
          call.load = begin > 0;
          call.partials = partials.data();
          call.first = begin == 0;
          call.last = begin + count == k;
          if (call.last) {
            call.a_tail = pa2.data();
            call.b_tail = pb2.data();
            call.k_tail = k_tail;
          }
          AmxMultiply<EmulatedTiles>(call);
        }
        for (int64_t r = 0; r < rows; ++r) {
          for (int64_t j = 0; j < cols; ++j) {
            float sum = 0;
            for (int64_t i = 0; i < k; ++i)
              sum += RoundToBf16(a[r * k + i]) * RoundToBf16(b[j * k + i]);
            for (int64_t i = 0; i < k_tail; ++i)
              sum += RoundToBf16(a2[r * k_tail + i]) * RoundToBf16(b2[j * k_tail + i]);
            want[r * cols + j] = sum;
          }
        }
        ASSERT_EQ(std::memcmp(c.data(), want.data(), c.size() * 4), 0)
            << "rows " << rows << " cols " << cols << " k_tail " << k_tail;
      }
    }
  }
}

#if defined(__x86_64__)
// What the tile table packs on a CPU with AVX-512 BF16 is the layout above; without it the tile
// table never runs.
TEST(GemmAmx, PackersWriteTheDocumentedLayout) {
  const bool bf16_cpu = std::find(SupportedIsas().begin(), SupportedIsas().end(),
                                  Isa::kAvx512Bf16) != SupportedIsas().end();
  const GemmTable& table = GetGemmTable(Isa::kAmx, Compute::kBfloat16);
  ASSERT_EQ(table.chunk, kAmxChunk);
  ASSERT_EQ(table.k_unit, 32);
  if (!bf16_cpu) return;  // nothing more can run here; the emulated product above did
  for (int64_t cols : {1, 16, 17, 32, 33, 80, 97}) {
    for (int64_t k : {1, 31, 33, 96, 512}) {
      const std::vector<float> b = Values(cols * k, 3);
      std::vector<float> transposed(k * cols);
      for (int64_t c = 0; c < cols; ++c) {
        for (int64_t i = 0; i < k; ++i) transposed[i * cols + c] = b[c * k + i];
      }
      std::vector<uint16_t> bf16, bf16_transposed;
      for (float v : b) bf16.push_back(Bf16FromF32(v));
      for (float v : transposed) bf16_transposed.push_back(Bf16FromF32(v));
      const std::vector<uint16_t> want = PackedB(b, cols, k, 0, k);
      const auto same = [&](GemmSide side, const WeightView& view, PanelFunction function) {
        std::vector<uint16_t> panel(want.size() + 64, 0x7fc0);
        PanelRequest request;
        request.w = &view;
        request.outs = cols;
        request.ks = k;
        request.panel = panel.data();
        if (function) {
          function(request);
        } else {
          PackPanelFromRows(table, side, request);
        }
        // Compare what belongs to tiles, not the gaps between them.
        const int64_t kp = (k + 31) / 32 * 32;
        for (int64_t tile = 0; tile < cols; tile += 32) {
          const int64_t at = PanelOffset(PanelLayout::kBf16x32, tile, kp),
                        width = cols - tile <= 16 ? 16 : 32;
          if (std::memcmp(panel.data() + at, want.data() + at, kp * width * 2) != 0) return false;
        }
        return true;
      };
      EXPECT_TRUE(same(GemmSide::kForward, F32View(b.data(), cols, k), nullptr))
          << cols << " " << k;
      EXPECT_TRUE(same(GemmSide::kInputGrad, F32View(transposed.data(), k, cols), nullptr))
          << cols << " " << k;
      const auto find = [](int32_t format, GemmSide side) {
        return FindPanelFunction(format, Isa::kAmx, Compute::kBfloat16, side);
      };
      const GemmSide forward = GemmSide::kForward, input_grad = GemmSide::kInputGrad;
      EXPECT_TRUE(same(forward, F32View(b.data(), cols, k), find(kFormatF32, forward)))
          << cols << " " << k;
      EXPECT_TRUE(
          same(input_grad, F32View(transposed.data(), k, cols), find(kFormatF32, input_grad)))
          << cols << " " << k;
      EXPECT_TRUE(same(forward, Bf16View(bf16.data(), cols, k), find(kFormatBF16, forward)))
          << cols << " " << k;
      EXPECT_TRUE(same(input_grad, Bf16View(bf16_transposed.data(), k, cols),
                       find(kFormatBF16, input_grad)))
          << cols << " " << k;
    }
  }
  for (int64_t rows : {1, 13, 16, 17, 32}) {
    for (int64_t k : {1, 32, 45, 512}) {
      const std::vector<float> a = Values(rows * k, 4);
      std::vector<float> transposed(k * rows);
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t i = 0; i < k; ++i) transposed[i * rows + r] = a[r * k + i];
      }
      const std::vector<uint16_t> want = PackedA(a, rows, k, 0, k);
      std::vector<uint16_t> by_rows(want.size()), by_k(want.size());
      table.pack_a(a.data(), k, 1, rows, k, by_rows.data());
      table.pack_a(transposed.data(), 1, rows, rows, k, by_k.data());
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t bytes = (k + 31) / 32 * 64;
        EXPECT_EQ(std::memcmp(&by_rows[r * kAmxChunk], &want[r * kAmxChunk], bytes), 0)
            << rows << " " << k;
        EXPECT_EQ(std::memcmp(&by_k[r * kAmxChunk], &want[r * kAmxChunk], bytes), 0)
            << rows << " " << k;
      }
    }
  }
}
#endif

}  // namespace
}  // namespace lapidary
