#include "train/session.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <tuple>

#include "autograd/arena.h"
#include "autograd/base/memory_info.h"
#include "data/prepared.h"
#include "model/adapt.h"
#include "model/base_fingerprint.h"
#include "model/tensor_names.h"
#include "train/pair_source.h"
#include "train/trainable.h"

namespace lapidary {

Compute ComputeOf(const std::string& word) {
  return word == "float32" ? Compute::kFloat32 : Compute::kBfloat16;
}

ImageMask ImageMaskOf(const std::string& word) {
  return word == "hf_forward" ? ImageMask::kHfForward : ImageMask::kSlidingOnly;
}

OnError OnErrorOf(const std::string& word) {
  return word == "skip" ? OnError::kSkip : OnError::kStop;
}

SampleOptions MakeSampleOptions(const TrainConfig& config, const MediaConfig& media) {
  SampleOptions options;
  options.chat.enable_thinking = config.enable_thinking;
  options.chat.empty_thought =
      config.empty_thought == "omit" ? EmptyThought::kOmit : EmptyThought::kInsert;
  options.media = media;
  UseImageResize(config.image_resize, &options.media);
  options.image_budget = config.image_seq_length;
  options.video_budget = config.video_seq_length;
  options.num_frames = config.video_frames;
  options.max_length = config.max_length;
  options.on_too_long = config.on_too_long == "drop"       ? OnTooLong::kDrop
                        : config.on_too_long == "truncate" ? OnTooLong::kTruncate
                        : config.on_too_long == "cut"      ? OnTooLong::kCut
                        : config.on_too_long == "split"    ? OnTooLong::kSplit
                                                           : OnTooLong::kError;
  options.train_on = config.train_on == "last"  ? TrainOn::kLast
                     : config.train_on == "all" ? TrainOn::kAll
                                                : TrainOn::kAssistant;
  options.chat.thoughts = config.thoughts == "keep"    ? Thoughts::kKeep
                          : config.thoughts == "drop"  ? Thoughts::kDrop
                          : config.thoughts == "empty" ? Thoughts::kEmpty
                                                       : Thoughts::kTemplate;
  // A preference run builds pairs; what else looks at its records sees the chosen answers.
  options.preference = config.preference == "chosen" || config.loss ? PreferencePolicy::kChosen
                                                                    : PreferencePolicy::kError;
  options.add_eos = config.add_eos;
  options.video.fps = config.video_fps;
  options.video.max_frames = config.video_max_frames;
  options.video.on_long = config.on_long_video == "thin"       ? OnLongVideo::kThin
                          : config.on_long_video == "segments" ? OnLongVideo::kSegments
                                                               : OnLongVideo::kError;
  options.video.sound = config.video_sound;
  options.audio_limit = config.audio_limit == "pieces"     ? AudioLimit::kPieces
                        : config.audio_limit == "truncate" ? AudioLimit::kTruncate
                        : config.audio_limit == "error"    ? AudioLimit::kError
                                                           : AudioLimit::kAllow;
  options.augment = config.augment;
  options.augment.seed = static_cast<uint64_t>(config.seed);
  return options;
}

bool TrainsOnPrepared(const TrainConfig& config) {
  return config.train_files.size() == 1 && IsPrepared(config.train_files[0].path);
}

namespace {

// The files to train on; with replay so many records of its files that they are its share of an
// epoch.
std::vector<SourceSpec> WithReplay(const TrainConfig& config, const DatasetOptions& options) {
  std::vector<SourceSpec> files = config.train_files;
  if (config.replay_files.empty()) return files;
  for (const std::vector<SourceSpec>* list : {&config.train_files, &config.replay_files}) {
    for (const SourceSpec& source : *list) {
      LAPIDARY_CHECK(source.weight == 0, source.path,
                     ": sources must be without 'weight' beside dataset.replay; got ",
                     source.weight, "; try 'repeat'");
    }
  }
  const auto own = static_cast<double>(Dataset::Open(files, options)->EpochSize());
  const auto other = static_cast<double>(Dataset::Open(config.replay_files, options)->EpochSize());
  const double times = own * config.replay_ratio / (1 - config.replay_ratio) / other;
  for (SourceSpec source : config.replay_files) {
    source.repeat *= times;
    files.push_back(source);
  }
  return files;
}

}  // namespace

std::pair<std::shared_ptr<const Dataset>, std::shared_ptr<const Dataset>> OpenDatasets(
    const TrainConfig& config) {
  const DatasetOptions options = {.allow_outside_paths = config.allow_outside_paths};
  std::shared_ptr<const Dataset> train, eval;
  if (!TrainsOnPrepared(config)) {
    train = Dataset::Open(WithReplay(config, options), options);
  }
  LAPIDARY_CHECK(train != nullptr || config.eval_split == 0, config.train_files[0].path,
                 ": a prepared file cannot be split; got dataset.eval_split; try dataset.eval");
  if (!config.eval_files.empty()) {
    eval = Dataset::Open(config.eval_files, options);
  } else if (config.eval_split > 0) {
    std::tie(train, eval) = train->Split(config.eval_split, static_cast<uint64_t>(config.seed));
  }
  return {train, eval};
}

StepSource::StepSource(Loader& loader, int64_t accumulation)
    : loader_(loader), accumulation_(accumulation), cursor_(loader.Cursor()) {
  next_ = loader_.Next();
}

std::vector<Batch> StepSource::Next() {
  std::vector<Batch> step;
  while (next_ && static_cast<int64_t>(step.size()) < accumulation_ &&
         (step.empty() || next_->epoch == step[0].epoch)) {
    step.push_back(std::move(*next_));
    cursor_ = loader_.Cursor();
    next_ = loader_.Next();
  }
  return step;
}

Session::Session(const TrainConfig& c, const MemoryPlan& p, const OutputFolder& output,
                 const ProblemCallback& report)
    : config(c), plan(p) {
  const auto& resume = output.resume();
  if (resume) warnings = CheckResumable(resume->folder, config);
  // The data first: a wrong path should not wait for a large model.
  std::tie(train_data, eval_data) = OpenDatasets(config);
  OpenModel(output);
  optimizer = MakeRunOptimizer(params, config);
  if (config.ema_decay > 0) ema = std::make_unique<Ema>(params, config.ema_decay);
  if (resume) {
    state =
        ReadCheckpoint(resume->folder, *optimizer, ema.get(), &bundle.model, qat ? &*qat : nullptr);
    scales_measured_ = state.scales;
  }
  OpenData(report);
  PlanSteps();
  step_options.loss_chunk = config.loss_chunk;
  step_options.max_grad_norm = config.max_grad_norm;
  step_options.teacher = teacher.get();
  if (config.loss) step_options.preference = &*config.loss;
  step_options.forward.neftune_noise_alpha = config.neftune_noise_alpha;
  step_options.forward.compute = ComputeOf(config.compute);
  step_options.forward.image_mask = ImageMaskOf(config.image_mask);
  step_options.forward.training = true;
  step_options.forward.gradient_checkpointing = config.gradient_checkpointing;
  activations = plan.policy;
  if (plan.disk > 0) {
    activations.file = std::make_shared<StashFile>(
        config.offload_dir.empty() ? config.output_dir : config.offload_dir, plan.disk);
  }
  step_options.forward.activations = &activations;
  SetArenaBudget(plan.arena + plan.arena / 50);
  TrimHeap();
  step_options.forward.seed = static_cast<uint64_t>(config.seed);
}

void Session::OpenModel(const OutputFolder& output) {
  bundle = OpenBundle(config.model_name_or_path, "", {config.base_format, config.embedding_format});
  warnings.insert(warnings.end(), bundle.warnings.begin(), bundle.warnings.end());
  bundle.RequireTokenizer();
  Transformer& model = bundle.model;
  if (config.block_coordinate) {
    blocks = std::make_unique<LayerBlocks>(config, &model, output.resume());
  } else if (!config.lora) {
    MakeTrainable(model, config);
  } else if (output.resume()) {
    adapter = LoadAdapter(model, output.resume()->folder, /*trainable=*/true);
  } else {
    adapter = AttachLora(model, *config.lora, static_cast<uint64_t>(config.seed));
  }
  if (adapter) {
    const CheckpointFiles files = OpenCheckpointFiles(config.model_name_or_path);
    if (output.resume()) {
      const auto warning =
          OtherBaseWarning(*adapter, output.resume()->folder, files, config.model_name_or_path);
      if (warning) warnings.push_back(*warning);
    }
    adapter->base_model_name_or_path = config.model_name_or_path;
    adapter->base_fingerprint = BaseFingerprint(files);
  }
  DetachQat(model);  // of an earlier run: this one's own is decided here
  if (config.qat) {
    qat = ResolveQat(model, *config.qat);
    qat->projected = !config.lora && config.save_dtype == "BF16";
    AttachQat(model, *qat);
    SetQatActive(model, state.step >= config.qat->start_step);
  }
  params = ChooseParams(model, config);
  for (Param* steps : LearnedSteps(model)) params.push_back(steps);
  OpenReference();
}

void Session::OpenReference() {
  Transformer& model = bundle.model;
  const bool moves = !config.lora || !config.lora->modules_to_save.empty();
  const bool referred = config.loss && config.loss->HasReference();
  const bool from_base = config.distillation && config.distillation->teacher == "base";
  if (moves && (referred || from_base)) {  // the base once more, mapped
    teacher_base =
        OpenBundle(config.model_name_or_path, "", {config.base_format, config.embedding_format});
    DetachQat(teacher_base->model);
  }
  Transformer* frozen = teacher_base ? &teacher_base->model : &model;
  if (referred) step_options.reference = frozen;
  if (!config.distillation) return;
  teacher = from_base ? TeacherFromModel(*config.distillation, frozen)
                      : TeacherFromFile(*config.distillation, model.head().rows());
}

void Session::PrepareStep(int64_t step) {
  if (blocks && blocks->Due(step)) {
    optimizer.reset();
    params.clear();
    blocks->Enter(step);
    params = ChooseParams(bundle.model, config);
    optimizer = MakeRunOptimizer(params, config);
  }
  if (!config.qat) return;
  const int64_t start = config.qat->start_step;
  SetQatActive(bundle.model, step >= start);
  if (step == start && start > 0) BeginLearnedScales(bundle.model);
  UpdateLearnedScales(bundle.model);
  // The first step of a process, too, unless the checkpoint held the scales.
  if (step >= start && (!scales_measured_ || (step - start) % qat->scale_refresh_steps == 0)) {
    RefreshQatScales(bundle.model);
    scales_measured_ = true;
  }
}

void Session::PrepareEvaluation(bool final) {
  if (config.qat) UpdateLearnedScales(bundle.model);
  // In the middle of a run with rare refreshes the evaluation must not change the steps after it.
  if (config.qat && (final || qat->scale_refresh_steps == 1)) RefreshQatScales(bundle.model);
  if (config.qat && final) SetQatActive(bundle.model, true);
}

void Session::OpenData(const ProblemCallback& report) {
  builder =
      std::make_unique<SampleBuilder>(*bundle.tokenizer, MakeSampleOptions(config, bundle.media));
  LoaderOptions options;
  options.seed = static_cast<uint64_t>(config.seed);
  options.shuffle = config.shuffle;
  options.epochs =
      config.max_steps > 0 ? 0 : static_cast<int64_t>(std::ceil(config.num_train_epochs));
  options.batch_size = TrainDocuments(config);
  options.prefetch_bytes = kPrefetchBytes;
  options.packing = config.packing;
  options.group_by_length = config.group_by_length;
  options.pack_window = config.pack_window;
  if (config.packing) room = config.max_length * config.per_device_train_batch_size;
  options.max_tokens = room;
  options.threads = static_cast<int>(config.dataloader_num_workers);
  options.on_error = OnErrorOf(config.on_error);
  options.report = report;
  const bool resumed = !state.cursor.is_null();
  LAPIDARY_CHECK(!config.loss || train_data != nullptr, config.train_files[0].path,
                 ": preference training must have records; got a prepared file; try its source");
  const bool unpaired = TrainsUnpaired(config);
  const auto records = train_data == nullptr ? OpenPrepared(config.train_files[0].path, *builder)
                       : config.loss         ? MakePreferenceSource(train_data, *builder, unpaired)
                                             : MakeRecordSource(train_data, *builder);
  loader = std::make_unique<Loader>(records, options, resumed ? &state.cursor : nullptr);
}

std::string Session::DataLine() const {
  const std::string train =
      train_data != nullptr ? train_data->Describe() : config.train_files[0].path + " (prepared)";
  return "data: " + train +
         (eval_data != nullptr ? "; held out " + eval_data->Describe() : std::string());
}

void Session::PlanSteps() {
  const auto steps_in = [&](int64_t epoch) {
    return (loader->BatchesInEpoch(epoch) + config.gradient_accumulation_steps - 1) /
           config.gradient_accumulation_steps;
  };
  steps_per_epoch = std::max<int64_t>(1, steps_in(0));
  schedule = config.schedule;
  schedule.type = config.lr_scheduler_type;
  schedule.learning_rate = config.learning_rate;
  if (config.max_steps > 0) {
    schedule.total_steps = config.max_steps;
  } else {
    const int64_t whole = static_cast<int64_t>(config.num_train_epochs);
    const double part = config.num_train_epochs - static_cast<double>(whole);
    // Where every record is one sample of one batch, every epoch has as many steps as the first.
    const bool varies = config.packing || config.on_too_long == "split" || config.loss;
    int64_t total = varies ? 0 : whole * steps_per_epoch;
    for (int64_t e = 0; varies && e < whole; ++e) total += steps_in(e);
    if (part > 0) {
      total += static_cast<int64_t>(std::ceil(part * static_cast<double>(steps_per_epoch)));
    }
    schedule.total_steps = total;
  }
  LAPIDARY_CHECK(schedule.total_steps > 0, config.train_files[0].path,
                 ": the run must have a step; got none; try max_steps or more records");
  schedule.warmup_steps =
      config.warmup_steps > 0
          ? config.warmup_steps
          : static_cast<int64_t>(
                std::ceil(config.warmup_ratio * static_cast<double>(schedule.total_steps)));
  CheckSchedule(schedule);
  state.max_steps = schedule.total_steps;
  if (blocks) {
    const std::vector<bool> visited = blocks->schedule().Visited(schedule.total_steps);
    const auto count = std::count(visited.begin(), visited.end(), true);
    if (count < blocks->schedule().blocks()) {
      warnings.push_back(StrCat("block_coordinate: the run's ", schedule.total_steps,
                                " steps train ", count, " of ", blocks->schedule().blocks(),
                                " blocks; try a smaller switch_every"));
    }
  }
  source = std::make_unique<StepSource>(*loader, config.gradient_accumulation_steps);
}

int64_t Session::CountParameters() const {
  int64_t count = 0;
  for (const CatalogTensor& tensor : ExpectedTensors(bundle.model.config)) {
    int64_t size = 1;
    for (const int64_t axis : tensor.shape) size *= axis;
    count += size;
  }
  for (const Param* param : params) {
    if (param->name.find(".lora_") != std::string::npos) count += param->value.size();
  }
  return count;
}

EvalResult Session::RunEvaluation(const std::function<void(int64_t)>& on_batch) {
  LoaderOptions options;
  options.shuffle = false;
  options.epochs = 1;
  options.batch_size = config.per_device_eval_batch_size;
  options.prefetch_bytes = kPrefetchBytes;
  options.on_error = OnErrorOf(config.on_error);
  SampleOptions samples = builder->options();
  samples.augment = {};  // held-out data stay as they are
  const SampleBuilder plain(builder->tokenizer(), samples);
  Loader eval_loader(eval_data, plain, options);
  EvalOptions eval;
  eval.compute = step_options.forward.compute;
  eval.image_mask = step_options.forward.image_mask;
  eval.activations = &activations;
  eval.loss_chunk = config.loss_chunk;
  eval.on_batch = on_batch;
  return Evaluate(bundle.model, eval_loader, eval);
}

std::map<std::string, double> Session::RunPairEvaluation() {
  LoaderOptions options;
  options.shuffle = false;
  options.epochs = 1;
  const bool unpaired = TrainsUnpaired(config);
  options.batch_size = (unpaired ? 1 : 2) * config.per_device_eval_batch_size;
  options.prefetch_bytes = kPrefetchBytes;
  options.on_error = OnErrorOf(config.on_error);
  SampleOptions samples = builder->options();
  samples.augment = {};
  const SampleBuilder plain(builder->tokenizer(), samples);
  Loader pairs(MakePreferenceSource(eval_data, plain, unpaired), options);
  ForwardOptions forward;
  forward.compute = step_options.forward.compute;
  forward.image_mask = step_options.forward.image_mask;
  forward.activations = &activations;
  FigureMeans figures;
  for (std::optional<Batch> batch = pairs.Next(); batch; batch = pairs.Next()) {
    const PreferenceScores scores =
        ScorePairs(bundle.model, step_options.reference, MakeMicroBatch(*batch), *config.loss,
                   forward, config.loss_chunk);
    const double loss = AddPreferenceFigures(*config.loss, scores, &figures);
    figures.Add("preference_loss", loss, scores.units());
  }
  return figures.Means();
}

AnswerResult Session::RunAnswers() {
  AnswerOptions options;
  options.compute = step_options.forward.compute;
  options.image_mask = step_options.forward.image_mask;
  options.sample = builder->options();
  options.sample.augment = {};
  options.max_records = config.report_samples;
  options.extra_tokens = kAnswerTokens;
  options.activations = &activations;
  return EvaluateAnswers(bundle, *eval_data, options);
}

}  // namespace lapidary
