// `lapidary eval --task TASK`: a benchmark by its configuration.
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "autograd/base/error.h"
#include "recipes/eval_args.h"
#include "train/config.h"
#include "train/evaluation/results.h"
#include "train/evaluation/run_task.h"
#include "train/progress.h"
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

}  // namespace

void RunEvalTask(const EvalArgs& args) {
  LAPIDARY_CHECK(!args.model.empty() && !args.data.empty(),
                 "eval --task: must come with --model and --data; got none");
  LAPIDARY_CHECK(args.reference.empty() && args.text.empty() && args.tokens.empty() &&
                     args.save_logits.empty() && !args.answers && !args.swap_media,
                 "eval --task: takes --model, --adapter and --data; got another way to evaluate "
                 "too");
  const EvalTask task = LoadEvalTask(TaskPath(args.task));
  Bundle bundle = OpenForEval(args.model, args.adapter, args.base);
  RunTaskOptions options;
  options.compute = ComputeOf(args.compute);
  options.image_mask = ImageMaskOf(args.image_mask);
  options.sample = EvalSampleOptions(args, bundle.media);
  options.shots = args.shots_data;
  options.max_records = args.limit;
  options.max_new_tokens = args.max_new_tokens;
  options.seed = static_cast<uint64_t>(args.seed);
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
}

}  // namespace lapidary
