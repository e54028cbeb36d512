// `lapidary export`: one read of a checkpoint, several outputs.
#include "train/export/export.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "recipes/commands.h"
#include "train/export/targets.h"
#include "train/progress.h"

namespace lapidary {
namespace {

using Json = nlohmann::ordered_json;

struct Options {
  ExportRequest request;
  std::vector<std::string> outputs;
  bool json = false;
};

Json ReportJson(const ExportReport& report) {
  Json files = Json::array();
  for (const ExportedFile& file : report.files) {
    files.push_back({{"format", file.format},
                     {"path", file.path},
                     {"bytes", file.bytes},
                     {"tensors", file.tensors}});
  }
  return {{"files", files},
          {"base_bytes_read", report.base_bytes},
          {"seconds", report.seconds},
          {"warnings", report.warnings}};
}

void Print(const ExportReport& report) {
  for (const ExportedFile& file : report.files) {
    std::printf("%-12s %10s  %s\n", file.format.c_str(),
                BytesText(static_cast<double>(file.bytes)).c_str(), file.path.c_str());
  }
  std::printf("%s read in %s\n", BytesText(static_cast<double>(report.base_bytes)).c_str(),
              ClockText(report.seconds).c_str());
}

void Run(const Options& options) {
  ExportRequest request = options.request;
  for (const std::string& text : options.outputs)
    request.outputs.push_back(ParseExportOutput(text));
  std::unique_ptr<Progress> bar;
  const auto start = std::chrono::steady_clock::now();
  request.progress = [&](uint64_t done, uint64_t total) {
    if (!bar) bar = std::make_unique<Progress>(stderr, "export", static_cast<int64_t>(total));
    const double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    char note[32];
    std::snprintf(note, sizeof(note), "%.0f MB/s",
                  static_cast<double>(done) / 1e6 / std::max(seconds, 1e-3));
    bar->Update(static_cast<int64_t>(done), note);
  };
  const ExportReport report = Export(request);
  if (bar) bar->Finish();
  for (const std::string& warning : report.warnings)
    std::fprintf(stderr, "warning: %s\n", warning.c_str());
  if (options.json) {
    std::printf("%s\n", ReportJson(report).dump(2).c_str());
  } else {
    Print(report);
  }
}

}  // namespace

void AddExport(CLI::App& cli) {
  CLI::App* command =
      cli.add_subcommand("export", "write inference-ready weights, several formats from one read");
  auto options = std::make_shared<Options>();
  command->add_option("--model", options->request.model, "Hugging Face folder of the base model")
      ->required();
  command->add_option("--adapter", options->request.adapter, "PEFT folder to merge");
  std::string help = "FORMAT=PATH, any number of times. Formats:";
  for (const ExportTarget& target : ExportTargets())
    help += std::string("\n  ") + target.name + ": " + target.help;
  command->add_option("--out", options->outputs, help)->required();
  command->add_flag("--overwrite", options->request.overwrite, "replace outputs that exist");
  command->add_flag("--json", options->json, "report as JSON");
  command->callback([options] { Run(*options); });
}

}  // namespace lapidary
