#include "train/resume.h"

#include <algorithm>
#include <cstring>

#include "autograd/base/file.h"
#include "model/adapt.h"
#include "train/save_model.h"
#include "train/state_file.h"

namespace lapidary {
namespace {

using Json = nlohmann::ordered_json;

constexpr char kStateText[] = "trainer_state.json";
constexpr char kStateFile[] = "trainer_state.h5";
constexpr char kConfigFile[] = "training_config.json";
constexpr uint64_t kTextLimit = uint64_t{1} << 32;

Json TrainerStateJson(const TrainConfig& config, const RunState& state) {
  return {
      {"best_global_step", nullptr},
      {"best_metric", nullptr},
      {"best_model_checkpoint", nullptr},
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
      {"stateful_callbacks", Json::object()},
      {"total_flos", 0},
      {"train_batch_size", config.per_device_train_batch_size},
      {"trial_name", nullptr},
      {"trial_params", nullptr},
      {"lapidary_pending", state.pending},
  };
}

// Keys whose values do not change the run.
constexpr const char* kFree[] = {
    "dataset",        "output_dir",    "resume_from_checkpoint", "overwrite_output_dir",
    "save_dtype",     "loss_chunk",    "gradient_checkpointing", "per_device_eval_batch_size",
    "save_steps",     "logging_steps", "save_total_limit",       "eval_steps",
    "report_samples", "memory_limit",  "activation_offload",     "offload_dir",
    "report_to",      "logging_dir",
};
// Keys that change what comes out but leave the run meaningful.
constexpr const char* kWarned[] = {
    "model_name_or_path", "learning_rate",    "lr_scheduler_type", "lr_scheduler_kwargs",
    "warmup_steps",       "warmup_ratio",     "num_train_epochs",  "max_steps",
    "max_grad_norm",      "weight_decay",     "adam_beta1",        "adam_beta2",
    "adam_epsilon",       "activation_dtype",
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
                     const AdamW& optimizer, const TrainConfig& config, const RunState& state,
                     const QatRecord* qat) {
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
  StateFile file;
  for (const AdamWSlot& slot : optimizer.slots()) {
    const std::string& name = slot.param->name;
    StoreMoment(slot.exp_avg, name + ".exp_avg", &file);
    StoreMoment(slot.exp_avg_sq, name + ".exp_avg_sq", &file);
    file.integers[name + ".step"] = slot.step;
    if (!adapter) file.tensors[name + ".master"] = slot.param->value;
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

RunState ReadCheckpoint(const std::string& folder, AdamW& optimizer, Transformer* model,
                        const QatRecord* qat) {
  const std::string state_path = folder + "/" + kStateFile;
  const StateFile file = ReadStateFile(state_path);
  for (AdamWSlot& slot : optimizer.slots()) {
    const std::string& name = slot.param->name;
    RestoreMoment(file, state_path, name + ".exp_avg", &slot.exp_avg);
    RestoreMoment(file, state_path, name + ".exp_avg_sq", &slot.exp_avg_sq);
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
  } catch (const nlohmann::json::exception& error) {
    throw Error(StrCat(text_path, ": must be as this program wrote it; got ", error.what()));
  }
  LAPIDARY_CHECK(state.step >= 0 && state.log.is_array() && state.pending.is_object(), text_path,
                 ": must be as this program wrote it; got something else");
  return state;
}

std::vector<std::string> CheckResumable(const std::string& folder, const TrainConfig& config) {
  const Json then = ParseOwn(folder + "/" + kConfigFile);
  const Json now = TrainConfigJson(config), defaults = TrainConfigJson(TrainConfig());
  std::vector<std::string> warnings;
  for (const auto& [key, value] : now.items()) {
    if (Contains(kFree, key)) continue;
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
