// Products with block-quantized weights: every format of the table, every instruction set that this
// CPU has, both directions.
#include "quant/panels.h"

#include <gtest/gtest.h>

#include <cstring>
#include <mutex>
#include <tuple>

#include "autograd/base/error.h"
#include "autograd/base/parallel.h"
#include "autograd/kernels/gemm_table.h"
#include "quant/format.h"
#include "quant/units.h"
#include "tests/autograd/gemm_check.h"
#include "tests/autograd/table_test.h"

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

class PanelsTest : public TableTest {};

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
  for (const char* name : {"Q4_0", "Q4_K", "Q8_0", "Q6_K", "BF16"}) {
    const int64_t n = 70, i = 768, o = 160;
    const Quantized w = Quantize(GetFormat(name), o, i, 4);
    const std::vector<float> x = Values(n * i, 5), dy = Values(n * o, 6);
    std::vector<float> y(n * o), dx(n * i);
    GemmForward(x.data(), n, w.view, y.data(), false, compute_);
    GemmInputGrad(dy.data(), n, w.view, dx.data(), false, compute_);
    for (int threads : {1, 2, 3}) {
      SetThreads(threads);
      for (int64_t rows : {1, 2, 3, 4, 17, 70}) {
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

// The bytes of a panel, gaps and padding included; `function` null: through rows.
std::vector<uint8_t> Packed(const GemmTable& table, GemmSide side, PanelRequest request,
                            PanelFunction function) {
  const int64_t kp = (request.ks + table.k_unit - 1) / table.k_unit * table.k_unit;
  const int64_t outs = (request.outs + 31) / 32 * 32;
  const int64_t bytes = PanelOffset(table.layout, outs, kp) * table.element_bytes;
  std::vector<uint8_t> space(bytes + 4096, 0x5a);
  uint8_t* const panel = space.data() + (64 - reinterpret_cast<uintptr_t>(space.data()) % 64) % 64;
  request.panel = panel;
  if (function) {
    function(request);
  } else {
    PackPanelFromRows(table, side, request);
  }
  return std::vector<uint8_t>(panel, panel + bytes);
}

// Part of a weight [o, i] (i rounded up to blocks): outputs and inner positions, cut at the
// weight's end. Starts are multiples of 32 (outputs) and 256 (k).
struct PanelRange {
  int64_t o, i, out, outs, k, ks;
};
constexpr int64_t kAll = 1 << 20;
const PanelRange kRanges[] = {{97, 160, 32, kAll, 0, kAll},   {16, 96, 0, kAll, 0, kAll},
                              {33, 64, 32, kAll, 0, kAll},    {256, 256, 32, kAll, 0, kAll},
                              {320, 768, 64, 96, 256, 256},   {300, 1088, 0, kAll, 256, 512},
                              {49, 1024, 0, kAll, 512, kAll}, {531, 544, 0, 512, 256, 160}};

// The tile table's packers run wherever AVX-512 BF16 does.
bool RunsPackers(Isa isa) {
  const std::vector<Isa>& isas = SupportedIsas();
  const Isa needed = isa == Isa::kAmx ? Isa::kAvx512Bf16 : isa;
  return std::find(isas.begin(), isas.end(), needed) != isas.end();
}

// Every block format goes straight into the panels of every vector table.
TEST(Panels, EveryFormatHasFunctions) {
#if defined(__x86_64__)
  for (Isa isa : {Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Bf16, Isa::kAmx}) {
    for (Compute compute : {Compute::kFloat32, Compute::kBfloat16}) {
      for (const Format* format : WeightFormats()) {
        const std::string name = format->name;
        if (name == "F64") continue;    // rounded to float32 on the way in
        if (name == "NVFP4") continue;  // no base is read in it
        for (GemmSide side : {GemmSide::kForward, GemmSide::kInputGrad}) {
          EXPECT_TRUE(FindPanelFunction(format->id, isa, compute, side))
              << format->name << " " << IsaName(isa) << " " << ComputeName(compute);
        }
      }
    }
  }
#endif
}

// The panel functions write what dequantizing rows and packing them writes, byte for byte.
TEST(Panels, FunctionsEqualTheWayThroughRows) {
  int compared = 0;
  for (int index = 0; index < kIsaCount; ++index) {
    const Isa isa = static_cast<Isa>(index);
    if (!RunsPackers(isa)) continue;
    for (Compute compute : {Compute::kFloat32, Compute::kBfloat16}) {
      const GemmTable& table = GetGemmTable(isa, compute);
      for (const Format* format : WeightFormats()) {
        for (GemmSide side : {GemmSide::kForward, GemmSide::kInputGrad}) {
          const PanelFunction function = FindPanelFunction(format->id, isa, compute, side);
          if (!function) continue;
          for (const PanelRange& r : kRanges) {
            const int64_t block = format->block_size;
            const int64_t i = (r.i + block - 1) / block * block;
            const Quantized w = Quantize(*format, r.o, i, 7);
            PanelRequest request;
            request.w = &w.view;
            request.out = r.out;
            request.outs = std::min(r.outs, (side == GemmSide::kForward ? r.o : i) - r.out);
            request.k = r.k;
            request.ks = std::min(r.ks, (side == GemmSide::kForward ? i : r.o) - r.k);
            if (request.outs <= 0 || request.ks <= 0) continue;
            EXPECT_EQ(Packed(table, side, request, function), Packed(table, side, request, nullptr))
                << format->name << " " << IsaName(isa) << " " << ComputeName(compute) << " side "
                << static_cast<int>(side) << " o " << r.o << " i " << i << " out " << r.out << " + "
                << r.outs << " k " << r.k << " + " << r.ks;
            ++compared;
          }
        }
      }
    }
  }
  printf("%d panels compared\n", compared);
  EXPECT_TRUE(compared > 0 || SupportedIsas().size() == 1);
}

// A weight's blocks laid out in units, in an aligned copy.
struct Units {
  std::vector<uint8_t> space;
  WeightView view;
};

Units ToUnits(const WeightView& w) {
  Units u;
  u.space.resize(w.rows * w.row_bytes + 64, 0x5a);
  uint8_t* const at = u.space.data() + (64 - reinterpret_cast<uintptr_t>(u.space.data()) % 64) % 64;
  // In two parts, as a loader with threads does it.
  const int64_t first = w.rows / 64 * 32;
  CopyToUnits(w, 0, first, at);
  CopyToUnits(w, first, w.rows - first, at);
  u.view = UnitsView(w, at);
  return u;
}

constexpr const char* kUnitFormats[] = {"Q4_0", "Q8_0", "Q4_K", "Q5_K", "Q6_K"};

// Panels from units equal panels from rows, by functions and through rows.
TEST(Units, SamePanels) {
  int compared = 0;
  for (const char* name : kUnitFormats) {
    for (const PanelRange& r : kRanges) {
      const int64_t i = (r.i + 255) / 256 * 256, o = (r.o + 31) / 32 * 32;
      const Quantized w = Quantize(GetFormat(name), o, i, 8);
      const Units u = ToUnits(w.view);
      for (int index = 0; index < kIsaCount; ++index) {
        const Isa isa = static_cast<Isa>(index);
        if (!RunsPackers(isa)) continue;
        for (Compute compute : {Compute::kFloat32, Compute::kBfloat16}) {
          const GemmTable& table = GetGemmTable(isa, compute);
          for (GemmSide side : {GemmSide::kForward, GemmSide::kInputGrad}) {
            PanelRequest request;
            request.out = r.out;
            request.outs = std::min(r.outs, (side == GemmSide::kForward ? o : i) - r.out);
            request.k = r.k;
            request.ks = std::min(r.ks, (side == GemmSide::kForward ? i : o) - r.k);
            if (request.outs <= 0 || request.ks <= 0) continue;
            request.w = &w.view;
            const std::vector<uint8_t> rows = Packed(table, side, request, nullptr);
            request.w = &u.view;
            EXPECT_EQ(Packed(table, side, request, nullptr), rows) << name << " " << IsaName(isa);
            const PanelFunction function =
                FindPanelFunction(w.view.format, isa, compute, side, WeightLayout::kUnits);
            if (!function) continue;
            EXPECT_EQ(Packed(table, side, request, function), rows)
                << name << " " << IsaName(isa) << " " << ComputeName(compute) << " side "
                << static_cast<int>(side) << " o " << o << " i " << i;
            ++compared;
          }
        }
      }
    }
  }
  printf("%d panels compared\n", compared);
}

TEST_P(PanelsTest, SameBitsFromUnits) {
  for (const char* name : kUnitFormats) {
    const int64_t i = 1280, o = 352;
    const Quantized w = Quantize(GetFormat(name), o, i, 9);
    const Units u = ToUnits(w.view);
    for (int64_t n : {1, 3, 16, 40}) {
      const std::vector<float> x = Values(n * i, 10), dy = Values(n * o, 11);
      std::vector<float> y(n * o), dx(n * i);
      GemmForward(x.data(), n, w.view, y.data(), false, compute_);
      GemmInputGrad(dy.data(), n, w.view, dx.data(), false, compute_);
      for (int threads : {1, 2, 3}) {
        SetThreads(threads);
        std::vector<float> y_units(n * o), dx_units(n * i);
        GemmForward(x.data(), n, u.view, y_units.data(), false, compute_);
        GemmInputGrad(dy.data(), n, u.view, dx_units.data(), false, compute_);
        EXPECT_EQ(std::memcmp(y.data(), y_units.data(), y.size() * 4), 0) << name << " " << n;
        EXPECT_EQ(std::memcmp(dx.data(), dx_units.data(), dx.size() * 4), 0) << name << " " << n;
      }
    }
    std::vector<float> rows(5 * i);
    DequantizeRows(u.view, 61, 5, rows.data());
    EXPECT_EQ(std::memcmp(rows.data(), w.dense.data() + 61 * i, rows.size() * 4), 0) << name;
  }
}

// Products with few rows straight from blocks have the bits of those through panels: rows 0 .. n of
// a product with many.
TEST_P(PanelsTest, FewRowsAreTheFirstOfMany) {
  int64_t direct = 0;
  const Isa isa = std::get<0>(GetParam());
  const bool pairs = isa == Isa::kAvx512Bf16 && compute_ == Compute::kBfloat16;
  struct Case {
    const Format* format;
    int64_t i, o;
    bool units;
  };
  std::vector<Case> cases;
  for (const Format* f : WeightFormats()) {
    const bool in_units = std::find(std::begin(kUnitFormats), std::end(kUnitFormats),
                                    std::string(f->name)) != std::end(kUnitFormats);
    if (pairs && !in_units && f->id != kFormatBF16) continue;
    cases.push_back({f, 1280, 352, false});
    // A strip without another beside it, lines that do not fill four.
    if (f->block_size == 32) cases.push_back({f, 1312, 336, false});
    if (pairs && in_units) cases.push_back({f, 1280, 352, true});
  }
  for (const auto& [format, i, o, in_units] : cases) {
    const std::string name = format->name;
    const int64_t many = 33;
    const Quantized w = Quantize(*format, o, i, 12);
    const Units u = in_units ? ToUnits(w.view) : Units{};
    const WeightView& view = in_units ? u.view : w.view;
    direct += FindFewRowsFunction(view.format, isa, compute_, view.layout) != nullptr;
    const std::vector<float> x = Values(many * i, 13), before = Values(many * o, 14);
    for (const bool add : {false, true}) {
      std::vector<float> y = before;
      GemmForward(x.data(), many, view, y.data(), add, compute_);
      for (int threads : {1, 3}) {
        SetThreads(threads);
        for (int64_t n = 1; n <= kMostFewRows + 1; ++n) {
          std::vector<float> part(before.begin(), before.begin() + n * o);
          GemmForward(x.data(), n, view, part.data(), add, compute_);
          EXPECT_EQ(std::memcmp(part.data(), y.data(), part.size() * 4), 0)
              << name << (in_units ? " in units " : " ") << n << " rows, add " << add;
        }
      }
    }
  }
#if defined(__x86_64__)
  // By pairs all that is here; else all formats with lines, which are those with blocks but NVFP4.
  int64_t blocks = 0;
  for (const Case& c : cases)
    blocks += c.format->block_size > 1 && std::string(c.format->name) != "NVFP4";
  EXPECT_EQ(direct, pairs ? static_cast<int64_t>(cases.size()) : isa == Isa::kScalar ? 0 : blocks);
#endif
}

// A copy on any number of threads; every row is reported once, after it was copied.
TEST(Units, CopiesInChunks) {
  const Quantized w = Quantize(GetFormat("Q6_K"), 10240, 512, 3);  // 4.3 MB: more than a chunk
  std::vector<uint8_t> expected;
  for (int threads : {1, 2, 3}) {
    SetThreads(threads);
    std::mutex mutex;
    std::vector<int> seen(w.view.rows);
    const OwnedUnits units = MakeUnits(w.view, [&](int64_t row, int64_t count) {
      std::lock_guard<std::mutex> lock(mutex);
      for (int64_t r = row; r < row + count; ++r) ++seen[r];
    });
    EXPECT_EQ(std::count(seen.begin(), seen.end(), 1), w.view.rows);
    const uint8_t* data = static_cast<const uint8_t*>(units.view.data);
    const std::vector<uint8_t> bytes(data, data + w.view.rows * w.view.row_bytes);
    if (expected.empty()) expected = bytes;
    EXPECT_TRUE(bytes == expected) << threads << " threads";
    std::vector<float> row(512);
    DequantizeRows(units.view, 10239, 1, row.data());
    EXPECT_EQ(std::memcmp(row.data(), w.dense.data() + 10239 * 512, row.size() * 4), 0);
  }
  SetThreads(2);
}

TEST(Units, OnlyWhereTheyFit) {
  const Quantized odd = Quantize(GetFormat("Q4_0"), 48, 64, 1);
  EXPECT_FALSE(WantsUnits(odd.view));
  std::vector<uint8_t> out(odd.bytes.size());
  EXPECT_THROW(CopyToUnits(odd.view, 0, 32, out.data()), Error);
  const Quantized other = Quantize(GetFormat("Q4_1"), 64, 64, 1);
  EXPECT_FALSE(WantsUnits(other.view));
  const Quantized good = Quantize(GetFormat("Q4_0"), 64, 64, 1);
  out.resize(good.bytes.size());
  for (Isa isa : SupportedIsas()) {
    SetIsa(isa);
    EXPECT_EQ(WantsUnits(good.view), isa == Isa::kAvx512Bf16 || isa == Isa::kAmx) << IsaName(isa);
  }
  SetIsa(SupportedIsas().front());
  EXPECT_THROW(CopyToUnits(good.view, 16, 32, out.data()), Error);
  EXPECT_THROW(CopyToUnits(good.view, 32, 64, out.data()), Error);
  const Units u = ToUnits(good.view);
  EXPECT_THROW(UnitsView(good.view, u.space.data() + 1), Error);
  WeightView cut = u.view;
  cut.rows = 48;
  std::vector<float> x(64), y(64);
  EXPECT_THROW(GemmForward(x.data(), 1, cut, y.data(), false, Compute::kFloat32), Error);
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
