// Products with block-quantized weights: every format of the table, every instruction set that this
// CPU has, both directions.
#include "quant/panels.h"

#include <gtest/gtest.h>

#include <cstring>
#include <tuple>

#include "autograd/base/parallel.h"
#include "autograd/kernels/gemm_table.h"
#include "quant/format.h"
#include "tests/autograd/gemm_check.h"

namespace lapidary {
namespace {

struct Size {
  int64_t n, o, blocks;  // i = blocks * block size
};
const Size kSizes[] = {{1, 1, 1},   {3, 17, 3},   {17, 33, 5}, {33, 48, 17},
                       {70, 97, 4}, {20, 530, 2}, {5, 600, 33}};

// Blocks of one view.
struct Quantized {
  std::vector<uint8_t> bytes;
  WeightView view;
  std::vector<float> dense;
};

Quantized Quantize(const Format& format, int64_t o, int64_t i, uint32_t seed) {
  Quantized q;
  const std::vector<float> values = Values(o * i, seed);
  const int64_t row_bytes = FormatBytes(format, i);
  q.bytes.resize(o * row_bytes + 1);
  QuantizeRows(format, GetScaleRule(format), values.data(), o, i, q.bytes.data());
  q.view = {format.id, o, i, q.bytes.data(), row_bytes};
  q.dense.resize(o * i);
  DequantizeRows(format, q.bytes.data(), o, i, q.dense.data());
  return q;
}

class PanelsTest : public testing::TestWithParam<std::tuple<Isa, Compute>> {
 protected:
  void SetUp() override {
    SetIsa(std::get<0>(GetParam()));
    compute_ = std::get<1>(GetParam());
  }
  void TearDown() override {
    SetIsa(SupportedIsas().front());
    SetThreads(2);
  }
  Compute compute_ = Compute::kFloat32;
};

std::vector<const Format*> WeightFormats() {
  std::vector<const Format*> formats;
  for (const Format* f : AllFormats()) {
    if (f->id != kFormatF32) formats.push_back(f);
  }
  return formats;
}

TEST_P(PanelsTest, ProductsOfEveryFormat) {
  for (const Format* format : WeightFormats()) {
    double worst = 0;
    for (const Size& s : kSizes) {
      const int64_t i =
          std::min<int64_t>(s.blocks * std::max<int64_t>(format->block_size, 32), 1280);
      const Quantized w = Quantize(*format, s.o, i, 1);
      const std::vector<float> x = Values(s.n * i, 2), dy = Values(s.n * s.o, 3);
      std::vector<float> y(s.n * s.o, NAN), dx(s.n * i, 0.5f);
      GemmForward(x.data(), s.n, w.view, y.data(), false, compute_);
      GemmInputGrad(dy.data(), s.n, w.view, dx.data(), true, compute_);
      const Reference ref_y = Multiply(
          s.n, s.o, i, compute_, 0, [&](int64_t r, int64_t k) { return x[r * i + k]; },
          [&](int64_t k, int64_t c) { return w.dense[c * i + k]; });
      const Reference ref_dx = Multiply(
          s.n, i, s.o, compute_, 0.5f, [&](int64_t r, int64_t k) { return dy[r * s.o + k]; },
          [&](int64_t k, int64_t c) { return w.dense[k * i + c]; });
      EXPECT_LE(WorstError(y, ref_y), Tolerance(i))
          << format->name << " n " << s.n << " i " << i << " o " << s.o;
      EXPECT_LE(WorstError(dx, ref_dx), Tolerance(s.o))
          << format->name << " n " << s.n << " i " << i << " o " << s.o;
      worst = std::max({worst, WorstError(y, ref_y), WorstError(dx, ref_dx)});
    }
    printf("%-5s %-12s %-9s error %.2g of the sum of magnitudes\n", format->name,
           IsaName(std::get<0>(GetParam())), ComputeName(compute_), worst);
  }
}

TEST_P(PanelsTest, ARowDoesNotDependOnRowsOrThreads) {
  for (const char* name : {"Q4_0", "Q8_0", "Q6_K"}) {
    const int64_t n = 70, i = 768, o = 160;
    const Quantized w = Quantize(GetFormat(name), o, i, 4);
    const std::vector<float> x = Values(n * i, 5), dy = Values(n * o, 6);
    std::vector<float> y(n * o), dx(n * i);
    GemmForward(x.data(), n, w.view, y.data(), false, compute_);
    GemmInputGrad(dy.data(), n, w.view, dx.data(), false, compute_);
    for (int threads : {1, 2, 3}) {
      SetThreads(threads);
      for (int64_t rows : {1, 4, 17, 70}) {
        std::vector<float> part(rows * o), part_dx(rows * i);
        GemmForward(x.data(), rows, w.view, part.data(), false, compute_);
        GemmInputGrad(dy.data(), rows, w.view, part_dx.data(), false, compute_);
        EXPECT_EQ(std::memcmp(part.data(), y.data(), part.size() * 4), 0)
            << name << " " << rows << " rows";
        EXPECT_EQ(std::memcmp(part_dx.data(), dx.data(), part_dx.size() * 4), 0)
            << name << " " << rows << " rows";
      }
    }
  }
}

// The panel functions write what dequantizing rows and packing them writes, byte for byte. The tile
// table's packers run wherever AVX-512 BF16 does.
TEST(Panels, FunctionsEqualTheWayThroughRows) {
  int compared = 0;
  const std::vector<Isa>& isas = SupportedIsas();
  const bool bf16 = std::find(isas.begin(), isas.end(), Isa::kAvx512Bf16) != isas.end();
  for (int index = 0; index < kIsaCount; ++index) {
    const Isa isa = static_cast<Isa>(index);
    const bool runs =
        isa == Isa::kAmx ? bf16 : std::find(isas.begin(), isas.end(), isa) != isas.end();
    if (!runs) continue;
    for (Compute compute : {Compute::kFloat32, Compute::kBfloat16}) {
      const GemmTable& table = GetGemmTable(isa, compute);
      for (const Format* format : WeightFormats()) {
        for (GemmSide side : {GemmSide::kForward, GemmSide::kInputGrad}) {
          const PanelFunction function = FindPanelFunction(format->id, isa, compute, side);
          if (!function) continue;
          for (const auto& [o, i] :
               {std::pair<int64_t, int64_t>{97, 160}, {16, 96}, {33, 64}, {256, 256}}) {
            const int64_t block = format->block_size, cols = (i + block - 1) / block * block;
            const Quantized w = Quantize(*format, o, cols, 7);
            PanelRequest request;
            request.w = &w.view;
            request.out = 32 <= (side == GemmSide::kForward ? o : cols) - 1 ? 32 : 0;
            request.outs = (side == GemmSide::kForward ? o : cols) - request.out;
            request.ks = side == GemmSide::kForward ? cols : o;
            const int64_t kp = (request.ks + table.k_unit - 1) / table.k_unit * table.k_unit;
            const int64_t outs = (request.outs + 31) / 32 * 32;
            const int64_t bytes = PanelOffset(table.layout, outs, kp) * table.element_bytes;
            std::vector<uint8_t> direct(bytes + 4096), rows(bytes + 4096);
            const auto aligned = [](std::vector<uint8_t>& v) {
              return v.data() + (64 - reinterpret_cast<uintptr_t>(v.data()) % 64) % 64;
            };
            request.panel = aligned(direct);
            function(request);
            request.panel = aligned(rows);
            PackPanelFromRows(table, side, request);
            EXPECT_EQ(std::memcmp(aligned(direct), aligned(rows), bytes), 0)
                << format->name << " " << IsaName(isa) << " " << ComputeName(compute) << " side "
                << static_cast<int>(side) << " o " << o << " i " << i;
            ++compared;
          }
        }
      }
    }
  }
  printf("%d panels compared\n", compared);
  EXPECT_TRUE(compared > 0 || isas.size() == 1);
}

INSTANTIATE_TEST_SUITE_P(All, PanelsTest,
                         testing::Combine(testing::ValuesIn(SupportedIsas()),
                                          testing::Values(Compute::kFloat32, Compute::kBfloat16)),
                         [](const testing::TestParamInfo<PanelsTest::ParamType>& info) {
                           return std::string(IsaName(std::get<0>(info.param))) + "_" +
                                  ComputeName(std::get<1>(info.param));
                         });

TEST(Panels, FormatsAreRegisteredWithoutACall) {
  for (const Format* format : AllFormats()) {
    EXPECT_EQ(GetWeightFormat(format->id).block_size, format->block_size) << format->name;
  }
}

}  // namespace
}  // namespace lapidary
