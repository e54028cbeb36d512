#include "model/layer_op.h"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "autograd/base/parallel.h"
#include "autograd/block_copy.h"
#include "autograd/kernels/kernels.h"
#include "autograd/ops/attention.h"
#include "model/attention_core.h"

namespace lapidary {
namespace {

void Copy(const Tensor& from, const Tensor& to) {
  if (from.data() == to.data()) return;
  ParallelFor(
      from.size(),
      [&](Range r) { std::copy(from.data() + r.begin, from.data() + r.end, to.data() + r.begin); },
      1 << 16);
}

void Clear(const Tensor& x) {
  ParallelFor(
      x.size(), [&](Range r) { std::fill(x.data() + r.begin, x.data() + r.end, 0.0f); }, 1 << 16);
}

// Calls visit(first, count) for every run of tokens; in a dry run, where nothing of them stays,
// only for some.
template <class Visit>
void ForRuns(int64_t run, int64_t tokens, bool stays, const Visit& visit) {
  LAPIDARY_CHECK(run >= 64 && run % 64 == 0, "layer: a run must be a multiple of 64 tokens; got ",
                 run);
  for (int64_t first = stays ? 0 : FirstRunOf(run, tokens); first < tokens; first += run) {
    visit(first, std::min(run, tokens - first));
  }
}

// What follows attention, of a run of tokens, on a tape of its own.
struct RunOfTokens {
  std::unique_ptr<Tape> tape;
  Var x, o, y;  // layer's input, heads' outputs, layer's output
};

// What trains before attention's outputs: a gradient of them is due only if there is some, or if
// the input needs one.
bool TrainsBeforeOutputs(Layer& layer) {
  bool trains = layer.input_layernorm.trainable || layer.q_norm.trainable || layer.k_norm.trainable;
  for (Linear* l : {&layer.q_proj, &layer.k_proj, &layer.v_proj}) {
    if (l->w.rows() == 0) continue;
    ForEachParam(*l, [&](const Param& p) { trains = trains || p.trainable; });
    trains = trains || l->w.StepsInProducts();
  }
  return trains;
}

struct LayerOp {
  static constexpr const char* kName = "layer";
  LayerPass pass;
  Stash x;
  bool needed = false;           // the gradient of x
  bool through_outputs = false;  // the gradient of the heads' outputs
  std::vector<Param*> params;
  AttentionState state;           // unless the input alone is kept
  std::vector<RunOfTokens> runs;  // if everything is kept

  RunOfTokens Start(Tape::Mode mode, const Tensor& rows, const Tensor& o, int64_t first) const {
    RunOfTokens run;
    run.tape = std::make_unique<Tape>(mode);
    run.tape->RestrictParams(&params);
    run.x = needed ? run.tape->Input(rows) : run.tape->Constant(rows);
    run.o = through_outputs ? run.tape->Input(o) : run.tape->Constant(o);
    const LayerContext& c = *pass.context;
    run.y =
        FeedForwardStage(*pass.layer, OutputStage(*pass.layer, run.x, run.o, first, c), first, c);
    return run;
  }

  void Backward(Tensor dy, const InputGrads& d) {
    const int64_t tokens = dy.shape()[0];
    x.Load();
    const InputRows rows = [this](int64_t first, int64_t count) { return x.Rows(first, count); };
    if (!state.o.defined()) {
      if (pass.enter) pass.enter();
      state = HeadOutputs(*pass.layer, rows, tokens, *pass.context, {pass.split, pass.chunk},
                          /*keep=*/true);
    }
    Tensor delta;
    if (through_outputs) delta = Tensor(state.lse.shape());
    ForRuns(pass.chunk, tokens, !runs.empty(), [&](int64_t first, int64_t count) {
      RunOfTokens run;
      const Tensor o = ReadBlock(state.o, first, count, 0, state.o.shape()[1]);
      if (runs.empty()) {
        run = Start(Tape::Mode::kRecord, rows(first, count), o, first);
      } else {
        run = std::move(runs[static_cast<size_t>(first / pass.chunk)]);
      }
      const Tensor slice = dy.Rows(first, count);
      run.x.ReleaseValue();
      run.o.ReleaseValue();
      if (run.y.needs_grad()) {
        run.y.ReleaseValue();
        run.tape->Backward(run.y, slice);
      }
      if (needed) {
        const Tensor grad = run.tape->Grad(run.x);
        grad.defined() ? Copy(grad, slice) : Clear(slice);
      }
      if (!through_outputs) return;
      Tensor grad = run.tape->Grad(run.o);
      if (!grad.defined()) grad = Tensor::Zeros(o.shape());
      OutputGradient(o, grad, first, &delta);
    });
    runs.clear();
    if (through_outputs) {
      HeadOutputsGradient(*pass.layer, rows, std::exchange(state, {}), delta, *pass.context,
                          {pass.split, pass.chunk}, params, needed ? dy : Tensor());
    }
    if (needed) d.Give(0, std::move(dy));
  }

  // Keeps the gradient of the heads' outputs in their place, and its products with them.
  void OutputGradient(const Tensor& o, const Tensor& grad, int64_t first, Tensor* delta) {
    if (state.o.dtype() == DType::kBf16) {
      const RoundArgs args = {.x = grad.data(), .y = grad.data()};
      ParallelFor(
          grad.size(), [&](Range r) { ActiveKernels().RoundBf16(args, r); }, 1 << 14);
    }
    Tensor rows = delta->Rows(first, o.shape()[0]);
    AttentionDelta(grad, o, &rows);
    WriteBlock(grad, &state.o, first, o.shape()[0], 0, o.shape()[1]);
  }
};

}  // namespace

Var RunLayer(LayerPass pass, Var h) {
  Layer& layer = *pass.layer;
  Tape& tape = h.tape();
  LayerOp op;
  op.pass = std::move(pass);
  const LayerPass& p = op.pass;
  ForEachParam(layer, [&](Param& param) {
    if (param.trainable) op.params.push_back(&param);
  });
  ForEachLinear(layer, [&](Linear& linear) {
    if (Param* steps = linear.w.StepsInProducts()) op.params.push_back(steps);
  });
  const bool trains = !op.params.empty();
  const bool records = tape.ShouldRecord({&h, 1}, trains);
  const LayerKeep keep = records ? p.keep : LayerKeep::kInput;
  op.needed = h.needs_grad();
  op.through_outputs = op.needed || TrainsBeforeOutputs(layer);

  if (p.enter) p.enter();
  Tensor x = h.value();
  const int64_t tokens = x.shape()[0];
  const InputRows rows = [&x](int64_t first, int64_t count) { return x.Rows(first, count); };
  op.state = HeadOutputs(layer, rows, tokens, *p.context, {p.split, p.chunk},
                         /*keep=*/keep != LayerKeep::kInput);
  Tensor y;
  if (tokens > p.chunk) y = Tensor(x.shape());
  const bool kept = keep == LayerKeep::kEverything;
  ForRuns(p.chunk, tokens, kept, [&](int64_t first, int64_t count) {
    RunOfTokens run =
        op.Start(kept ? Tape::Mode::kRecord : Tape::Mode::kNoGrad, rows(first, count),
                 ReadBlock(op.state.o, first, count, 0, op.state.o.shape()[1]), first);
    const Tensor part = run.y.value();
    if (!y.defined()) {
      y = part;
    } else {
      Copy(part, y.Rows(first, count));
    }
    if (!kept) return;
    run.x.ReleaseValue();
    run.o.ReleaseValue();
    run.y.ReleaseValue();
    op.runs.push_back(std::move(run));
  });
  if (!records) return tape.Constant(std::move(y));
  if (keep == LayerKeep::kInput) op.state = {};
  op.x = Stash(x, p.stash);
  return tape.Record(std::move(op), {h}, std::move(y), trains);
}

}  // namespace lapidary
