// Speed of every op but the matrix products: bench_ops [name part]. LAPIDARY_ISA and
// LAPIDARY_THREADS choose the table and the threads. Each row is checked against the plain loops
// on a smaller shape first, then timed: median of the runs after a warm-up, their spread, and the
// share of this machine's measured peak (stream triad for memory-bound ops, a loop of fused
// multiply-adds for attention). With one thread, times are processor time, which other programs
// disturb less.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "autograd/kernels/kernels.h"
#include "autograd/ops/activation.h"
#include "autograd/ops/attention.h"
#include "autograd/ops/basic.h"
#include "autograd/ops/norm.h"
#include "autograd/ops/rope.h"
#include "bench/peak.h"

namespace lapidary {
namespace {

Tensor Normal(const Shape& shape, uint64_t seed) {
  Tensor t(shape);
  float* data = t.data();
  ParallelFor(t.size(), [&](Range r) {
    for (int64_t i = r.begin; i < r.end; ++i) {
      data[i] = RandomNormal({seed, 0, 0}, static_cast<uint64_t>(i));
    }
  });
  return t;
}

struct Timing {
  double median, spread;  // seconds, (slowest - fastest) / median
};
Timing Time(const std::function<void()>& run) {
  std::vector<double> seconds;
  run();
  double total = 0;
  while (seconds.size() < 5 || (total < 0.5 && seconds.size() < 200)) {
    const double start = bench::Now();
    run();
    seconds.push_back(bench::Now() - start);
    total += seconds.back();
  }
  std::sort(seconds.begin(), seconds.end());
  const double median = seconds[seconds.size() / 2];
  return {median, (seconds.back() - seconds.front()) / median};
}

struct Row {
  std::string name;
  double bytes = 0, flops = 0;  // of one run; one of them is 0
  std::function<std::vector<float>()> check;
  std::function<void()> run;
};

// Outputs and gradients of an op on a small shape, for the check.
std::vector<float> Everything(const std::function<Var(Tape&, std::vector<Var>&)>& op,
                              const std::vector<Shape>& shapes) {
  Tape tape;
  std::vector<Var> in;
  for (size_t i = 0; i < shapes.size(); ++i) in.push_back(tape.Input(Normal(shapes[i], i)));
  const Var y = op(tape, in);
  std::vector<float> all(y.data(), y.data() + y.value().size());
  tape.Backward(y, Normal(y.shape(), 9));
  for (const Var& v : in) {
    const Tensor grad = tape.Grad(v);
    if (grad.defined()) all.insert(all.end(), grad.data(), grad.data() + grad.size());
  }
  return all;
}

using OpFunction = std::function<Var(Tape&, std::vector<Var>&)>;

// Two rows, forward and gradient. Bytes are those of the operands that must move.
void AddOp(std::vector<Row>& rows, const std::string& name, const OpFunction& op,
           const std::vector<Shape>& small, const OpFunction& small_op,
           const std::vector<Shape>& shapes, double forward_bytes, double gradient_bytes,
           double forward_flops = 0, double gradient_flops = 0) {
  auto in = std::make_shared<std::vector<Tensor>>();
  for (size_t i = 0; i < shapes.size(); ++i) in->push_back(Normal(shapes[i], i));
  auto dy = std::make_shared<Tensor>();  // made by the warm-up
  const auto check = [=] { return Everything(small_op, small); };
  rows.push_back({name, forward_bytes, forward_flops, check, [=] {
                    Tape tape(Tape::Mode::kNoGrad);
                    std::vector<Var> vars;
                    for (const Tensor& t : *in) vars.push_back(tape.Constant(t));
                    op(tape, vars);
                  }});
  // The gradient is timed together with its forward pass, whose time is taken off.
  rows.push_back({name + "'", gradient_bytes, gradient_flops, check, [=] {
                    Tape tape;
                    std::vector<Var> vars;
                    for (const Tensor& t : *in) vars.push_back(tape.Input(t));
                    const Var y = op(tape, vars);
                    tape.Backward(y, dy->defined() ? * dy : * dy = Normal(y.shape(), 9));
                  }});
}

std::shared_ptr<const AttentionSpans> Window(int32_t tokens, int32_t window) {
  auto spans = std::make_shared<AttentionSpans>();
  for (int32_t n = 0; n < tokens; ++n) {
    spans->lo.push_back(std::max(0, n + 1 - window));
    spans->hi.push_back(n + 1);
    spans->begin.push_back(0);
  }
  return spans;
}

double Pairs(const AttentionSpans& spans) {
  double pairs = 0;
  for (size_t n = 0; n < spans.lo.size(); ++n) pairs += spans.hi[n] - spans.lo[n];
  return pairs;
}

void AddAttention(std::vector<Row>& rows, const std::string& name, int64_t tokens, int64_t window,
                  int64_t heads, int64_t groups, int64_t width, bool round) {
  const auto spans = Window(static_cast<int32_t>(tokens), static_cast<int32_t>(window));
  const auto small = Window(150, 70);
  const auto make = [=](const std::shared_ptr<const AttentionSpans>& s,
                        bool rounded) -> OpFunction {
    return [=](Tape&, std::vector<Var>& v) {
      return Attention(v[0], v[1], v[2], s, 1.0f / 16, rounded);
    };
  };
  // Two products of 2 D flops a visible pair forward; four more in the gradient, which is the
  // useful work (recomputing the scores is not counted).
  const double product = 2.0 * static_cast<double>(heads * width) * Pairs(*spans);
  AddOp(rows, name, make(spans, round), {{150, 4, 40}, {150, 2, 40}, {150, 2, 40}},
        make(small, false),
        {{tokens, heads, width}, {tokens, groups, width}, {tokens, groups, width}}, 0, 0,
        2 * product, 4 * product);
}

std::vector<Row> Rows() {
  std::vector<Row> rows;
  const int64_t n = 2048, c = 3840, f = 15360;
  const double nc = 4.0 * n * c, nf = 4.0 * n * f;
  const std::vector<Shape> one = {{7, 100}}, two = {{7, 100}, {7, 100}}, gain = {{7, 100}, {100}};
  const OpFunction add = [](Tape&, std::vector<Var>& v) { return Add(v[0], v[1]); };
  AddOp(rows, "add", add, two, add, {{n, c}, {n, c}}, 3 * nc, 4 * nc);
  const OpFunction scale = [](Tape&, std::vector<Var>& v) { return Scale(v[0], 2.0f); };
  AddOp(rows, "scale", scale, one, scale, {{n, c}}, 2 * nc, 2 * nc);
  const OpFunction round = [](Tape&, std::vector<Var>& v) { return RoundBf16(v[0]); };
  AddOp(rows, "round_bf16", round, one, round, {{n, c}}, 2 * nc, 2 * nc);
  const OpFunction norm = [](Tape&, std::vector<Var>& v) { return RmsNorm(v[0], v[1], 1e-6f); };
  AddOp(rows, "rms_norm", norm, gain, norm, {{n, c}, {c}}, 2 * nc, 6 * nc);
  const OpFunction layer = [](Tape&, std::vector<Var>& v) {
    return LayerNorm(v[0], v[1], v[2], 1e-6f);
  };
  AddOp(rows, "layer_norm", layer, {{7, 100}, {100}, {100}}, layer, {{n, c}, {c}, {c}}, 2 * nc,
        7 * nc);
  const OpFunction geglu = [](Tape&, std::vector<Var>& v) { return GeGlu(v[0], v[1]); };
  AddOp(rows, "geglu", geglu, two, geglu, {{n, f}, {n, f}}, 3 * nf, 7 * nf);
  const auto rope = [](int64_t tokens, int64_t half) -> OpFunction {
    std::vector<int32_t> positions;
    for (int64_t i = 0; i < tokens; ++i) positions.push_back(static_cast<int32_t>(i));
    std::vector<float> inv_freq;
    for (int64_t i = 0; i < half; ++i) inv_freq.push_back(std::pow(0.99f, static_cast<float>(i)));
    return [=](Tape&, std::vector<Var>& v) { return Rope(v[0], positions, inv_freq); };
  };
  AddOp(rows, "rope", rope(n, 128), {{7, 2, 20}}, rope(7, 10), {{n, 16, 256}}, 2 * 4.0 * n * 4096,
        2 * 4.0 * n * 4096);
  const auto dropout = [](int64_t tokens) -> OpFunction {
    std::vector<int64_t> indices;
    for (int64_t i = 0; i < tokens; ++i) indices.push_back(i);
    return [=](Tape&, std::vector<Var>& v) { return Dropout(v[0], 0.1f, {1, 2, 3}, indices); };
  };
  AddOp(rows, "dropout", dropout(n), one, dropout(7), {{n, c}}, 2 * nc, 2 * nc);
  AddAttention(rows, "attention window 1024, 16/8 x 256", 2048, 1024, 16, 8, 256, false);
  AddAttention(rows, "attention window 1024, 16/8 x 256, bf16", 2048, 1024, 16, 8, 256, true);
  AddAttention(rows, "attention causal, 16/1 x 512", 2048, 2048, 16, 1, 512, false);
  return rows;
}

// Kernels that have no op of their own shape: the rows of the loss and the optimizer.
std::vector<Row> KernelRows() {
  std::vector<Row> rows;
  const auto loss = [](const Tensor& z, int64_t tokens, int64_t vocab) {
    std::vector<int32_t> target(static_cast<size_t>(tokens), 1);
    std::vector<float> weight(static_cast<size_t>(tokens), 1.0f), out(weight);
    std::vector<uint8_t> correct(static_cast<size_t>(tokens));
    const CrossEntropyArgs args = {.z = z.data(),
                                   .target = target.data(),
                                   .weight = weight.data(),
                                   .loss = out.data(),
                                   .correct = correct.data(),
                                   .vocab = vocab,
                                   .cap = 30.0f,
                                   .grad = true};
    ParallelFor(tokens, [&](Range r) { ActiveKernels().CrossEntropyRows(args, r); });
  };
  const Tensor z = Normal({128, 262144}, 3);
  // Three reads and two writes of the scores.
  rows.push_back({"cross_entropy rows", 5.0 * static_cast<double>(z.byte_size()), 0,
                  [=] {
                    const Tensor small = Normal({3, 2100}, 4);
                    loss(small, 3, 2100);
                    return std::vector<float>(small.data(), small.data() + small.size());
                  },
                  [=] { loss(z, 128, 262144); }});
  const auto step = [](const std::vector<Tensor>& t) {
    const AdamWArgs args = {.param = t[0].data(),
                            .m = t[1].data(),
                            .v = t[2].data(),
                            .grad = t[3].data(),
                            .lr = 1e-3,
                            .beta1 = 0.9,
                            .beta2 = 0.999,
                            .eps = 1e-8,
                            .weight_decay = 0.01,
                            .bias1 = 0.1,
                            .bias2 = 0.001};
    ParallelFor(
        t[0].size(), [&](Range r) { ActiveKernels().AdamW(args, r); }, 1 << 14);
  };
  const auto state = [](int64_t size) {
    std::vector<Tensor> t;
    for (uint64_t i = 0; i < 4; ++i) t.push_back(Normal({size}, i));
    for (int64_t i = 0; i < size; ++i) t[2].data()[i] *= t[2].data()[i];
    return t;
  };
  const std::vector<Tensor> large = state(1 << 24);
  rows.push_back({"adamw", 7.0 * 4 * (1 << 24), 0,
                  [=] {
                    const std::vector<Tensor> t = state(1003);
                    step(t);
                    return std::vector<float>(t[0].data(), t[0].data() + 1003);
                  },
                  [=] { step(large); }});
  return rows;
}

// Largest difference from the plain loops, of the largest value.
double Difference(const Row& row) {
  const Isa isa = ActiveIsa();
  const std::vector<float> got = row.check();
  SetIsa(Isa::kScalar);
  const std::vector<float> want = row.check();
  SetIsa(isa);
  double most = 0, scale = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    const double err = std::abs(static_cast<double>(got[i]) - want[i]);
    most = std::isnan(err) ? HUGE_VAL : std::max(most, err);
    scale = std::max(scale, std::abs(static_cast<double>(want[i])));
  }
  return most / scale;
}

int Main(const std::string& only) {
  const double triad = bench::TriadBytesPerSecond() * 1e-9;
  const double fma = bench::FmaFlopsPerSecond() * 1e-9;
  std::printf("isa %s, %d threads; measured peaks: triad %.1f GB/s, fma %.0f GFLOP/s (fp32)\n",
              IsaName(ActiveIsa()), Threads(), triad, fma);
  std::printf("%-42s %10s %7s %12s %7s %9s\n", "op (' gradient)", "ms", "spread", "rate", "peak",
              "off by");
  std::vector<Row> rows = Rows();
  for (Row& row : KernelRows()) rows.push_back(std::move(row));
  double forward = 0;
  int wrong = 0;
  for (const Row& row : rows) {
    if (row.name.find(only) == std::string::npos) continue;
    const double off = Difference(row);
    const Timing timing = Time(row.run);
    const bool gradient = row.name.back() == '\'';
    const double seconds = gradient ? timing.median - forward : timing.median;
    forward = timing.median;
    const bool compute = row.flops > 0;
    const double rate = (compute ? row.flops : row.bytes) / seconds * 1e-9;
    std::printf("%-42s %10.3f %6.0f%% %7.1f %s %6.0f%% %9.1e\n", row.name.c_str(), seconds * 1e3,
                100 * timing.spread, rate, compute ? "GF/s" : "GB/s",
                100 * rate / (compute ? fma : triad), off);
    if (!(off <= 1e-5)) ++wrong;
  }
  if (wrong) std::printf("%d rows are off by more than 1e-5\n", wrong);
  return wrong ? 1 : 0;
}

}  // namespace
}  // namespace lapidary

int main(int argc, char** argv) { return lapidary::Main(argc > 1 ? argv[1] : ""); }
