// `lapidary doctor`: what users trip over in a checkpoint, an adapter or a GGUF, what each runtime
// does with it, and a mended copy.
#include "train/doctor/doctor.h"

#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "recipes/commands.h"
#include "train/doctor/checks.h"
#include "train/progress.h"

namespace lapidary {
namespace {

struct DoctorArgs {
  std::string path, fix;
  DoctorOptions options;
  bool json = false, list = false;
};

void PrintEffects(const DoctorCheck& check) {
  for (int i = 0; i < kDoctorRuntimes; ++i) {
    const char* effect = check.effects[static_cast<size_t>(i)];
    if (*effect) {
      std::printf("           %-13s %s\n", kDoctorRuntimeNames[static_cast<size_t>(i)], effect);
    }
  }
}

void Print(const DoctorReport& report) {
  std::printf("%s: %s, %s tensors\n", report.path.c_str(), report.kind.c_str(),
              CountText(report.tensors).c_str());
  for (const DoctorFinding& f : report.findings) {
    std::printf("\n%-8s %s: %s\n", f.check->severity == Severity::kError ? "error" : "warning",
                f.check->id, f.check->what);
    std::printf("           %s\n", f.text.c_str());
    PrintEffects(*f.check);
    std::printf("           %s\n", f.repairable ? "--fix mends it" : "--fix cannot mend it");
  }
  std::printf("%s%lld errors, %lld warnings\n", report.findings.empty() ? "" : "\n",
              static_cast<long long>(report.Count(Severity::kError)),
              static_cast<long long>(report.Count(Severity::kWarning)));
}

void List() {
  for (const DoctorCheck& check : DoctorChecks()) {
    std::printf("%-8s %s: %s%s\n", check.severity == Severity::kError ? "error" : "warning",
                check.id, check.what, check.repair ? " (--fix)" : "");
    PrintEffects(check);
  }
}

bool AnyRepairable(const DoctorReport& report) {
  for (const DoctorFinding& f : report.findings) {
    if (f.repairable && f.check->repair) return true;
  }
  return false;
}

void Run(const DoctorArgs& args) {
  if (args.list) return List();
  if (args.path.empty()) throw CLI::RequiredError("path");
  DoctorReport report = Examine(args.path, args.options);
  nlohmann::ordered_json json = DoctorJson(report);
  if (!args.json) Print(report);
  if (!args.fix.empty() && AnyRepairable(report)) {
    const DoctorRepair result = Repair(args.path, args.fix, args.options);
    json["fix"] = {{"out", args.fix},
                   {"repaired", result.repaired},
                   {"left", DoctorJson(result.after)["findings"]}};
    if (!args.json) {
      std::string text;
      for (const std::string& id : result.repaired) text += " " + id;
      std::printf("\nwritten to %s, mended:%s\n", args.fix.c_str(), text.c_str());
      for (const DoctorFinding& f : result.after.findings) {
        std::printf("left: %s: %s\n", f.check->id, f.text.c_str());
      }
    }
    report = result.after;
  } else if (!args.fix.empty() && !args.json) {
    std::printf("nothing to mend: %s is not written\n", args.fix.c_str());
  }
  if (args.json) std::printf("%s\n", json.dump(1).c_str());
  if (!report.findings.empty()) {
    throw CLI::RuntimeError(report.Count(Severity::kError) > 0 ? 3 : 1);
  }
}

}  // namespace

void AddDoctor(CLI::App& cli) {
  CLI::App* app = cli.add_subcommand(
      "doctor", "find what users trip over in a checkpoint, adapter, GGUF or export, and mend it");
  auto args = std::make_shared<DoctorArgs>();
  app->add_option(
      "path", args->path,
      "Hugging Face, MLX or compressed-tensors folder, an adapter (PEFT, MLX, GGUF), or .gguf");
  app->add_option("--fix", args->fix, "write a mended copy here (a new folder, or a new .gguf)");
  app->add_option("--base", args->options.base,
                  "of an adapter: its base's folder, to know all layers and shapes");
  app->add_flag("--list", args->list, "print every check and what each runtime does, and leave");
  app->add_flag("--json", args->json, "print one JSON object");
  app->footer(
      "exit code: 0 nothing found (or all mended), 1 warnings, 3 errors\n"
      "example: lapidary doctor mine --fix mine-mended");
  app->callback([args] { Run(*args); });
}

}  // namespace lapidary
