// Fake quantization against the bytes that are shipped: projecting is dequantizing what the
// quantizer wrote, bit for bit, on every instruction set; kept scales; the solver of 4-bit grids.
#include "quant/fake_quant.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "autograd/base/error.h"
#include "autograd/base/float16.h"
#include "autograd/base/random.h"
#include "autograd/kernels/isa.h"
#include "quant/q4_grid.h"
#include "tests/check.h"

namespace lapidary {
namespace {

constexpr int64_t kBlocks = 64, kCount = 256 * kBlocks;

std::vector<float> Normal(int64_t n, uint64_t seed, float deviation) {
  std::vector<float> v(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i)
    v[static_cast<size_t>(i)] = deviation * RandomNormal({seed, 0, 0}, static_cast<uint64_t>(i));
  return v;
}

// Gaussian; bf16; blocks of zeros; constants; large and subnormal magnitudes; halves of a grid.
std::vector<std::vector<float>> Inputs() {
  std::vector<std::vector<float>> all = {Normal(kCount, 1, 0.02f), Normal(kCount, 2, 1e-30f),
                                         Normal(kCount, 3, 1e-37f), Normal(kCount, 4, 300.0f)};
  std::vector<float> bf16 = all[0];
  for (float& x : bf16) x = RoundToBf16(x);
  for (int64_t i = 0; i < 512; ++i) bf16[static_cast<size_t>(i)] = i < 256 ? 0.0f : -0.25f;
  all.push_back(bf16);
  std::vector<float> halves = Normal(kCount, 5, 1.0f);
  for (float& x : halves) x = std::round(x * 8) / 16;  // ties of many grids
  all.push_back(halves);
  // Just below and above powers of two, where log2 rounds.
  std::vector<float> edges = Normal(kCount, 6, 1.0f);
  for (size_t b = 0; b < edges.size(); b += 32) {
    for (size_t i = 0; i < 32; ++i) edges[b + i] = std::fmin(std::fmax(edges[b + i], -1.0f), 1.0f);
    const float power = std::ldexp(1.0f, static_cast<int>(b / 32 % 60) - 30);
    const float edge = b / 32 % 2 == 0 ? std::nextafter(power, 0.0f) : std::nextafter(power, 4e9f);
    for (size_t i = 0; i < 32; ++i) edges[b + i] *= power / 2;
    edges[b + 5] = edge;
  }
  all.push_back(edges);
  return all;
}

std::vector<float> ByBytes(const Grid& grid, const std::vector<float>& values) {
  std::vector<float> out(values.size());
  std::vector<uint8_t> bytes(static_cast<size_t>(FormatBytes(*grid.format(), kCount)));
  grid.rule()->quantize(values.data(), kCount, bytes.data());
  grid.format()->dequantize(bytes.data(), kCount, out.data());
  return out;
}

class FakeQuant : public testing::TestWithParam<Isa> {
 protected:
  void SetUp() override { SetIsa(GetParam()); }
  void TearDown() override { SetIsa(SupportedIsas().front()); }
};
INSTANTIATE_TEST_SUITE_P(Isa, FakeQuant, testing::ValuesIn(SupportedIsas()),
                         [](const auto& info) { return std::string(IsaName(info.param)); });

TEST_P(FakeQuant, ProjectionIsWhatTheBytesHold) {
  for (const Grid* grid : AllGrids()) {
    if (!grid->format()) continue;
    int which = 0;
    for (const std::vector<float>& input : Inputs()) {
      std::vector<float> got = input;
      grid->Project(got.data(), kCount);
      EXPECT_TRUE(check::SameBits(got, ByBytes(*grid, input))) << grid->name() << " " << which;
      // The comparison sees one code that is off.
      got[77] = std::nextafter(got[77], 1e30f);
      EXPECT_FALSE(check::SameBits(got, ByBytes(*grid, input)));
      ++which;
    }
  }
}

// formats.md 6.1, in double precision where it may be.
TEST_P(FakeQuant, IntegerGrids) {
  struct Case {
    const char* name;
    int bits;
    int64_t group;
  };
  for (const Case& c : {Case{"int4_g32", 4, 32},
                        {"int4_g128", 4, 128},
                        {"int3_g32", 3, 32},
                        {"int8_channel", 8, kCount}}) {
    const Grid& grid = GetGrid(c.name, "test");
    EXPECT_EQ(grid.bits(), c.bits);
    const std::vector<float> input = Normal(kCount, 7, 0.05f);
    std::vector<float> got = input;
    grid.Project(got.data(), kCount);
    std::vector<uint8_t> scales(static_cast<size_t>(kCount / c.group * 2));
    grid.Measure(input.data(), kCount, scales.data());
    std::vector<uint8_t> codes(kCount);
    grid.Encode(scales.data(), got.data(), kCount, codes.data());
    const int low = -(1 << (c.bits - 1)), high = -low - 1;
    for (int64_t g = 0; g < kCount / c.group; ++g) {
      float largest = 0;
      for (int64_t i = 0; i < c.group; ++i)
        largest = std::fmax(largest, std::fabs(input[static_cast<size_t>(g * c.group + i)]));
      const float d = RoundToBf16(largest / (static_cast<float>(high - low) / 2));
      ASSERT_EQ(grid.Step(scales.data() + 2 * g), d);
      for (int64_t i = 0; i < c.group; ++i) {
        const size_t at = static_cast<size_t>(g * c.group + i);
        const int code = static_cast<int8_t>(codes[at]);
        ASSERT_GE(code, low);
        ASSERT_LE(code, high);
        ASSERT_EQ(got[at], static_cast<float>(code) * d);
        const double exact = static_cast<double>(input[at]) / static_cast<double>(d);
        const double nearest = std::fmin(std::fmax(exact, low), high);
        ASSERT_LE(std::fabs(code - nearest), 0.5 + 1e-6) << c.name;
      }
    }
    std::vector<float> again = got;
    grid.ProjectOn(scales.data(), again.data(), kCount);
    EXPECT_TRUE(check::SameBits(again, got)) << c.name;
  }
}

// With the scales of the same values the kept way gives values on the grid of those scales, no
// farther from the input than the format's own; what lies on the grid stays.
TEST_P(FakeQuant, KeptScales) {
  for (const Grid* grid : AllGrids()) {
    if (grid->scale_bytes() == 0) continue;
    const std::vector<float> input = Normal(kCount, 8, 0.03f);
    const int64_t block = grid->block() > 0 ? grid->block() : kCount;
    std::vector<uint8_t> scales(static_cast<size_t>(kCount / block * grid->scale_bytes()));
    grid->Measure(input.data(), kCount, scales.data());
    std::vector<float> follow = input, kept = input;
    grid->Project(follow.data(), kCount);
    grid->ProjectOn(scales.data(), kept.data(), kCount);
    double follow_error = 0, kept_error = 0;
    for (size_t i = 0; i < input.size(); ++i) {
      follow_error += std::pow(static_cast<double>(follow[i] - input[i]), 2);
      kept_error += std::pow(static_cast<double>(kept[i] - input[i]), 2);
    }
    EXPECT_LE(kept_error, follow_error * (1 + 1e-6)) << grid->name();
    std::vector<float> again = kept;
    grid->ProjectOn(scales.data(), again.data(), kCount);
    EXPECT_TRUE(check::SameBits(again, kept)) << grid->name();
    again = follow;
    grid->ProjectOn(scales.data(), again.data(), kCount);
    EXPECT_TRUE(check::SameBits(again, follow)) << grid->name();
    // Moved values stay on the grid of the kept scales.
    for (float& x : kept) x *= 1.5f;
    grid->ProjectOn(scales.data(), kept.data(), kCount);
    if (grid->name() == "q4_0" || grid->name() == "q8_0") {
      std::vector<uint8_t> bytes(static_cast<size_t>(FormatBytes(*grid->format(), kCount)));
      grid->Encode(scales.data(), kept.data(), kCount, bytes.data());
      std::vector<float> back(kCount);
      grid->format()->dequantize(bytes.data(), kCount, back.data());
      EXPECT_TRUE(check::CloseEach(back, kept, 0)) << grid->name();
    }
  }
}

// formats.md 4.2: a bf16 checkpoint of Q4_0 values with bf16 scales passes a stock quantizer with
// every byte unchanged. So do MXFP4's.
TEST(FakeQuantGrids, Bf16CheckpointsKeepTheBytes) {
  int exact = 0;
  for (const Grid* grid : AllGrids()) {
    if (!grid->exact_in_bf16()) continue;
    ++exact;
    const std::vector<float> input = Normal(kCount, 9, 0.02f);
    std::vector<float> values = input;
    grid->Project(values.data(), kCount);
    for (float& x : values) x = RoundToBf16(x);
    std::vector<uint8_t> trained(static_cast<size_t>(FormatBytes(*grid->format(), kCount)));
    std::vector<uint8_t> stock(trained.size());
    grid->rule()->quantize(input.data(), kCount, trained.data());
    GetScaleRule(*grid->format(), "ggml").quantize(values.data(), kCount, stock.data());
    EXPECT_EQ(trained, stock) << grid->name();
  }
  EXPECT_EQ(exact, 2);
  // The plain rule's scales, rounded to f16, do not survive bf16: the property is not a given.
  const Format& q4 = GetFormat("Q4_0");
  const std::vector<float> input = Normal(kCount, 9, 0.02f);
  std::vector<uint8_t> bytes(static_cast<size_t>(FormatBytes(q4, kCount))), again(bytes.size());
  GetScaleRule(q4, "ggml").quantize(input.data(), kCount, bytes.data());
  std::vector<float> values(kCount);
  q4.dequantize(bytes.data(), kCount, values.data());
  for (float& x : values) x = RoundToBf16(x);
  GetScaleRule(q4, "ggml").quantize(values.data(), kCount, again.data());
  EXPECT_NE(bytes, again);
}

TEST(FakeQuantGrids, NamesAndErrors) {
  EXPECT_EQ(FindGrid("Q4_0"), FindGrid("q4_0"));
  EXPECT_EQ(FindGrid("q4_7"), nullptr);
  try {
    GetGrid("q4_7", "here");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(std::string(error.what()).rfind("here: must be a grid", 0), 0u) << error.what();
  }
}

// ---- the solver of formats.md 4.1

struct Rule {
  const char* name;
  double divisor;  // of the largest magnitude; 0: the signed extremum / -8
  char type;       // of the scale: 'b'f16, 'h'alf, 'f'loat
};

TEST(Q4Grid, FindsTheGridOfEveryTrainingRule) {
  for (const Rule& rule : {Rule{"extremum", 0, 'b'},
                           {"extremum", 0, 'h'},
                           {"extremum", 0, 'f'},
                           {"7.5", 7.5, 'b'},
                           {"7", 7, 'b'},
                           {"7", 7, 'h'},
                           {"8", 8, 'b'},
                           {"7.5", 7.5, 'f'}}) {
    const std::vector<float> w = Normal(32 * 4000, 21, 0.02f);
    int64_t solved = 0, same_scale = 0, blocks = 0;
    for (size_t b = 0; b < w.size(); b += 32) {
      float m = 0;
      for (size_t i = 0; i < 32; ++i)
        if (std::fabs(w[b + i]) > std::fabs(m)) m = w[b + i];
      float d = rule.divisor == 0 ? m / -8 : std::fabs(m) / static_cast<float>(rule.divisor);
      d = rule.type == 'b' ? RoundToBf16(d) : rule.type == 'h' ? F32FromF16(F16FromF32(d)) : d;
      float grid[32];
      for (size_t i = 0; i < 32; ++i) {
        const float q = std::fmin(std::fmax(std::nearbyint(w[b + i] / d), -8.0f), 7.0f);
        grid[i] = RoundToBf16(q * d);
      }
      const Q4Solution solution = SolveQ4Block(grid);
      ++blocks;
      solved += solution.on_grid;
      same_scale += std::fabs(solution.d) == std::fabs(d);
      for (size_t i = 0; i < 32 && solution.on_grid; ++i) {
        const float q = std::nearbyint(grid[i] / solution.d);
        ASSERT_EQ(RoundToBf16(q * solution.d), grid[i]);
        ASSERT_LE(q, 7);
        ASSERT_GE(q, -8);
      }
    }
    EXPECT_EQ(solved, blocks) << rule.name << rule.type;
    if (rule.type == 'b') {
      EXPECT_EQ(same_scale, blocks) << rule.name;
    }
  }
}

// The survey names the rule of a whole matrix from its codes alone.
TEST(Q4Grid, SurveyNamesTheRule) {
  const std::pair<double, const char*> rules[] = {{0, "extremum / -8 (ggml)"},
                                                  {7, "max / 7"},
                                                  {7.5, "max / 7.5, or max / 8 clipped"},
                                                  {-1, "none"}};
  for (const auto& [divisor, name] : rules) {
    std::vector<float> w = Normal(32 * 2000, 23, 0.02f);
    for (size_t b = 0; b < w.size() && divisor >= 0; b += 32) {
      float m = 0;
      for (size_t i = 0; i < 32; ++i)
        if (std::fabs(w[b + i]) > std::fabs(m)) m = w[b + i];
      const float d =
          RoundToBf16(divisor == 0 ? m / -8 : std::fabs(m) / static_cast<float>(divisor));
      for (size_t i = 0; i < 32; ++i)
        w[b + i] = std::fmin(std::fmax(std::nearbyint(w[b + i] / d), -8.0f), 7.0f) * d;
    }
    std::fill_n(w.begin(), 32, 0.0f);
    std::vector<uint16_t> bits;
    for (const float x : w) bits.push_back(Bf16FromF32(x));
    StoredTensor tensor;
    tensor.name = "t";
    tensor.shape = {20, 3200};
    tensor.format = FindFormat("BF16");
    tensor.dtype = "BF16";
    tensor.data = reinterpret_cast<const uint8_t*>(bits.data());
    tensor.bytes = bits.size() * 2;
    const Q4Survey survey = SurveyQ4(tensor);
    EXPECT_EQ(survey.blocks, 2000);
    EXPECT_EQ(survey.zero, 1);
    EXPECT_EQ(survey.Rule(), name);
    EXPECT_EQ(survey.share() == 1, divisor >= 0) << name;
    if (divisor == 0) {
      EXPECT_EQ(survey.stock_share(), 1);
    }
    if (divisor == 7.5) {
      EXPECT_LT(survey.stock_share(), 0.9);
    }
  }
}

TEST(Q4Grid, RandomBlocksAreOnNone) {
  const std::vector<float> w = Normal(32 * 20000, 22, 0.02f);
  int64_t solved = 0;
  for (size_t b = 0; b < w.size(); b += 32) {
    float block[32];
    for (size_t i = 0; i < 32; ++i) block[i] = RoundToBf16(w[b + i]);
    solved += SolveQ4Block(block).on_grid;
  }
  EXPECT_EQ(solved, 0);
  const float zeros[32] = {};
  EXPECT_TRUE(SolveQ4Block(zeros).zero);
  float off[32] = {};
  off[3] = 0.1f;  // not a bf16 value
  EXPECT_FALSE(SolveQ4Block(off).on_grid);
}

}  // namespace
}  // namespace lapidary
