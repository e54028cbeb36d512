#include "model/decoder_layer.h"

#include <algorithm>

#include "autograd/ops/activation.h"
#include "autograd/ops/norm.h"
#include "autograd/ops/rope.h"

namespace lapidary {
namespace {

constexpr int64_t kKeyBlock = 64;  // attention sums keys in blocks of 64 from the document's start;
                                   // the cache is cut at multiples of it

// Appends this pass's keys and values to the cache and returns all that are kept, [M, G, D] each.
void Extend(KvCache::LayerCache* cache, int64_t first_needed, int64_t width, Var k, Var v,
            Tensor* all_k, Tensor* all_v) {
  const int64_t drop = std::max<int64_t>(0, (first_needed - cache->first) / kKeyBlock * kKeyBlock);
  const int64_t kept = static_cast<int64_t>(cache->k.size()) / width;
  const int64_t cut = std::min(drop, kept);
  for (std::vector<float>* cached : {&cache->k, &cache->v}) {
    cached->erase(cached->begin(), cached->begin() + cut * width);
  }
  cache->first += cut;
  cache->k.insert(cache->k.end(), k.data(), k.data() + k.value().size());
  cache->v.insert(cache->v.end(), v.data(), v.data() + v.value().size());
  const int64_t count = static_cast<int64_t>(cache->k.size()) / width;
  *all_k = Tensor::FromFloats({count, k.shape()[1], k.shape()[2]}, cache->k.data());
  *all_v = Tensor::FromFloats({count, k.shape()[1], k.shape()[2]}, cache->v.data());
}

// The spans of this pass's queries over the cached keys: as in a whole document, shifted.
std::shared_ptr<const AttentionSpans> CachedSpans(const LayerContext& c, int64_t window,
                                                  bool blocks) {
  auto spans = std::make_shared<AttentionSpans>(MakeSpans(*c.input, 0, blocks, c.hf_rule));
  const int64_t first = c.cache->first;
  for (size_t q = 0; q < spans->lo.size(); ++q) {
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
    spans->lo[q] = static_cast<int32_t>(lo - first);
    spans->hi[q] = static_cast<int32_t>(spans->hi[q] + c.past - first);
    spans->begin[q] = 0;
  }
  return spans;
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
    std::vector<Var> y = Forward(linears, std::move(x), c.linear);
    q = std::move(y[0]).Reshaped({n, c.num_attention_heads, d});
    v = y.back().Reshaped({n, g, d});
    k = RmsNorm(y[1].Reshaped({n, g, d}), tape.Leaf(layer.k_norm), eps);
  }
  q = RmsNorm(std::move(q), tape.Leaf(layer.q_norm), eps);
  q = Rope(std::move(q), c.positions, layer.inv_freq);
  k = Rope(std::move(k), c.positions, layer.inv_freq);
  v = RmsNorm(std::move(v), Var(), eps);
  std::shared_ptr<const AttentionSpans> spans = layer.config.full_attention ? c.full : c.sliding;
  if (c.cache) {
    const int64_t window = layer.config.full_attention ? 0 : c.window;
    Tensor all_k, all_v;
    Extend(c.cache, window > 0 ? c.past - window + 1 : 0, g * d, k, v, &all_k, &all_v);
    spans = CachedSpans(c, window, !layer.config.full_attention || c.hf_rule);
    k = tape.Constant(std::move(all_k));
    v = tape.Constant(std::move(all_v));
  }
  // In float32 under either compute type: the scores of 256- and 512-wide heads are not divided by
  // sqrt(D), so rounding q and k to bf16 costs a third of the whole distance to the float32 logits
  // (measured on the golden checkpoints).
  Var o = Attention(std::move(q), std::move(k), std::move(v), std::move(spans), 1.0f,
                    /*round_to_bf16=*/false);
  o = o.Reshaped({n, c.num_attention_heads * d});
  return Forward(layer.o_proj, std::move(o), c.linear);
}

Var FeedForward(Layer& layer, Var x, const LinearContext& context) {
  Linear* const both[] = {&layer.gate_proj, &layer.up_proj};
  std::vector<Var> y = Forward(both, std::move(x), context);
  return Forward(layer.down_proj, GeGlu(std::move(y[0]), std::move(y[1])), context);
}

}  // namespace

Var AttentionStage(Layer& layer, Var h, const LayerContext& c) {
  Tape& tape = h.tape();
  Var attended =
      SelfAttention(layer, RmsNorm(h, tape.Leaf(layer.input_layernorm), c.rms_norm_eps), c);
  attended =
      RmsNorm(std::move(attended), tape.Leaf(layer.post_attention_layernorm), c.rms_norm_eps);
  return Add(std::move(h), std::move(attended));
}

Var FeedForwardStage(Layer& layer, Var h, int64_t first, const LayerContext& c) {
  Tape& tape = h.tape();
  const int64_t n = h.shape()[0];
  LinearContext linear = c.linear;
  std::vector<int64_t> positions;  // dropout counts tokens by their place in the step
  if (linear.step_positions && n < static_cast<int64_t>(linear.step_positions->size())) {
    const auto begin = linear.step_positions->begin() + first;
    positions.assign(begin, begin + n);
    linear.step_positions = &positions;
  }
  const Var x = RmsNorm(h, tape.Leaf(layer.pre_feedforward_layernorm), c.rms_norm_eps);
  const Var fed = FeedForward(layer, x, linear);
  h = Add(h, RmsNorm(fed, tape.Leaf(layer.post_feedforward_layernorm), c.rms_norm_eps));
  h = Scale(h, layer.layer_scalar);
  return linear.compute == Compute::kBfloat16 ? RoundBf16(h) : h;
}

Var Forward(Layer& layer, Var h, const LayerContext& context) {
  return FeedForwardStage(layer, AttentionStage(layer, std::move(h), context), 0, context);
}

}  // namespace lapidary
