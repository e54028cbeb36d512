// The visitors of transformer.h.
#ifndef LAPIDARY_MODEL_TRANSFORMER_INL_H_
#define LAPIDARY_MODEL_TRANSFORMER_INL_H_

#include "model/transformer.h"

namespace lapidary {

template <class Visit>
void ForEachParam(Layer& layer, Visit&& visit) {
  visit(layer.input_layernorm);
  for (Linear* l : {&layer.q_proj, &layer.k_proj, &layer.v_proj, &layer.o_proj}) {
    if (l->w.rows() > 0) ForEachParam(*l, visit);
  }
  visit(layer.q_norm);
  visit(layer.k_norm);
  visit(layer.post_attention_layernorm);
  visit(layer.pre_feedforward_layernorm);
  for (Linear* l : {&layer.gate_proj, &layer.up_proj, &layer.down_proj}) ForEachParam(*l, visit);
  visit(layer.post_feedforward_layernorm);
}

template <class Visit>
void ForEachParam(Transformer& model, Visit&& visit) {
  if (model.embed_tokens.param) visit(*model.embed_tokens.param);
  if (model.lm_head && model.lm_head->param) visit(*model.lm_head->param);
  visit(model.norm);
  for (Layer& layer : model.layers) ForEachParam(layer, visit);
  if (VisionEmbedder* v = model.vision.get()) {
    visit(v->patch_ln1_weight);
    visit(v->patch_ln1_bias);
    ForEachParam(v->patch_dense, visit);
    visit(v->patch_ln2_weight);
    visit(v->patch_ln2_bias);
    visit(v->pos_embedding);
    visit(v->pos_norm_weight);
    visit(v->pos_norm_bias);
    ForEachParam(v->projection, visit);
  }
  if (model.audio) ForEachParam(model.audio->projection, visit);
}

template <class Visit>
void ForEachLinear(Layer& layer, Visit&& visit) {
  for (Linear* l : {&layer.q_proj, &layer.k_proj, &layer.v_proj, &layer.o_proj, &layer.gate_proj,
                    &layer.up_proj, &layer.down_proj}) {
    if (l->w.rows() > 0) visit(*l);
  }
}

template <class Visit>
void ForEachLinear(Transformer& model, Visit&& visit) {
  for (Layer& layer : model.layers) ForEachLinear(layer, visit);
  if (model.vision) {
    visit(model.vision->patch_dense);
    visit(model.vision->projection);
  }
  if (model.audio) visit(model.audio->projection);
}

}  // namespace lapidary

#endif  // LAPIDARY_MODEL_TRANSFORMER_INL_H_
