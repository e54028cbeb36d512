// Gemma 4 Unified: a struct of parameters and free functions (gemma4-12b.md section 3 to 6). Read
// Forward from top to bottom.
#ifndef LAPIDARY_MODEL_TRANSFORMER_H_
#define LAPIDARY_MODEL_TRANSFORMER_H_

#include <memory>
#include <string>
#include <vector>

#include "autograd/ops/attention.h"
#include "autograd/ops/loss.h"
#include "model/activation_policy.h"
#include "model/config.h"
#include "model/input.h"
#include "model/kv_cache.h"
#include "model/linear.h"

namespace lapidary {

struct Layer {
  LayerConfig config;
  std::vector<float> inv_freq;
  Param input_layernorm, post_attention_layernorm, pre_feedforward_layernorm,
      post_feedforward_layernorm;
  Linear q_proj, k_proj, v_proj, o_proj;  // v_proj has no weight where config.k_is_v
  Param q_norm, k_norm;
  Linear gate_proj, up_proj, down_proj;
  float layer_scalar = 1;  // a buffer: never trained
};

struct VisionEmbedder {
  Param patch_ln1_weight, patch_ln1_bias;
  Linear patch_dense;
  Param patch_ln2_weight, patch_ln2_bias;
  Param pos_embedding;  // [P, 2, C]
  Param pos_norm_weight, pos_norm_bias;
  Linear projection;
};

struct AudioEmbedder {
  Linear projection;
};

struct Transformer {
  ModelConfig config;
  Weight embed_tokens;
  std::unique_ptr<Weight> lm_head;  // only if the head is not tied
  std::vector<Layer> layers;
  Param norm;
  std::unique_ptr<VisionEmbedder> vision;
  std::unique_ptr<AudioEmbedder> audio;
  bool int8_kv_cache = false;  // keys and values are fake-quantized (model/qat.h)

  Weight& head() { return lm_head ? *lm_head : embed_tokens; }
};

// Which soft tokens of an image see each other (gemma4-12b.md 3.7): in sliding layers only, as
// Transformers' generate, vLLM and llama.cpp do; or as a bare forward call of Transformers does, in
// all layers.
enum class ImageMask { kSlidingOnly, kHfForward };

struct ForwardOptions {
  Compute compute = Compute::kFloat32;
  ImageMask image_mask = ImageMask::kSlidingOnly;
  bool training = false;                // dropout acts
  bool gradient_checkpointing = false;  // forget what layers compute, as `activations` says
  const ActivationPolicy* activations = nullptr;  // null: inputs of layers are kept, in memory
  uint64_t seed = 0, step = 0;                    // of dropout and noise
  double neftune_noise_alpha = 0;  // while training: noise on the embeddings of tokens, uniform in
                                   // +-alpha / sqrt(tokens of the document * hidden size);
                                   // Jain et al. 2023, arXiv:2310.05914
  bool base_only = false;          // without adapters and fake quantization: a teacher
  KvCache* cache = nullptr;        // generation: keys and values seen before; no gradients
  bool last_only = false;  // with a cache: only the last token's hidden state, [1, C], is wanted
  const LinearObserver* observer = nullptr;      // sees the input of every linear, in order
  std::vector<Tensor>* hidden_states = nullptr;  // filled with the embeddings, every layer's
                                                 // output, the last one after the final norm
};

// Hidden states after the final norm, [N, C] ([1, C] if last_only). Throws Error if ids, rows or
// positions do not fit the configuration.
Var Forward(Transformer& model, Tape& tape, const ModelInput& input, const ForwardOptions& options);

// sum over n of weights[n] * cross-entropy of hidden[n] against targets[n]; with a teacher the
// mixed loss of autograd/ops/loss.h.
Var LossSum(Transformer& model, Var hidden, const std::vector<int32_t>& targets,
            const std::vector<float>& weights, Compute compute, int64_t chunk, TokenStats* stats,
            const Teacher* teacher = nullptr);

// The ranges of keys that queries see in a layer, for tokens that stand after `past` cached ones in
// a single document, or for whole documents.
AttentionSpans MakeSpans(const ModelInput& input, int64_t window, bool blocks, bool hf_rule);

// Calls visit(Param&) for every parameter, in catalog order: frozen norms too, matrices only once
// trainable.
template <class Visit>
void ForEachParam(Transformer& model, Visit&& visit);
template <class Visit>
void ForEachParam(Layer& layer, Visit&& visit);
// Calls visit(Linear&) for every Linear, in catalog order.
template <class Visit>
void ForEachLinear(Transformer& model, Visit&& visit);
template <class Visit>
void ForEachLinear(Layer& layer, Visit&& visit);

// Trainable parameters in catalog order.
std::vector<Param*> TrainableParams(Transformer& model);
void ZeroGrads(const std::vector<Param*>& params);

// Full fine-tuning: every parameter that Transformers trains (all but layer scalars) becomes
// trainable.
void MakeAllTrainable(Transformer& model);

}  // namespace lapidary

#include "model/transformer-inl.h"

#endif  // LAPIDARY_MODEL_TRANSFORMER_H_
