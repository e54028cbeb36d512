// The configuration of a training run: JSON with comments, names as in Transformers, TRL and PEFT.
// Every key is known, typed and checked before anything is loaded; what a run used, defaults
// included, is stored with it. config_fields.h has the list of keys.
#ifndef LAPIDARY_TRAIN_CONFIG_H_
#define LAPIDARY_TRAIN_CONFIG_H_

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "data/augment.h"
#include "data/dataset.h"
#include "model/qat.h"
#include "quant/adapter.h"
#include "train/block_schedule.h"
#include "train/distill.h"
#include "train/optim/optimizers.h"
#include "train/preference_loss.h"
#include "train/schedule.h"

namespace lapidary {

// Parameters with a learning rate or decay of their own (`param_groups`).
struct ParamGroup {
  std::string pattern;  // a regular expression, searched in the parameter's name
  std::optional<double> learning_rate, weight_decay;  // absent: the run's

  bool operator==(const ParamGroup&) const = default;
};

struct TrainConfig {
  // What is trained on what, and where the result goes. Relative paths: to the working directory.
  std::string model_name_or_path;
  std::vector<SourceSpec> train_files;  // dataset.train
  std::vector<SourceSpec> eval_files;   // dataset.eval
  double eval_split = 0;                // dataset.eval_split: share of train held out, without eval
  bool allow_outside_paths = false;     // dataset.allow_outside_paths
  std::vector<SourceSpec> replay_files;  // dataset.replay: general data mixed in
  double replay_ratio = 0.1;             // dataset.replay_ratio: its share of an epoch
  std::string output_dir;
  std::string resume_from_checkpoint;  // "": no; "latest"; or a checkpoint folder
  bool overwrite_output_dir = false;

  // How a Hugging Face base is kept in memory (model/quantize_base.h); "": as stored.
  std::string base_format, embedding_format;

  // LoRA; absent: full fine-tuning.
  std::optional<AdapterConfig> lora;
  // Quantization-aware training (model/qat.h); absent: none.
  std::optional<QatConfig> qat;
  // Towards a teacher (train/distill.h); absent: the data alone.
  std::optional<DistillConfig> distillation;
  // Preference training (train/preference_loss.h); absent: the data are what the model should say.
  std::optional<PreferenceConfig> loss;
  // Full fine-tuning: the type of the tensors in the checkpoint's model.safetensors.
  std::string save_dtype = "BF16";

  // Optimization.
  double learning_rate = 0;  // 0 in the file: 2e-4 with LoRA, 2e-5 without
  std::string lr_scheduler_type = "linear";
  ScheduleOptions schedule;  // lr_scheduler_kwargs; type, peak and lengths are filled in by the run
  int64_t warmup_steps = 0;
  double warmup_ratio = 0;  // of all steps; used if warmup_steps is 0
  double num_train_epochs = 1;
  int64_t max_steps = -1;  // > 0: instead of num_train_epochs
  int64_t per_device_train_batch_size = 1;
  int64_t per_device_eval_batch_size = 1;
  int64_t gradient_accumulation_steps = 1;
  double max_grad_norm = 1.0;  // 0: no clipping
  double weight_decay = 0;
  double adam_beta1 = 0.9;
  double adam_beta2 = 0.999;
  double adam_epsilon = 1e-8;
  std::string optim = "adamw_torch";  // a row of train/optim/optimizers.h
  OptimArgs optim_args;
  std::vector<ParamGroup> param_groups;   // the first whose pattern is found in a name
  double loraplus_lr_ratio = 0;           // learning rate of lora_B over the others'; 0: 1
  std::vector<std::string> freeze;        // regular expressions: parameters that rest
  std::vector<int64_t> trainable_layers;  // full fine-tuning of these layers alone; empty: all
  // Full fine-tuning of the layers block by block; absent: of everything at once.
  std::optional<BlockCoordinateConfig> block_coordinate;
  double neftune_noise_alpha = 0;  // noise on embeddings of tokens
  double ema_decay = 0;            // averaged parameters are what is evaluated and saved
  int64_t seed = 42;

  // Computation.
  std::string compute = "bfloat16";
  bool gradient_checkpointing = true;
  std::string memory_limit;                 // "9GB"; "": what the machine has available
  std::string activation_offload = "auto";  // "memory", "disk": where inputs of layers wait
  std::string activation_dtype = "bf16";    // "int8": lossy
  std::string offload_dir;                  // "": output_dir
  int64_t loss_chunk = 128;
  std::string image_mask = "sliding_only";  // or "hf_forward"

  // Data.
  int64_t max_length = 2048;
  std::string on_too_long = "error";   // "drop", "truncate", "cut", "split"
  std::string train_on = "assistant";  // "last", "all"
  std::string thoughts = "template";   // "keep", "drop", "empty"
  std::string preference = "error";    // "chosen"
  std::string on_error = "stop";       // "skip"
  bool packing = false;
  bool group_by_length = false;
  int64_t pack_window = 16;
  int64_t dataloader_num_workers = 1;
  bool shuffle = true;
  bool add_eos = true;
  std::string empty_thought = "insert";  // "omit"
  bool enable_thinking = false;
  int64_t image_seq_length =
      0;  // soft tokens an image: 70, 140, 280, 560, 1120; 0: the checkpoint's
  std::string image_resize = "hf";  // "llama.cpp": as its servers resize pictures
  int64_t video_frames = 0;         // at most; 0: the checkpoint's
  int64_t video_seq_length = 0;     // soft tokens a frame; 0: the checkpoint's
  double video_fps = 0;             // frames a second; 0: video_frames
  int64_t video_max_frames = 60;
  std::string on_long_video = "error";  // "thin", "segments"
  bool video_sound = false;
  std::string audio_limit = "allow";  // "pieces", "truncate", "error"
  AugmentOptions augment;             // augment.flip, ...; its seed is `seed`

  // Reports.
  int64_t logging_steps = 1;
  int64_t save_steps = 0;                         // 0: only at the end
  int64_t save_total_limit = 2;                   // 0: all
  int64_t eval_steps = 0;                         // 0: before and after training only
  int64_t report_samples = 3;                     // generated answers in report.html; 0: none
  std::vector<std::string> report_to = {"none"};  // "tensorboard" or "all": event files
  std::string logging_dir;                        // of event files; "": output_dir/runs/DATE_HOST

  // When a run ends, and with what.
  bool load_best_model_at_end = false;         // the result is the best evaluated checkpoint
  std::string metric_for_best_model = "loss";  // of an evaluation's line, without "eval_"
  std::optional<bool> greater_is_better;       // absent: false for names that end with "loss"
  int64_t early_stopping_patience = 0;         // evaluations without a better metric; 0: never
  double early_stopping_threshold = 0;         // by how much better counts
  double max_time = 0;                         // minutes of this process; 0: any
  int64_t max_tokens = 0;                      // seen by the run; 0: any
  int64_t overfit_one_batch = 0;  // steps on the first batch before the run; 0: no such check
  double loss_spike_factor = 0;   // stop at a loss of so many times the recent mean; 0: never

  bool GreaterIsBetter() const;
};

// Reads `path`, applies `overrides` ("key=value" or "lora.r=8"; the value is JSON, or else a
// string) and checks everything. Throws Error `path: rule; got; try` naming the key.
TrainConfig LoadTrainConfig(const std::string& path, const std::vector<std::string>& overrides);
// The same from text; `where` stands for the path in messages.
TrainConfig ParseTrainConfig(const std::string& text, const std::string& where,
                             const std::vector<std::string>& overrides);

// Every key with its value, in the order of the documentation; parsing it gives the same config.
std::string TrainConfigText(const TrainConfig& config);
nlohmann::ordered_json TrainConfigJson(const TrainConfig& config);

// One line a key: name, default and meaning, for --help and the README.
std::string TrainConfigHelp();

// The known name nearest to `name` by edit distance, or "" if none is near.
std::string NearestName(const std::string& name, const std::vector<std::string>& known);

}  // namespace lapidary

#endif  // LAPIDARY_TRAIN_CONFIG_H_
