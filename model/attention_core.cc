#include "model/attention_core.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "autograd/base/dry_run.h"
#include "autograd/block_copy.h"
#include "autograd/ops/attention.h"
#include "autograd/ops/fake_quant.h"
#include "autograd/ops/norm.h"
#include "autograd/ops/rope.h"

namespace lapidary {
namespace {

// Some key/value groups.
struct Groups {
  int64_t first, count;
};

class Core {
 public:
  Core(Layer& layer, const InputRows& x, int64_t tokens, const LayerContext& context,
       const AttentionCut& cut)
      : layer_(layer),
        x_(x),
        c_(context),
        tokens_(tokens),
        width_(layer.config.head_dim),
        groups_(layer.config.num_key_value_heads),
        share_(context.num_attention_heads / groups_) {
    // What looks at inputs sees them in whole products only.
    split_ = cut.split && !c_.linear.observer &&
             RowsApart(layer.q_proj, share_ * width_, c_.linear) &&
             RowsApart(layer.k_proj, width_, c_.linear) &&
             (layer.config.k_is_v || RowsApart(layer.v_proj, width_, c_.linear));
    at_once_ = split_ || layer.q_norm.trainable || layer.k_norm.trainable ? 1 : groups_;
    // Of queries. Fake quantization is done anew for every run.
    const int64_t most = int64_t{layer.q_proj.w.Map() ? 16 : 4} << 20;
    run_ = std::clamp<int64_t>(most / (at_once_ * share_ * width_) / 64 * 64, 64, 2 * cut.chunk);
  }

  AttentionState Forward(bool keep) {
    AttentionState state;
    state.o = Tensor({tokens_, groups_ * QueryCols()}, KeptType());
    state.lse = Tensor({tokens_, groups_ * share_});
    if (!split_) ProjectAll(&state);
    ForBatches([&](Groups g) {
      Tensor k({tokens_, g.count * width_}), v(k.shape());
      ForRuns([&](int64_t first, int64_t count) {
        const auto [raw_k, raw_v] = RawKeys(state, g, first, count);
        Tape tape(Tape::Mode::kNoGrad);
        const auto [key, value] = Keys(tape, tape.Constant(raw_k), tape.Constant(raw_v), g, first);
        WriteBlock(key.value(), &k, first, count, 0, g.count * width_);
        WriteBlock(value.value(), &v, first, count, 0, g.count * width_);
      });
      k = k.Reshaped({tokens_, g.count, width_});
      v = v.Reshaped(k.shape());
      ForRuns([&](int64_t first, int64_t count) {
        Tape tape(Tape::Mode::kNoGrad);
        const Var q = Queries(tape, tape.Constant(RawQueries(state, g, first, count)), g, first);
        Tensor o(q.shape()), lse({count, g.count * share_});
        AttentionForward(q.value(), k, v, SpansOf(Spans(), first, count), 1.0f,
                         /*round_to_bf16=*/false, &o, &lse);
        WriteBlock(o, &state.o, first, count, g.first * QueryCols(), g.count * QueryCols());
        WriteBlock(lse, &state.lse, first, count, g.first * share_, g.count * share_);
      });
    });
    if (!keep) state.q = state.k = state.v = Tensor();
    return state;
  }

  void Backward(AttentionState state, const Tensor& delta, const std::vector<Param*>& params,
                const Tensor& dx) {
    if (!split_ && !state.q.defined()) ProjectAll(&state);
    Tensor dk({tokens_, groups_ * width_}, KeptType()), dv;
    if (!layer_.config.k_is_v) dv = Tensor(dk.shape(), KeptType());
    ForBatches([&](Groups g) { BackwardOf(g, &state, delta, params, &dk, &dv); });
    state.q = state.k = state.v = state.lse = Tensor();
    ForRuns([&](int64_t first, int64_t count) {
      Tape tape;
      tape.RestrictParams(&params);
      const Tensor rows = x_(first, count);
      Var in = dx.defined() ? tape.Input(rows, dx.Rows(first, count)) : tape.Constant(rows);
      const RowsContext context(c_.linear, first, count);
      const std::vector<Var> ys =
          ForwardForGradient(Linears(), Normed(tape, std::move(in)), context.linear());
      std::vector<Tape::Root> roots;
      const auto add = [&](const Tensor& dy) {
        roots.push_back({ys[roots.size()], ReadBlock(dy, first, count, 0, dy.shape()[1])});
      };
      add(state.o);
      add(dk);
      if (dv.defined()) add(dv);
      tape.Backward(std::move(roots));
    });
  }

 private:
  int64_t QueryCols() const { return share_ * width_; }  // of a group
  DType KeptType() const {
    return c_.linear.compute == Compute::kBfloat16 ? DType::kBf16 : DType::kF32;
  }
  const AttentionSpans& Spans() const {
    return *(layer_.config.full_attention ? c_.full : c_.sliding);
  }
  std::vector<Linear*> Linears() {
    std::vector<Linear*> linears = {&layer_.q_proj, &layer_.k_proj};
    if (!layer_.config.k_is_v) linears.push_back(&layer_.v_proj);
    return linears;
  }
  std::vector<int32_t> Positions(int64_t first, int64_t count) const {
    const auto begin = c_.positions.begin() + first;
    return {begin, begin + count};
  }

  template <class Visit>
  void ForBatches(const Visit& visit) {
    for (int64_t g = 0; g < groups_; g += at_once_) visit(Groups{g, at_once_});
  }
  template <class Visit>
  void ForRuns(const Visit& visit) {
    for (int64_t first = FirstRunOf(run_, tokens_); first < tokens_; first += run_) {
      visit(first, std::min(run_, tokens_ - first));
    }
  }

  Var Normed(Tape& tape, Var x) {
    return RmsNorm(std::move(x), tape.Leaf(layer_.input_layernorm), c_.rms_norm_eps);
  }
  Tensor NormedRows(int64_t first, int64_t count) {
    Tape tape(Tape::Mode::kNoGrad);
    return Normed(tape, tape.Constant(x_(first, count))).value();
  }

  // All projections of all tokens.
  void ProjectAll(AttentionState* state) {
    state->q = Tensor({tokens_, groups_ * QueryCols()});
    state->k = Tensor({tokens_, groups_ * width_});
    if (!layer_.config.k_is_v) state->v = Tensor(state->k.shape());
    ForRuns([&](int64_t first, int64_t count) {
      Tape tape(Tape::Mode::kNoGrad);
      const RowsContext context(c_.linear, first, count);
      const std::vector<Var> ys = lapidary::Forward(
          Linears(), Normed(tape, tape.Constant(x_(first, count))), context.linear());
      Tensor* const to[] = {&state->q, &state->k, &state->v};
      for (size_t i = 0; i < ys.size(); ++i) {
        WriteBlock(ys[i].value(), to[i], first, count, 0, to[i]->shape()[1]);
      }
    });
  }

  // Projections of groups: keys and values (the same where k serves as v), or queries.
  std::pair<Tensor, Tensor> RawKeys(const AttentionState& state, Groups g, int64_t first,
                                    int64_t count) {
    const int64_t col = g.first * width_, cols = g.count * width_;
    if (state.k.defined()) {
      const Tensor k = ReadBlock(state.k, first, count, col, cols);
      return {k, state.v.defined() ? ReadBlock(state.v, first, count, col, cols) : k};
    }
    std::vector<LinearRows> parts = {{&layer_.k_proj, col, cols}};
    if (!layer_.config.k_is_v) parts.push_back({&layer_.v_proj, col, cols});
    const RowsContext context(c_.linear, first, count);
    std::vector<Tensor> ys = ForwardRows(parts, NormedRows(first, count), context.linear());
    return {ys[0], ys.back()};
  }
  Tensor RawQueries(const AttentionState& state, Groups g, int64_t first, int64_t count) {
    const int64_t col = g.first * QueryCols(), cols = g.count * QueryCols();
    if (state.q.defined()) return ReadBlock(state.q, first, count, col, cols);
    const LinearRows part = {&layer_.q_proj, col, cols};
    const RowsContext context(c_.linear, first, count);
    return ForwardRows({&part, 1}, NormedRows(first, count), context.linear())[0];
  }

  // What attention reads, from projections of a run of tokens: [count, heads, width].
  Var Queries(Tape& tape, Var raw, Groups g, int64_t first) {
    const int64_t count = raw.shape()[0];
    raw = RmsNorm(raw.Reshaped({count, g.count * share_, width_}), tape.Leaf(layer_.q_norm),
                  c_.rms_norm_eps);
    return Rope(std::move(raw), Positions(first, count), layer_.inv_freq);
  }
  std::pair<Var, Var> Keys(Tape& tape, Var raw_k, Var raw_v, Groups g, int64_t first) {
    const Shape shape = {raw_k.shape()[0], g.count, width_};
    Var k = RmsNorm(raw_k.Reshaped(shape), tape.Leaf(layer_.k_norm), c_.rms_norm_eps);
    k = Rope(std::move(k), Positions(first, shape[0]), layer_.inv_freq);
    Var v = RmsNorm(raw_v.Reshaped(shape), Var(), c_.rms_norm_eps);
    if (c_.int8_kv_cache) {
      k = FakeQuantInt8(std::move(k), 32);
      v = FakeQuantInt8(std::move(v), 32);
    }
    return {std::move(k), std::move(v)};
  }

  // The gradients of the projections of groups: of queries over state->o, of keys and values to dk
  // and dv.
  void BackwardOf(Groups g, AttentionState* state, const Tensor& delta,
                  const std::vector<Param*>& params, Tensor* dk_raw, Tensor* dv_raw) {
    const int64_t cols = g.count * width_;
    // Where all groups come at once, their projections are read where they are.
    const bool whole = state->k.defined();
    Tensor raw_k, raw_v, k({tokens_, cols}), v(k.shape());
    if (!whole) raw_k = Tensor(k.shape());
    if (!whole) raw_v = layer_.config.k_is_v ? raw_k : Tensor(k.shape());
    ForRuns([&](int64_t first, int64_t count) {
      const auto [run_k, run_v] = RawKeys(*state, g, first, count);
      if (!whole) {
        WriteBlock(run_k, &raw_k, first, count, 0, cols);
        if (!layer_.config.k_is_v) WriteBlock(run_v, &raw_v, first, count, 0, cols);
      }
      Tape tape(Tape::Mode::kNoGrad);
      const auto [key, value] = Keys(tape, tape.Constant(run_k), tape.Constant(run_v), g, first);
      WriteBlock(key.value(), &k, first, count, 0, cols);
      WriteBlock(value.value(), &v, first, count, 0, cols);
    });
    k = k.Reshaped({tokens_, g.count, width_});
    v = v.Reshaped(k.shape());
    Tensor dk = Tensor::Zeros(k.shape()), dv = Tensor::Zeros(k.shape());
    ForRuns([&](int64_t first, int64_t count) {
      const int64_t col = g.first * QueryCols(), q_cols = g.count * QueryCols();
      const int64_t head = g.first * share_, heads = g.count * share_;
      Tape tape;
      tape.RestrictParams(&params);
      const Var raw = tape.Input(RawQueries(*state, g, first, count));
      Var q = Queries(tape, raw, g, first);
      Tensor dq = Tensor::Zeros(q.shape());
      AttentionBackward(
          q.value(), k, v, ReadBlock(state->o, first, count, col, q_cols).Reshaped(q.shape()),
          ReadBlock(state->lse, first, count, head, heads),
          ReadBlock(delta, first, count, head, heads), SpansOf(Spans(), first, count), 1.0f,
          /*round_to_bf16=*/false, {dq.data(), dk.data(), dv.data()});
      q.ReleaseValue();
      tape.Backward(q, std::move(dq));
      WriteBlock(tape.Grad(raw), &state->o, first, count, col, q_cols);
    });
    k.Release();
    v.Release();
    ForRuns([&](int64_t first, int64_t count) {
      Tape tape;
      tape.RestrictParams(&params);
      std::pair<Tensor, Tensor> run;
      if (whole) {
        run = RawKeys(*state, g, first, count);
      } else {
        run = {raw_k.Rows(first, count), raw_v.Rows(first, count)};
      }
      const Var in_k = tape.Input(run.first);
      const Var in_v = layer_.config.k_is_v ? in_k : tape.Input(run.second);
      const auto [key, value] = Keys(tape, in_k, in_v, g, first);
      std::vector<Tape::Root> roots;
      roots.push_back({key, dk.Rows(first, count)});
      roots.push_back({value, dv.Rows(first, count)});
      tape.Backward(std::move(roots));
      WriteBlock(tape.Grad(in_k), dk_raw, first, count, g.first * width_, cols);
      if (!layer_.config.k_is_v) {
        WriteBlock(tape.Grad(in_v), dv_raw, first, count, g.first * width_, cols);
      }
    });
  }

  Layer& layer_;
  const InputRows& x_;
  const LayerContext& c_;
  const int64_t tokens_, width_, groups_, share_;  // share_: query heads of a group
  bool split_ = false;
  int64_t at_once_ = 1, run_ = 64;
};

}  // namespace

int64_t FirstRunOf(int64_t run, int64_t tokens) {
  constexpr int64_t kVisited = 16384;
  return DryRun() && tokens > kVisited ? (tokens - kVisited) / run * run : 0;
}

AttentionState HeadOutputs(Layer& layer, const InputRows& x, int64_t tokens,
                           const LayerContext& context, const AttentionCut& cut, bool keep) {
  return Core(layer, x, tokens, context, cut).Forward(keep);
}

void HeadOutputsGradient(Layer& layer, const InputRows& x, AttentionState state,
                         const Tensor& delta, const LayerContext& context, const AttentionCut& cut,
                         const std::vector<Param*>& params, const Tensor& dx) {
  Core(layer, x, state.lse.shape()[0], context, cut).Backward(std::move(state), delta, params, dx);
}

}  // namespace lapidary
