#include "autograd/ops/loss.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "autograd/kernels/kernels.h"
#include "autograd/ops/common.h"
#include "autograd/ops/distill_rows.h"
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
    LAPIDARY_CHECK(std::isfinite(weights[n]), "cross_entropy: weights must be finite; got ",
                   weights[n], " at ", n);
    if (weights[n] == 0) continue;
    LAPIDARY_CHECK(targets[n] >= 0 && targets[n] < vocab, "cross_entropy: targets must be in [0, ",
                   vocab, "); got ", targets[n], " at ", n);
    rows.push_back(static_cast<int64_t>(n));
  }
  return rows;
}

void CheckTeacher(const Teacher& t, int64_t rows, int64_t vocab) {
  LAPIDARY_CHECK(t.mix >= 0 && t.mix <= 1 && t.temperature > 0,
                 "distillation: mix must be in [0, 1] and the temperature above 0; got ", t.mix,
                 " and ", t.temperature);
  if (t.hidden.defined()) {
    const Shape hs = t.hidden.shape();
    LAPIDARY_CHECK(hs.rank == 2 && hs[0] == rows && hs[1] == t.head.cols && t.head.rows == vocab,
                   "distillation: the teacher must have [", rows, ", C'] and a head [", vocab,
                   ", C']; got ", hs, " and [", t.head.rows, ", ", t.head.cols, "]");
    return;
  }
  LAPIDARY_CHECK(t.k >= 1 && t.k <= 256 && static_cast<int64_t>(t.ids.size()) == rows * t.k &&
                     t.log_probs.size() == t.ids.size(),
                 "distillation: stored tokens must be [", rows, ", k], k from 1 to 256; got ",
                 t.ids.size(), " of k ", t.k);
  LAPIDARY_CHECK(t.temperature == 1,
                 "distillation: the temperature of stored tokens must be 1; got ", t.temperature);
  for (const int32_t id : t.ids)
    LAPIDARY_CHECK(id >= 0 && id < vocab, "distillation: stored tokens must be in [0, ", vocab,
                   "); got ", id);
}

// One chunk of tokens, gathered.
struct Chunk {
  Tensor x, z;  // [chunk, C], [chunk, V]
  std::vector<int32_t> target;
  std::vector<float> weight, loss;
  std::vector<uint8_t> correct;
  Tensor teacher_x, teacher_z;            // of a teacher that is a model
  std::vector<double> total, divergence;  // with a teacher
};

// The rows' losses against the targets and the teacher, gradients over c->z.
void DistillRows(const CrossEntropyOptions& options, const std::vector<int64_t>& rows,
                 int64_t begin, int64_t size, bool grad, Chunk* c) {
  const Teacher& t = *options.teacher;
  const int64_t vocab = c->z.shape()[1];
  if (t.hidden.defined()) {
    const int64_t cols = t.hidden.shape()[1];
    for (int64_t i = 0; i < size; ++i) {
      std::memcpy(c->teacher_x.data() + i * cols, t.hidden.data() + rows[begin + i] * cols,
                  static_cast<size_t>(cols) * sizeof(float));
    }
    GemmForward(c->teacher_x.data(), size, t.head, c->teacher_z.data(), /*add=*/false,
                options.compute);
  }
  ParallelFor(size, [&](Range r) {
    for (int64_t i = r.begin; i < r.end; ++i) {
      const int64_t n = rows[begin + i];
      DistillRow row = {.z = c->z.data() + i * vocab, .vocab = vocab};
      if (t.hidden.defined()) {
        row.teacher = c->teacher_z.data() + i * vocab;
      } else {
        row.ids = t.ids.data() + n * t.k;
        row.log_probs = t.log_probs.data() + n * t.k;
        row.k = t.k;
      }
      row.target = c->target[i];
      row.weight = c->weight[i];
      row.cap = options.softcap;
      row.teacher_cap = t.softcap;
      row.mix = t.mix;
      row.temperature = t.temperature;
      row.grad = grad;
      const DistillResult result = RunDistillRow(row);
      c->loss[i] = static_cast<float>(result.cross_entropy);
      c->correct[i] = result.correct;
      c->divergence[i] = result.divergence;
      const double mix = t.mix, square = static_cast<double>(t.temperature) * t.temperature;
      c->total[i] = (1 - mix) * result.cross_entropy + mix * square * result.divergence;
    }
  });
}

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
    stats->divergence.assign(options.teacher ? static_cast<size_t>(xs[0]) : 0, 0.0f);
  }

  const int64_t most = std::min(count, options.chunk);
  const size_t slots = static_cast<size_t>(most);
  Chunk c;
  c.x = Tensor({most, cols});
  c.z = Tensor({most, vocab});
  c.target.resize(slots);
  c.weight.resize(slots);
  c.loss.resize(slots);
  c.correct.resize(slots);
  if (const Teacher* t = options.teacher) {
    CheckTeacher(*t, xs[0], vocab);
    c.total.resize(slots);
    c.divergence.resize(slots);
    if (t->hidden.defined()) {
      c.teacher_x = Tensor({most, t->head.cols});
      c.teacher_z = Tensor({most, vocab});
    }
  }
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
    if (options.teacher) {
      DistillRows(options, rows, begin, size, x_grad || head_grad, &c);
    } else {
      ParallelFor(size, [&](Range r) { ActiveKernels().CrossEntropyRows(args, r); });
    }
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
      total += static_cast<double>(c.weight[i]) * (options.teacher ? c.total[i] : c.loss[i]);
      if (!stats) continue;
      if (options.teacher) stats->divergence[n] = static_cast<float>(c.divergence[i]);
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
