#include "train/resume.h"

#include <algorithm>
#include <cstring>

#include "autograd/base/file.h"
#include "model/adapt.h"
#include "model/qat.h"
#include "train/save_model.h"
#include "train/state_file.h"

namespace lapidary {
namespace {

using Json = nlohmann::ordered_json;

constexpr char kStateText[] = "trainer_state.json";
constexpr char kStateFile[] = "trainer_state.h5";
constexpr char kConfigFile[] = "training_config.json";
constexpr uint64_t kTextLimit = uint64_t{1} << 32;

// As EarlyStoppingCallback writes itself.
Json Callbacks(const TrainConfig& config, const RunState& state) {
  if (config.early_stopping_patience == 0) return Json::object();
  return {{"EarlyStoppingCallback",
           {{"args",
             {{"early_stopping_patience", config.early_stopping_patience},
              {"early_stopping_threshold", config.early_stopping_threshold}}},
            {"attributes", {{"early_stopping_patience_counter", state.evaluations_since_best}}}}}};
}

Json TrainerStateJson(const TrainConfig& config, const RunState& state) {
  const bool best = state.best_metric && state.best_step >= 0;
  Json json = {
      {"best_global_step", best ? Json(state.best_step) : Json()},
      {"best_metric", best ? Json(*state.best_metric) : Json()},
      {"best_model_checkpoint",
       best && config.load_best_model_at_end
           ? Json(StrCat(config.output_dir, "/checkpoint-", state.best_step))
           : Json()},
      {"epoch", state.epoch},
      {"eval_steps", config.eval_steps},
      {"global_step", state.step},
      {"is_hyper_param_search", false},
      {"is_local_process_zero", true},
      {"is_world_process_zero", true},
      {"log_history", state.log},
      {"logging_steps", config.logging_steps},
      {"max_steps", state.max_steps},
      {"num_input_tokens_seen", state.tokens_seen},
      {"num_train_epochs", config.num_train_epochs},
      {"save_steps", config.save_steps},
      {"stateful_callbacks", Callbacks(config, state)},
      {"total_flos", 0},
      {"train_batch_size", config.per_device_train_batch_size},
      {"trial_name", nullptr},
      {"trial_params", nullptr},
      {"lapidary_pending", state.pending},
      {"lapidary_evaluations_since_best", state.evaluations_since_best},
      {"lapidary_recent_loss", state.recent_loss},
  };
  if (state.block >= 0) json["lapidary_block"] = state.block;
  return json;
}

// Keys whose values do not change the run.
constexpr const char* kFree[] = {
    "dataset",
    "output_dir",
    "resume_from_checkpoint",
    "overwrite_output_dir",
    "save_dtype",
    "loss_chunk",
    "gradient_checkpointing",
    "per_device_eval_batch_size",
    "save_steps",
    "logging_steps",
    "save_total_limit",
    "eval_steps",
    "report_samples",
    "memory_limit",
    "activation_offload",
    "offload_dir",
    "load_best_model_at_end",
    "metric_for_best_model",
    "greater_is_better",
    "early_stopping_patience",
    "early_stopping_threshold",
    "max_time",
    "max_tokens",
    "overfit_one_batch",
    "loss_spike_factor",
    "report_to",
    "logging_dir",
};
// Keys that change what comes out but leave the run meaningful.
constexpr const char* kWarned[] = {
    "model_name_or_path", "learning_rate",       "lr_scheduler_type", "lr_scheduler_kwargs",
    "warmup_steps",       "warmup_ratio",        "num_train_epochs",  "max_steps",
    "max_grad_norm",      "weight_decay",        "adam_beta1",        "adam_beta2",
    "adam_epsilon",       "activation_dtype",    "optim_args",        "param_groups",
    "loraplus_lr_ratio",  "neftune_noise_alpha",
};

template <size_t N>
bool Contains(const char* const (&list)[N], const std::string& key) {
  return std::any_of(list, list + N, [&](const char* item) { return key == item; });
}

Json ParseOwn(const std::string& path) {
  Json json = Json::parse(ReadFile(path, kTextLimit), nullptr, false);
  LAPIDARY_CHECK(json.is_object(), path, ": must be a JSON object; got something else");
  return json;
}

void Restore(const StateFile& file, const std::string& path, const std::string& name,
             Tensor* into) {
  const auto it = file.tensors.find(name);
  LAPIDARY_CHECK(it != file.tensors.end(), path, ": must hold '", name,
                 "'; got nothing; try the lora settings and model of the run");
  LAPIDARY_CHECK(it->second.shape() == into->shape(), path, ": '", name, "' must be ",
                 into->shape(), "; got ", it->second.shape());
  LAPIDARY_CHECK(it->second.dtype() == into->dtype(), path, ": '", name, "' must be ",
                 DTypeName(into->dtype()), "; got ", DTypeName(it->second.dtype()),
                 "; try the optim of the run");
  std::memcpy(into->data<uint8_t>(), it->second.data<uint8_t>(),
              static_cast<size_t>(into->byte_size()));
}

void StoreMoment(const MomentState& moment, const std::string& name, StateFile* file) {
  file->tensors[name] = moment.values;
  if (moment.scales.defined()) file->tensors[name + ".absmax"] = moment.scales;
}

void RestoreMoment(const StateFile& file, const std::string& path, const std::string& name,
                   MomentState* moment) {
  Restore(file, path, name, &moment->values);
  if (moment->scales.defined()) Restore(file, path, name + ".absmax", &moment->scales);
}

}  // namespace

void WriteCheckpoint(const std::string& folder, Transformer& model, const AdapterConfig* adapter,
                     const Optimizer& optimizer, const TrainConfig& config, const RunState& state,
                     const QatRecord* qat, Ema* ema) {
  {
    const EmaInPlace averaged(ema);
    if (adapter) {
      SaveAdapter(model, *adapter, folder, "F32");
    } else {
      SaveModelFolder(model, folder, config.save_dtype, config.model_name_or_path,
                      qat && qat->projected);
    }
    if (qat) {
      WriteQatRecord(folder, *qat);
      WriteQatScales(folder, model, *qat);
    }
  }
  StateFile file;
  for (const OptimizerSlot& slot : optimizer.slots()) {
    const std::string& name = slot.param->name;
    for (const OptimizerState& kept : slot.states) {
      StoreMoment(kept.moment, name + "." + kept.name, &file);
    }
    file.integers[name + ".step"] = slot.step;
    // Of an adapter the folder's own file has the values, but not those of learned scales.
    if (!adapter || ema || name.ends_with(kLearnedSuffix))
      file.tensors[name + ".master"] = slot.param->value;
  }
  for (size_t i = 0; ema && i < ema->params().size(); ++i) {
    file.tensors[ema->params()[i]->name + ".ema"] = ema->values()[i];
  }
  if (qat) {
    ForEachSavedScales(
        model, *qat, [&](const std::string& name, Tensor& scales) { file.tensors[name] = scales; });
  }
  file.texts["cursor"] = state.cursor.dump();
  WriteStateFile(folder + "/" + kStateFile, file);
  WriteFile(folder + "/" + kConfigFile, TrainConfigText(config));
  WriteFile(folder + "/" + kStateText, TrainerStateJson(config, state).dump(1) + "\n");
}

RunState ReadCheckpoint(const std::string& folder, Optimizer& optimizer, Ema* ema,
                        Transformer* model, const QatRecord* qat) {
  const std::string state_path = folder + "/" + kStateFile;
  const StateFile file = ReadStateFile(state_path);
  for (OptimizerSlot& slot : optimizer.slots()) {
    const std::string& name = slot.param->name;
    for (OptimizerState& kept : slot.states) {
      RestoreMoment(file, state_path, name + "." + kept.name, &kept.moment);
    }
    const auto steps = file.integers.find(name + ".step");
    LAPIDARY_CHECK(steps != file.integers.end() && steps->second >= 0, state_path, ": must hold '",
                   name, ".step'; got nothing");
    slot.step = steps->second;
    if (file.tensors.contains(name + ".master")) {
      Restore(file, state_path, name + ".master", &slot.param->value);
    }
  }
  LAPIDARY_CHECK(file.integers.size() == optimizer.slots().size(), state_path, ": must be of ",
                 optimizer.slots().size(), " parameters; got ", file.integers.size(),
                 "; try the lora settings of the run");
  for (size_t i = 0; ema && i < ema->params().size(); ++i) {
    Restore(file, state_path, ema->params()[i]->name + ".ema", &ema->values()[i]);
  }
  RunState state;
  if (qat) {
    int64_t wanted = 0, found = 0;
    ForEachSavedScales(*model, *qat, [&](const std::string& name, Tensor& scales) {
      ++wanted;
      if (!file.tensors.contains(name)) return;
      ++found;
      Restore(file, state_path, name, &scales);
    });
    state.scales = wanted > 0 && found == wanted;
  }
  const auto cursor = file.texts.find("cursor");
  LAPIDARY_CHECK(cursor != file.texts.end(), state_path, ": must hold 'cursor'; got nothing");
  state.cursor = Json::parse(cursor->second, nullptr, false);
  const std::string text_path = folder + "/" + kStateText;
  const Json json = ParseOwn(text_path);
  try {
    state.step = json.at("global_step").get<int64_t>();
    state.epoch = json.at("epoch").get<double>();
    state.max_steps = json.at("max_steps").get<int64_t>();
    state.tokens_seen = json.at("num_input_tokens_seen").get<int64_t>();
    state.log = json.at("log_history");
    state.pending = json.at("lapidary_pending");
    state.evaluations_since_best = json.value("lapidary_evaluations_since_best", int64_t{0});
    state.recent_loss = json.value("lapidary_recent_loss", 0.0);
    if (json.contains("best_metric") && json.at("best_metric").is_number()) {
      state.best_metric = json.at("best_metric").get<double>();
      state.best_step = json.at("best_global_step").get<int64_t>();
    }
  } catch (const nlohmann::json::exception& error) {
    throw Error(StrCat(text_path, ": must be as this program wrote it; got ", error.what()));
  }
  LAPIDARY_CHECK(state.step >= 0 && state.log.is_array() && state.pending.is_object(), text_path,
                 ": must be as this program wrote it; got something else");
  return state;
}

int64_t CheckpointBlock(const std::string& folder) {
  const Json json = ParseOwn(folder + "/" + kStateText);
  const auto it = json.find("lapidary_block");
  return it != json.end() && it->is_number_integer() ? it->get<int64_t>() : -1;
}

std::vector<std::string> CheckResumable(const std::string& folder, const TrainConfig& config) {
  const Json then = ParseOwn(folder + "/" + kConfigFile);
  const Json now = TrainConfigJson(config), defaults = TrainConfigJson(TrainConfig());
  std::vector<std::string> warnings;
  for (const auto& [key, value] : now.items()) {
    // Blocks that were left are rounded to it.
    const bool rounds = key == "save_dtype" && config.block_coordinate;
    if (Contains(kFree, key) && !rounds) continue;
    const Json before = then.contains(key) ? then.at(key) : defaults.at(key);
    if (before == value) continue;
    const std::string text = StrCat(folder, ": '", key, "' must be as in the run, ", before.dump(),
                                    "; got ", value.dump());
    LAPIDARY_CHECK(Contains(kWarned, key), text, "; try that value, or a new output_dir");
    warnings.push_back(StrCat(folder, ": '", key, "' was ", before.dump(), ", now ", value.dump(),
                              ": the result is not that of the run as it was begun"));
  }
  return warnings;
}

}  // namespace lapidary
