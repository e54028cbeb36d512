#include "model/transformer.h"

#include <cmath>
#include <numeric>

#include "autograd/base/file.h"
#include "autograd/base/float16.h"
#include "autograd/base/parallel.h"
#include "autograd/base/random.h"
#include "autograd/ops/basic.h"
#include "autograd/ops/embedding.h"
#include "autograd/ops/norm.h"
#include "model/decoder_layer.h"
#include "model/embedders.h"
#include "model/layer_op.h"

namespace lapidary {
namespace {

void CheckInput(const Transformer& model, const ModelInput& input) {
  const int64_t n = input.size();
  LAPIDARY_CHECK(n > 0, "forward: must have at least one token; got none");
  LAPIDARY_CHECK(input.types.empty() || static_cast<int64_t>(input.types.size()) == n,
                 "forward: types must have ", n, " entries; got ", input.types.size());
  for (size_t i = 0; i < input.document_starts.size(); ++i) {
    const int64_t start = input.document_starts[i];
    LAPIDARY_CHECK(i == 0 ? start == 0 : start > input.document_starts[i - 1] && start < n,
                   "forward: document starts must begin with 0 and increase below ", n, "; got ",
                   start);
  }
  const auto check_rows = [&](const std::vector<int64_t>& rows, const Tensor& features,
                              int64_t width, const char* what) {
    if (rows.empty()) return;
    LAPIDARY_CHECK(
        features.defined() && features.shape() == (Shape{static_cast<int64_t>(rows.size()), width}),
        "forward: ", what, " must be [", rows.size(), ", ", width, "]; got ", features.shape());
    for (int64_t row : rows) {
      LAPIDARY_CHECK(row >= 0 && row < n, "forward: rows of ", what, " must be below ", n, "; got ",
                     row);
    }
  };
  LAPIDARY_CHECK(input.patch_rows.empty() || model.vision,
                 "forward: the checkpoint must have a vision embedder for images; got none");
  LAPIDARY_CHECK(input.audio_rows.empty() || model.audio,
                 "forward: the checkpoint must have an audio embedder for sounds; got none");
  LAPIDARY_CHECK(input.patch_positions.size() == 2 * input.patch_rows.size(),
                 "forward: patch positions must be x, y of ", input.patch_rows.size(),
                 " patches; got ", input.patch_positions.size(), " numbers");
  check_rows(input.patch_rows, input.patches, model.config.vision.patch_features(), "patches");
  check_rows(input.audio_rows, input.audio_frames, model.config.audio.audio_embed_dim,
             "audio frames");
}

// Positions restart in every document.
std::vector<int32_t> Positions(const ModelInput& input, int64_t past) {
  std::vector<int32_t> positions(input.size());
  size_t next = 0;
  int32_t start = 0;
  for (int32_t i = 0; i < static_cast<int32_t>(positions.size()); ++i) {
    if (next < input.document_starts.size() && input.document_starts[next] == i) {
      start = i;
      ++next;
    }
    positions[i] = i - start + static_cast<int32_t>(past);
  }
  return positions;
}

// The noise of every embedding, a function of (seed, step, place in the step).
Tensor EmbeddingNoise(const ModelInput& input, int64_t hidden, const ForwardOptions& options,
                      const std::vector<int64_t>& step_positions) {
  Tensor noise({input.size(), hidden});
  std::vector<int64_t> starts(input.document_starts.begin(), input.document_starts.end());
  if (starts.empty()) starts.push_back(0);
  starts.push_back(input.size());
  const RandomKey key{options.seed, options.step, HashName(std::string("neftune"))};
  for (size_t d = 0; d + 1 < starts.size(); ++d) {
    const double size = static_cast<double>((starts[d + 1] - starts[d]) * hidden);
    const float bound = static_cast<float>(options.neftune_noise_alpha / std::sqrt(size));
    ParallelFor(starts[d + 1] - starts[d], [&](Range r) {
      for (int64_t n = starts[d] + r.begin; n < starts[d] + r.end; ++n) {
        const int64_t first = step_positions[static_cast<size_t>(n)] * hidden;
        for (int64_t c = 0; c < hidden; ++c) {
          noise.data()[n * hidden + c] =
              (2 * RandomUniform(key, static_cast<uint64_t>(first + c)) - 1) * bound;
        }
      }
    });
  }
  return noise;
}

Var EmbedTokens(Transformer& model, Tape& tape, const ModelInput& input,
                const ForwardOptions& options, const LinearContext& context) {
  const TextConfig& text = model.config.text;
  const bool bf16 = options.compute == Compute::kBfloat16;
  // Transformers casts sqrt(hidden) to the weights' type: 62.0 for bf16 at 3840.
  float scale = static_cast<float>(std::sqrt(static_cast<double>(text.hidden_size)));
  if (bf16) scale = RoundToBf16(scale);
  // Placeholders are looked up as <pad> and overwritten below.
  std::vector<int32_t> ids = input.ids;
  for (size_t i = 0; i < ids.size(); ++i) {
    const bool soft = ids[i] >= 0 && (ids[i] == model.config.image_token_id ||
                                      ids[i] == model.config.video_token_id ||
                                      ids[i] == model.config.audio_token_id);
    if (soft) ids[i] = text.pad_token_id;
  }
  Var h = model.embed_tokens.param
              ? Embedding(tape.Leaf(*model.embed_tokens.param), ids, scale, text.pad_token_id,
                          context.base_only ? nullptr : model.embed_tokens.Map())
              : tape.Constant(EmbeddingFrozen(
                    context.base_only ? model.embed_tokens.Plain() : model.embed_tokens.Current(),
                    ids, scale));
  if (options.training && options.neftune_noise_alpha > 0) {
    h = Add(h, tape.Constant(
                   EmbeddingNoise(input, text.hidden_size, options, *context.step_positions)));
  }
  if (!input.patch_rows.empty()) {
    LinearContext media = context;
    std::vector<int64_t> rows = input.patch_rows;  // dropout counts by the token where a patch goes
    for (int64_t& row : rows) row = (*context.step_positions)[row];
    media.step_positions = &rows;
    const Var soft = EmbedPatches(*model.vision, model.config.vision, tape, input.patches,
                                  input.patch_positions, media);
    h = ReplaceRows(h, soft, input.patch_rows);
  }
  if (!input.audio_rows.empty()) {
    LinearContext media = context;
    std::vector<int64_t> rows = input.audio_rows;
    for (int64_t& row : rows) row = (*context.step_positions)[row];
    media.step_positions = &rows;
    const Var soft = EmbedAudio(*model.audio, model.config.audio, tape, input.audio_frames, media);
    h = ReplaceRows(h, soft, input.audio_rows);
  }
  return bf16 ? RoundBf16(h) : h;
}

// Layers before and after this one give their pages back; before the first one is the last one, of
// a pass that ended there.
void DropNeighbours(Transformer& model, size_t index) {
  const size_t count = model.layers.size();
  for (const size_t other : {(index + count - 1) % count, index + 1}) {
    if (other >= count || other == index) continue;
    Layer& layer = model.layers[other];
    for (const Linear* l : {&layer.q_proj, &layer.k_proj, &layer.v_proj, &layer.o_proj,
                            &layer.gate_proj, &layer.up_proj, &layer.down_proj}) {
      if (l->w.view.data) {
        DropMappedPages(l->w.view.data, static_cast<uint64_t>(l->w.rows() * l->w.view.row_bytes));
      }
    }
  }
}

// One layer without a cache, keeping for its gradient what the policy says.
Var ForwardLayer(Transformer& model, size_t index, Var h,
                 const std::shared_ptr<const LayerContext>& shared, const LayerPolicy& keep,
                 const ActivationPolicy& policy) {
  LayerPass pass;
  pass.layer = &model.layers[index];
  pass.context = shared;
  pass.keep = keep.keep;
  pass.chunk = policy.chunk;
  pass.split = policy.split_attention;
  if (shared->linear.compute == Compute::kBfloat16) pass.stash.form = StashForm::kBf16;
  if (keep.keep == LayerKeep::kInput) {
    if (policy.int8) pass.stash.form = StashForm::kInt8;
    if (keep.on_disk) pass.stash.file = policy.file;
  }
  if (policy.stream_base) pass.enter = [&model, index] { DropNeighbours(model, index); };
  return RunLayer(std::move(pass), std::move(h));
}

}  // namespace

Var Forward(Transformer& model, Tape& tape, const ModelInput& input,
            const ForwardOptions& options) {
  CheckInput(model, input);
  LAPIDARY_CHECK(!options.cache || tape.mode() == Tape::Mode::kNoGrad,
                 "forward: a key-value cache must go without gradients");
  LAPIDARY_CHECK(!options.last_only || options.cache,
                 "forward: last_only must come with a key-value cache");
  const TextConfig& text = model.config.text;
  const bool hf_rule = options.image_mask == ImageMask::kHfForward;
  const int64_t past = options.cache ? options.cache->length : 0;

  // Shared with the layers' gradients, which run after this function has returned.
  auto shared = std::make_shared<LayerContext>();
  shared->step_positions = input.step_positions;
  if (shared->step_positions.empty()) {
    shared->step_positions.resize(input.size());
    std::iota(shared->step_positions.begin(), shared->step_positions.end(), int64_t{0});
  }
  shared->linear = {options.compute,         options.training,  {options.seed, options.step, 0},
                    &shared->step_positions, options.base_only, options.observer};
  shared->int8_kv_cache = model.int8_kv_cache && !options.base_only;
  shared->rms_norm_eps = static_cast<float>(text.rms_norm_eps);
  shared->num_attention_heads = text.num_attention_heads;
  shared->positions = Positions(input, past);
  shared->window = text.sliding_window;
  shared->past = past;
  shared->hf_rule = hf_rule;
  if (options.cache) {
    shared->input = &input;
    if (options.cache->layers.empty()) options.cache->layers.resize(model.layers.size());
  } else {
    shared->sliding =
        std::make_shared<AttentionSpans>(MakeSpans(input, text.sliding_window, true, hf_rule));
    shared->full = std::make_shared<AttentionSpans>(MakeSpans(input, 0, hf_rule, hf_rule));
  }

  Var h = EmbedTokens(model, tape, input, options, shared->linear);
  if (options.hidden_states) options.hidden_states->push_back(h.value());
  const ActivationPolicy by_default;
  const ActivationPolicy& policy = options.activations ? *options.activations : by_default;
  constexpr LayerPolicy keep_all = {.keep = LayerKeep::kEverything};
  for (size_t i = 0; i < model.layers.size(); ++i) {
    Layer& layer = model.layers[i];
    if (options.cache) {
      if (policy.stream_base) DropNeighbours(model, i);
      LayerContext cached = *shared;
      cached.cache = &options.cache->layers[i];
      // The last layer's other rows serve only its keys and values.
      cached.last_only = options.last_only && i + 1 == model.layers.size();
      h = Forward(layer, std::move(h), cached);
    } else {
      h = ForwardLayer(model, i, std::move(h), shared,
                       options.gradient_checkpointing ? policy.Of(i) : keep_all, policy);
    }
    if (options.hidden_states && i + 1 < model.layers.size())
      options.hidden_states->push_back(h.value());
  }
  if (options.cache) options.cache->length += input.size();
  h = RmsNorm(h, tape.Leaf(model.norm), shared->rms_norm_eps);
  if (options.hidden_states) options.hidden_states->push_back(h.value());
  return h;
}

Var LossSum(Transformer& model, Var hidden, const std::vector<int32_t>& targets,
            const std::vector<float>& weights, Compute compute, int64_t chunk, TokenStats* stats,
            const Teacher* teacher) {
  CrossEntropyOptions options;
  options.softcap = static_cast<float>(model.config.text.final_logit_softcapping);
  options.chunk = chunk;
  options.compute = compute;
  options.teacher = teacher;
  Weight& head = model.head();
  if (head.param)
    return CrossEntropy(hidden, hidden.tape().Leaf(*head.param), targets, weights, options, stats,
                        head.Map());
  return CrossEntropyFrozen(std::move(hidden), head.Current(), targets, weights, options, stats);
}

std::vector<Param*> TrainableParams(Transformer& model) {
  std::vector<Param*> params;
  ForEachParam(model, [&](Param& p) {
    if (p.trainable) params.push_back(&p);
  });
  return params;
}

void ZeroGrads(const std::vector<Param*>& params) {
  for (Param* p : params) p->grad = Tensor();
}

void MakeAllTrainable(Transformer& model) {
  model.embed_tokens.MakeTrainable();
  if (model.lm_head) model.lm_head->MakeTrainable();
  ForEachLinear(model, [](Linear& l) { l.w.MakeTrainable(); });
  ForEachParam(model, [](Param& p) { p.trainable = true; });
}

}  // namespace lapidary
