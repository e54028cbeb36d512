#include "train/config_check.h"

#include <algorithm>
#include <regex>

#include "autograd/base/error.h"
#include "data/prepared.h"
#include "model/quantize_base.h"
#include "quant/fake_quant.h"
#include "train/plan.h"
#include "train/session.h"
#include "train/trainable.h"

namespace lapidary {
namespace {

// What fake quantization asks of the rest of the configuration.
void CheckQat(const TrainConfig& c, const Origin& origin) {
  if (!c.qat) return;
  if (c.lora) {
    LAPIDARY_CHECK(c.lora->lora_dropout == 0, origin.Of("lora.lora_dropout"),
                   ": 'lora.lora_dropout' must be 0 with qat, for the adapter is in the quantized "
                   "weight; got ",
                   c.lora->lora_dropout);
    LAPIDARY_CHECK(!c.lora->use_dora, origin.Of("lora.use_dora"),
                   ": 'lora.use_dora' must be false with qat; got true");
    return;
  }
  if (c.save_dtype != "BF16") return;
  std::vector<std::string> names = {c.qat->format, c.qat->embedding_format};
  for (const auto& [pattern, grid] : c.qat->format_pattern) names.push_back(grid);
  for (const std::string& name : names) {
    const Grid* grid = FindGrid(name);
    LAPIDARY_CHECK(
        !grid || (grid->exact_in_bf16() && c.qat->scales == "follow"), origin.Of("save_dtype"),
        ": 'save_dtype' must be F32 in full fine-tuning on a grid that bf16 values do not "
        "keep, or with scales that are kept; got BF16 with ",
        name, "; try save_dtype=F32");
  }
}

std::regex Pattern(const std::string& text, const std::string& where) {
  try {
    return std::regex(text);
  } catch (const std::regex_error& error) {
    throw Error(StrCat(where, ": must be a regular expression; got '", text, "', ", error.what()));
  }
}

void CheckOptimization(const TrainConfig& c, const Origin& origin) {
  try {
    CheckOptimizer(OptimizerOptionsOf(c));
  } catch (const Error& error) {
    throw Error(StrCat(origin.Of("optim_args"), ": ", error.what()));
  }
  for (const ParamGroup& group : c.param_groups) {
    Pattern(group.pattern, StrCat(origin.Of("param_groups"), ": 'param_groups.pattern'"));
    LAPIDARY_CHECK(group.learning_rate.value_or(0) >= 0 && group.weight_decay.value_or(0) >= 0,
                   origin.Of("param_groups"),
                   ": learning_rate and weight_decay of a group must be >= 0; got less");
  }
  for (const std::string& pattern : c.freeze) {
    Pattern(pattern, StrCat(origin.Of("freeze"), ": 'freeze'"));
  }
  LAPIDARY_CHECK(c.ema_decay == 0 || !c.qat, origin.Of("ema_decay"),
                 ": 'ema_decay' must be 0 with qat, whose grid follows the weights; got ",
                 c.ema_decay);
  LAPIDARY_CHECK(c.loraplus_lr_ratio == 0 || c.lora, origin.Of("loraplus_lr_ratio"),
                 ": 'loraplus_lr_ratio' must go with lora; got ", c.loraplus_lr_ratio,
                 " without; try param_groups");
  LAPIDARY_CHECK(c.trainable_layers.empty() || !c.lora, origin.Of("trainable_layers"),
                 ": 'trainable_layers' must go without lora; got both; try "
                 "lora.layers_to_transform");
}

void CheckBlocks(const TrainConfig& c, const Origin& origin) {
  if (!c.block_coordinate) return;
  const auto need = [&](bool good, const char* rule, const char* hint) {
    LAPIDARY_CHECK(good, origin.Of("block_coordinate"), ": 'block_coordinate' must go ", rule,
                   "; got both; try ", hint);
  };
  need(!c.lora, "without lora", "lora=null");
  need(c.trainable_layers.empty(), "without trainable_layers", "one of the two");
  need(!c.qat, "without qat, whose grids are those of the whole model", "qat=null");
  need(c.ema_decay == 0, "without ema_decay, which keeps all parameters", "ema_decay=0");
}

void CheckLoss(const TrainConfig& c, const Origin& origin) {
  if (!c.loss) return;
  const auto need = [&](bool good, const char* key, const char* rule) {
    LAPIDARY_CHECK(good, origin.Of(key), ": '", key, "' must be ", rule, " with loss.type \"",
                   c.loss->type, "\"; got something else");
  };
  need(!c.packing, "packing", "false");
  need(!c.group_by_length, "group_by_length", "false");
  need(c.on_too_long != "split", "on_too_long", "other than split");
  need(!c.distillation, "distillation", "null");
  need(c.neftune_noise_alpha == 0, "neftune_noise_alpha", "0");
  need(c.loss->type != "kto" || c.loss->LossType() != "kto" || c.per_device_train_batch_size >= 2,
       "per_device_train_batch_size",
       "at least 2 records, for the KL is measured on mixed answers,");
}

void CheckEnd(const TrainConfig& c, const Origin& origin) {
  const bool evaluates = !c.eval_files.empty() || c.eval_split > 0;
  LAPIDARY_CHECK(!c.load_best_model_at_end || (evaluates && c.eval_steps > 0),
                 origin.Of("load_best_model_at_end"),
                 ": 'load_best_model_at_end' must go with held-out data and eval_steps; got none; "
                 "try eval_steps and dataset.eval");
  LAPIDARY_CHECK(c.early_stopping_patience == 0 || (evaluates && c.eval_steps > 0),
                 origin.Of("early_stopping_patience"),
                 ": 'early_stopping_patience' must go with held-out data and eval_steps; got none; "
                 "try eval_steps and dataset.eval");
  LAPIDARY_CHECK(c.loss_spike_factor == 0 || c.loss_spike_factor > 1,
                 origin.Of("loss_spike_factor"),
                 ": 'loss_spike_factor' must be above 1 (0: off); got ", c.loss_spike_factor);
  LAPIDARY_CHECK(c.replay_files.empty() || (c.replay_ratio > 0 && !TrainsOnPrepared(c)),
                 origin.Of("dataset.replay"),
                 ": 'dataset.replay' must go with a replay_ratio above 0 and data that are not "
                 "prepared; got something else; try replay_ratio 0.1");
}

}  // namespace

void CheckTrainConfig(TrainConfig& c, const Origin& origin) {
  const auto need = [&](const char* key, bool present, const char* hint) {
    LAPIDARY_CHECK(present, origin.Of(key), ": '", key, "' must be given; got none; try ", hint);
  };
  const auto set = [](const std::vector<SourceSpec>& files) {
    return !files.empty() &&
           std::none_of(files.begin(), files.end(), [](const auto& f) { return f.path.empty(); });
  };
  need("model_name_or_path", !c.model_name_or_path.empty(), "the folder of a checkpoint");
  need("dataset.train", set(c.train_files), "\"dataset\": {\"train\": \"my.jsonl\"}");
  need("output_dir", !c.output_dir.empty(), "a new folder");
  CheckBaseFormat({c.base_format, c.embedding_format}, origin.Of("base_format"));
  LAPIDARY_CHECK(
      c.lora || (c.base_format.empty() && c.embedding_format.empty()), origin.Of("base_format"),
      ": 'base_format' must be null in full fine-tuning, which trains the matrices; got '",
      c.base_format, "', embedding_format '", c.embedding_format, "'; try lora");
  CheckQat(c, origin);
  CheckOptimization(c, origin);
  CheckBlocks(c, origin);
  CheckLoss(c, origin);
  CheckEnd(c, origin);
  if (c.learning_rate == 0) c.learning_rate = c.lora ? 2e-4 : 2e-5;
  LAPIDARY_CHECK(c.adam_beta1 < 1, origin.Of("adam_beta1"), ": 'adam_beta1' must be below 1; got ",
                 c.adam_beta1);
  LAPIDARY_CHECK(c.adam_beta2 < 1, origin.Of("adam_beta2"), ": 'adam_beta2' must be below 1; got ",
                 c.adam_beta2);
  LAPIDARY_CHECK(c.adam_epsilon > 0, origin.Of("adam_epsilon"),
                 ": 'adam_epsilon' must be above 0; got ", c.adam_epsilon);
  LAPIDARY_CHECK(c.loss_chunk % 64 == 0, origin.Of("loss_chunk"),
                 ": 'loss_chunk' must be a multiple of 64; got ", c.loss_chunk);
  LAPIDARY_CHECK(c.max_steps != 0, origin.Of("max_steps"),
                 ": 'max_steps' must be above 0, or -1 for none; got 0");
  LAPIDARY_CHECK(c.max_steps > 0 || c.num_train_epochs > 0, origin.Of("num_train_epochs"),
                 ": 'num_train_epochs' must be above 0; got ", c.num_train_epochs);
  const std::vector<int64_t> budgets = {0, 70, 140, 280, 560, 1120};
  for (const auto& [key, value] :
       {std::pair<const char*, int64_t>{"image_seq_length", c.image_seq_length},
        {"video_seq_length", c.video_seq_length}}) {
    LAPIDARY_CHECK(std::find(budgets.begin(), budgets.end(), value) != budgets.end(),
                   origin.Of(key), ": '", key,
                   "' must be 70, 140, 280, 560 or 1120 (0: the checkpoint's); got ", value);
  }
  if (!c.memory_limit.empty()) {
    ParseBytes(c.memory_limit, StrCat(origin.Of("memory_limit"), ": 'memory_limit'"));
  }
  LAPIDARY_CHECK(c.gradient_checkpointing || c.activation_offload == "auto",
                 origin.Of("activation_offload"),
                 ": 'activation_offload' must be \"auto\" without gradient_checkpointing; got \"",
                 c.activation_offload, "\"");
  ScheduleOptions schedule = c.schedule;
  schedule.type = c.lr_scheduler_type;
  schedule.learning_rate = c.learning_rate;
  try {
    CheckSchedule(schedule);
  } catch (const Error& error) {
    throw Error(StrCat(origin.Of("lr_scheduler_kwargs"), ": ", error.what()));
  }
}

std::string Origin::Of(const std::string& key) const {
  for (const std::string& k : overridden) {
    if (key == k || key.rfind(k + ".", 0) == 0) return "--set";
  }
  return file;
}

bool TrainConfig::GreaterIsBetter() const {
  if (greater_is_better) return *greater_is_better;
  const std::string& name = metric_for_best_model;
  return !name.ends_with("loss") && !name.ends_with("perplexity");
}

}  // namespace lapidary
