#include "train/export/export.h"

#include <sys/stat.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <set>

#include "autograd/base/error.h"
#include "autograd/base/file.h"
#include "model/base_fingerprint.h"
#include "train/export/export_pass.h"
#include "train/export/trained_grids.h"

namespace lapidary {
namespace {

namespace fs = std::filesystem;

uint64_t SystemFreeBytes(const std::string& folder) {
  struct statvfs info;
  if (::statvfs(folder.c_str(), &info) != 0) return UINT64_MAX;  // then the write itself will tell
  return static_cast<uint64_t>(info.f_bavail) * info.f_frsize;
}

// The folder itself or the nearest one above it that exists.
std::string ExistingFolder(fs::path path) {
  path = fs::absolute(path);
  while (!fs::is_directory(path) && path.has_relative_path()) path = path.parent_path();
  return path.string();
}

// The absolute folder that an output's files go to.
fs::path FolderOf(const OutputPlan& plan) {
  const fs::path path = fs::absolute(plan.path).lexically_normal();
  return plan.is_folder && path.has_filename() ? path : path.parent_path();
}

// ---- checks before anything is written
// ----------------------------------------------------------------------------------

bool SamePlace(const std::string& a, const std::string& b) {
  return !a.empty() && !b.empty() && fs::weakly_canonical(a) == fs::weakly_canonical(b);
}

std::vector<std::string> PathsOf(const OutputPlan& plan) {
  std::vector<std::string> paths;
  for (const PlannedFile& file : plan.files) paths.push_back(file.path);
  for (const PlannedSide& side : plan.sides) paths.push_back(side.path);
  return paths;
}

bool IsSource(const std::string& path, const ExportRequest& request,
              const std::vector<AdapterUse>& adapters) {
  return SamePlace(path, request.model) ||
         std::any_of(adapters.begin(), adapters.end(),
                     [&](const AdapterUse& use) { return SamePlace(path, use.adapter.folder); });
}

void CheckPaths(const std::vector<OutputPlan>& plans, const ExportRequest& request,
                const std::vector<AdapterUse>& adapters) {
  std::set<fs::path> seen;
  for (const OutputPlan& plan : plans) {
    LAPIDARY_CHECK(
        !IsSource(plan.path, request, adapters), plan.path,
        ": an output must not be the folder that it is made from; got that one; try another");
    for (const std::string& path : PathsOf(plan)) {
      LAPIDARY_CHECK(!IsSource(path, request, adapters), path,
                     ": an output must not be the file that it is made from; try another path");
      LAPIDARY_CHECK(seen.insert(fs::weakly_canonical(path)).second, path,
                     ": every output must have its own path; got it twice");
      LAPIDARY_CHECK(!fs::is_directory(path), path, ": must be a file; got a folder");
      LAPIDARY_CHECK(request.overwrite || !fs::exists(path), path,
                     ": must not exist; got a file; try --overwrite or another path");
    }
    if (plan.is_folder) {
      LAPIDARY_CHECK(!fs::exists(plan.path) || fs::is_directory(plan.path), plan.path,
                     ": must be a folder; got a file");
      LAPIDARY_CHECK(request.overwrite || !fs::exists(plan.path) || fs::is_empty(plan.path),
                     plan.path,
                     ": must be an empty or new folder; got one with files in it; try --overwrite "
                     "or another path");
    }
  }
}

void CheckDisk(const std::vector<OutputPlan>& plans, const ExportRequest& request) {
  struct Need {
    std::string folder;
    uint64_t bytes = 0;
  };
  std::map<uint64_t, Need> disks;
  for (const OutputPlan& plan : plans) {
    const std::string folder = ExistingFolder(FolderOf(plan));
    struct stat info;
    const uint64_t device =
        ::stat(folder.c_str(), &info) == 0 ? static_cast<uint64_t>(info.st_dev) : 0;
    Need& need = disks[device];
    need.folder = folder;
    for (const PlannedFile& file : plan.files) need.bytes += file.type->layout(file.manifest).total;
    for (const PlannedSide& side : plan.sides)
      need.bytes += side.from.empty() ? side.text.size() : fs::file_size(side.from);
  }
  for (const auto& [device, need] : disks) {
    const uint64_t available =
        request.free_bytes ? request.free_bytes(need.folder) : SystemFreeBytes(need.folder);
    LAPIDARY_CHECK(need.bytes <= available, need.folder, ": the disk must have ", need.bytes,
                   " bytes free for the outputs; got ", available,
                   "; try another disk or fewer formats");
    if (request.announce) request.announce(need.folder, need.bytes, available);
  }
}

void CheckBase(const CheckpointFiles& base, const std::string& where) {
  LAPIDARY_CHECK(base.misshapen.empty(), base.misshapen.front());
  LAPIDARY_CHECK(base.missing.empty(), where, ": must hold ", base.missing.front(),
                 "; got nothing (", base.missing.size(),
                 " tensors are missing); try `lapidary inspect`");
}

// Folders made for the outputs; those that are still empty are removed again when the export fails.
class FolderGuard {
 public:
  void Create(const fs::path& folder) {
    if (folder.empty() || fs::exists(folder)) return;
    Create(folder.parent_path());
    std::error_code failure;
    fs::create_directory(folder, failure);
    LAPIDARY_CHECK(!failure, folder.string(), ": must be a folder that can be created; got ",
                   failure.message());
    created_.push_back(folder);
  }
  void Keep() { created_.clear(); }
  ~FolderGuard() {
    std::error_code ignored;
    for (size_t i = created_.size(); i-- > 0;) fs::remove(created_[i], ignored);  // only if empty
  }

 private:
  std::vector<fs::path> created_;
};

void WriteSide(const PlannedSide& side) {
  if (side.from.empty()) {
    WriteFile(side.path, side.text);
    return;
  }
  const auto from = MappedFile::Open(side.from);
  AtomicFile out(side.path);
  out.Write(from->data(), from->size());
  out.Commit();
}

void AppendMade(const PlannedFile& file, FileWriter& writer) {
  for (size_t i = 0; i < file.tensors.size(); ++i) {
    if (!file.tensors[i].make) continue;
    const std::vector<uint8_t> bytes = file.tensors[i].make();
    writer.Append(i, bytes.data(), bytes.size());
  }
}

std::string Percent(double share) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.0f %%", 100 * share);
  return text;
}

// What the user should know about a merge into bf16 (formats.md 9.1).
void WarnAboutRounding(const MergeReport& merge, const std::vector<OutputPlan>& plans,
                       std::vector<std::string>* warnings) {
  const double swallowed = merge.all().swallowed();
  if (swallowed <= kSwallowedLimit) return;
  for (const OutputPlan& plan : plans) {
    bool bf16 = false;
    for (const PlannedFile& file : plan.files) {
      for (const PlannedTensor& tensor : file.tensors)
        bf16 = bf16 || (tensor.encoding.dtype == "BF16" && tensor.encoding.row_bytes > 2 &&
                        merge.kinds.count(TensorKind(tensor.source)));
    }
    if (!bf16) continue;
    const auto worst = std::max_element(
        merge.kinds.begin(), merge.kinds.end(),
        [](const auto& a, const auto& b) { return a.second.swallowed() < b.second.swallowed(); });
    warnings->push_back(StrCat(
        plan.path, ": rounding to bf16 swallows ", Percent(swallowed), " of the adapter's change (",
        Percent(worst->second.swallowed()), " in ", worst->first,
        "): the change is small beside the weights; try safetensors:f32, or serve the adapter "
        "unmerged (peft, gguf-lora)"));
  }
}

}  // namespace

ExportOutput ParseExportOutput(const std::string& text) {
  const size_t equals = text.find('=');
  LAPIDARY_CHECK(equals != std::string::npos && equals + 1 < text.size(),
                 "export: an output must be FORMAT=PATH; got '", text, "'; try safetensors=merged");
  ExportOutput output{text.substr(0, equals), text.substr(equals + 1)};
  FindExportTarget(output.format);
  return output;
}

AdapterChoice ParseAdapterChoice(const std::string& text) {
  const size_t equals = text.rfind('=');
  if (equals == std::string::npos || fs::exists(text)) return {text, 1};
  const std::string number = text.substr(equals + 1);
  char* end = nullptr;
  const double weight = std::strtod(number.c_str(), &end);
  LAPIDARY_CHECK(!number.empty() && *end == 0 && std::isfinite(weight) && weight != 0,
                 "export: an adapter must be DIR or DIR=WEIGHT with a weight other than 0; got '",
                 text, "'; try out=0.5");
  return {text.substr(0, equals), weight};
}

ExportReport Export(const ExportRequest& request, const CheckpointFiles& base,
                    const std::vector<AdapterUse>& adapters) {
  const auto start = std::chrono::steady_clock::now();
  LAPIDARY_CHECK(
      !request.outputs.empty(),
      "export: at least one output must be asked for; got none; try --out safetensors=merged");
  CheckBase(base, request.model);
  const AdapterMerge merge(adapters, base.tensors);
  const TrainedGrids grids(adapters, request.model, base);
  const std::map<std::string, const Format*> trained = grids.Formats();
  std::vector<OutputPlan> plans;
  for (const ExportOutput& output : request.outputs) {
    const ExportTarget& target = FindExportTarget(output.format);
    LAPIDARY_CHECK(!output.path.empty(), "export: ", output.format, " must have a path; got none");
    plans.push_back(target.plan({base, request.model, adapters, merge, request.options, trained},
                                target, output.path));
  }
  CheckPaths(plans, request, adapters);
  CheckDisk(plans, request);

  FolderGuard folders;
  std::vector<std::unique_ptr<FileWriter>> writers;
  std::map<std::string, std::vector<ExportConsumer>> consumers;
  for (const OutputPlan& plan : plans) {
    folders.Create(FolderOf(plan));
    for (const PlannedFile& file : plan.files) {
      writers.push_back(std::make_unique<FileWriter>(file.path, file.type->layout(file.manifest)));
      AppendMade(file, *writers.back());
      for (size_t i = 0; i < file.tensors.size(); ++i) {
        if (!file.tensors[i].make)
          consumers[file.tensors[i].source].push_back(
              {writers.back().get(), i, &file.tensors[i], &file.path});
      }
    }
  }
  ExportReport report;
  if (!consumers.empty()) {
    ExportPass pass(base, merge, grids, request.progress);
    pass.Run(consumers);
    report.base_bytes = pass.total();
    report.merge = pass.merge_report();
    LAPIDARY_CHECK(report.merge.kinds.empty() || pass.changed(), adapters[0].adapter.folder,
                   ": the adapter must change the model; got the base's own values; try a later "
                   "checkpoint");
  }
  for (const std::unique_ptr<FileWriter>& writer : writers) writer->Commit();
  folders.Keep();
  report.warnings = base.warnings;
  for (const AdapterUse& use : adapters) {
    const auto warning =
        OtherBaseWarning(use.adapter.config, use.adapter.folder, base, request.model);
    if (warning) report.warnings.push_back(*warning);
  }
  for (const OutputPlan& plan : plans) {
    for (const PlannedFile& file : plan.files) {
      report.files.push_back({plan.format, file.path, fs::file_size(file.path),
                              static_cast<int64_t>(file.tensors.size())});
    }
    for (const PlannedSide& side : plan.sides) {
      WriteSide(side);
      report.files.push_back({plan.format, side.path, fs::file_size(side.path), 0});
    }
    report.warnings.insert(report.warnings.end(), plan.warnings.begin(), plan.warnings.end());
  }
  WarnAboutRounding(report.merge, plans, &report.warnings);
  if (!base.extra.empty()) {
    report.warnings.push_back(StrCat(request.model, ": ", base.extra.size(),
                                     " tensors are not of this architecture and are not ",
                                     "exported; the first is ", base.extra.front()));
  }
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return report;
}

ExportReport Export(const ExportRequest& request) {
  const CheckpointFiles base = OpenCheckpointFiles(request.model);
  std::vector<AdapterUse> adapters;
  for (const AdapterChoice& choice : request.adapters)
    adapters.push_back({OpenAdapter(choice.folder), choice.weight});
  return Export(request, base, adapters);
}

}  // namespace lapidary
