// `lapidary export`: one read of a checkpoint, several outputs.
#include "train/export/export.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "autograd/base/error.h"
#include "recipes/commands.h"
#include "train/export/record_export.h"
#include "train/export/targets.h"
#include "train/plan.h"
#include "train/progress.h"

namespace lapidary {
namespace {

using Json = nlohmann::ordered_json;

struct Options {
  ExportRequest request;
  std::vector<std::string> outputs, adapters, tensor_types, metadata;
  std::string max_shard_size, imatrix;
  bool json = false;
};

// "KEY=VALUE" at the last '=' of a pattern, the first of a key.
std::pair<std::string, std::string> Pair(const std::string& text, const char* option, bool last) {
  const size_t equals = last ? text.rfind('=') : text.find('=');
  LAPIDARY_CHECK(equals != std::string::npos && equals > 0 && equals + 1 < text.size(),
                 "export: ", option, " must be NAME=VALUE; got '", text, "'");
  return {text.substr(0, equals), text.substr(equals + 1)};
}

Json ReportJson(const ExportReport& report) {
  Json files = Json::array();
  for (const ExportedFile& file : report.files) {
    files.push_back({{"format", file.format},
                     {"path", file.path},
                     {"bytes", file.bytes},
                     {"tensors", file.tensors}});
  }
  Json merge = Json::object();
  for (const auto& [kind, sums] : report.merge.kinds)
    merge[kind] = {{"relative_change", sums.relative()}, {"swallowed_by_bf16", sums.swallowed()}};
  return {{"files", files},
          {"merge", merge},
          {"base_bytes_read", report.base_bytes},
          {"seconds", report.seconds},
          {"warnings", report.warnings}};
}

void Print(const ExportReport& report) {
  for (const ExportedFile& file : report.files) {
    std::printf("%-12s %10s  %s\n", file.format.c_str(),
                BytesText(static_cast<double>(file.bytes)).c_str(), file.path.c_str());
  }
  if (!report.merge.kinds.empty()) {
    std::printf("\n%-24s %12s %20s\n", "merged", "|delta|/|W|", "lost in bf16");
    for (const auto& [kind, sums] : report.merge.kinds)
      std::printf("%-24s %12.2e %18.1f %%\n", kind.c_str(), sums.relative(),
                  100 * sums.swallowed());
    std::printf("\n");
  }
  std::printf("%s read in %s\n", BytesText(static_cast<double>(report.base_bytes)).c_str(),
              ClockText(report.seconds).c_str());
}

void Run(const Options& options) {
  ExportRequest request = options.request;
  for (const std::string& text : options.outputs)
    request.outputs.push_back(ParseExportOutput(text));
  for (const std::string& text : options.adapters)
    request.adapters.push_back(ParseAdapterChoice(text));
  for (const std::string& text : options.tensor_types)
    request.options.tensor_types.push_back(Pair(text, "--tensor-type", true));
  for (const std::string& text : options.metadata)
    request.options.metadata.push_back(Pair(text, "--metadata", false));
  if (!options.max_shard_size.empty())
    request.options.max_shard_bytes =
        static_cast<uint64_t>(ParseBytes(options.max_shard_size, "export: --max-shard-size"));
  if (!options.imatrix.empty()) {
    request.options.imatrix =
        std::make_shared<const ImportanceMatrix>(ReadImportanceMatrix(options.imatrix));
    request.options.imatrix_path = options.imatrix;
  }
  request.announce = [](const std::string& folder, uint64_t need, uint64_t free) {
    std::fprintf(stderr, "export: writes %s below %s (%s free)\n",
                 BytesText(static_cast<double>(need)).c_str(), folder.c_str(),
                 BytesText(static_cast<double>(free)).c_str());
  };
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
  std::vector<std::string> inputs = {request.model};
  for (const AdapterChoice& adapter : request.adapters) inputs.push_back(adapter.folder);
  for (const std::string& line : RecordExports(inputs, report.files)) {
    std::fprintf(stderr, "export: %s\n", line.c_str());
  }
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
  command
      ->add_option("--model", options->request.model,
                   "Hugging Face folder of the base model, or a .gguf (for the gguf formats)")
      ->required();
  command->add_option("--adapter", options->adapters,
                      "PEFT folder to merge, or FOLDER=WEIGHT; several are merged in turn. The run "
                      "card of a run's folder gets the hashes of what is written");
  std::string help = "FORMAT=PATH, any number of times. Formats:";
  for (const ExportTarget& target : ExportTargets())
    help += std::string("\n  ") + target.name + ": " + target.help;
  command->add_option("--out", options->outputs, help)->required();
  command->add_option("--max-shard-size", options->max_shard_size,
                      "cut weights into files of at most so much: 5GB (safetensors, mlx, gguf)");
  command->add_option("--tensor-type", options->tensor_types,
                      "PATTERN=FORMAT for matrices of a GGUF model whose name matches, as in "
                      "llama-quantize: attn_v=q8_0");
  command->add_option(
      "--imatrix", options->imatrix,
      "importance matrix of lapidary imatrix or llama-imatrix (.gguf or .dat): GGUF "
      "models below 8 bits are quantized with it, as by llama-quantize");
  command->add_option("--metadata", options->metadata,
                      "KEY=VALUE for general.KEY of GGUF files: name, author, license, tags, ...");
  command->add_flag("--modelfile", options->request.options.modelfile,
                    "beside a GGUF model: NAME.Modelfile for `ollama create`");
  command->add_flag("--overwrite", options->request.overwrite, "replace outputs that exist");
  command->add_flag("--json", options->json, "report as JSON");
  command->footer(
      "Example:\n  lapidary export --model gemma-4-12b --adapter out --out gguf:q4_k_m=m.gguf "
      "--out safetensors=merged");
  command->callback([options] { Run(*options); });
}

}  // namespace lapidary
