// `lapidary eval --task TASK`: a benchmark by its configuration.
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "autograd/base/error.h"
#include "autograd/base/file.h"
#include "recipes/eval_args.h"
#include "train/config.h"
#include "train/evaluation/results.h"
#include "train/evaluation/run_task.h"
#include "train/progress.h"
#include "train/run_card.h"
#include "train/session.h"

namespace lapidary {
namespace {

namespace fs = std::filesystem;

// A file, or the name of one of the ready tasks.
std::string TaskPath(const std::string& task) {
  if (fs::exists(task)) return task;
  std::vector<std::string> names;
  const fs::path program = fs::read_symlink("/proc/self/exe").parent_path();
  for (const fs::path& folder :
       {fs::path(LAPIDARY_TASKS), program / "../share/lapidary/configs/eval"}) {
    const fs::path path = folder / (task + ".json");
    if (fs::exists(path)) return path.string();
    std::error_code none;
    for (const auto& entry : fs::directory_iterator(folder, none))
      if (entry.path().extension() == ".json") names.push_back(entry.path().stem().string());
  }
  const std::string near = NearestName(task, names);
  throw Error(StrCat("--task: must be a file or a ready task; got ", task,
                     near.empty() ? "" : StrCat("; try ", near)));
}

// What the answers of a task depend on.
nlohmann::ordered_json Settings(const EvalArgs& args, const std::string& task) {
  bool whole = false;
  return {{"model", args.model},
          {"model_sha256", HashWeights(args.model, &whole)},
          {"adapter", args.adapter},
          {"adapter_sha256", args.adapter.empty() ? "" : HashWeights(args.adapter, &whole)},
          {"base_format", args.base.mix},
          {"embedding_format", args.base.embedding},
          {"task", ReadFile(task, uint64_t{1} << 24)},
          {"data", args.data},
          {"shots_data", args.shots_data},
          {"limit", args.limit},
          {"max_new_tokens", args.max_new_tokens},
          {"samples", args.samples},
          {"seed", args.seed},
          {"image_tokens", args.image_tokens},
          {"frame_tokens", args.frame_tokens},
          {"num_frames", args.num_frames},
          {"image_resize", args.image_resize},
          {"image_mask", args.image_mask},
          {"compute", args.compute}};
}

}  // namespace

void RunEvalTask(const EvalArgs& args) {
  LAPIDARY_CHECK(!args.model.empty() && !args.data.empty(),
                 "eval --task: must come with --model and --data; got none");
  LAPIDARY_CHECK(args.reference.empty() && args.text.empty() && args.tokens.empty() &&
                     args.save_logits.empty() && !args.answers && !args.swap_media,
                 "eval --task: takes --model, --adapter and --data; got another way to evaluate "
                 "too");
  const std::string path = TaskPath(args.task);
  const EvalTask task = LoadEvalTask(path);
  Bundle bundle = OpenForEval(args.model, args.adapter, args.base, !task.choices);
  RunTaskOptions options;
  options.compute = ComputeOf(args.compute);
  options.image_mask = ImageMaskOf(args.image_mask);
  options.sample = EvalSampleOptions(args, bundle.media);
  options.shots = args.shots_data;
  options.max_records = args.limit;
  options.max_new_tokens = args.max_new_tokens;
  options.seed = static_cast<uint64_t>(args.seed);
  options.samples = args.samples;
  if (!args.out.empty()) {
    options.journal = args.out + ".part.jsonl";
    options.journal_settings = Settings(args, path).dump();
  }
  std::unique_ptr<Progress> bar;
  options.on_record = [&](int64_t done, int64_t total) {
    if (!bar) bar = std::make_unique<Progress>(args.quiet ? nullptr : stderr, task.name, total);
    bar->Update(done, "");
  };
  EvalResults results = RunTask(bundle, task, args.data, options);
  if (bar) bar->Finish();
  results.adapter = args.adapter;
  const ResamplingOptions resampling = {std::max<int64_t>(1, args.bootstrap), 0.95,
                                        static_cast<uint64_t>(args.seed)};
  DeliverEval(args, ResultsText(results, resampling, args.show), ResultsJson(results, resampling),
              [&] { return ResultsHtml(results, resampling); });
  if (!args.out.empty()) FinishTask(options);
}

}  // namespace lapidary
