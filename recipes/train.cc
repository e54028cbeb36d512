// `lapidary train`: fine-tune a checkpoint as a JSON configuration says.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdio>
#include <memory>

#include "autograd/base/error.h"
#include "recipes/commands.h"
#include "train/config.h"
#include "train/progress.h"
#include "train/svg_plot.h"
#include "train/trainer.h"

namespace lapidary {
namespace {

struct TrainArgs {
  std::string config;
  std::vector<std::string> overrides;
  bool print_config = false, resume = false, keys = false, quiet = false, json = false;
};

volatile std::sig_atomic_t stop_requested = 0;

// First: finish the step and save. Second: leave at once; what is on disk is whole all the same.
void OnSignal(int) {
  if (stop_requested) ::_exit(130);
  stop_requested = 1;
  const char text[] = "\nfinishing the step, then saving a checkpoint; again to leave at once\n";
  [[maybe_unused]] const ssize_t n = ::write(2, text, sizeof(text) - 1);
}

void CatchSignals() {
  struct sigaction action = {};
  action.sa_handler = OnSignal;
  action.sa_flags = SA_RESTART;
  ::sigaction(SIGINT, &action, nullptr);
  ::sigaction(SIGTERM, &action, nullptr);
}

using Json = nlohmann::ordered_json;

const Json* FindEval(const Json& log, bool last) {
  const Json* found = nullptr;
  for (const Json& line : log) {
    if (!line.contains("eval_loss")) continue;
    found = &line;
    if (!last) break;
  }
  return found;
}

void PrintHeldOut(const Json& log) {
  const Json* before = FindEval(log, false);
  const Json* after = FindEval(log, true);
  if (!after) return;
  std::printf("\n%-10s %8s %18s %22s %20s\n", "held out", "records", "loss", "perplexity",
              "token accuracy");
  const auto row = [](const char* name, const Json& b, const Json& a, const std::string& prefix) {
    const auto get = [&](const Json& j, const char* key) { return j.value(prefix + key, 0.0); };
    std::printf("%-10s %8s %8.4f -> %-8.4f %9s -> %-9s %7.1f %% -> %5.1f %%\n", name,
                CountText(static_cast<int64_t>(get(a, "records"))).c_str(), get(b, "loss"),
                get(a, "loss"), NumberText(get(b, "perplexity")).c_str(),
                NumberText(get(a, "perplexity")).c_str(), 100 * get(b, "token_accuracy"),
                100 * get(a, "token_accuracy"));
  };
  row("all", *before, *after, "eval_");
  const Json none = Json::object();
  const Json old_kinds = before->value("eval_by_modality", none);
  const Json kinds = after->value("eval_by_modality", none);
  for (const auto& [name, counts] : kinds.items()) {
    row(name.c_str(), old_kinds.contains(name) ? old_kinds.at(name) : none, counts, "");
  }
}

void PrintSummary(const TrainConfig& config, const TrainSummary& summary) {
  std::printf("%s after %s of %s steps, %s tokens, %s\n", summary.interrupted ? "stopped" : "done",
              CountText(summary.steps).c_str(), CountText(summary.total_steps).c_str(),
              CountText(summary.tokens).c_str(), ClockText(summary.seconds).c_str());
  std::printf("trained %s of %s parameters\n", CountText(summary.trainable).c_str(),
              CountText(summary.parameters).c_str());
  PrintHeldOut(summary.log);
  std::printf("\n");
  if (!summary.checkpoint.empty()) std::printf("checkpoint  %s\n", summary.checkpoint.c_str());
  for (const std::string& file : summary.result_files) {
    if (file.find(".safetensors") == std::string::npos) continue;
    std::printf("result      %s/%s\n", config.output_dir.c_str(), file.c_str());
  }
  std::printf("report      %s/report.html\n", config.output_dir.c_str());
  if (summary.interrupted) {
    std::printf("\nTo go on: the same command with --resume.\n");
  }
}

void RunTrain(const TrainArgs& args) {
  if (args.keys) {
    std::fputs(TrainConfigHelp().c_str(), stdout);
    return;
  }
  LAPIDARY_CHECK(!args.config.empty(),
                 "train: a configuration must be given; got none; try `lapidary train my.json`");
  std::vector<std::string> overrides = args.overrides;
  if (args.resume) overrides.push_back("resume_from_checkpoint=true");
  const TrainConfig config = LoadTrainConfig(args.config, overrides);
  if (args.print_config) {
    std::fputs(TrainConfigText(config).c_str(), stdout);
    return;
  }
  CatchSignals();
  const TrainSummary summary = Train(
      config, {.progress = args.quiet ? nullptr : stderr, .stop = &stop_requested, .on_step = {}});
  if (!args.json) {
    PrintSummary(config, summary);
    return;
  }
  const Json json = {{"output_dir", config.output_dir},
                     {"steps", summary.steps},
                     {"total_steps", summary.total_steps},
                     {"interrupted", summary.interrupted},
                     {"seconds", summary.seconds},
                     {"tokens", summary.tokens},
                     {"trainable_parameters", summary.trainable},
                     {"parameters", summary.parameters},
                     {"checkpoint", summary.checkpoint},
                     {"result_files", summary.result_files},
                     {"warnings", summary.warnings},
                     {"log", summary.log}};
  std::printf("%s\n", json.dump(-1, ' ', false, Json::error_handler_t::replace).c_str());
}

}  // namespace

void AddTrain(CLI::App& cli) {
  CLI::App* app =
      cli.add_subcommand("train", "fine-tune a checkpoint as a JSON configuration says");
  auto a = std::make_shared<TrainArgs>();
  app->add_option("config", a->config, "JSON file, comments allowed; see recipes/configs/");
  app->add_option("--set", a->overrides, "key=value on top of the file, lora.r=8; repeatable")
      ->allow_extra_args(false);
  app->add_flag("--resume", a->resume, "go on from the latest checkpoint in output_dir");
  app->add_flag("--print-config", a->print_config, "print the configuration, defaults included");
  app->add_flag("--keys", a->keys, "list every key with its default and meaning");
  app->add_flag("--quiet", a->quiet, "no progress bar, no warnings");
  app->add_flag("--json", a->json, "print one JSON object at the end");
  app->callback([a] { RunTrain(*a); });
}

}  // namespace lapidary
