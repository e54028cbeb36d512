#include "autograd/ops/loss.h"

#include <algorithm>
#include <cstring>

#include "autograd/kernels/kernels.h"
#include "autograd/ops/common.h"
#include "autograd/profile.h"

namespace lapidary {
namespace {

// The gradients of a unit loss, formed in the forward pass.
struct CrossEntropyOp {
  static constexpr const char* kName = "cross_entropy";
  Tensor dx;     // [N, C], or undefined
  Tensor dhead;  // [V, C], or undefined
  void Backward(const float* dy, const InputGrads& d) {
    if (d.needed(0)) {
      ScaleInto(dx.data(), dx.size(), dy[0], {dx.data(), false});
      d.Give(0, std::move(dx));
    }
    if (!dhead.defined()) return;
    const InputGrads::Target out = d.Write(1);
    if (out.data) ScaleInto(dhead.data(), dhead.size(), dy[0], out);
  }
};

// Zeros in the rows of dx without a weight.
void ClearOthers(const std::vector<float>& weights, Tensor* dx) {
  const int64_t cols = dx->shape()[1];
  ParallelFor(static_cast<int64_t>(weights.size()), [&](Range r) {
    for (int64_t n = r.begin; n < r.end; ++n) {
      if (weights[n] == 0) std::fill_n(dx->data() + n * cols, cols, 0.0f);
    }
  });
}

std::vector<int64_t> WeightedRows(const std::vector<int32_t>& targets,
                                  const std::vector<float>& weights, int64_t vocab) {
  std::vector<int64_t> rows;
  for (size_t n = 0; n < weights.size(); ++n) {
    LAPIDARY_CHECK(weights[n] >= 0, "cross_entropy: weights must be >= 0; got ", weights[n], " at ",
                   n);
    if (weights[n] == 0) continue;
    LAPIDARY_CHECK(targets[n] >= 0 && targets[n] < vocab, "cross_entropy: targets must be in [0, ",
                   vocab, "); got ", targets[n], " at ", n);
    rows.push_back(static_cast<int64_t>(n));
  }
  return rows;
}

// One chunk of tokens, gathered.
struct Chunk {
  Tensor x, z;  // [chunk, C], [chunk, V]
  std::vector<int32_t> target;
  std::vector<float> weight, loss;
  std::vector<uint8_t> correct;
};

Var Run(Var x, const WeightView& head, const Var* head_var, const std::vector<int32_t>& targets,
        const std::vector<float>& weights, const CrossEntropyOptions& options, TokenStats* stats) {
  const ProfileScope scope("cross_entropy");
  const Shape xs = x.shape();
  LAPIDARY_CHECK(xs.rank == 2 && xs[1] == head.cols && head.rows >= 1,
                 "cross_entropy: x must be [N, C] and head [V, C]; got x ", xs, ", head [",
                 head.rows, ", ", head.cols, "]");
  LAPIDARY_CHECK(static_cast<int64_t>(targets.size()) == xs[0] && weights.size() == targets.size(),
                 "cross_entropy: targets and weights must be [N]; got ", targets.size(), " and ",
                 weights.size(), ", x ", xs);
  LAPIDARY_CHECK(options.chunk >= 64 && options.chunk % 64 == 0,
                 "cross_entropy: chunk must be a positive multiple of 64; got ", options.chunk);
  LAPIDARY_CHECK(options.softcap >= 0, "cross_entropy: softcap must be >= 0; got ",
                 options.softcap);
  const int64_t cols = xs[1], vocab = head.rows;
  CrossEntropyOp op;
  const std::vector<int64_t> rows = WeightedRows(targets, weights, vocab);
  const int64_t count = static_cast<int64_t>(rows.size());
  Tape& tape = x.tape();
  const bool head_grad = head_var && tape.ShouldRecord({*head_var});
  const bool x_grad = tape.ShouldRecord({x});
  if (x_grad) {
    op.dx = Tensor({xs[0], cols});
    ClearOthers(weights, &op.dx);
  }
  if (head_grad) op.dhead = Tensor({vocab, cols});
  if (head_grad && count == 0) op.dhead.Fill(0.0f);
  if (stats) {
    stats->loss.assign(static_cast<size_t>(xs[0]), 0.0f);
    stats->correct.assign(static_cast<size_t>(xs[0]), 0);
  }

  const int64_t most = std::min(count, options.chunk);
  const size_t slots = static_cast<size_t>(most);
  Chunk c = {.x = Tensor({most, cols}),
             .z = Tensor({most, vocab}),
             .target = std::vector<int32_t>(slots),
             .weight = std::vector<float>(slots),
             .loss = std::vector<float>(slots),
             .correct = std::vector<uint8_t>(slots)};
  double total = 0;
  for (int64_t begin = 0; begin < count; begin += options.chunk) {
    const int64_t size = std::min(options.chunk, count - begin);
    for (int64_t i = 0; i < size; ++i) {
      const int64_t n = rows[begin + i];
      std::memcpy(c.x.data() + i * cols, x.data() + n * cols,
                  static_cast<size_t>(cols) * sizeof(float));
      c.target[i] = targets[n];
      c.weight[i] = weights[n];
    }
    GemmForward(c.x.data(), size, head, c.z.data(), /*add=*/false, options.compute);
    const CrossEntropyArgs args = {.z = c.z.data(),
                                   .target = c.target.data(),
                                   .weight = c.weight.data(),
                                   .loss = c.loss.data(),
                                   .correct = c.correct.data(),
                                   .vocab = vocab,
                                   .cap = options.softcap,
                                   .grad = x_grad || head_grad};
    ParallelFor(size, [&](Range r) { ActiveKernels().CrossEntropyRows(args, r); });
    if (head_grad) {
      GemmWeightGrad(c.z.data(), c.x.data(), size, vocab, cols, op.dhead.data(),
                     /*add=*/begin > 0, options.compute);
    }
    if (x_grad) {
      GemmInputGrad(c.z.data(), size, head, c.x.data(), /*add=*/false, options.compute);
      ParallelFor(size, [&](Range r) {
        for (int64_t i = r.begin; i < r.end; ++i) {
          std::copy_n(c.x.data() + i * cols, cols, op.dx.data() + rows[begin + i] * cols);
        }
      });
    }
    for (int64_t i = 0; i < size; ++i) {
      const int64_t n = rows[begin + i];
      total += static_cast<double>(c.weight[i]) * c.loss[i];
      if (!stats) continue;
      stats->loss[n] = c.loss[i];
      stats->correct[n] = c.correct[i];
    }
  }
  Tensor y{Shape{}};
  y.Fill(static_cast<float>(total));
  if (!head_var) return tape.Record(std::move(op), {x}, y);
  return tape.Record(std::move(op), {x, *head_var}, y);
}

}  // namespace

Var CrossEntropyFrozen(Var x, const WeightView& head, const std::vector<int32_t>& targets,
                       const std::vector<float>& weights, const CrossEntropyOptions& options,
                       TokenStats* stats) {
  return Run(x, head, nullptr, targets, weights, options, stats);
}

Var CrossEntropy(Var x, Var head, const std::vector<int32_t>& targets,
                 const std::vector<float>& weights, const CrossEntropyOptions& options,
                 TokenStats* stats, const WeightMap* map) {
  const Shape hs = head.shape();
  LAPIDARY_CHECK(hs.rank == 2, "cross_entropy: head must be [V, C]; got ", hs);
  WeightView view = F32View(head.data(), hs[0], hs[1]);
  view.map = map;
  return Run(x, view, &head, targets, weights, options, stats);
}

Tensor Logits(const Tensor& x, const WeightView& head, float softcap, Compute compute) {
  const ProfileScope scope("logits");
  const Shape xs = x.shape();
  LAPIDARY_CHECK(xs.rank == 2 && xs[1] == head.cols, "logits: x must be [N, ", head.cols, "]; got ",
                 xs);
  LAPIDARY_CHECK(softcap >= 0, "logits: softcap must be >= 0; got ", softcap);
  Tensor z({xs[0], head.rows});
  GemmForward(x.data(), xs[0], head, z.data(), /*add=*/false, compute);
  if (softcap > 0) {
    const SoftcapArgs args = {.x = z.data(), .cap = softcap};
    ParallelFor(
        z.size(), [&](Range r) { ActiveKernels().Softcap(args, r); }, kElementGrain);
  }
  return z;
}

}  // namespace lapidary
