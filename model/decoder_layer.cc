#include "model/decoder_layer.h"

#include <algorithm>

#include "autograd/ops/activation.h"
#include "autograd/ops/fake_quant.h"
#include "autograd/ops/norm.h"
#include "autograd/ops/rope.h"

namespace lapidary {
namespace {

// The last row of x, without a gradient.
Var LastRow(Var x) {
  const int64_t cols = x.shape()[-1];
  return x.tape().Constant(Tensor::FromFloats({1, cols}, x.data() + x.value().size() - cols));
}

// The spans of this pass's queries (the last one's alone if last_only) over the whole document so
// far.
AttentionSpans CachedSpans(const LayerContext& c, int64_t window, bool blocks) {
  AttentionSpans spans = MakeSpans(*c.input, 0, blocks, c.hf_rule);
  for (size_t q = 0; q < spans.lo.size(); ++q) {
    const int64_t position = c.past + static_cast<int64_t>(q);
    int64_t lo = window > 0 ? std::max<int64_t>(0, position - window + 1) : 0;
    // An image block under the hf rule reaches back to its own start, which is in this pass.
    const bool media =
        !c.input->types.empty() && (c.input->types[q] == 1 || c.input->types[q] == 2);
    if (media && blocks && c.hf_rule) {
      size_t begin = q;
      while (begin > 0 && (c.input->types[begin - 1] == 1 || c.input->types[begin - 1] == 2))
        --begin;
      lo = std::min(lo, c.past + static_cast<int64_t>(begin));
    }
    spans.lo[q] = static_cast<int32_t>(lo);
    spans.hi[q] = static_cast<int32_t>(spans.hi[q] + c.past);
    spans.begin[q] = 0;
  }
  if (!c.last_only) return spans;
  return {{spans.lo.back()}, {spans.hi.back()}, {0}};
}

// Attention over the cache, which this pass's keys and values join.
Var CachedAttention(const LayerContext& c, bool full, Var q, Var k, Var v) {
  const int64_t window = full ? 0 : c.window;
  if (window > 0) c.cache->Forget(c.past - window + 1);
  c.cache->Append(k.value(), v.value());
  return q.tape().Constant(
      c.cache->Attend(q.value(), CachedSpans(c, window, !full || c.hf_rule), 1.0f));
}

Var SelfAttention(Layer& layer, Var x, const LayerContext& c) {
  Tape& tape = x.tape();
  const int64_t n = x.shape()[0], d = layer.config.head_dim, g = layer.config.num_key_value_heads;
  const float eps = c.rms_norm_eps;
  // Every value is let go after its last use: what a pass without a tape holds is what it needs.
  Var q, k, v;
  {
    std::vector<Linear*> linears = {&layer.q_proj, &layer.k_proj};
    if (!layer.config.k_is_v) linears.push_back(&layer.v_proj);
    std::vector<Var> y;
    if (c.last_only) {
      y = Forward(std::span(linears).subspan(1), x, c.linear);
      y.insert(y.begin(), Forward(layer.q_proj, LastRow(x), c.linear));
    } else {
      y = Forward(linears, std::move(x), c.linear);
    }
    q = std::move(y[0]);
    v = y.back().Reshaped({n, g, d});
    k = RmsNorm(y[1].Reshaped({n, g, d}), tape.Leaf(layer.k_norm), eps);
  }
  q = q.Reshaped({c.last_only ? 1 : n, c.num_attention_heads, d});
  q = RmsNorm(std::move(q), tape.Leaf(layer.q_norm), eps);
  q = c.last_only ? Rope(std::move(q), {c.positions.back()}, layer.inv_freq)
                  : Rope(std::move(q), c.positions, layer.inv_freq);
  k = Rope(std::move(k), c.positions, layer.inv_freq);
  v = RmsNorm(std::move(v), Var(), eps);
  if (c.int8_kv_cache) {
    k = FakeQuantInt8(std::move(k), 32);
    v = FakeQuantInt8(std::move(v), 32);
  }
  // In float32 under either compute type: the scores of 256- and 512-wide heads are not divided by
  // sqrt(D), so rounding q and k to bf16 costs a third of the whole distance to the float32 logits
  // (measured on the golden checkpoints).
  const bool full = layer.config.full_attention;
  Var o = c.cache ? CachedAttention(c, full, q, k, v)
                  : Attention(std::move(q), std::move(k), std::move(v), full ? c.full : c.sliding,
                              1.0f, /*round_to_bf16=*/false);
  return o.Reshaped({o.shape()[0], c.num_attention_heads * d});
}

Var FeedForward(Layer& layer, Var x, const LinearContext& context) {
  Linear* const both[] = {&layer.gate_proj, &layer.up_proj};
  std::vector<Var> y = Forward(both, std::move(x), context);
  return Forward(layer.down_proj, GeGlu(std::move(y[0]), std::move(y[1])), context);
}

}  // namespace

RowsContext::RowsContext(const LinearContext& whole, int64_t first, int64_t count)
    : linear_(whole) {
  if (!whole.step_positions || count >= static_cast<int64_t>(whole.step_positions->size())) return;
  const auto begin = whole.step_positions->begin() + first;
  positions_.assign(begin, begin + count);
  linear_.step_positions = &positions_;
}

Var AttentionStage(Layer& layer, Var h, const LayerContext& c) {
  const int64_t first = c.last_only ? h.shape()[0] - 1 : 0;
  Var o = SelfAttention(layer, RmsNorm(h, h.tape().Leaf(layer.input_layernorm), c.rms_norm_eps), c);
  if (c.last_only) h = LastRow(h);
  return OutputStage(layer, std::move(h), std::move(o), first, c);
}

Var OutputStage(Layer& layer, Var h, Var o, int64_t first, const LayerContext& c) {
  const RowsContext rows(c.linear, first, h.shape()[0]);
  Var attended = Forward(layer.o_proj, std::move(o), rows.linear());
  attended =
      RmsNorm(std::move(attended), h.tape().Leaf(layer.post_attention_layernorm), c.rms_norm_eps);
  return Add(std::move(h), std::move(attended));
}

Var FeedForwardStage(Layer& layer, Var h, int64_t first, const LayerContext& c) {
  Tape& tape = h.tape();
  const RowsContext rows(c.linear, first, h.shape()[0]);
  const Var x = RmsNorm(h, tape.Leaf(layer.pre_feedforward_layernorm), c.rms_norm_eps);
  const Var fed = FeedForward(layer, x, rows.linear());
  h = Add(h, RmsNorm(fed, tape.Leaf(layer.post_feedforward_layernorm), c.rms_norm_eps));
  h = Scale(h, layer.layer_scalar);
  return c.linear.compute == Compute::kBfloat16 ? RoundBf16(h) : h;
}

Var Forward(Layer& layer, Var h, const LayerContext& context) {
  const int64_t first = context.last_only ? h.shape()[0] - 1 : 0;
  return FeedForwardStage(layer, AttentionStage(layer, std::move(h), context), first, context);
}

}  // namespace lapidary
