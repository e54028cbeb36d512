#include "model/linear.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "autograd/base/parallel.h"
#include "autograd/ops/fake_quant.h"
#include "autograd/ops/matmul.h"

namespace lapidary {

FakeWeight::FakeWeight(const Grid& which, int64_t cols) : grid(&which) {
  const int64_t block = which.block();
  map.block = block > 0 ? block : 1;
  map.apply = Apply;
  if (which.learns()) map.slope = Slope;
  map.slope_block = block > 0 ? block : cols;
  map.context = this;
  row_scale_bytes_ = (block > 0 ? cols / block : 1) * which.scale_bytes();
}

void FakeWeight::Apply(const void* self, int64_t row, int64_t begin, int64_t end,
                       float* values) noexcept {
  const FakeWeight& fake = *static_cast<const FakeWeight*>(self);
  const Grid& grid = *fake.grid;
  if (!fake.kept) {
    grid.Project(values, end - begin);
    return;
  }
  const int64_t first = grid.block() > 0 ? begin / grid.block() * grid.scale_bytes() : 0;
  grid.ProjectOn(fake.scale_row(row) + first, values, end - begin);
}

void FakeWeight::Slope(const void* self, int64_t row, int64_t begin, int64_t end,
                       float* values) noexcept {
  const FakeWeight& fake = *static_cast<const FakeWeight*>(self);
  const Grid& grid = *fake.grid;
  const int64_t first = grid.block() > 0 ? begin / grid.block() * grid.scale_bytes() : 0;
  grid.StepSlope(fake.scale_row(row) + first, values, end - begin);
  for (int64_t i = 0; i < end - begin; ++i) values[i] *= fake.log_gain;
}

WeightView Weight::Plain() const {
  return param ? F32View(param->value.data(), view.rows, view.cols) : view;
}

WeightView Weight::Current() const {
  WeightView current = Plain();
  current.map = Map();
  return current;
}

void Weight::MakeTrainable() {
  if (param) {
    param->trainable = true;
    return;
  }
  auto p = std::make_unique<Param>();
  p->name = name;
  p->value = Tensor({view.rows, view.cols});
  ParallelFor(view.rows, [&](Range r) {
    DequantizeRows(view, r.begin, r.end - r.begin, p->value.data() + r.begin * view.cols);
  });
  p->trainable = true;
  param = std::move(p);
  view.data = nullptr;
  owner.reset();
}

namespace {

Var Base(Linear& linear, Var x, const LinearContext& context) {
  const Compute compute = context.compute;
  const WeightMap* map = context.base_only ? nullptr : linear.w.Map();
  WeightView view = linear.w.view;
  view.map = map;
  Var y = linear.w.param ? MatMul(x, x.tape().Leaf(*linear.w.param), compute, /*values=*/true, map)
                         : MatMulFrozen(x, view, compute);
  return linear.bias ? AddBias(y, x.tape().Leaf(*linear.bias)) : y;
}

// s (x A^T) B^T
Var LowRank(Lora& lora, Var x, Compute compute) {
  Tape& tape = x.tape();
  const Var low = MatMul(x, tape.Leaf(lora.a), compute);
  return Scale(MatMul(low, tape.Leaf(lora.b), compute), lora.scale);
}

bool Drops(const Linear& linear, const LinearContext& context) {
  return linear.lora && context.training && linear.lora->dropout > 0;
}

// Frozen, and what its adapter reads is x itself: one product with the low-rank term inside.
bool Fuses(const Linear& linear, const LinearContext& context) {
  if (context.base_only) return !linear.w.param;
  return !linear.w.param && !Drops(linear, context) && !(linear.lora && linear.lora->magnitude);
}

// The linears' input as fake quantization of activations has it, if one of them wants that. Those
// of one group always agree: the choice is the run's.
Var Rounded(std::span<Linear* const> linears, Var x, const LinearContext& context) {
  const bool rounds = std::any_of(linears.begin(), linears.end(), [&](const Linear* linear) {
    return !context.base_only && linear->w.Map() && linear->w.fake->int8_input;
  });
  return rounds ? FakeQuantInt8(std::move(x), 0) : x;
}

AdaptedWeight Adapted(Linear& linear, Tape& tape, const LinearContext& context) {
  BindAdapter(linear);
  AdaptedWeight w = {.w = context.base_only ? linear.w.Plain() : linear.w.Current()};
  if (Param* steps = context.base_only ? nullptr : linear.w.StepsInProducts())
    w.steps = tape.Leaf(*steps);
  if (Lora* lora = context.base_only ? nullptr : linear.lora.get()) {
    w.a = tape.Leaf(lora->a);
    w.b = tape.Leaf(lora->b);
    w.scale = lora->scale;
  }
  return w;
}

// Trainable weights, dropout and DoRA, from products on their own.
Var Composed(Linear& linear, Var x, const LinearContext& context) {
  if (!linear.lora || context.base_only) return Base(linear, x, context);
  Lora& lora = *linear.lora;
  Var adapted = x;
  const bool drops = Drops(linear, context);
  if (drops) {
    RandomKey key = context.random;
    key.op = HashName(linear.path);
    adapted = Dropout(x, lora.dropout, key, *context.step_positions);
  }
  const Var low = LowRank(lora, adapted, context.compute);
  if (!lora.magnitude) return Add(Base(linear, x, context), low);

  // PEFT: base(x) + (m/norm - 1) W dropout(x) + (m/norm) s B A dropout(x). Without dropout that is
  // m/norm * (W x + s B A x) + bias; the bias is outside the scaling.
  const Tensor norms = AdaptedRowNorms(linear);
  Tensor inverse(norms.shape());
  for (int64_t o = 0; o < norms.size(); ++o) inverse.data()[o] = 1.0f / norms.data()[o];
  Tape& tape = x.tape();
  const Var magnitude = tape.Leaf(*lora.magnitude);
  const auto frozen = [&](Var in) {
    return linear.w.param ? MatMul(in, tape.Leaf(*linear.w.param), context.compute)
                          : MatMulFrozen(in, linear.w.view, context.compute);
  };
  Var y;
  if (drops) {
    const Var dropped = frozen(adapted);
    y = Add(Add(frozen(x), Scale(dropped, -1.0f)),
            ScaleColumns(Add(dropped, low), magnitude, inverse));
  } else {
    y = ScaleColumns(Add(frozen(x), low), magnitude, inverse);
  }
  return linear.bias ? AddBias(y, tape.Leaf(*linear.bias)) : y;
}

}  // namespace

std::vector<Var> Forward(std::span<Linear* const> linears, Var x, const LinearContext& context) {
  Tape& tape = x.tape();
  if (context.observer) (*context.observer)(linears, x.value());
  x = Rounded(linears, std::move(x), context);
  std::vector<AdaptedWeight> fused;
  for (Linear* linear : linears) {
    if (Fuses(*linear, context)) fused.push_back(Adapted(*linear, tape, context));
  }
  std::vector<Var> products;
  if (!fused.empty()) products = MatMulGroup(x, fused, context.compute);
  std::vector<Var> ys;
  size_t next = 0;
  for (Linear* linear : linears) {
    if (!Fuses(*linear, context)) {
      ys.push_back(Composed(*linear, x, context));
      continue;
    }
    ys.push_back(products[next++]);
    if (linear->bias) ys.back() = AddBias(ys.back(), tape.Leaf(*linear->bias));
  }
  return ys;
}

Var Forward(Linear& linear, Var x, const LinearContext& context) {
  Linear* const one = &linear;
  return Forward({&one, 1}, x, context)[0];
}

std::vector<Var> ForwardForGradient(std::span<Linear* const> linears, Var x,
                                    const LinearContext& context) {
  Tape& tape = x.tape();
  x = Rounded(linears, std::move(x), context);
  const auto fuses = [&](const Linear& linear) { return Fuses(linear, context) && !linear.bias; };
  std::vector<AdaptedWeight> fused;
  for (Linear* linear : linears) {
    if (fuses(*linear)) fused.push_back(Adapted(*linear, tape, context));
  }
  std::vector<Var> products;
  if (!fused.empty()) products = MatMulGroup(x, fused, context.compute, /*values=*/false);
  std::vector<Var> ys;
  size_t next = 0;
  for (Linear* linear : linears) {
    if (fuses(*linear)) {
      ys.push_back(products[next++]);
    } else if (linear->w.param && !linear->lora && !linear->bias) {
      ys.push_back(MatMul(x, tape.Leaf(*linear->w.param), context.compute, /*values=*/false,
                          context.base_only ? nullptr : linear->w.Map()));
    } else {
      ys.push_back(Forward(*linear, x, context));
    }
  }
  return ys;
}

bool RowsApart(const Linear& linear, int64_t unit, const LinearContext& context) {
  constexpr int64_t kUnitRows = 32;  // of WeightLayout::kUnits
  // A map counts rows from the first.
  if (linear.w.Map() && !context.base_only) return false;
  return Fuses(linear, context) && !linear.bias && linear.w.rows() % unit == 0 &&
         (linear.w.view.layout == WeightLayout::kRows || unit % kUnitRows == 0);
}

std::vector<Tensor> ForwardRows(std::span<const LinearRows> parts, const Tensor& x,
                                const LinearContext& context) {
  Tape tape(Tape::Mode::kNoGrad);
  std::vector<AdaptedWeight> weights;
  for (const LinearRows& part : parts) {
    const Linear& linear = *part.linear;
    LAPIDARY_CHECK(RowsApart(linear, part.count, context) && part.first % part.count == 0,
                   linear.path, ": output features ", part.first, " + ", part.count,
                   " must be computable apart; got a weight or an adapter that are not");
    WeightView view = linear.w.view;
    view.data = static_cast<const uint8_t*>(view.data) + part.first * view.row_bytes;
    view.rows = part.count;
    weights.push_back({.w = view});
    if (const Lora* lora = context.base_only ? nullptr : linear.lora.get()) {
      weights.back().a = tape.Constant(lora->a.value);
      weights.back().b = tape.Constant(lora->b.value.Rows(part.first, part.count));
      weights.back().scale = lora->scale;
    }
  }
  std::vector<Tensor> ys;
  for (const Var& y : MatMulGroup(tape.Constant(x), weights, context.compute)) {
    ys.push_back(y.value());
  }
  return ys;
}

void BindAdapter(Linear& linear) {
  if (!linear.w.fake || !linear.lora) return;
  WeightMap& map = linear.w.fake->map;
  map.a = linear.lora->a.value.data();
  map.b = linear.lora->b.value.data();
  map.rank = linear.lora->rank();
  map.scale = linear.lora->scale;
}

Tensor AdaptedRowNorms(const Linear& linear) {
  const int64_t rows = linear.out_features(), cols = linear.in_features();
  const WeightView view = linear.w.Current();
  Tensor norms(Shape{rows});
  ParallelFor(rows, [&](Range range) {
    std::vector<float> row(cols);
    for (int64_t o = range.begin; o < range.end; ++o) {
      DequantizeRows(view, o, 1, row.data());
      if (linear.lora) {
        const Lora& lora = *linear.lora;
        const float* a = lora.a.value.data();
        const float* b = lora.b.value.data() + o * lora.rank();
        for (int64_t k = 0; k < lora.rank(); ++k) {
          const float s = lora.scale * b[k];
          if (s == 0) continue;
          for (int64_t i = 0; i < cols; ++i) row[i] += s * a[k * cols + i];
        }
      }
      double sum = 0;
      for (int64_t i = 0; i < cols; ++i) sum += static_cast<double>(row[i]) * row[i];
      norms.data()[o] = static_cast<float>(std::sqrt(sum));
    }
  });
  return norms;
}

}  // namespace lapidary
