#include "train/doctor/doctor.h"

#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "autograd/base/error.h"
#include "autograd/base/file.h"
#include "train/doctor/checks.h"
#include "train/doctor/subject.h"
#include "train/export/targets.h"

namespace lapidary {
namespace {

namespace fs = std::filesystem;
using OrderedJson = nlohmann::ordered_json;

constexpr uint64_t kPiece = uint64_t{1} << 22;

const char* KindName(SubjectKind kind) {
  switch (kind) {
    case SubjectKind::kGguf:
      return "GGUF";
    case SubjectKind::kAdapter:
      return "adapter";
    case SubjectKind::kGgufLora:
      return "GGUF adapter";
    case SubjectKind::kMlxAdapter:
      return "MLX adapter";
    case SubjectKind::kCheckpoint:
      return "checkpoint";
  }
  return "";
}

Subject ExamineSubject(const std::string& path, const DoctorOptions& options) {
  Subject s = OpenSubject(path);
  switch (s.kind) {
    case SubjectKind::kCheckpoint:
      ExamineFolder(&s);
      ExamineSides(&s);
      break;
    case SubjectKind::kAdapter:
      ExamineAdapter(&s, options);
      break;
    case SubjectKind::kGguf:
      ExamineGguf(&s);
      break;
    case SubjectKind::kGgufLora:
    case SubjectKind::kMlxAdapter:
      ExamineLora(&s, options);
      break;
  }
  // Rows of one table: their addresses are its order.
  std::stable_sort(
      s.findings.begin(), s.findings.end(),
      [](const DoctorFinding& a, const DoctorFinding& b) { return a.check < b.check; });
  return s;
}

DoctorReport ReportOf(const Subject& s) {
  DoctorReport report;
  report.path = s.path;
  report.kind = KindName(s.kind);
  report.tensors = static_cast<int64_t>(s.parts.size());
  if (s.gguf) report.tensors = static_cast<int64_t>(s.gguf->tensors().tensors().size());
  if (s.mmproj) report.tensors += static_cast<int64_t>(s.mmproj->tensors().tensors().size());
  report.findings = s.findings;
  return report;
}

void CopyFile(const std::string& from, const std::string& to) {
  const auto in = MappedFile::Open(from);
  AtomicFile out(to);
  for (uint64_t at = 0; at < in->size(); at += kPiece) {
    const uint64_t n = std::min(kPiece, in->size() - at);
    out.Write(in->data() + at, n);
    in->DropPages(at, n);
  }
  out.Commit();
}

// Bytes of a tensor, piece by piece.
template <class Writer>
void AppendTensor(const StoredTensor& t, Writer* writer) {
  for (uint64_t at = 0; at < t.bytes; at += kPiece) {
    const uint64_t n = std::min(kPiece, t.bytes - at);
    writer->Append(t.data + at, n);
    DropMappedPages(t.data + at, n);
  }
}

void WriteWeights(const SafetensorsFile& file, const RepairPlan& plan, const std::string& to) {
  std::vector<TensorSpec> specs;
  std::map<std::string, const StoredTensor*> sources;
  for (const StoredTensor& t : file.tensors()) {
    if (plan.drop.count(t.name)) continue;
    const auto name = plan.rename.find(t.name);
    specs.push_back({name == plan.rename.end() ? t.name : name->second, t.dtype, t.shape});
    LAPIDARY_CHECK(sources.emplace(specs.back().name, &t).second, file.path(),
                   ": every tensor must have a name of its own; got two of ", specs.back().name);
  }
  SafetensorsWriter writer(to, specs, file.metadata());
  for (const TensorSpec& spec : writer.order()) AppendTensor(*sources.at(spec.name), &writer);
  writer.Commit();
}

std::string IndexText(const std::string& folder, const std::vector<std::string>& files) {
  OrderedJson map = OrderedJson::object();
  uint64_t total = 0;
  std::map<std::string, std::string> sorted;
  for (const std::string& name : files) {
    const SafetensorsFile file = SafetensorsFile::Open(folder + "/" + name);
    for (const StoredTensor& t : file.tensors()) {
      sorted[t.name] = name;
      total += t.bytes;
    }
  }
  for (const auto& [tensor, name] : sorted) map[tensor] = name;
  return OrderedJson({{"metadata", {{"total_size", total}}}, {"weight_map", map}}).dump(2) + "\n";
}

void RepairFolder(const Subject& s, const RepairPlan& plan, const std::string& to) {
  constexpr char kIndex[] = "model.safetensors.index.json";
  const bool weights = !plan.rename.empty() || !plan.drop.empty();
  const bool reindex = s.kind == SubjectKind::kCheckpoint && (weights || plan.write_index);
  const bool one = s.weight_files.size() == 1;
  std::vector<std::string> written;
  std::map<std::string, const SafetensorsFile*> opened;
  for (const SafetensorsFile& f : s.files) opened[fs::path(f.path()).filename().string()] = &f;
  for (const auto& entry : fs::recursive_directory_iterator(s.path)) {
    const std::string name = fs::relative(entry.path(), s.path).string();
    if (entry.is_directory()) {
      fs::create_directories(to + "/" + name);
      continue;
    }
    if (!entry.is_regular_file()) continue;
    const bool is_weights =
        std::find(s.weight_files.begin(), s.weight_files.end(), name) != s.weight_files.end();
    if (plan.text.count(name) || plan.json.count(name) || (reindex && name == kIndex)) continue;
    const std::string target = is_weights && reindex && one ? "model.safetensors" : name;
    if (is_weights) written.push_back(target);
    if (is_weights && weights && opened.count(name)) {
      WriteWeights(*opened.at(name), plan, to + "/" + target);
    } else {
      CopyFile(entry.path().string(), to + "/" + target);
    }
  }
  std::sort(written.begin(), written.end());
  if (reindex && !one && s.all_read) WriteFile(to + "/" + kIndex, IndexText(to, written));
  for (const auto& [name, text] : plan.text) WriteFile(to + "/" + name, text);
  for (const auto& [name, json] : plan.json) WriteFile(to + "/" + name, json.dump(2) + "\n");
}

void RepairGguf(const Subject& s, const RepairPlan& plan, const std::string& out) {
  GgufKeys keys;
  for (const auto& [key, value] : s.gguf->keys()) {
    if (key.rfind("split.", 0) != 0) keys.emplace_back(key, value);  // the copy is one file
  }
  for (const auto& [key, value] : plan.keys) {
    const auto old = std::find_if(keys.begin(), keys.end(),
                                  [&, &k = key](const auto& entry) { return entry.first == k; });
    if (old == keys.end()) {
      keys.emplace_back(key, value);
    } else {
      old->second = value;
    }
  }
  std::vector<TensorSpec> specs;
  for (const StoredTensor& t : s.gguf->tensors().tensors()) {
    if (!plan.drop.count(t.name)) specs.push_back({t.name, t.dtype, t.shape});
  }
  GgufWriter writer(out, keys, specs);
  for (const TensorSpec& spec : specs) AppendTensor(s.gguf->tensors().Get(spec.name), &writer);
  if (!s.mmproj_path.empty()) CopyFile(s.mmproj_path, MmprojPath(out));
  writer.Commit();
}

}  // namespace

int64_t DoctorReport::Count(Severity severity) const {
  return std::count_if(findings.begin(), findings.end(),
                       [&](const DoctorFinding& f) { return f.check->severity == severity; });
}

OrderedJson& RepairPlan::Json(const Subject& subject, const std::string& name) {
  const auto it = json.find(name);
  if (it != json.end()) return it->second;
  OrderedJson start = subject.Json(name);
  if (!start.is_object()) start = OrderedJson::object();
  return json[name] = start;
}

bool RepairPlan::empty() const {
  return rename.empty() && drop.empty() && json.empty() && text.empty() && keys.empty() &&
         !write_index;
}

DoctorReport Examine(const std::string& path, const DoctorOptions& options) {
  return ReportOf(ExamineSubject(path, options));
}

DoctorRepair Repair(const std::string& path, const std::string& out, const DoctorOptions& options) {
  LAPIDARY_CHECK(!fs::exists(out), out,
                 ": must not exist yet; got a file or folder; try another --fix");
  DoctorRepair result;
  {
    const Subject s = ExamineSubject(path, options);
    RepairPlan plan;
    for (const DoctorFinding& f : s.findings) {
      if (!f.repairable || !f.check->repair) continue;
      f.check->repair(s, f, &plan);
      result.repaired.push_back(f.check->id);
    }
    LAPIDARY_CHECK(!plan.empty(), path, ": something must be repairable; got ", s.findings.size(),
                   " findings that are not");
    if (s.gguf) {
      LAPIDARY_CHECK(out.size() > 5 && out.substr(out.size() - 5) == ".gguf", out,
                     ": the copy of a GGUF must be named *.gguf; got another name");
      RepairGguf(s, plan, out);
    } else {
      const std::string aside = StrCat(out, ".tmp-", ::getpid());
      std::error_code failed;
      fs::remove_all(aside, failed);
      LAPIDARY_CHECK(fs::create_directory(aside, failed), aside, ": cannot be created; got ",
                     failed.message());
      try {
        RepairFolder(s, plan, aside);
        SyncFolder(aside);
        fs::rename(aside, out);
      } catch (...) {
        fs::remove_all(aside, failed);
        throw;
      }
    }
  }
  result.after = Examine(out, options);
  return result;
}

OrderedJson DoctorJson(const DoctorReport& report) {
  OrderedJson json = {{"path", report.path},
                      {"kind", report.kind},
                      {"tensors", report.tensors},
                      {"errors", report.Count(Severity::kError)},
                      {"warnings", report.Count(Severity::kWarning)},
                      {"findings", OrderedJson::array()}};
  for (const DoctorFinding& f : report.findings) {
    OrderedJson runtimes = OrderedJson::object();
    for (int i = 0; i < kDoctorRuntimes; ++i) {
      const std::string effect = f.check->effects[static_cast<size_t>(i)];
      if (!effect.empty()) runtimes[kDoctorRuntimeNames[static_cast<size_t>(i)]] = effect;
    }
    json["findings"].push_back(
        {{"id", f.check->id},
         {"severity", f.check->severity == Severity::kError ? "error" : "warning"},
         {"what", f.check->what},
         {"found", f.text},
         {"items", f.items},
         {"repairable", f.repairable && f.check->repair != nullptr},
         {"runtimes", runtimes}});
  }
  return json;
}

}  // namespace lapidary
