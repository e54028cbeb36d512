#include "tests/autograd/op_cases.h"

#include <memory>

#include "autograd/base/float16.h"
#include "autograd/ops/activation.h"
#include "autograd/ops/attention.h"
#include "autograd/ops/basic.h"
#include "autograd/ops/embedding.h"
#include "autograd/ops/fake_quant.h"
#include "autograd/ops/loss.h"
#include "autograd/ops/matmul.h"
#include "autograd/ops/norm.h"
#include "autograd/ops/rope.h"
#include "autograd/weight_map.h"
#include "tests/autograd/references.h"

namespace lapidary {
namespace {

using Vars = std::vector<Var>;
using Values = std::vector<C64>;

// 37: full vectors and a tail on every instruction set.
constexpr int64_t kCols = 37;

}  // namespace

std::vector<GradCase> AddCases() {
  return {{.name = "add",
           .in = {{3, kCols}, {3, kCols}},
           .op = [](Tape&, const Vars& v) { return Add(v[0], v[1]); },
           .ref =
               [](const ComplexInputs& in) {
                 Values y = in[0];
                 for (size_t i = 0; i < y.size(); ++i) y[i] += in[1][i];
                 return y;
               }}};
}

std::vector<GradCase> ScaleCases() {
  return {{.name = "scale",
           .in = {{3, kCols}},
           .op = [](Tape&, const Vars& v) { return Scale(v[0], -1.75f); },
           .ref =
               [](const ComplexInputs& in) {
                 Values y = in[0];
                 for (C64& value : y) value *= -1.75;
                 return y;
               }}};
}

std::vector<GradCase> AddBiasCases() {
  return {{.name = "add_bias",
           .in = {{5, kCols}, {kCols}},
           .op = [](Tape&, const Vars& v) { return AddBias(v[0], v[1]); },
           .ref =
               [](const ComplexInputs& in) {
                 Values y = in[0];
                 for (size_t i = 0; i < y.size(); ++i) y[i] += in[1][i % kCols];
                 return y;
               }}};
}

std::vector<GradCase> ScaleColumnsCases() {
  const std::vector<float> k = NormalFloats(kCols, 5);
  return {{.name = "scale_columns",
           .in = {{5, kCols}, {kCols}},
           .op =
               [k](Tape&, const Vars& v) {
                 return ScaleColumns(v[0], v[1], Tensor::FromFloats({kCols}, k.data()));
               },
           .ref =
               [k](const ComplexInputs& in) {
                 Values y = in[0];
                 for (size_t i = 0; i < y.size(); ++i) {
                   y[i] *= in[1][i % kCols] * static_cast<double>(k[i % kCols]);
                 }
                 return y;
               }}};
}

// Straight-through: the value is rounded, the gradient passes.
std::vector<GradCase> RoundBf16Cases() {
  return {{.name = "round_bf16",
           .in = {{3, kCols}},
           .op = [](Tape&, const Vars& v) { return RoundBf16(v[0]); },
           .ref = [](const ComplexInputs& in) { return in[0]; },
           .value =
               [](const ComplexInputs& in) {
                 Values y = in[0];
                 for (C64& value : y) value = RoundToBf16(static_cast<float>(value.real()));
                 return y;
               },
           .value_tol = 0}};
}

std::vector<GradCase> DropoutCases() {
  const RandomKey key = {7, 8, 9};
  const std::vector<int64_t> indices = {4, 0, 1000000007, 12, 13};
  const float p = 0.3f;
  return {{.name = "dropout",
           .in = {{5, kCols}},
           .op = [=](Tape&, const Vars& v) { return Dropout(v[0], p, key, indices); },
           .ref =
               [=](const ComplexInputs& in) {
                 Values y = in[0];
                 for (size_t i = 0; i < y.size(); ++i) {
                   const uint64_t j = static_cast<uint64_t>(indices[i / kCols]) * kCols + i % kCols;
                   const double u = (RandomBits(key, j / 4)[j % 4] >> 8) * 0x1p-24;
                   y[i] *= u >= static_cast<double>(p) ? 1 / (1 - static_cast<double>(p)) : 0.0;
                 }
                 return y;
               }}};
}

// The gradient is that of the identity, the value that of the rounding.
std::vector<GradCase> FakeQuantInt8Cases() {
  const auto rounded = [](const ComplexInputs& in, size_t group) {
    Values y = in[0];
    for (size_t g = 0; g < y.size(); g += group) {
      double largest = 0;
      for (size_t i = 0; i < group; ++i) largest = std::max(largest, std::abs(y[g + i].real()));
      const double d = largest / 127;
      for (size_t i = 0; i < group; ++i) y[g + i] = std::nearbyint(y[g + i].real() / d) * d;
    }
    return y;
  };
  const auto identity = [](const ComplexInputs& in) { return in[0]; };
  return {{.name = "fake_quant_int8, a scale per row",
           .in = {{3, kCols}},
           .op = [](Tape&, const Vars& v) { return FakeQuantInt8(v[0], 0); },
           .ref = identity,
           .value = [=](const ComplexInputs& in) { return rounded(in, kCols); }},
          {.name = "fake_quant_int8, groups of 32",
           .in = {{3, 2, 64}},
           .op = [](Tape&, const Vars& v) { return FakeQuantInt8(v[0], 32); },
           .ref = identity,
           .value = [=](const ComplexInputs& in) { return rounded(in, 32); }}};
}

std::vector<GradCase> GeGluCases() {
  const auto op = [](Tape&, const Vars& v) { return GeGlu(v[0], v[1]); };
  const auto ref = [](const ComplexInputs& in) { return ref::GeGlu(in[0], in[1]); };
  return {{.name = "geglu", .in = {{3, kCols}, {3, kCols}}, .op = op, .ref = ref},
          {.name = "geglu, wide inputs",
           .in = {{8, kCols}, {8, kCols}},
           .op = op,
           .ref = ref,
           .spread = 4.0f}};
}

std::vector<GradCase> RmsNormCases() {
  return {
      {.name = "rms_norm",
       .in = {{3, kCols}, {kCols}},
       .op = [](Tape&, const Vars& v) { return RmsNorm(v[0], v[1], 1e-2f); },
       .ref = [](const ComplexInputs& in) { return ref::RmsNorm(in[0], &in[1], kCols, 1e-2f); }},
      {.name = "rms_norm without gain",
       .in = {{2, 3, kCols}},
       .op = [](Tape&, const Vars& v) { return RmsNorm(v[0], Var(), 0.5f); },
       .ref =
           [](const ComplexInputs& in) { return ref::RmsNorm<C64>(in[0], nullptr, kCols, 0.5); }}};
}

std::vector<GradCase> LayerNormCases() {
  return {{.name = "layer_norm",
           .in = {{3, kCols}, {kCols}, {kCols}},
           .op = [](Tape&, const Vars& v) { return LayerNorm(v[0], v[1], v[2], 1e-2f); },
           .ref =
               [](const ComplexInputs& in) {
                 return ref::LayerNorm(in[0], in[1], in[2], kCols, 1e-2f);
               }}};
}

std::vector<GradCase> RopeCases() {
  const std::vector<int32_t> positions = {0, 7, 3, 100};
  std::vector<float> inv_freq;  // 19 pairs: a tail on every instruction set; the last do not turn
  for (int i = 0; i < 19; ++i) inv_freq.push_back(i < 15 ? std::pow(10.0f, -0.1f * i) : 0.0f);
  return {
      {.name = "rope",
       .in = {{4, 3, 38}},
       .op = [=](Tape&, const Vars& v) { return Rope(v[0], positions, inv_freq); },
       .ref = [=](const ComplexInputs& in) { return ref::Rope(in[0], positions, inv_freq, 3); }}};
}

std::vector<GradCase> EmbeddingCases() {
  const std::vector<int32_t> ids = {3, 0, 3, 5, 1, 3, 0};
  return {{.name = "embedding, row 0 is padding",
           .in = {{6, kCols}},
           .op = [=](Tape&, const Vars& v) { return Embedding(v[0], ids, 2.5f, 0); },
           .ref =
               [=](const ComplexInputs& in) {
                 Values y;
                 for (int32_t id : ids) {
                   for (int64_t c = 0; c < kCols; ++c) {
                     const C64 x = in[0][id * kCols + c];
                     y.push_back(2.5 * (id == 0 ? C64(x.real()) : x));
                   }
                 }
                 return y;
               }},
          {.name = "embedding",
           .in = {{6, kCols}},
           .op = [=](Tape&, const Vars& v) { return Embedding(v[0], ids, 2.5f, -1); },
           .ref =
               [=](const ComplexInputs& in) {
                 Values y;
                 for (int32_t id : ids) {
                   for (int64_t c = 0; c < kCols; ++c) y.push_back(2.5 * in[0][id * kCols + c]);
                 }
                 return y;
               }}};
}

std::vector<GradCase> ReplaceRowsCases() {
  const std::vector<int64_t> rows = {4, 1};
  return {{.name = "replace_rows",
           .in = {{5, kCols}, {2, kCols}},
           .op = [=](Tape&, const Vars& v) { return ReplaceRows(v[0], v[1], rows); },
           .ref =
               [=](const ComplexInputs& in) {
                 Values y = in[0];
                 for (size_t j = 0; j < rows.size(); ++j) {
                   for (int64_t c = 0; c < kCols; ++c)
                     y[rows[j] * kCols + c] = in[1][j * kCols + c];
                 }
                 return y;
               }}};
}

std::vector<GradCase> PositionEmbeddingCases() {
  const std::vector<int32_t> positions = {0, 2, 2, 2, 1, 0, 0, 2};
  const auto ref = [=](const ComplexInputs& in) {
    Values y;
    for (size_t n = 0; n < positions.size(); n += 2) {
      for (int64_t c = 0; c < kCols; ++c) {
        y.push_back(in[0][positions[n] * 2 * kCols + c] +
                    in[0][(positions[n + 1] * 2 + 1) * kCols + c]);
      }
    }
    return y;
  };
  return {{.name = "position_embedding",
           .in = {{3, 2, kCols}},
           .op = [=](Tape&, const Vars& v) { return PositionEmbedding(v[0], positions, false); },
           .ref = ref},
          {.name = "position_embedding, rounded",
           .in = {{3, 2, kCols}},
           .op = [=](Tape&, const Vars& v) { return PositionEmbedding(v[0], positions, true); },
           .ref = ref,
           .value =
               [=](const ComplexInputs& in) {
                 Values y = ref(in);
                 for (C64& value : y) value = RoundToBf16(static_cast<float>(value.real()));
                 return y;
               },
           .value_tol = 0}};
}

std::vector<GradCase> MatMulFrozenCases() {
  const auto w = std::make_shared<std::vector<float>>(NormalFloats(11 * kCols, 6));
  return {{.name = "matmul_frozen",
           .in = {{5, kCols}},
           .op =
               [w](Tape&, const Vars& v) {
                 return MatMulFrozen(v[0], F32View(w->data(), 11, kCols), Compute::kFloat32);
               },
           .ref =
               [w](const ComplexInputs& in) {
                 return ref::MatMul(in[0], Values(w->begin(), w->end()), 5, 11, kCols);
               }}};
}

namespace {

// A map that rounds to multiples of 1/4, and what it makes of a double: the straight-through twin
// of a value moves with it as if nothing were rounded.
const WeightMap* QuarterMap() {
  static const WeightMap map = [] {
    WeightMap m;
    m.apply = [](const void*, int64_t, int64_t begin, int64_t end, float* values) noexcept {
      for (int64_t i = 0; i < end - begin; ++i) values[i] = std::nearbyint(values[i] * 4) / 4;
    };
    return m;
  }();
  return &map;
}
C64 Quarter(C64 w) { return {std::nearbyint(w.real() * 4) / 4, w.imag()}; }
Values Quarters(Values w) {
  for (C64& value : w) value = Quarter(value);
  return w;
}

}  // namespace

std::vector<GradCase> MatMulCases() {
  return {{.name = "matmul, mapped",
           .in = {{5, kCols}, {11, kCols}},
           .op =
               [](Tape&, const Vars& v) {
                 return MatMul(v[0], v[1], Compute::kFloat32, /*values=*/true, QuarterMap());
               },
           .ref =
               [](const ComplexInputs& in) {
                 return ref::MatMul(in[0], Quarters(in[1]), 5, 11, kCols);
               }},
          {.name = "matmul",
           .in = {{5, kCols}, {11, kCols}},
           .op = [](Tape&, const Vars& v) { return MatMul(v[0], v[1], Compute::kFloat32); },
           .ref = [](const ComplexInputs& in) { return ref::MatMul(in[0], in[1], 5, 11, kCols); }}};
}

std::vector<GradCase> MatMulGroupCases() {
  const auto w = std::make_shared<std::vector<float>>(NormalFloats(3 * 11 * kCols, 7));
  const auto view = [w](int j) { return F32View(w->data() + j * 11 * kCols, 11, kCols); };
  // x W^T + s (x A^T) B^T; without a: x W^T.
  const auto ref = [w](const Values& x, int j, const Values* a, const Values* b, int64_t r,
                       double s) {
    const auto first = w->begin() + j * 11 * kCols;
    Values y = ref::MatMul(x, Values(first, first + 11 * kCols), 5, 11, kCols);
    if (!a) return y;
    const Values low = ref::MatMul(ref::MatMul(x, *a, 5, r, kCols), *b, 5, 11, r);
    for (size_t e = 0; e < y.size(); ++e) y[e] += s * low[e];
    return y;
  };
  const Compute compute = Compute::kFloat32;
  // W + s B A rounded as a whole.
  const auto mapped = [w](const ComplexInputs& in) {
    Values whole(w->begin(), w->begin() + 11 * kCols);
    for (int64_t o = 0; o < 11; ++o) {
      for (int64_t i = 0; i < kCols; ++i) {
        for (int64_t k = 0; k < 3; ++k)
          whole[o * kCols + i] += 1.75 * in[2][o * 3 + k] * in[1][k * kCols + i];
      }
    }
    return ref::MatMul(in[0], Quarters(whole), 5, 11, kCols);
  };
  return {
      {.name = "matmul_group, one mapped with its adapter",
       .in = {{5, kCols}, {3, kCols}, {11, 3}},
       .op =
           [=](Tape&, const Vars& v) {
             static WeightMap map;
             map = *QuarterMap();
             map.a = v[1].data();
             map.b = v[2].data();
             map.rank = 3;
             map.scale = 1.75f;
             AdaptedWeight one = {view(0), v[1], v[2], 1.75f};
             one.w.map = &map;
             return MatMulGroup(v[0], {&one, 1}, compute)[0];
           },
       .ref = mapped},
      {.name = "matmul_group, one",
       .in = {{5, kCols}, {3, kCols}, {11, 3}},
       .op =
           [=](Tape&, const Vars& v) {
             const AdaptedWeight one = {view(0), v[1], v[2], 1.75f};
             return MatMulGroup(v[0], {&one, 1}, compute)[0];
           },
       .ref = [=](const ComplexInputs& in) { return ref(in[0], 0, &in[1], &in[2], 3, 1.75); }},
      {.name = "matmul_group, three, one without adapter",
       .in = {{5, kCols}, {3, kCols}, {11, 3}, {2, kCols}, {11, 2}},
       .op =
           [=](Tape&, const Vars& v) {
             const AdaptedWeight all[] = {{view(0), v[1], v[2], 0.5f},
                                          {view(1), Var(), Var()},
                                          {view(2), v[3], v[4], -1.0f}};
             const Vars y = MatMulGroup(v[0], all, compute);
             return Add(Add(y[0], Scale(y[1], 0.25f)), Scale(y[2], -2.0f));
           },
       .ref =
           [=](const ComplexInputs& in) {
             Values y = ref(in[0], 0, &in[1], &in[2], 3, 0.5);
             const Values second = ref(in[0], 1, nullptr, nullptr, 0, 0);
             const Values third = ref(in[0], 2, &in[3], &in[4], 2, -1.0);
             for (size_t e = 0; e < y.size(); ++e) y[e] += 0.25 * second[e] - 2.0 * third[e];
             return y;
           },
       .value_tol = 1e-6},
      {.name = "matmul_group, the last of two is used",
       .in = {{5, kCols}, {2, kCols}, {11, 2}},
       .op =
           [=](Tape&, const Vars& v) {
             const AdaptedWeight both[] = {{view(0), Var(), Var()}, {view(1), v[1], v[2], 3.0f}};
             return MatMulGroup(v[0], both, compute)[1];
           },
       .ref = [=](const ComplexInputs& in) { return ref(in[0], 1, &in[1], &in[2], 2, 3.0); }}};
}

std::vector<GradCase> AttentionCases() {
  const auto make = [](std::string name, AttentionSpans spans, int64_t keys, int64_t heads,
                       int64_t groups, int64_t width, int probes) {
    const auto shared = std::make_shared<const AttentionSpans>(std::move(spans));
    const int64_t queries = static_cast<int64_t>(shared->lo.size());
    const float scale = 0.7f / std::sqrt(static_cast<float>(width));
    return GradCase{
        .name = std::move(name),
        .in = {{queries, heads, width}, {keys, groups, width}, {keys, groups, width}},
        .op = [=](Tape&,
                  const Vars& v) { return Attention(v[0], v[1], v[2], shared, scale, false); },
        .ref =
            [=](const ComplexInputs& in) {
              return ref::Attention(in[0], in[1], in[2], *shared, heads, groups, width, scale);
            },
        .value_tol = 1e-6,
        .grad_tol = 2e-6,
        .probes = probes};
  };
  AttentionSpans causal, window, packed;
  for (int32_t n = 0; n < 6; ++n) {
    causal.lo.push_back(0);
    causal.hi.push_back(n + 1);
    causal.begin.push_back(0);
  }
  for (int32_t n = 0; n < 90; ++n) {  // the queries come after 30 cached keys
    window.lo.push_back(std::max(0, n + 30 - 69));
    window.hi.push_back(n + 31);
    window.begin.push_back(0);
  }
  for (int32_t n = 0; n < 9; ++n) {  // documents of 4 and 5; keys 0 and 10 are seen by none
    packed.lo.push_back(n < 4 ? 1 : 5);
    packed.hi.push_back(n < 4 ? n + 2 : std::max(n + 2, 8));
    packed.begin.push_back(n < 4 ? 1 : 5);
  }
  return {make("attention, causal", causal, 6, 4, 2, 5, 1 << 30),
          make("attention, packed documents", packed, 11, 3, 1, 37, 60),
          make("attention, window over a cache", window, 120, 2, 1, 8, 24)};
}

namespace {

// 70 tokens cross a chunk of 64; 1100 words cross a vocabulary block.
struct LossData {
  std::vector<int32_t> targets;
  std::vector<float> weights;
};
LossData MakeLossData(int64_t tokens, int64_t vocab) {
  LossData data;
  for (int64_t n = 0; n < tokens; ++n) {
    data.targets.push_back(n % 5 == 2 ? -100 : static_cast<int32_t>((n * 7919) % vocab));
    data.weights.push_back(n % 5 == 2 ? 0.0f : 0.25f * static_cast<float>(1 + n % 3));
  }
  return data;
}

GradCase LossCase(std::string name, bool train_head, int64_t tokens, int64_t vocab, float cap,
                  float spread, int probes) {
  constexpr int64_t kWidth = 6;
  const LossData data = MakeLossData(tokens, vocab);
  const auto head = std::make_shared<std::vector<float>>(NormalFloats(vocab * kWidth, 8, spread));
  const CrossEntropyOptions options = {.softcap = cap, .chunk = 64, .compute = Compute::kFloat32};
  GradCase c = {
      .name = std::move(name),
      .in = {{tokens, kWidth}},
      .op =
          [=](Tape&, const Vars& v) {
            if (train_head) {
              return CrossEntropy(v[0], v[1], data.targets, data.weights, options, nullptr);
            }
            return CrossEntropyFrozen(v[0], F32View(head->data(), vocab, kWidth), data.targets,
                                      data.weights, options, nullptr);
          },
      .ref =
          [=](const ComplexInputs& in) {
            const Values h = train_head ? in[1] : Values(head->begin(), head->end());
            return Values{
                ref::CrossEntropy(in[0], h, data.targets, data.weights, vocab, kWidth, cap)};
          },
      .grad_tol = 2e-6,
      .spread = spread,
      .probes = probes};
  if (train_head) c.in.push_back({vocab, kWidth});
  return c;
}

// Scores of one row under the cap, divided by the temperature, as log-probabilities.
Values LogProbs(const C64* x, const Values& head, int64_t vocab, int64_t width, double cap,
                double temperature) {
  Values z(static_cast<size_t>(vocab));
  C64 total = 0;
  for (int64_t v = 0; v < vocab; ++v) {
    C64 sum = 0;
    for (int64_t i = 0; i < width; ++i) sum += x[i] * head[static_cast<size_t>(v * width + i)];
    z[static_cast<size_t>(v)] = (cap > 0 ? cap * std::tanh(sum / cap) : sum) / temperature;
    total += std::exp(z[static_cast<size_t>(v)]);
  }
  for (C64& value : z) value -= std::log(total);
  return z;
}

// The mixed loss of autograd/ops/loss.h. `k`: stored tokens; 0: the teacher is a model.
GradCase DistillCase(std::string name, int64_t vocab, double mix, double temperature, int64_t k,
                     float cap) {
  constexpr int64_t kWidth = 6, kTokens = 8;
  const LossData data = MakeLossData(kTokens, vocab);
  const auto head = std::make_shared<std::vector<float>>(NormalFloats(vocab * kWidth, 8));
  const auto teacher_head = std::make_shared<std::vector<float>>(NormalFloats(vocab * kWidth, 18));
  const auto hidden = std::make_shared<std::vector<float>>(NormalFloats(kTokens * kWidth, 28));
  const double teacher_cap = 3;
  // p of every row in double precision.
  auto p = std::make_shared<std::vector<Values>>();
  for (int64_t n = 0; n < kTokens; ++n) {
    const Values row(hidden->begin() + n * kWidth, hidden->begin() + (n + 1) * kWidth);
    p->push_back(LogProbs(row.data(), Values(teacher_head->begin(), teacher_head->end()), vocab,
                          kWidth, teacher_cap, temperature));
  }
  const auto teacher = std::make_shared<Teacher>();
  teacher->mix = static_cast<float>(mix);
  teacher->temperature = static_cast<float>(temperature);
  teacher->k = k;
  if (k == 0) {
    teacher->hidden = Tensor::FromFloats({kTokens, kWidth}, hidden->data());
    teacher->head = F32View(teacher_head->data(), vocab, kWidth);
    teacher->softcap = static_cast<float>(teacher_cap);
  }
  for (int64_t n = 0; n < kTokens && k > 0; ++n) {
    for (int64_t j = 0; j < k; ++j) {
      const int64_t id = (n * 7 + j * 3) % vocab;
      teacher->ids.push_back(static_cast<int32_t>(id));
      teacher->log_probs.push_back(static_cast<float>((*p)[n][id].real()));
    }
  }
  GradCase c = {.name = std::move(name),
                .in = {{kTokens, kWidth}, {vocab, kWidth}},
                .op =
                    [=](Tape&, const Vars& v) {
                      (void)teacher_head;
                      const CrossEntropyOptions options = {.softcap = cap,
                                                           .chunk = 64,
                                                           .compute = Compute::kFloat32,
                                                           .teacher = teacher.get()};
                      return CrossEntropy(v[0], v[1], data.targets, data.weights, options, nullptr);
                    },
                .ref =
                    [=](const ComplexInputs& in) {
                      C64 loss = 0;
                      for (int64_t n = 0; n < kTokens; ++n) {
                        if (data.weights[n] == 0) continue;
                        const C64* x = in[0].data() + n * kWidth;
                        const Values q = LogProbs(x, in[1], vocab, kWidth, cap, 1);
                        const Values cool = LogProbs(x, in[1], vocab, kWidth, cap, temperature);
                        C64 divergence = 0;
                        if (k == 0) {
                          for (int64_t v = 0; v < vocab; ++v)
                            divergence += std::exp((*p)[n][v]) * ((*p)[n][v] - cool[v]);
                        } else {
                          C64 p_rest = 1, q_rest = 1;
                          for (int64_t j = 0; j < k; ++j) {
                            const int32_t id = teacher->ids[n * k + j];
                            const double lp = teacher->log_probs[n * k + j];
                            divergence += std::exp(lp) * (lp - cool[id]);
                            p_rest -= std::exp(lp);
                            q_rest -= std::exp(cool[id]);
                          }
                          divergence += p_rest * std::log(p_rest / q_rest);
                        }
                        loss += static_cast<double>(data.weights[n]) *
                                ((1 - mix) * -q[data.targets[n]] +
                                 mix * temperature * temperature * divergence);
                      }
                      return Values{loss};
                    },
                .value_tol = 2e-6,
                .grad_tol = 5e-6,
                .probes = 40};
  return c;
}

}  // namespace

std::vector<GradCase> CrossEntropyFrozenCases() {
  return {LossCase("cross_entropy_frozen, softcap 2", false, 8, 40, 2.0f, 1.0f, 1 << 30),
          LossCase("cross_entropy_frozen, no softcap", false, 8, 40, 0.0f, 1.0f, 1 << 30),
          LossCase("cross_entropy_frozen, two blocks", false, 7, 1100, 30.0f, 2.0f, 1 << 30)};
}

std::vector<GradCase> CrossEntropyCases() {
  return {DistillCase("cross_entropy, teacher alone", 40, 1, 1, 0, 2.0f),
          DistillCase("cross_entropy, teacher and data, temperature 2", 40, 0.3, 2, 0, 0.0f),
          DistillCase("cross_entropy, teacher, two blocks", 1100, 0.5, 1, 0, 30.0f),
          DistillCase("cross_entropy, stored tokens", 40, 1, 1, 5, 2.0f),
          DistillCase("cross_entropy, stored tokens and data", 1100, 0.25, 1, 7, 30.0f),
          LossCase("cross_entropy, softcap 2", true, 8, 40, 2.0f, 1.0f, 1 << 30),
          LossCase("cross_entropy, two chunks", true, 90, 40, 30.0f, 1.0f, 80)};
}

}  // namespace lapidary
