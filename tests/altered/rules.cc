#include "tests/altered/rules.h"

namespace lapidary::altered {
namespace {

// A checkpoint and what a forward pass of it is compared with.
const std::vector<std::string> kForward = {"model/$1/model/.*", "model/$1/forward.safetensors",
                                           "model/$1/summary.json"};

std::vector<std::string> Also(std::vector<std::string> files, const std::string& more) {
  files.push_back(more);
  return files;
}

std::vector<Rule> ModelRules() {
  const std::string m = "model/([^/]+)/", lora = "model/([^/]+)/(lora[^/]*)/";
  const std::vector<std::string> adapter = Also(kForward, "model/$1/$2/.*");
  return {
      {m + "model/config.json", "model_golden_test", "*", kForward, {"json:**sliding_window"}},
      {m + "model/.*safetensors",
       "model_golden_test",
       "*",
       kForward,
       {"tensor:layernorm|proj|norm.weight"}},
      {m + "model/.*index.json", "model_golden_test", "*", kForward, {"swap:/weight_map"}},
      {m + "forward.safetensors",
       "model_golden_test",
       "*",
       kForward,
       {"tensor:batch0.hidden.0", "tensor:batch0.hidden.2", "tensor:batch0.logits$",
        "tensor:batch1.logits$", "tensor:batch0.logits_bare_rule", "tensor:batch0.pixel_values",
        "tensor:batch0.input_features$"}},
      {m + "summary.json", "model_golden_test", "*", kForward, {"json:/forward/0/loss"}},
      {m + "summary.json",
       "model_golden_test",
       "*",
       Also(kForward, "model/$1/gradients.safetensors"),
       {"json:/gradients/loss"}},
      {m + "gradients.safetensors",
       "model_golden_test",
       "*",
       kForward,
       {"tensor:embed_tokens", "tensor:layers.1..*proj", "tensor:layer_scalar|layernorm"}},
      {m + "long.safetensors",
       "model_golden_test",
       "*",
       kForward,
       {"tensor:^logits_last_32", "tensor:^loss", "tensor:^grad"}},
      {m + "padding.safetensors",
       "model_golden_test",
       "*",
       kForward,
       {"tensor:^left.logits", "tensor:^right.logits", "tensor:^left.loss", "tensor:^right.loss",
        "tensor:^left.grad"}},
      {m + "packed.safetensors",
       "model_golden_test",
       "*",
       kForward,
       {"tensor:^logits", "tensor:^loss", "tensor:^grad", "tensor:^document_loss_sums",
        "tensor:^document_targets", "tensor:^batch.document_starts"}},
      {m + "generate.json",
       "model_golden_test",
       "*",
       kForward,
       {"json:/0/greedy/5", "json:/1/greedy/3", "json:/0/greedy_bare_rule/5"}},
      {m + "schedules.json",
       "train_optimizer_test",
       "Schedule.*",
       {},
       {"json:/linear/lr_used_at_step/20", "json:/cosine/lr_used_at_step/30", "json:/*/peak_lr"}},
      {lora + "start/adapter_config.json",
       "model_golden_test",
       "*",
       adapter,
       {"json:/lora_alpha", "json:/r"}},
      {lora + "start/adapter_model.safetensors",
       "model_golden_test",
       "*",
       adapter,
       {"tensor:lora_A", "tensor:lora_B", "tensor:magnitude", "tensor:modules_to_save|embed"}},
      {lora + "start-logits.safetensors", "model_golden_test", "*", adapter, {"tensor:logits"}},
      {lora + "gradients.safetensors",
       "model_golden_test",
       "*",
       adapter,
       {"tensor:lora_A", "tensor:lora_B", "tensor:magnitude"}},
      {lora + "trajectory.json", "model_golden_test", "*", adapter, {"json:/first_gradient_loss"}},
      {lora + "trajectory.json",
       "train_trajectory_golden_test",
       "*",
       adapter,
       {"json:/steps/0/loss", "json:/steps/2/loss", "json:/steps/1/grad_norm",
        "json:/final_losses/1"}},
      {lora + "end/adapter_config.json",
       "train_export_test",
       "ExportGolden.MergedWeightsEqualPeft",
       adapter,
       {"json:/lora_alpha", "json:/r"}},
      {lora + "end/adapter_model.safetensors",
       "train_trajectory_golden_test",
       "*",
       adapter,
       {"tensor:lora_A", "tensor:lora_B", "tensor:magnitude"}},
      {lora + "merged-last-layer.safetensors",
       "train_export_test",
       "ExportGolden.MergedWeightsEqualPeft",
       adapter,
       {"tensor:."}},
      {m + "full/trajectory.json",
       "train_trajectory_golden_test",
       "*",
       Also(kForward, "model/$1/full/.*"),
       {"json:/steps/0/loss", "json:/steps/2/grad_norm", "json:/final_losses/1"}},
      {m + "full/end-some-weights.safetensors",
       "train_trajectory_golden_test",
       "*",
       Also(kForward, "model/$1/full/.*"),
       {"tensor:."}},
  };
}

std::vector<Rule> TextRules() {
  const std::vector<std::string> big = {"tokenizer/cases.json", "tokenizer/gemma4-.*"};
  const std::vector<std::string> small = {"tokenizer/small-.*"};
  const std::vector<std::string> chat = {"template/.*", "tokenizer/small-.*"};
  const std::vector<std::string> encodings = {
      "json:/tokenizer_file_sha256",
      "json:/encode/[ids,name=ascii]/ids/0",
      "json:/encode/5/ids/0",
      "json:/encode/5/decoded",
      "json:/encode/5/decoded_skip_special",
      "json:/encode/[ids_sha256]/ids_sha256",
      "json:/encode/[ids_sha256]/n_ids",
      "json:/encode/[ids_sha256]/ids_head/0",
      "json:/encode/[ids_sha256]/ids_tail/0",
      "json:/encode/[decoded_sha256]/decoded_sha256",
      "json:/decode/3/decoded",
      "json:/decode/3/decoded_skip_special",
  };
  return {
      // Loading the 262,144 entries takes most of the time: fewer alterations.
      {"tokenizer/cases.json",
       "tokenizer_golden_test",
       "*",
       big,
       {"json:/encode/5/ids/0", "json:/encode/[ids_sha256]/ids_sha256", "json:/decode/3/decoded"}},
      {"tokenizer/gemma4-tokenizer.json.xz",
       "tokenizer_golden_test",
       "*",
       big,
       {"xz:\"special\": true->\"special\": false", "xz:\"special\":true->\"special\":false"}},
      {"tokenizer/small-cases.json", "tokenizer_golden_test", "*", small, encodings},
      {"tokenizer/small-tokenizer.json",
       "tokenizer_golden_test",
       "*",
       small,
       {"text:\"special\": true->\"special\": false"}},
      {"template/cases.json",
       "chat_template_golden_test",
       "*",
       chat,
       {"json:/template_sha256", "json:/cases/2/rendered", "json:/cases/2/spans/0/1",
        "json:/cases/2/spans/1/3", "json:/cases/2/small/ids/3", "json:/cases/2/small/mask"}},
      {"template/cases.json",
       "chat_template_golden_test",
       "*",
       {"template/.*", "tokenizer/gemma4-.*"},
       {"json:/cases/2/gemma4/ids/3"}},
      {"template/.*jinja", "chat_template_golden_test", "*", chat, {"bytes:0.5"}},
  };
}

std::vector<Rule> MediaRules() {
  const std::vector<std::string> images = {"media/images.*"}, audio = {"media/audio.*"},
                                 video = {"media/video.*"};
  const std::vector<std::string> prompts = {"media/.*", "tokenizer/small-tokenizer.json"};
  return {
      {"media/images.json",
       "image_golden_test",
       "ImageGolden.DecodedPixelsAreEqual",
       images,
       {"json:/images/0/bytes", "json:/images/3/variants/path/sha256",
        "json:/images/3/variants/pil/sha256", "json:/images/3/variants/path/h",
        "json:/images/3/variants/pil/w", "json:/images/3/variants/pil/same_as_path"}},
      {"media/images.json",
       "image_golden_test",
       "ImageGolden.ResizedPixelsAndRowsAreEqual",
       images,
       {"json:/images/*/cases/0/h", "json:/images/*/cases/0/n",
        "json:/images/*/cases/0/resized_sha256", "json:/images/*/cases/0/pixel_values_sha256",
        "json:/images/*/cases/0/position_ids_sha256"}},
      {"media/images.json",
       "image_golden_test",
       "ImageGolden.TargetSizesAreEqual:ImageGolden.ResizeVectorsAreEqual",
       images,
       {"json:/sizes/7/4", "json:/resize_rows/2/out/1", "json:/resize_rows/2/weights/1/0",
        "json:/resize_rows/2/shift", "json:/resize_rows/2/start/1",
        "json:/resize_grids/0/out/1/1"}},
      {"media/images.safetensors",
       "image_golden_test",
       "ImageGolden.DecodedPixelsAreEqual",
       images,
       {"tensor:^decoded/"}},
      {"media/images.safetensors",
       "image_golden_test",
       "ImageGolden.ResizedPixelsAndRowsAreEqual",
       images,
       {"tensor:^tokens/", "tensor:^resized/"}},
      {"media/images/.*",
       "image_golden_test",
       "ImageGolden.DecodedPixelsAreEqual",
       images,
       {"bytes:0.6"}},
      {"media/audio.json",
       "audio_golden_test",
       "*",
       audio,
       {"json:/clips/0/samples_16k", "json:/clips/0/n_tokens", "json:/clips/0/waveform_sha256",
        "json:/clips/0/features_sha256", "json:/clips/0/peak", "json:/batch/mask_sums/1",
        "json:/batch/features_sha256", "json:/batch/max_length_3/features_sha256",
        "json:/batch/max_length_3/mask_sums/1"}},
      {"media/audio.safetensors",
       "audio_golden_test",
       "*",
       audio,
       {"tensor:stereo16", "tensor:speech8", "tensor:mp3"}},
      {"media/audio/.*", "audio_golden_test", "*", audio, {"bytes:0.6"}},
      {"media/video.json",
       "video_golden_test",
       "*",
       video,
       {"json:/videos/0/bytes", "json:/videos/0/cases/0/fps", "json:/videos/0/cases/0/total_frames",
        "json:/videos/0/cases/0/indices/1", "json:/videos/0/cases/0/timestamps/3",
        "json:/videos/0/cases/0/h", "json:/videos/0/cases/0/height",
        "json:/videos/0/cases/0/n_per_frame", "json:/videos/0/cases/0/decoded_sha256",
        "json:/videos/0/cases/0/pixel_values_sha256", "json:/videos/0/cases/0/position_ids_sha256",
        "json:/indices/5/2/0"}},
      {"media/video.safetensors", "video_golden_test", "*", video, {"tensor:^tokens/"}},
      {"media/video/.*frames.png", "video_golden_test", "*", video, {"png:"}},
      {"media/video/.*(mp4|webm|gif)", "video_golden_test", "*", video, {"bytes:0.3"}},
      {"media/llama_resize.json",
       "llama_resize_test",
       "LlamaResize.SizesAndPixelsAreEqual",
       {},
       {"json:/cases/0/target/0", "json:/cases/0/tokens", "json:/cases/0/fnv1a",
        "json:/cases/0/first/3"}},
      {"media/processor.json",
       "processor_golden_test",
       "*",
       prompts,
       {"json:/cases/0/input_ids/0/3", "json:/cases/[pixel_values]/mm_token_type_ids/0/8",
        "json:/cases/[pixel_values]/pixel_values/sha256",
        "json:/cases/[image_position_ids]/image_position_ids/sha256",
        "json:/cases/[pixel_values_videos]/pixel_values_videos/sha256",
        "json:/cases/[input_features]/input_features/sha256"}},
  };
}

std::vector<Rule> EvalRules() {
  const std::string tests = "train_evaluation_test";
  return {
      {"eval/ifeval.json", tests, "IfevalGolden.*", {}, {"json:/cases/0/verdicts/0/1/1"}},
      {"eval/scorers.json",
       tests,
       "ScorerGolden.*",
       {},
       {"json:/cases/0/scores/rouge1", "json:/cases/0/scores/squad_f1", "json:/corpus/wer",
        "json:/corpus/bleu", "json:/corpus/chrf", "json:/math/0/math_equal"}},
      {"eval/perplexity.json",
       tests,
       "PerplexityGolden.*",
       {"gguf/hf/.*"},
       {"json:/cases/0/perplexity", "json:/cases/0/windows"}},
  };
}

std::vector<Rule> ImatrixRules() {
  const std::vector<std::string> all = {"imatrix/.*", "gguf/(hf|lora)/.*"};
  return {
      {"imatrix/blocks.safetensors",
       "quant_imatrix_test",
       "ImatrixGolden.BlocksAreGgmls",
       {},
       {"tensor:."}},
      {"imatrix/llama.gguf", "train_imatrix_test", "Imatrix.*", all, {"bytes:0.9"}},
      {"imatrix/text.txt",
       "train_imatrix_test",
       "Imatrix.MeasuresAsLlamaImatrix",
       all,
       {"bytes:0.2"}},
      {"imatrix/quantized.json",
       "train_imatrix_test",
       "Imatrix.ExportsAreLlamaQuantizes",
       all,
       {"json:/mixes/q2_k/blk.0.attn_q.weight", "json:/mixes/q3_k_l/blk.0.attn_output.weight",
        "json:/keys/quantize.imatrix.chunks_count"}},
  };
}

std::vector<Rule> TrainingRules() {
  return {
      {"training/optimizers.json", "train_optimizer_test", "Optimizers.*", {}, {"json:/0/end/0/2"}},
      {"training/preference.json",
       "train_preference_test",
       "PreferenceLoss.IsTrls",
       {},
       {"json:/cases/0/loss", "json:/cases/0/chosen_reward", "json:/cases/0/d_chosen/1"}},
      {"training/tiny.json",
       "train_preference_test",
       "PreferenceStep.IsTrls*",
       {"model/tiny/model/.*", "model/tiny/lora/start/.*"},
       {"json:/cases/0/loss", "json:/cases/0/chosen_reward", "json:/cases/1/grad_norm",
        "json:/cases/0/gradient_norms/3", "json:/unpaired/kl", "json:/unpaired/cases/1/loss",
        "json:/unpaired/cases/0/rejected_reward", "json:/unpaired/cases/2/gradient_norms/3"}},
  };
}

std::vector<Rule> QuantRules() {
  const std::vector<std::string> gguf = {"gguf/(?!media|official).*"};
  const std::vector<std::string> hf = {"gguf/hf/.*", "gguf/lora/.*", "gguf/tokens.json",
                                       "gguf/logits.safetensors"};
  const std::vector<std::string> prompt = {"gguf/hf/.*", "gguf/media/.*"};
  const std::string inventories = "ExportGolden.GgufEqualsTheInventories";
  const std::string adapters = "GgufGolden.AdaptersOfTheConverter";
  const std::string logits = "Evaluate.GoldenLogits";
  return {
      {"quant/.*safetensors",
       "quant_format_golden_test",
       "*",
       {},
       {"tensor:input$", "tensor:bytes$", "tensor:dequant$"}},
      {"gguf/inventory/(text|mmproj)-.*json",
       "train_export_test",
       inventories,
       gguf,
       {"json:/keys/general.architecture/value", "json:/tensors/*/sha256", "json:/tensors/*/ne/0",
        "json:/tensors/*/type"}},
      {"gguf/inventory/lora-.*json",
       "train_gguf_golden_test",
       adapters,
       {"gguf/lora/.*"},
       {"json:/keys/adapter.lora.alpha/value", "json:/tensors/*/sha256", "json:/tensors/*/ne/0"}},
      {"gguf/official/lora-.*gguf",
       "train_gguf_golden_test",
       adapters,
       {"gguf/lora/.*"},
       {"bytes:0.5"}},
      {"gguf/official/(.*)[.]gguf",
       "train_gguf_golden_test",
       "GgufGolden.OfficialFilesAreRead",
       {"gguf/inventory/$1[.]json"},
       {"bytes:0.5", "bytes:0.9"}},
      {"gguf/lora/adapter_model.safetensors",
       "train_gguf_golden_test",
       adapters,
       {"gguf/(lora|inventory|official)/.*"},
       {"tensor:lora_A", "tensor:lora_B"}},
      {"gguf/lora/adapter_config.json", "train_evaluate_test", logits, hf, {"json:/lora_alpha"}},
      {"gguf/logits.safetensors",
       "train_evaluate_test",
       logits,
       hf,
       {"tensor:^logits$", "tensor:^logits_lora$"}},
      {"gguf/tokens.json", "train_evaluate_test", logits, hf, {"json:/5"}},
      {"gguf/media/expected.safetensors",
       "train_gguf_golden_test",
       "GgufGolden.PromptWithMedia",
       prompt,
       {"tensor:^ids", "tensor:^types", "tensor:^embeddings", "tensor:^logits$",
        "tensor:^logits_bare_forward"}},
      {"gguf/media/(image.png|sound.wav)",
       "train_gguf_golden_test",
       "GgufGolden.PromptWithMedia",
       prompt,
       {"bytes:0.6"}},
      {"gguf/media/prompt.json",
       "train_gguf_golden_test",
       "GgufGolden.PromptWithMedia",
       prompt,
       {"text:class->glass"}},
      {"gguf/conversations.json",
       "conversation_golden_test",
       "*",
       {"gguf/hf/.*"},
       {"json:/0/turns/1/answer/3", "json:/1/turns/2/prompt/60", "json:/2/turns/0/text",
        "json:/2/turns/1/messages/3/content"}},
      {"gguf/hf/model.safetensors", "train_export_test", inventories, gguf, {"tensor:proj"}},
      {"gguf/hf/config.json", "train_export_test", inventories, gguf, {"json:**sliding_window"}},
      {"gguf/hf/tokenizer.json", "train_export_test", inventories, gguf, {"text:\"the\"->\"teh\""}},
      {"gguf/hf/tokenizer_config.json",
       "train_export_test",
       inventories,
       gguf,
       {"json:/bos_token"}},
      {"gguf/hf/chat_template.jinja", "train_export_test", inventories, gguf, {"bytes:0.5"}},
      {"gguf/hf/generation_config.json",
       "train_export_test",
       inventories,
       gguf,
       {"json:/top_k", "json:/suppress_tokens/0"}},
      {"gguf/hf/processor_config.json",
       "train_gguf_golden_test",
       "GgufGolden.PromptWithMedia",
       prompt,
       {"json:**patch_size"}},
  };
}

}  // namespace

const std::vector<Rule>& Rules() {
  static const std::vector<Rule> rules = [] {
    std::vector<Rule> all;
    for (const auto& part : {ModelRules(), TextRules(), MediaRules(), EvalRules(), ImatrixRules(),
                             TrainingRules(), QuantRules()}) {
      all.insert(all.end(), part.begin(), part.end());
    }
    return all;
  }();
  return rules;
}

const std::vector<Exception>& Exceptions() {
  static const std::vector<Exception> exceptions = {
      {"README.md", "text for a human"},
      {"model/[^/]+/model/generation_config.json",
       "an input of nothing: generate.json holds the settings that its tokens were made with"},
  };
  return exceptions;
}

}  // namespace lapidary::altered
