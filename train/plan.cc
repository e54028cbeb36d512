#include "train/plan.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <future>
#include <nlohmann/json.hpp>
#include <optional>

#include "autograd/arena.h"
#include "autograd/base/file.h"
#include "autograd/base/memory_info.h"
#include "autograd/base/parallel.h"
#include "data/media_config.h"
#include "model/adapt.h"
#include "model/generate.h"
#include "model/load.h"
#include "train/ema.h"
#include "train/pair_source.h"
#include "train/progress.h"
#include "train/session.h"
#include "train/step.h"
#include "train/trainable.h"

namespace lapidary {
namespace {

using Json = nlohmann::ordered_json;

// Resident beside what is counted: code and libraries with their own memory, and a tokenizer by its
// words. Measured (bench/plan_check.sh measures again).
constexpr int64_t kProgramBytes = int64_t{45} << 20;
constexpr int64_t kBytesPerWord = 900;
// Panels and partial sums of a matrix product, for each thread, beside the packed activations.
constexpr int64_t kPanelBytes = int64_t{2} << 20;
// What a token costs outside of tensors: ids, positions, spans, targets, in the sample, the batch
// and the step.
constexpr int64_t kBytesPerToken = 200;

int64_t FrozenBytes(const Weight& w) { return w.param ? 0 : w.rows() * w.view.row_bytes; }

// Whether a weight is part of a mapped file, not a copy of its own (in units, or quantized while
// loading). Asked by dropping its pages, of which there are none yet.
bool LiesInFile(const Weight& w) {
  return !w.param &&
         DropMappedPages(w.view.data, static_cast<uint64_t>(w.rows() * w.view.row_bytes));
}

// Bytes of the embedders' matrices that become resident only when there are pictures or sounds.
int64_t IdleBytes(Transformer& model, bool pictures, bool sounds) {
  int64_t bytes = 0;
  const auto add = [&](const Weight& w) { bytes += LiesInFile(w) ? FrozenBytes(w) : 0; };
  if (model.vision && !pictures) add(model.vision->patch_dense.w), add(model.vision->projection.w);
  if (model.audio && !sounds) add(model.audio->projection.w);
  return bytes;
}

// Bytes of the frozen matrices: of all, or of the layers, whose values take at least `width` bytes.
int64_t MappedBytes(Transformer& model, bool layers_only, int64_t width = 0) {
  int64_t bytes = 0;
  const auto add = [&](const Weight& w) { bytes += FrozenBytes(w); };
  if (!layers_only) {
    add(model.embed_tokens);
    if (model.lm_head) add(*model.lm_head);
    if (model.vision) add(model.vision->patch_dense.w), add(model.vision->projection.w);
    if (model.audio) add(model.audio->projection.w);
  }
  for (Layer& layer : model.layers) {
    for (const Linear* l : {&layer.q_proj, &layer.k_proj, &layer.v_proj, &layer.o_proj,
                            &layer.gate_proj, &layer.up_proj, &layer.down_proj}) {
      if (l->w.rows() == 0 || l->w.param) continue;
      bytes += std::max(FrozenBytes(l->w), l->w.rows() * l->w.cols() * width);
    }
  }
  return bytes;
}

// Parameters in a layer's matrices and norms.
int64_t CountLayer(Layer& layer) {
  int64_t count = 0;
  ForEachParam(layer, [&](const Param& p) { count += p.value.size(); });
  for (const Linear* l : {&layer.q_proj, &layer.k_proj, &layer.v_proj, &layer.o_proj,
                          &layer.gate_proj, &layer.up_proj, &layer.down_proj}) {
    if (!l->w.param) count += l->w.rows() * l->w.cols();
  }
  return count;
}

// Bytes of the layers' frozen matrices that are no part of a mapped file.
int64_t OwnedBytes(Transformer& model) {
  int64_t bytes = 0;
  for (Layer& layer : model.layers) {
    for (const Linear* l : {&layer.q_proj, &layer.k_proj, &layer.v_proj, &layer.o_proj,
                            &layer.gate_proj, &layer.up_proj, &layer.down_proj}) {
      if (l->w.rows() > 0 && !l->w.param && !LiesInFile(l->w)) bytes += FrozenBytes(l->w);
    }
  }
  return bytes;
}

// Rows of media at the first tokens, without values; none that the model has no embedder for.
void AddMedia(const Transformer& model, const MediaCount& media, ModelInput* input) {
  const int64_t patches = model.vision ? std::min(media.vision, input->size()) : 0;
  const int64_t frames = model.audio ? std::min(media.audio, input->size() - patches) : 0;
  if (patches > 0) input->patches = Tensor({patches, model.config.vision.patch_features()});
  if (frames > 0) input->audio_frames = Tensor({frames, model.config.audio.audio_embed_dim});
  input->patch_positions.assign(static_cast<size_t>(2 * patches), 0);
  for (int64_t i = 0; i < patches; ++i) input->patch_rows.push_back(i);
  for (int64_t i = 0; i < frames; ++i) input->audio_rows.push_back(patches + i);
}

// A micro-batch as long as any may be.
MicroBatch LongestBatch(int64_t tokens, int64_t documents) {
  MicroBatch batch;
  batch.input.ids.assign(static_cast<size_t>(tokens), 2);
  batch.targets.assign(static_cast<size_t>(tokens), 2);
  batch.weights.assign(static_cast<size_t>(tokens), 1.0f);
  for (int64_t d = 0; d < documents; ++d) {
    batch.input.document_starts.push_back(static_cast<int32_t>(tokens * d / documents));
  }
  return batch;
}

// Peaks under one policy.
struct Peak {
  int64_t arena = 0, scratch = 0;
  int64_t evaluation = 0;  // of the arena, with the samples built ahead for it
};

// The dry run: base, parameters and optimizer once, then a step for each policy asked for.
class Rehearsal {
 public:
  Rehearsal(const TrainConfig& config, MemoryPlan* plan) : config_(config), plan_(*plan) {
    loaded_ = LoadModel(config.model_name_or_path, {config.base_format, config.embedding_format});
    Transformer& model = loaded_.model;
    MemoryParts& parts = plan_.parts;
    parts.tables = Live();
    if (config.block_coordinate) {
      StartWithBlocks();
    } else if (config.lora) {
      AttachLora(model, *config.lora, 0);
    } else {
      MakeTrainable(model, config);
    }
    parts.base = base_bytes_ = MappedBytes(model, false, left_width_);
    layer_bytes_ = MappedBytes(model, true, left_width_);
    owned_ = OwnedBytes(model);
    streamable_ = layer_bytes_ > 0 && (owned_ == 0 || config.block_coordinate);
    layers_ = static_cast<int64_t>(model.layers.size());
    hidden_ = model.config.text.hidden_size;
    parts.program = kProgramBytes + model.config.text.vocab_size * kBytesPerWord;
    parts.adapter = Live() - parts.tables;
    std::vector<Param*> params = ChooseParams(model, config);
    if (config.qat) {
      AttachQat(model, ResolveQat(model, *config.qat));
      parts.scales = Live() - parts.tables - parts.adapter;
      for (Param* steps : LearnedSteps(model)) params.push_back(steps);
    }
    for (const Param* p : params) parts.gradients += p->value.byte_size();
    optimizer_ = MakeRunOptimizer(params, config);
    if (config.ema_decay > 0) ema_.emplace(params, config.ema_decay);
    if (more_ > 0) {  // states in the proportion of the lowest block
      const double states = static_cast<double>(Live() - parts.tables - parts.adapter);
      const double share = static_cast<double>(more_) / static_cast<double>(lowest_);
      spares_.push_back(Tensor({static_cast<int64_t>(states * share)}, DType::kI8));
      spares_.push_back(Tensor({more_}));  // gradients
      parts.gradients += 4 * more_;
    }
    // What an overfit_one_batch goes back to.
    if (config.overfit_one_batch > 0) start_.emplace(params, 0.5);
    parts.optimizer = Live() - parts.tables - parts.adapter - parts.scales - 4 * more_;
    const bool from_base = config.distillation && config.distillation->teacher == "base";
    const bool referred = config.loss && config.loss->HasReference();
    const bool same = config.lora && config.lora->modules_to_save.empty();
    if ((from_base || referred) && !same) {  // as a session does: the base once more
      const int64_t before = Live();
      teacher_base_ =
          LoadModel(config.model_name_or_path, {config.base_format, config.embedding_format});
      parts.tables += Live() - before;
      parts.teacher = MappedBytes(teacher_base_->model, false);
    }
    Transformer* frozen = teacher_base_ ? &teacher_base_->model : &model;
    if (from_base) {
      teacher_ = TeacherFromModel(*config.distillation, frozen);
      options_.teacher = teacher_.get();
    }
    if (config.loss) options_.preference = &*config.loss;
    if (referred) options_.reference = frozen;
    options_.loss_chunk = config.loss_chunk;
    options_.max_grad_norm = config.max_grad_norm;
    options_.forward.compute = ComputeOf(config.compute);
    options_.forward.image_mask = ImageMaskOf(config.image_mask);
    options_.forward.training = true;
    options_.forward.gradient_checkpointing = config.gradient_checkpointing;
    plan_.media = Survey();
    const LoaderMedia& train = plan_.media.train;
    const LoaderMedia& eval = plan_.media.eval;
    const bool known = plan_.media.counted;
    base_bytes_ -= IdleBytes(model, !known || train.batch.vision + eval.batch.vision > 0,
                             !known || train.batch.audio + eval.batch.audio > 0);
    parts.base = base_bytes_;
    parts.media = train.bytes(train.step);
    parts.data += train.ahead + train.bytes(train.batch) + train.decoding;
  }

  Peak Run(ActivationPolicy policy) {
    policy.file = std::make_shared<StashFile>("", 0);
    options_.forward.activations = &policy;
    ResetHighWater();
    DryRunSlot()->scratch_bytes = 0;
    Step();
    Peak peak;
    peak.arena = GetArenaStats().high_water_bytes;
    if (plan_.media.evaluates) {
      ResetHighWater();
      Evaluation(policy);
      const LoaderMedia& eval = plan_.media.eval;
      peak.evaluation =
          GetArenaStats().high_water_bytes + eval.ahead + eval.bytes(eval.batch) + eval.decoding;
    }
    peak.scratch = DryRunSlot()->scratch_bytes;
    return peak;
  }

  int64_t layers() const { return layers_; }
  int64_t hidden() const { return hidden_; }
  // Whether layers' weights are mapped as they are stored, or will be, as blocks that were left, so
  // that their pages can be dropped.
  bool streamable() const { return streamable_; }
  // What stays of the base if its layers are streamed: entering a layer drops both neighbours.
  int64_t streamed() const { return base_bytes_ - layer_bytes_ + owned_ + layer_bytes_ / layers_; }

 private:
  static int64_t Live() { return GetArenaStats().live_bytes; }

  MediaSurvey Survey() const {
    const auto survey = [this] {
      const MediaConfig media =
          loaded_.tokenizer ? ParseMediaConfig(loaded_.processor_json, loaded_.model.config.json,
                                               config_.model_name_or_path)
                            : LoadMediaConfig(config_.model_name_or_path);
      return SurveyMedia(config_, media);
    };
    // Not on this thread, whose runs are dry.
    return std::async(std::launch::async, survey).get();
  }

  // The step that takes most is one of the lowest block, above which all layers keep what their
  // gradients need, with as many parameters as the largest block has. Blocks that were left are
  // mapped in the type that they are saved in.
  void StartWithBlocks() {
    Transformer& model = loaded_.model;
    const BlockSchedule schedule(*config_.block_coordinate,
                                 static_cast<int64_t>(model.layers.size()), 0);
    left_width_ = config_.save_dtype == "F32" ? 4 : 2;
    int64_t largest = 0;
    for (int64_t block = 0; block < schedule.blocks(); ++block) {
      int64_t count = 0;
      for (const int64_t i : schedule.Layers(block)) {
        count += CountLayer(model.layers[static_cast<size_t>(i)]);
      }
      if (block == 0) lowest_ = count;
      largest = std::max(largest, count);
      plan_.blocks += left_width_ * count;
    }
    more_ = largest - lowest_;
    MakeTrainable(model, config_, schedule.Layers(0));
    if (more_ > 0) spares_.push_back(Tensor({more_}));  // values
  }

  // One micro-batch with the most media; the rows of the others of the step are there meanwhile.
  void Step() {
    const LoaderMedia& media = plan_.media.train;
    MicroBatch batch = LongestBatch(plan_.tokens, documents_);
    if (config_.loss && documents_ == config_.per_device_train_batch_size) {
      batch.labels.assign(static_cast<size_t>(documents_), true);
    }
    AddMedia(loaded_.model, media.batch, &batch.input);
    std::vector<Tensor> others;
    const int64_t rest = media.bytes(media.step) - media.bytes(media.batch);
    if (rest > 0) others.push_back(Tensor({rest}, DType::kI8));
    OptimizerStep(loaded_.model, *optimizer_, {std::move(batch)}, 0.0, options_);
  }

  // The longest micro-batch of held-out data, then a prompt as long as a sample may be.
  void Evaluation(const ActivationPolicy& policy) {
    ForwardOptions forward = options_.forward;
    forward.training = forward.gradient_checkpointing = false;
    if (const int64_t tokens = plan_.media.eval_tokens; tokens > 0) {
      MicroBatch batch = LongestBatch(tokens, std::min(tokens, config_.per_device_eval_batch_size));
      AddMedia(loaded_.model, plan_.media.eval.batch, &batch.input);
      Tape tape(Tape::Mode::kNoGrad);
      TokenStats stats;
      LossSum(loaded_.model, Forward(loaded_.model, tape, batch.input, forward), batch.targets,
              batch.weights, forward.compute, options_.loss_chunk, &stats);
    }
    if (config_.report_samples == 0) return;
    GenerateOptions generate;
    generate.compute = forward.compute;
    generate.image_mask = forward.image_mask;
    generate.activations = &policy;
    generate.prefill_chunk = policy.chunk;
    generate.max_new_tokens = 1;
    ModelInput prompt;
    prompt.ids.assign(static_cast<size_t>(config_.max_length + kAnswerTokens), 2);
    Generate(loaded_.model, prompt, generate, {});
  }

  const TrainConfig& config_;
  MemoryPlan& plan_;
  LoadedModel loaded_;
  std::optional<LoadedModel> teacher_base_;
  std::unique_ptr<DistillTeacher> teacher_;
  std::unique_ptr<Optimizer> optimizer_;
  std::optional<Ema> ema_, start_;
  StepOptions options_;
  const int64_t documents_ = plan_.tokens / config_.max_length;  // of a micro-batch
  int64_t lowest_ = 0, more_ = 0;  // parameters of the lowest block; by which another has more
  int64_t left_width_ = 0;         // bytes of a value in a block that was left
  std::vector<Tensor> spares_;
  bool streamable_ = false;
  int64_t layers_ = 0, hidden_ = 0, base_bytes_ = 0, layer_bytes_ = 0, owned_ = 0;
};

StashForm FormOf(const TrainConfig& config) {
  if (config.activation_dtype == "int8") return StashForm::kInt8;
  return ComputeOf(config.compute) == Compute::kBfloat16 ? StashForm::kBf16 : StashForm::kFloat32;
}

// The first `disk` layers' inputs on disk, the last `whole` layers kept whole, the `attention`
// before those without their feed-forward stage.
ActivationPolicy MakePolicy(const TrainConfig& config, int64_t layers, int64_t whole,
                            int64_t attention, int64_t disk, int64_t chunk) {
  ActivationPolicy policy;
  policy.int8 = config.activation_dtype == "int8";
  policy.chunk = chunk;
  policy.layers.assign(static_cast<size_t>(layers), {});
  for (int64_t i = 0; i < layers; ++i) {
    LayerPolicy& layer = policy.layers[static_cast<size_t>(i)];
    if (i >= layers - whole) {
      layer.keep = LayerKeep::kEverything;
    } else if (i >= layers - whole - attention) {
      layer.keep = LayerKeep::kAttention;
    } else {
      layer.on_disk = i < disk;
    }
  }
  return policy;
}

// How layers are computed, fastest first.
struct Cut {
  int64_t chunk = 512;
  bool split = false, stream = false;
};

// Fills the parts that a policy decides; true if the whole fits.
class Chooser {
 public:
  Chooser(const TrainConfig& config, Rehearsal* rehearsal, MemoryPlan* plan)
      : config_(config), rehearsal_(*rehearsal), plan_(*plan) {}

  bool Try(int64_t whole, int64_t attention, int64_t disk, const Cut& cut) {
    ActivationPolicy policy =
        MakePolicy(config_, rehearsal_.layers(), whole, attention, disk, cut.chunk);
    policy.split_attention = cut.split;
    policy.stream_base = cut.stream;
    const Peak peak = rehearsal_.Run(policy);
    MemoryPlan plan = plan_;
    MemoryParts& parts = plan.parts;
    if (cut.stream) parts.base = rehearsal_.streamed();
    const int64_t kept = rehearsal_.layers() - whole - attention;
    const int64_t input = StashBytes(FormOf(config_), plan.tokens, rehearsal_.hidden());
    const int64_t on_disk = std::min(disk, kept);
    plan.disk = on_disk * input;
    parts.layer_inputs = config_.gradient_checkpointing ? (kept - on_disk) * input : 0;
    const int64_t lasting = parts.tables + parts.adapter + parts.scales + parts.optimizer;
    parts.activations = std::max<int64_t>(
        peak.arena - lasting - parts.gradients - parts.layer_inputs - parts.media, 0);
    parts.workspace = peak.scratch + Threads() * kPanelBytes;
    // A checkpoint is written when no step runs: copies of the values, then the states, and where
    // the weights move or are averaged the values once more, as a file in memory.
    const bool values = !config_.lora || config_.ema_decay > 0;
    const int64_t saving =
        lasting + std::max(parts.adapter, parts.optimizer + (values ? parts.adapter : 0));
    plan.arena = std::max(peak.arena, saving);
    parts.evaluation = std::max<int64_t>(peak.evaluation - plan.arena, 0);
    plan.arena += parts.evaluation;
    parts.total =
        parts.base + parts.teacher + plan.arena + parts.workspace + parts.program + parts.data;
    plan.policy = std::move(policy);
    least_ = least_ == 0 ? parts.total : std::min(least_, parts.total);
    if (parts.total > plan_.limit) return false;
    plan_ = std::move(plan);
    return true;
  }

  // The largest n in [0, most] for which fits(n) holds; fits(0) does, and it holds up to some n.
  static int64_t Most(int64_t most, const std::function<bool(int64_t)>& fits) {
    int64_t low = 0;
    while (low < most) {
      const int64_t middle = (low + most + 1) / 2;
      if (fits(middle)) {
        low = middle;
      } else {
        most = middle - 1;
      }
    }
    return low;
  }

  bool Choose() {
    const int64_t layers = rehearsal_.layers();
    if (!config_.gradient_checkpointing) return Try(layers, 0, 0, {});
    const bool may_disk = config_.activation_offload != "memory";
    const bool must_disk = config_.activation_offload == "disk";
    for (const bool stream : {false, true}) {
      if (stream && !rehearsal_.streamable()) break;
      for (const int64_t chunk : chunks_) {
        for (const bool disk : {false, true}) {
          if (disk ? !may_disk : must_disk) continue;
          for (const bool split : {false, true}) {
            const Cut cut = {chunk, split, stream};
            if (!Try(0, 0, disk ? layers : 0, cut)) continue;
            Improve(cut, disk && !must_disk, must_disk ? layers : 0);
            return true;
          }
        }
      }
    }
    return false;
  }

  int64_t least() const { return least_; }

 private:
  // A cut that fits leaves room: fewer inputs on disk, or layers that keep more.
  void Improve(const Cut& cut, bool fewer_on_disk, int64_t on_disk) {
    const int64_t layers = rehearsal_.layers();
    if (fewer_on_disk) {
      Most(layers, [&](int64_t n) { return Try(0, 0, layers - n, cut); });
      return;
    }
    if (cut.stream || cut.chunk != chunks_[0]) return;
    const int64_t whole = Most(layers, [&](int64_t n) { return Try(n, 0, on_disk, cut); });
    Most(layers - whole, [&](int64_t n) { return Try(whole, n, on_disk, cut); });
  }

  const TrainConfig& config_;
  // Fake quantization is done anew for every chunk, so it wants large ones.
  const std::vector<int64_t> chunks_ = config_.qat
                                           ? std::vector<int64_t>{2048, 1024, 512, 256, 128, 64}
                                           : std::vector<int64_t>{512, 256, 128, 64};
  Rehearsal& rehearsal_;
  MemoryPlan& plan_;
  int64_t least_ = 0;
};

std::string Gigabytes(int64_t bytes) {
  char text[64];
  if (bytes < 100'000'000) {
    std::snprintf(text, sizeof(text), "%.1f MB", static_cast<double>(bytes) / 1e6);
  } else {
    std::snprintf(text, sizeof(text), "%.2f GB", static_cast<double>(bytes) / 1e9);
  }
  return text;
}

// A limit that will do, written as the key wants it: rounded up to 10 MB.
std::string LimitText(int64_t bytes) {
  char text[64];
  std::snprintf(text, sizeof(text), "%.2fGB", std::ceil(static_cast<double>(bytes) / 1e7) / 100);
  return text;
}

struct Counts {
  int64_t whole = 0, attention = 0, memory = 0, disk = 0;
};
Counts CountPolicy(const MemoryPlan& plan) {
  Counts counts;
  for (const LayerPolicy& layer : plan.policy.layers) {
    if (layer.keep == LayerKeep::kEverything || !plan.checkpointing) {
      ++counts.whole;
    } else if (layer.keep == LayerKeep::kAttention) {
      ++counts.attention;
    } else {
      ++(layer.on_disk ? counts.disk : counts.memory);
    }
  }
  return counts;
}

}  // namespace

int64_t ParseBytes(const std::string& text, const std::string& where) {
  char* end = nullptr;
  const double number = std::strtod(text.c_str(), &end);
  std::string unit = end;
  unit.erase(std::remove(unit.begin(), unit.end(), ' '), unit.end());
  const std::pair<const char*, double> units[] = {
      {"", 1},      {"B", 1},         {"KB", 1e3},      {"MB", 1e6},      {"GB", 1e9},
      {"TB", 1e12}, {"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 0x1p40}};
  for (const auto& [name, size] : units) {
    if (unit != name || end == text.c_str() || !(number > 0) || number * size > 0x1p60) continue;
    return static_cast<int64_t>(number * size);
  }
  throw Error(StrCat(where, ": must be a size such as \"9GB\" or \"8GiB\"; got '", text, "'"));
}

MemoryPlan PlanMemory(const TrainConfig& config) {
  MemoryPlan plan;
  plan.checkpointing = config.gradient_checkpointing;
  if (config.memory_limit.empty()) {
    const MemoryRoom room = AvailableMemory();
    plan.limit = room.bytes;
    plan.limit_from = room.from;
  } else {
    plan.limit = ParseBytes(config.memory_limit, "memory_limit");
    plan.limit_from = "memory_limit";
  }
  plan.tokens = config.max_length * TrainDocuments(config);
  plan.tokens_per_step = plan.tokens * config.gradient_accumulation_steps;
  plan.parts.data = kBytesPerToken * (plan.tokens_per_step + 2 * plan.tokens);
  int64_t least = 0;
  bool fits = false;
  CountMemory([&] {
    Rehearsal rehearsal(config, &plan);
    Chooser chooser(config, &rehearsal, &plan);
    fits = chooser.Choose();
    least = chooser.least();
  });
  if (fits) return plan;
  std::string advice = plan.limit_from == "memory_limit"
                           ? StrCat("try memory_limit: \"", LimitText(least), "\"")
                           : StrCat("try a machine with ", Gigabytes(least));
  if (plan.tokens > 128) advice += ", a shorter max_length";
  if (config.per_device_train_batch_size > 1) advice += ", per_device_train_batch_size: 1";
  if (plan.media.evaluates &&
      (config.report_samples > 0 || config.per_device_eval_batch_size > 1)) {
    advice += ", report_samples: 0 and per_device_eval_batch_size: 1";
  }
  if (!config.gradient_checkpointing) advice += ", gradient_checkpointing: true";
  if (config.activation_offload == "memory") advice += ", activation_offload: \"auto\"";
  if (config.optim != "adamw_8bit" && config.optim != "adamw_bnb_8bit") {
    advice += ", optim: \"adamw_8bit\"";
  }
  throw Error(StrCat(plan.limit_from, ": must be at least ", Gigabytes(least), " for ",
                     CountText(plan.tokens), " tokens of this model; got ", Gigabytes(plan.limit),
                     "; ", advice));
}

std::string PolicyText(const MemoryPlan& plan, const TrainConfig& config) {
  const Counts counts = CountPolicy(plan);
  const char* form = FormOf(config) == StashForm::kInt8   ? "int8"
                     : FormOf(config) == StashForm::kBf16 ? "bf16"
                                                          : "float32";
  std::string text;
  const auto add = [&](int64_t layers, const std::string& what) {
    if (layers == 0) return;
    text += StrCat(text.empty() ? "" : ", ", layers, layers == 1 ? " layer " : " layers ", what);
  };
  add(counts.disk, StrCat("by its input (", form, ") on disk"));
  add(counts.memory, StrCat("by its input (", form, ") in memory"));
  add(counts.attention, "with the attention stage kept");
  add(counts.whole, "kept whole");
  if (plan.policy.split_attention) text += ", attention group by group";
  if (plan.policy.stream_base) text += ", base streamed from its file";
  return text;
}

std::string PlanLine(const MemoryPlan& plan, const TrainConfig& config) {
  return StrCat("plan: ", Gigabytes(plan.parts.total), " of ", Gigabytes(plan.limit), " (",
                plan.limit_from, ") for ", CountText(plan.tokens), " tokens; ",
                PolicyText(plan, config));
}

nlohmann::ordered_json PlanJson(const MemoryPlan& plan, const TrainConfig& config) {
  const MemoryParts& p = plan.parts;
  Json layers = Json::array();
  for (const LayerPolicy& layer : plan.policy.layers) {
    layers.push_back(layer.keep == LayerKeep::kEverything || !plan.checkpointing ? "whole"
                     : layer.keep == LayerKeep::kAttention                       ? "attention"
                     : layer.on_disk                                             ? "input on disk"
                                                                                 : "input");
  }
  return {{"memory",
           {{"base", p.base},
            {"tables", p.tables},
            {"adapter", p.adapter},
            {"gradients", p.gradients},
            {"optimizer", p.optimizer},
            {"scales", p.scales},
            {"teacher", p.teacher},
            {"layer_inputs", p.layer_inputs},
            {"activations", p.activations},
            {"media", p.media},
            {"evaluation", p.evaluation},
            {"workspace", p.workspace},
            {"program", p.program},
            {"data", p.data},
            {"total", p.total}}},
          {"limit", plan.limit},
          {"limit_from", plan.limit_from},
          {"disk", plan.disk},
          {"blocks_on_disk", plan.blocks},
          {"tokens", plan.tokens},
          {"tokens_per_step", plan.tokens_per_step},
          {"media",
           {{"counted", plan.media.counted},
            {"patches", plan.media.train.batch.vision},
            {"audio_frames", plan.media.train.batch.audio},
            {"eval_patches", plan.media.eval.batch.vision},
            {"eval_audio_frames", plan.media.eval.batch.audio},
            {"eval_tokens", plan.media.eval_tokens},
            {"records", plan.media.records},
            {"looked_at", plan.media.looked_at},
            {"note", plan.media.note}}},
          {"chunk", plan.policy.chunk},
          {"attention_split", plan.policy.split_attention},
          {"base_streamed", plan.policy.stream_base},
          {"policy", PolicyText(plan, config)},
          {"layers", layers}};
}

std::string PlanText(const MemoryPlan& plan, const TrainConfig& config) {
  const MemoryParts& p = plan.parts;
  std::string text;
  const auto row = [&](const char* name, int64_t bytes, const std::string& note) {
    char line[64];
    std::snprintf(line, sizeof(line), "%-14s %10s  ", name, Gigabytes(bytes).c_str());
    text += line + note + "\n";
  };
  row("base", p.base,
      plan.policy.stream_base ? "mapped; a layer at a time and the embedding stay resident"
                              : "mapped, or in memory as the kernels read it; counts as resident");
  row("tables", p.tables, "norms and tables of the embedders, float32");
  row("adapter", p.adapter,
      config.block_coordinate ? "the block that trains, float32"
      : config.lora           ? "float32"
                              : "parameters that train, float32");
  row("gradients", p.gradients, "float32");
  row("optimizer", p.optimizer, config.optim);
  if (p.scales > 0) row("scales", p.scales, "of fake quantization, kept or learned");
  if (p.teacher > 0) row("teacher", p.teacher, "the base once more, for the distillation");
  row("layer inputs", p.layer_inputs,
      plan.disk > 0 ? StrCat("in memory; ", Gigabytes(plan.disk), " on disk") : "in memory");
  row("activations", p.activations,
      StrCat("at the peak of a step; ", plan.policy.chunk, " tokens at a time"));
  row("media", p.media, plan.media.note);
  if (p.evaluation > 0) {
    row("evaluation", p.evaluation,
        StrCat("more than a step: up to ", CountText(plan.media.eval_tokens), " tokens at once",
               config.report_samples > 0 ? ", and answers" : ""));
  }
  row("workspace", p.workspace, "of matrix products");
  row("program", p.program, "code, libraries, tokenizer");
  row("data", p.data, "samples built ahead, media while they are decoded");
  row("total", p.total,
      StrCat("of ", Gigabytes(plan.limit), " (", plan.limit_from, "), for ", CountText(plan.tokens),
             " tokens"));
  text += "layers         " + PolicyText(plan, config) + "\n";
  if (plan.blocks > 0) {
    text += StrCat("on disk        up to ", Gigabytes(plan.blocks),
                   " of blocks that were left, in output_dir\n");
  }
  return text;
}

}  // namespace lapidary
