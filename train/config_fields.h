// The keys of a training configuration, each once: name, field, rule, meaning. A visitor is called
// with (key, field, rule, meaning) and so reads, writes, documents and lists them.
#ifndef LAPIDARY_TRAIN_CONFIG_FIELDS_H_
#define LAPIDARY_TRAIN_CONFIG_FIELDS_H_

#include <limits>
#include <string>
#include <vector>

#include "train/config.h"

namespace lapidary {

struct IntRule {
  int64_t low;
  int64_t high = std::numeric_limits<int64_t>::max();
};
struct RealRule {
  double low;
  double high = std::numeric_limits<double>::infinity();
};
struct WordRule {
  std::vector<std::string> words;
};
struct WordsRule {  // one of them, or a list
  std::vector<std::string> words;
};
struct TextRule {
  bool required = false;
};
struct NoRule {};

template <class Config, class Visit>
void VisitTrainFields(Config& c, Visit&& visit) {
  visit("model_name_or_path", c.model_name_or_path, TextRule{true},
        "the base: a Hugging Face folder or a .gguf file");
  visit("base_format", c.base_format, TextRule{},
        "quantize a folder's base while loading: q4_0, q4_k_m, ...; null: as stored");
  visit("embedding_format", c.embedding_format, TextRule{},
        "the same for the embedding and the head: q6_k, bf16, ...; null: as base_format says");
  visit("dataset.train", c.train_files, TextRule{true},
        "files to train on: a path, an object {path, format, container, columns, prompt, repeat, "
        "weight, max_samples}, or a list of these");
  visit("dataset.eval", c.eval_files, TextRule{}, "held-out files, in the same forms");
  visit("dataset.eval_split", c.eval_split, RealRule{0, 0.999},
        "without dataset.eval: share of the records held out, drawn by the seed");
  visit("dataset.replay", c.replay_files, TextRule{},
        "general data mixed into training, against forgetting; in the same forms");
  visit("dataset.replay_ratio", c.replay_ratio, RealRule{0, 0.9},
        "their share of the records of an epoch, drawn anew in each");
  visit("dataset.allow_outside_paths", c.allow_outside_paths, NoRule{},
        "media may lie outside the folder of the file that names them");
  visit("output_dir", c.output_dir, TextRule{true}, "folder of checkpoints, metrics and report");
  visit("resume_from_checkpoint", c.resume_from_checkpoint, TextRule{},
        "\"latest\" (or true), or a checkpoint folder");
  visit("overwrite_output_dir", c.overwrite_output_dir, NoRule{},
        "remove an earlier run's files from output_dir first");
  visit("lora", c.lora, NoRule{}, "adapter as in PEFT; null: full fine-tuning");
  visit("qat", c.qat, NoRule{}, "quantization-aware training, an object; null: none");
  visit("distillation", c.distillation, NoRule{}, "train towards a teacher, an object; null: none");
  visit("loss", c.loss, NoRule{}, "preference training, an object; null: the data are the target");
  visit("save_dtype", c.save_dtype, WordRule{{"BF16", "F32"}},
        "type of model.safetensors in full fine-tuning");
  visit("learning_rate", c.learning_rate, RealRule{0, 10}, "peak; 0: 2e-4 with LoRA, 2e-5 without");
  visit("lr_scheduler_type", c.lr_scheduler_type, WordRule{ScheduleNames()}, "schedule");
  visit("lr_scheduler_kwargs", c.schedule, NoRule{}, "options of the schedule");
  visit("warmup_steps", c.warmup_steps, IntRule{0}, "optimizer steps of linear warm-up");
  visit("warmup_ratio", c.warmup_ratio, RealRule{0, 1},
        "the same as a share of all steps, if warmup_steps is 0");
  visit("num_train_epochs", c.num_train_epochs, RealRule{0, 1e6}, "passes over the data");
  visit("max_steps", c.max_steps, IntRule{-1}, "optimizer steps; above 0: instead of epochs");
  visit("per_device_train_batch_size", c.per_device_train_batch_size, IntRule{1, 1 << 20},
        "samples (packed: sequences) of a micro-batch");
  visit("per_device_eval_batch_size", c.per_device_eval_batch_size, IntRule{1, 1 << 20},
        "the same in evaluation");
  visit("gradient_accumulation_steps", c.gradient_accumulation_steps, IntRule{1, 1 << 20},
        "micro-batches of an optimizer step");
  visit("max_grad_norm", c.max_grad_norm, RealRule{0}, "clip gradients to this norm; 0: never");
  visit("weight_decay", c.weight_decay, RealRule{0, 1e3}, "decoupled; norms and biases have none");
  visit("adam_beta1", c.adam_beta1, RealRule{0, 1}, "AdamW and Lion");
  visit("adam_beta2", c.adam_beta2, RealRule{0, 1}, "AdamW and Lion (whose paper has 0.99)");
  visit("adam_epsilon", c.adam_epsilon, RealRule{0, 1}, "AdamW");
  visit("optim", c.optim, WordRule{OptimizerNames()},
        "optimizer, and how it keeps its moments: float32, bf16 or 8 bits a value");
  visit("optim_args", c.optim_args, NoRule{}, "what only this optimizer has, an object");
  visit("param_groups", c.param_groups, NoRule{},
        "[{pattern, learning_rate, weight_decay}]: parameters in whose name the regular expression "
        "is found");
  visit("loraplus_lr_ratio", c.loraplus_lr_ratio, RealRule{0, 1e4},
        "LoRA+: learning rate of lora_B over that of the rest; 0: the same");
  visit("freeze", c.freeze, TextRule{},
        "regular expressions: parameters in whose name one is found are not trained");
  visit("trainable_layers", c.trainable_layers, NoRule{},
        "full fine-tuning of these layers alone, the rest frozen as it is stored; []: everything");
  visit("block_coordinate", c.block_coordinate, NoRule{},
        "full fine-tuning of the layers, some at a time in turn, an object; null: all at once");
  visit("neftune_noise_alpha", c.neftune_noise_alpha, RealRule{0, 1e4},
        "uniform noise on the embeddings of tokens; 0: none");
  visit("ema_decay", c.ema_decay, RealRule{0, 0.9999999},
        "average of the parameters over steps, evaluated and saved in their place; 0: none");
  visit("seed", c.seed, IntRule{0}, "of the order of samples, adapters and dropout");
  visit("compute", c.compute, WordRule{{"bfloat16", "float32"}}, "type of the matrix products");
  visit("gradient_checkpointing", c.gradient_checkpointing, NoRule{},
        "recompute layers in the backward pass: less memory, same bits");
  visit("memory_limit", c.memory_limit, TextRule{},
        "most resident memory, \"9GB\" or \"8GiB\"; \"\": what the machine has");
  visit("activation_offload", c.activation_offload, WordRule{{"auto", "memory", "disk"}},
        "where layers' inputs wait for the backward pass; same bits");
  visit("activation_dtype", c.activation_dtype, WordRule{{"bf16", "int8"}},
        "how: bf16 loses nothing, int8 does");
  visit("offload_dir", c.offload_dir, TextRule{}, "folder of what is on disk; \"\": output_dir");
  visit("loss_chunk", c.loss_chunk, IntRule{64, 1 << 20},
        "tokens at a time in the loss, a multiple of 64; same bits");
  visit("image_mask", c.image_mask, WordRule{{"sliding_only", "hf_forward"}},
        "where soft tokens of an image see each other");
  visit("max_length", c.max_length, IntRule{1, 1 << 24}, "tokens of a sample (packed: a sequence)");
  visit("on_too_long", c.on_too_long, WordRule{{"error", "drop", "truncate", "cut", "split"}},
        "a longer sample: cut at a token, at a turn, or split into several");
  visit("train_on", c.train_on, WordRule{{"assistant", "last", "all"}},
        "what is trained: the model's turns, its last one, or all text");
  visit("thoughts", c.thoughts, WordRule{{"template", "keep", "drop", "empty"}},
        "thoughts: those the template shows, all, none, or empty ones in their place");
  visit("preference", c.preference, WordRule{{"error", "chosen"}},
        "what to do with preference pairs: refuse them, or train the chosen answer");
  visit("on_error", c.on_error, WordRule{{"stop", "skip"}}, "what to do with a broken record");
  visit("packing", c.packing, NoRule{}, "several samples in a sequence, blind to each other");
  visit("group_by_length", c.group_by_length, NoRule{}, "without packing: batches of like lengths");
  visit("pack_window", c.pack_window, IntRule{1, 4096},
        "samples from which packing and group_by_length choose");
  visit("dataloader_num_workers", c.dataloader_num_workers, IntRule{1, 256},
        "threads that read and decode records ahead of the steps");
  visit("shuffle", c.shuffle, NoRule{}, "a new order in every epoch, a function of the seed");
  visit("add_eos", c.add_eos, NoRule{}, "raw text and completions end with a trained <eos>");
  visit("empty_thought", c.empty_thought, WordRule{{"insert", "omit"}},
        "an untrained empty thought before answers, as at inference");
  visit("enable_thinking", c.enable_thinking, NoRule{}, "prompts ask for thoughts");
  visit("image_seq_length", c.image_seq_length, IntRule{0, 1120},
        "soft tokens an image may take: 70, 140, 280, 560 or 1120; 0: the checkpoint's");
  visit(
      "image_resize", c.image_resize, WordRule{{"hf", "llama.cpp"}},
      "pictures as Hugging Face resizes them (up to the budget), or as llama.cpp will serve them");
  visit("video_frames", c.video_frames, IntRule{0, 4096}, "frames of a clip; 0: the checkpoint's");
  visit("video_seq_length", c.video_seq_length, IntRule{0, 1120},
        "soft tokens a frame may take; 0: the checkpoint's");
  visit("video_fps", c.video_fps, RealRule{0, 1000},
        "frames of a clip a second, instead of video_frames; 0: by number");
  visit("video_max_frames", c.video_max_frames, IntRule{1, 1 << 16}, "by rate: frames of a clip");
  visit("on_long_video", c.on_long_video, WordRule{{"error", "thin", "segments"}},
        "a clip with more: refuse, take fewer, or stretches of frames with their sound");
  visit("video_sound", c.video_sound, NoRule{}, "the soundtrack of a clip behind its frames");
  visit("audio_limit", c.audio_limit, WordRule{{"allow", "pieces", "truncate", "error"}},
        "sounds above 30 s: as they are, cut at silence, cut off, or refused");
  visit("augment.flip", c.augment.flip, RealRule{0, 1}, "probability of mirroring a picture");
  visit("augment.crop", c.augment.crop, RealRule{0, 0.9}, "share of its sides that may go");
  visit("augment.color", c.augment.color, RealRule{0, 1}, "change of brightness, contrast, color");
  visit("augment.speed", c.augment.speed, RealRule{0, 0.5}, "change of the speed of sounds");
  visit("augment.gain", c.augment.gain, RealRule{0, 40}, "change of their loudness in dB");
  visit("augment.noise", c.augment.noise, RealRule{0, 1}, "noise, as a share of their level");
  visit("logging_steps", c.logging_steps, IntRule{1}, "steps between lines of metrics.jsonl");
  visit("save_steps", c.save_steps, IntRule{0}, "steps between checkpoints; 0: only the last");
  visit("save_total_limit", c.save_total_limit, IntRule{0}, "checkpoints kept; 0: all");
  visit("eval_steps", c.eval_steps, IntRule{0},
        "steps between evaluations; 0: before and after only");
  visit("report_samples", c.report_samples, IntRule{0, 1000}, "generated answers in report.html");
  visit("report_to", c.report_to, WordsRule{{"none", "tensorboard", "all"}},
        "\"tensorboard\": event files beside metrics.jsonl; a word or a list");
  visit("logging_dir", c.logging_dir, TextRule{},
        "folder of event files; \"\": output_dir/runs/DATE_HOST");
  visit("load_best_model_at_end", c.load_best_model_at_end, NoRule{},
        "the result is the checkpoint with the best evaluation, which is kept");
  visit("metric_for_best_model", c.metric_for_best_model, TextRule{},
        "of an evaluation's line in metrics.jsonl, with or without eval_");
  visit("greater_is_better", c.greater_is_better, NoRule{},
        "null: not of a name that ends with loss or perplexity, else yes");
  visit("early_stopping_patience", c.early_stopping_patience, IntRule{0},
        "evaluations in a row without a better metric that end the run; 0: never");
  visit("early_stopping_threshold", c.early_stopping_threshold, RealRule{0},
        "by how much a metric must be better");
  visit("max_time", c.max_time, RealRule{0}, "minutes after which the run ends; 0: any");
  visit("max_tokens", c.max_tokens, IntRule{0}, "tokens after which the run ends; 0: any");
  visit("overfit_one_batch", c.overfit_one_batch, IntRule{0, 10000},
        "steps on the first batch alone before the run, which must learn it; 0: none");
  visit("loss_spike_factor", c.loss_spike_factor, RealRule{0, 1e6},
        "stop at a loss of so many times the recent mean, naming the records; 0: never");
}

// Keys of a source of records in "dataset".
template <class Config, class Visit>
void VisitSourceFields(Config& c, Visit&& visit) {
  visit("path", c.path, TextRule{true}, "file, folder, or pattern with * and ?");
  visit("container", c.container, TextRule{}, "auto, jsonl, json, csv, tsv, tar, folder, arrow");
  visit("format", c.format, TextRule{}, "auto, or the name of a record format");
  visit("columns", c.columns, NoRule{}, "{name that the format knows: name in the file}");
  visit("prompt", c.prompt, TextRule{}, "what {audio, text} and {image, text} pairs are asked");
  visit("repeat", c.repeat, RealRule{0, 1e6}, "times in an epoch; a part is drawn anew each epoch");
  visit("weight", c.weight, RealRule{0, 1e6}, "share of the epoch, if all sources have one");
  visit("max_samples", c.max_samples, IntRule{0}, "the first records only; 0: all");
}

// Keys of "lora", as in PEFT.
template <class Config, class Visit>
void VisitLoraFields(Config& c, Visit&& visit) {
  visit("r", c.r, IntRule{1, 1 << 20}, "rank");
  visit("lora_alpha", c.lora_alpha, RealRule{0, 1e6}, "scale: alpha / r");
  visit("lora_dropout", c.lora_dropout, RealRule{0, 0.999}, "on the adapter's input");
  visit("use_rslora", c.use_rslora, NoRule{}, "scale: alpha / sqrt(r)");
  visit("use_dora", c.use_dora, NoRule{}, "weight-decomposed adapter");
  visit("target_modules", c.target_modules, NoRule{},
        "\"all-linear\", \"text-linear\", a regular expression, or a list of names");
  visit("exclude_modules", c.exclude_modules, NoRule{}, "the same form: modules left alone");
  visit("modules_to_save", c.modules_to_save, TextRule{}, "modules trained as a whole");
  visit("layers_to_transform", c.layers_to_transform, NoRule{}, "only these layers");
  visit("rank_pattern", c.rank_pattern, NoRule{}, "module or regular expression -> r");
  visit("alpha_pattern", c.alpha_pattern, NoRule{}, "module or regular expression -> alpha");
}

// Keys of "qat".
template <class Config, class Visit>
void VisitQatFields(Config& c, Visit&& visit) {
  visit("format", c.format, TextRule{},
        "grid that is trained on: q4_0, int4_g32, mxfp4, q4_k, int8_channel, ...");
  visit("target_modules", c.target_modules, NoRule{},
        "\"text-linear\", \"all-linear\", a regular expression, or a list of names");
  visit("exclude_modules", c.exclude_modules, NoRule{}, "the same form: modules left as they are");
  visit("format_pattern", c.format_pattern, NoRule{},
        "module or regular expression -> grid, or \"none\"");
  visit("embedding_format", c.embedding_format, TextRule{},
        "grid of the embedding and the head; \"\": not quantized");
  visit("scales", c.scales, WordRule{{"follow", "base", "learned"}},
        "follow the weights, taken from the base once and kept, or learned");
  visit("scale_refresh_steps", c.scale_refresh_steps, IntRule{1},
        "steps between measuring the scales; for grids that are slow to measure");
  visit("start_step", c.start_step, IntRule{0}, "steps before it train without fake quantization");
  visit("activations", c.activations, WordRule{{"none", "int8"}},
        "inputs of quantized modules: int8 with a scale per token");
  visit("kv_cache", c.kv_cache, WordRule{{"none", "int8"}}, "keys and values: int8, blocks of 32");
}

// Keys of "distillation".
template <class Config, class Visit>
void VisitDistillFields(Config& c, Visit&& visit) {
  visit("teacher", c.teacher, TextRule{},
        "\"base\": the base without fake quantization; or a file of distill-cache");
  visit("mix", c.mix, RealRule{0, 1},
        "share of the teacher's term in the loss, the rest is the data's");
  visit("temperature", c.temperature, RealRule{0.01, 100}, "of teacher and student; 1 with a file");
}

// Keys of "block_coordinate".
template <class Config, class Visit>
void VisitBlockFields(Config& c, Visit&& visit) {
  visit("layers_per_block", c.layers_per_block, IntRule{1, 1 << 20},
        "layers that are trained at the same time; what memory is taken for");
  visit("switch_every", c.switch_every, IntRule{1}, "optimizer steps before the next block");
  visit("order", c.order, WordRule{{"random", "ascending", "descending"}},
        "of the blocks in a cycle; random: drawn anew in each");
}

// Keys of "loss", as in TRL.
template <class Config, class Visit>
void VisitPreferenceFields(Config& c, Visit&& visit) {
  visit("type", c.type, WordRule{{"dpo", "orpo", "kto", "simpo"}}, "the method");
  visit("beta", c.beta, RealRule{0, 1e6}, "how far the policy may go from the reference");
  visit("loss_type", c.loss_type, WordRule{PreferenceLossTypes()},
        "dpo: sigmoid, sigmoid_norm, hinge, ipo, robust, nca_pair, apo_zero, apo_down, sppo_hard; "
        "kto: kto, apo_zero_unpaired; auto: the first");
  visit("label_smoothing", c.label_smoothing, RealRule{0, 0.499},
        "probability that a pair is the wrong way round (sigmoid, robust, simpo)");
  visit("simpo_gamma", c.simpo_gamma, RealRule{0, 1e6}, "simpo: margin of the rewards");
  visit("cpo_alpha", c.cpo_alpha, RealRule{0, 1e6}, "simpo: weight of the chosen answers' loss");
  visit("desirable_weight", c.desirable_weight, RealRule{0, 1e6}, "kto: of chosen answers");
  visit("undesirable_weight", c.undesirable_weight, RealRule{0, 1e6}, "kto: of rejected answers");
}

// Keys of "optim_args".
template <class Config, class Visit>
void VisitOptimArgs(Config& c, Visit&& visit) {
  visit("momentum", c.momentum);
  visit("nesterov", c.nesterov);
  visit("clip_threshold", c.clip_threshold);
  visit("decay_rate", c.decay_rate);
  visit("beta1", c.beta1);
  visit("scale_parameter", c.scale_parameter);
  visit("adjust_lr_fn", c.adjust_lr_fn);
  visit("ns_steps", c.ns_steps);
}

// Keys of an entry of "param_groups".
template <class Config, class Visit>
void VisitParamGroupFields(Config& c, Visit&& visit) {
  visit("pattern", c.pattern, TextRule{true}, "regular expression, searched in parameters' names");
  visit("learning_rate", c.learning_rate);
  visit("weight_decay", c.weight_decay);
}

// Keys of "lr_scheduler_kwargs".
template <class Config, class Visit>
void VisitScheduleFields(Config& c, Visit&& visit) {
  visit("num_cycles", c.num_cycles);
  visit("power", c.power);
  visit("lr_end", c.lr_end);
  visit("min_lr", c.min_lr);
  visit("min_lr_rate", c.min_lr_rate);
  visit("min_lr_ratio", c.min_lr_ratio);
  visit("timescale", c.timescale);
  visit("num_decay_steps", c.num_decay_steps);
  visit("num_stable_steps", c.num_stable_steps);
  visit("decay_type", c.decay_type);
  visit("warmup_type", c.warmup_type);
}

}  // namespace lapidary

#endif  // LAPIDARY_TRAIN_CONFIG_FIELDS_H_
