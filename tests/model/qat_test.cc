// Fake-quantized linears against a slow dense twin: the whole adapted matrix is formed, projected
// row by row and multiplied as a plain float32 matrix. Values and input gradients must have the
// same bits, whatever the base is stored in and however many threads run.
#include "model/qat.h"

#include <gtest/gtest.h>

#include <cstring>

#include "autograd/base/error.h"
#include "autograd/base/float16.h"
#include "autograd/base/parallel.h"
#include "autograd/base/random.h"
#include "autograd/kernels/isa.h"
#include "quant/fake_quant.h"
#include "quant/panels.h"
#include "quant/units.h"
#include "tests/check.h"

namespace lapidary {
namespace {

constexpr int64_t kTokens = 37, kIn = 768, kOut = 96, kRank = 5;

Tensor Random(const Shape& shape, uint64_t op, float deviation = 1.0f) {
  Tensor t(shape);
  for (int64_t i = 0; i < t.size(); ++i)
    t.data()[i] = deviation * RandomNormal({12, 0, op}, static_cast<uint64_t>(i));
  return t;
}

std::vector<float> Floats(const Tensor& t) { return {t.data(), t.data() + t.size()}; }

// A linear with an adapter on a base of some format.
struct Case {
  std::vector<uint8_t> bytes;
  OwnedUnits units;
  Linear linear;
  Tensor x = Random({kTokens, kIn}, 2);
  Tensor dy = Random({kTokens, kOut}, 3);

  explicit Case(const std::string& base, const std::string& grid, bool in_units = false) {
    const Format& format = GetFormat(base);
    const Tensor w = Random({kOut, kIn}, 1, 0.03f);
    bytes.resize(static_cast<size_t>(kOut * FormatBytes(format, kIn)));
    QuantizeRows(format, GetScaleRule(format), w.data(), kOut, kIn, bytes.data());
    linear.path = "model.language_model.layers.0.mlp.up_proj";
    linear.w.name = linear.path + ".weight";
    linear.w.view = {format.id, kOut, kIn, bytes.data(), FormatBytes(format, kIn)};
    if (in_units) {
      units = MakeUnits(linear.w.view);
      linear.w.view = units.view;
    }
    linear.lora = std::make_unique<Lora>();
    linear.lora->a = {"a", Random({kRank, kIn}, 4, 0.1f), Tensor(), true};
    linear.lora->b = {"b", Random({kOut, kRank}, 5, 0.05f), Tensor(), true};
    linear.lora->scale = 1.75f;
    if (grid.empty()) return;
    linear.w.fake = std::make_unique<FakeWeight>(GetGrid(grid, "test"), kIn);
    if (linear.w.fake->grid->block() == 0) {
      linear.w.fake->kept = true;
      Keep();
    }
  }

  // Scales of the adapted matrix, measured from the twin's values.
  void Keep() {
    const std::vector<float> merged = Merged();
    FakeWeight& fake = *linear.w.fake;
    fake.AllocateScales(kOut);
    for (int64_t o = 0; o < kOut; ++o)
      fake.grid->Measure(merged.data() + o * kIn, kIn, fake.scale_row(o));
  }

  // W + s B A by the definition of autograd/weight_map.h.
  std::vector<float> Merged() const {
    std::vector<float> w(kOut * kIn);
    DequantizeRows(linear.w.Plain(), 0, kOut, w.data());
    const float* a = linear.lora->a.value.data();
    const float* b = linear.lora->b.value.data();
    for (int64_t o = 0; o < kOut; ++o) {
      for (int64_t i = 0; i < kIn; ++i) {
        float sum = 0;
        for (int64_t k = 0; k < kRank; ++k) {
          const float product = b[o * kRank + k] * a[k * kIn + i];
          sum += product;
        }
        const float correction = linear.lora->scale * sum;
        w[static_cast<size_t>(o * kIn + i)] += correction;
      }
    }
    return w;
  }

  std::vector<float> Twin() const {
    std::vector<float> w = Merged();
    for (int64_t o = 0; o < kOut; ++o) linear.w.fake->grid->Project(w.data() + o * kIn, kIn);
    return w;
  }
};

struct Outcome {
  std::vector<float> y, dx, da, db;
};

Outcome Products(Case& c, Compute compute) {
  c.linear.lora->a.grad = c.linear.lora->b.grad = Tensor();
  Tape tape;
  const Var x = tape.Input(c.x);
  LinearContext context;
  context.compute = compute;
  const Var y = Forward(c.linear, x, context);
  tape.Backward(y, Tensor::FromFloats(y.shape(), c.dy.data()));
  return {Floats(y.value()), Floats(tape.Grad(x)), Floats(c.linear.lora->a.grad),
          Floats(c.linear.lora->b.grad)};
}

// The products with a plain float32 matrix.
Outcome Dense(const Case& c, const std::vector<float>& w, Compute compute) {
  Outcome out = {std::vector<float>(kTokens * kOut), std::vector<float>(kTokens * kIn), {}, {}};
  const WeightView view = F32View(w.data(), kOut, kIn);
  GemmForward(c.x.data(), kTokens, view, out.y.data(), false, compute);
  GemmInputGrad(c.dy.data(), kTokens, view, out.dx.data(), false, compute);
  return out;
}

// dA = s (dy B)^T x and dB = s dy^T (x A^T), in double precision.
void ExpectAdapterGradients(const Case& c, const Outcome& got, double tolerance) {
  const float* a = c.linear.lora->a.value.data();
  const float* b = c.linear.lora->b.value.data();
  const double s = c.linear.lora->scale;
  std::vector<double> da(kRank * kIn), db(kOut * kRank);
  for (int64_t n = 0; n < kTokens; ++n) {
    const float* x = c.x.data() + n * kIn;
    const float* dy = c.dy.data() + n * kOut;
    for (int64_t k = 0; k < kRank; ++k) {
      double low = 0, back = 0;
      for (int64_t i = 0; i < kIn; ++i) low += static_cast<double>(x[i]) * a[k * kIn + i];
      for (int64_t o = 0; o < kOut; ++o) back += static_cast<double>(dy[o]) * b[o * kRank + k];
      for (int64_t i = 0; i < kIn; ++i) da[static_cast<size_t>(k * kIn + i)] += s * back * x[i];
      for (int64_t o = 0; o < kOut; ++o) db[static_cast<size_t>(o * kRank + k)] += s * dy[o] * low;
    }
  }
  EXPECT_TRUE(check::CloseInNorm(got.da, da, tolerance));
  EXPECT_TRUE(check::CloseInNorm(got.db, db, tolerance));
  for (double& v : db) v *= 1.05;
  EXPECT_FALSE(check::CloseInNorm(got.db, db, tolerance));  // a scale that is off is seen
}

class Qat : public testing::TestWithParam<Isa> {
 protected:
  void SetUp() override { SetIsa(GetParam()); }
  void TearDown() override {
    SetIsa(SupportedIsas().front());
    SetThreads(2);
  }
};
INSTANTIATE_TEST_SUITE_P(Isa, Qat, testing::ValuesIn(SupportedIsas()),
                         [](const auto& info) { return std::string(IsaName(info.param)); });

TEST_P(Qat, EqualsTheDenseTwin) {
  const std::vector<const char*> grids = {"q4_0",     "q8_0", "mxfp4", "int4_g32", "int4_g128",
                                          "int3_g32", "q4_k", "q6_k",  "q3_k",     "int8_channel"};
  for (const char* grid : grids) {
    for (const char* base : {"BF16", "Q8_0", "Q4_0"}) {
      for (const Compute compute : {Compute::kFloat32, Compute::kBfloat16}) {
        Case c(base, grid);
        const Outcome got = Products(c, compute);
        const Outcome want = Dense(c, c.Twin(), compute);
        const std::string what = StrCat(grid, " on ", base, " in ", ComputeName(compute));
        EXPECT_TRUE(check::SameBits(got.y, want.y)) << what;
        EXPECT_TRUE(check::SameBits(got.dx, want.dx)) << what;
        ExpectAdapterGradients(c, got, compute == Compute::kFloat32 ? 1e-5 : 1.5e-2);
        // The quantized sum is not the sum of the quantized.
        const Outcome unquantized = Dense(c, c.Merged(), compute);
        EXPECT_FALSE(check::SameBits(got.y, unquantized.y)) << what;
      }
    }
  }
}

TEST_P(Qat, BaseInUnits) {
  for (const Compute compute : {Compute::kFloat32, Compute::kBfloat16}) {
    Case rows("Q4_0", "q4_0"), units("Q4_0", "q4_0", /*in_units=*/true);
    const Outcome a = Products(rows, compute), b = Products(units, compute);
    EXPECT_TRUE(check::SameBits(a.y, b.y));
    EXPECT_TRUE(check::SameBits(a.dx, b.dx));
  }
}

TEST_P(Qat, SameBitsForAnyThreads) {
  for (const char* grid : {"q4_0", "int4_g128", "q4_k"}) {
    Case c("BF16", grid);
    SetThreads(1);
    const Outcome one = Products(c, Compute::kBfloat16);
    for (const int threads : {2, 5}) {
      SetThreads(threads);
      const Outcome many = Products(c, Compute::kBfloat16);
      EXPECT_TRUE(check::SameBits(one.y, many.y));
      EXPECT_TRUE(check::SameBits(one.dx, many.dx));
      EXPECT_TRUE(check::SameBits(one.da, many.da));
      EXPECT_TRUE(check::SameBits(one.db, many.db));
    }
  }
}

// What is shipped multiplies as what was trained did: the quantizer's blocks in the plain product.
TEST_P(Qat, ShippedBlocksGiveTheSameProducts) {
  for (const char* name : {"q4_0", "mxfp4", "q4_k", "q8_0"}) {
    for (const Compute compute : {Compute::kFloat32, Compute::kBfloat16}) {
      Case c("BF16", name);
      const Grid& grid = GetGrid(name, "test");
      const std::vector<float> merged = c.Merged();
      std::vector<uint8_t> blocks(static_cast<size_t>(kOut * FormatBytes(*grid.format(), kIn)));
      QuantizeRows(*grid.format(), *grid.rule(), merged.data(), kOut, kIn, blocks.data());
      const WeightView view = {grid.format()->id, kOut, kIn, blocks.data(),
                               FormatBytes(*grid.format(), kIn)};
      std::vector<float> y(kTokens * kOut);
      GemmForward(c.x.data(), kTokens, view, y.data(), false, compute);
      EXPECT_TRUE(check::SameBits(Products(c, compute).y, y)) << name;
    }
  }
}

TEST(QatLinear, FewRowsAndTrainedWeights) {
  for (const char* grid : {"q4_0", "int4_g128", "q6_k"}) {
    for (const int64_t rows : {1, 3, 16}) {
      Case c("BF16", grid);
      const Outcome all = Products(c, Compute::kBfloat16);
      Tape tape(Tape::Mode::kNoGrad);
      LinearContext context;
      context.compute = Compute::kBfloat16;
      const Var y =
          Forward(c.linear, tape.Constant(Tensor::FromFloats({rows, kIn}, c.x.data())), context);
      EXPECT_TRUE(check::SameBits(Floats(y.value()),
                                  std::vector<float>(all.y.begin(), all.y.begin() + rows * kOut)));
    }
    // Full fine-tuning: dw = dy^T x, straight through.
    Case c("BF16", grid);
    c.linear.lora.reset();
    std::vector<float> w(kOut * kIn);
    DequantizeRows(c.linear.w.Plain(), 0, kOut, w.data());
    for (int64_t o = 0; o < kOut; ++o) c.linear.w.fake->grid->Project(w.data() + o * kIn, kIn);
    c.linear.w.MakeTrainable();
    Tape tape;
    const Var x = tape.Input(c.x);
    const Var y = Forward(c.linear, x, {});
    tape.Backward(y, Tensor::FromFloats(y.shape(), c.dy.data()));
    const Outcome want = Dense(c, w, Compute::kFloat32);
    EXPECT_TRUE(check::SameBits(Floats(y.value()), want.y));
    EXPECT_TRUE(check::SameBits(Floats(tape.Grad(x)), want.dx));
    std::vector<float> dw(kOut * kIn);
    GemmWeightGrad(c.dy.data(), c.x.data(), kTokens, kOut, kIn, dw.data(), false,
                   Compute::kFloat32);
    EXPECT_TRUE(check::SameBits(Floats(c.linear.w.param->grad), dw));
  }
}

TEST(QatLinear, OffAndTeacher) {
  Case quantized("BF16", "q4_0"), plain("BF16", "");
  quantized.linear.w.fake->on = false;
  EXPECT_TRUE(check::SameBits(Products(quantized, Compute::kFloat32).y,
                              Products(plain, Compute::kFloat32).y));
  quantized.linear.w.fake->on = true;
  Tape tape(Tape::Mode::kNoGrad);
  LinearContext teacher;
  teacher.base_only = true;
  const Var y = Forward(quantized.linear, tape.Constant(quantized.x), teacher);
  std::vector<float> w(kOut * kIn);
  DequantizeRows(quantized.linear.w.Plain(), 0, kOut, w.data());
  EXPECT_TRUE(check::SameBits(Floats(y.value()), Dense(quantized, w, Compute::kFloat32).y));
}

TEST(QatLinear, Int8Inputs) {
  Case c("BF16", "q4_0");
  c.linear.w.fake->int8_input = true;
  const Outcome got = Products(c, Compute::kFloat32);
  for (int64_t n = 0; n < kTokens; ++n) {
    float* x = c.x.data() + n * kIn;
    float largest = 0;
    for (int64_t i = 0; i < kIn; ++i) largest = std::max(largest, std::fabs(x[i]));
    const float d = largest / 127, inverse = 1 / d;
    for (int64_t i = 0; i < kIn; ++i) x[i] = std::nearbyint(x[i] * inverse) * d;
  }
  EXPECT_TRUE(check::SameBits(got.y, Dense(c, c.Twin(), Compute::kFloat32).y));
}

}  // namespace
}  // namespace lapidary
