#include "train/output_folder.h"

#include <fcntl.h>
#include <stdio.h>  // renameat2
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <vector>

#include "autograd/base/error.h"
#include "autograd/base/file.h"

namespace lapidary {
namespace {

namespace fs = std::filesystem;

constexpr char kPrefix[] = "checkpoint-";
constexpr char kTemporary[] = "tmp-";
// What a run writes at the top of its folder besides checkpoints.
constexpr const char* kOwnFiles[] = {
    "training_config.json", "metrics.jsonl",          "report.html",
    "adapter_config.json",  "trainer_state.json",     "adapter_model.safetensors",
    "qat_config.json",      "qat_scales.safetensors", "run_card.json",
};
// What a full fine-tuning adds; a base model kept in the same folder is not a run's to remove
// unless the run's own files are there too.
constexpr const char* kOwnModelFiles[] = {
    "config.json",           "model.safetensors",        "tokenizer.json",
    "chat_template.jinja",   "tokenizer_config.json",    "special_tokens_map.json",
    "processor_config.json", "preprocessor_config.json", "generation_config.json",
};

// The steps of "checkpoint-N", or -1.
int64_t StepOf(const std::string& name) {
  const size_t prefix = std::strlen(kPrefix);
  if (name.rfind(kPrefix, 0) != 0 || name.size() == prefix || name.size() > prefix + 18) return -1;
  int64_t step = 0;
  for (const char c : name.substr(prefix)) {
    if (c < '0' || c > '9') return -1;
    step = step * 10 + (c - '0');
  }
  return step;
}

std::vector<Checkpoint> ListCheckpoints(const std::string& path) {
  std::vector<Checkpoint> found;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(path, error)) {
    const int64_t step = StepOf(entry.path().filename().string());
    if (step >= 0 && fs::exists(entry.path() / "trainer_state.json", error)) {
      found.push_back({step, entry.path().string()});
    }
  }
  std::sort(found.begin(), found.end(),
            [](const Checkpoint& a, const Checkpoint& b) { return a.step < b.step; });
  return found;
}

[[noreturn]] void Fail(const std::string& path, const char* action, const std::string& reason) {
  throw Error(StrCat(path, ": cannot ", action, "; got ", reason));
}

// One file or folder of an earlier run, or "". A run that ended before its first step (a broken
// record, say) leaves its configuration and no metrics: nothing to lose.
std::string EarlierRun(const std::string& path) {
  std::error_code error;
  const bool begun = fs::file_size(path + "/metrics.jsonl", error) > 0 && !error;
  const std::vector<Checkpoint> checkpoints = ListCheckpoints(path);
  for (const char* name : kOwnFiles) {
    const std::string file = name;
    const bool of_any_run = file == "training_config.json" || file == "metrics.jsonl";
    if (of_any_run && !begun && checkpoints.empty()) continue;
    if (fs::exists(path + "/" + file)) return file;
  }
  if (!checkpoints.empty()) return fs::path(checkpoints[0].folder).filename().string();
  return "";
}

}  // namespace

std::optional<Checkpoint> LatestCheckpoint(const std::string& output_dir) {
  const std::vector<Checkpoint> checkpoints = ListCheckpoints(output_dir);
  if (checkpoints.empty()) return std::nullopt;
  return checkpoints.back();
}

OutputFolder::OutputFolder(const TrainConfig& config) : path_(config.output_dir) {
  std::error_code error;
  created_ = fs::create_directories(path_, error);
  if (error || !fs::is_directory(path_)) {
    Fail(path_, "create the folder", error ? error.message() : "a file of that name");
  }
  const std::string lock_file = path_ + "/.lock";
  lock_ = ::open(lock_file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (lock_ < 0) Fail(path_, "write into the folder", std::strerror(errno));
  try {
    LAPIDARY_CHECK(::flock(lock_, LOCK_EX | LOCK_NB) == 0, path_,
                   ": output_dir must belong to one run at a time; got one that another process is "
                   "writing; try another output_dir");
    ClearTemporary();
    const std::string earlier = EarlierRun(path_);
    if (!config.resume_from_checkpoint.empty()) {
      if (config.resume_from_checkpoint == "latest") {
        resume_ = LatestCheckpoint(path_);
      } else {
        const fs::path folder = fs::path(config.resume_from_checkpoint).lexically_normal();
        const std::string name =
            (folder.has_filename() ? folder : folder.parent_path()).filename().string();
        LAPIDARY_CHECK(StepOf(name) >= 0 && fs::exists(folder / "trainer_state.json"),
                       config.resume_from_checkpoint,
                       ": must be a checkpoint-N folder with trainer_state.json; got none; try "
                       "\"latest\"");
        resume_ = Checkpoint{StepOf(name), folder.string()};
      }
    } else if (!earlier.empty()) {
      LAPIDARY_CHECK(config.overwrite_output_dir, path_,
                     ": output_dir must be without an earlier run; got '", earlier,
                     "'; try another output_dir, --resume, or --set overwrite_output_dir=true");
      const bool full = fs::exists(path_ + "/training_config.json") &&
                        !fs::equivalent(path_, config.model_name_or_path, error);
      for (const Checkpoint& checkpoint : ListCheckpoints(path_)) Retire(checkpoint.folder);
      if (full) {
        for (const char* name : kOwnModelFiles) fs::remove(path_ + "/" + name);
      }
      for (const char* name : kOwnFiles) fs::remove(path_ + "/" + name);
      fs::remove_all(path_ + "/runs", error);  // event files
    }
  } catch (...) {
    Leave();
    throw;
  }
}

OutputFolder::~OutputFolder() { Leave(); }

void OutputFolder::Leave() const {
  std::error_code error;
  const auto files = std::distance(fs::directory_iterator(path_, error), fs::directory_iterator());
  if (created_ && !error && files == 1) {
    ::unlink((path_ + "/.lock").c_str());
    ::rmdir(path_.c_str());  // fails if another process has begun to use it
  }
  ::close(lock_);
}

void OutputFolder::ClearTemporary() const {
  std::vector<fs::path> old;
  for (const auto& entry : fs::directory_iterator(path_)) {
    const std::string name = entry.path().filename().string();
    // "tmp-..." of this class, "NAME.tmp-PID-N" of AtomicFile.
    if (name.rfind(kTemporary, 0) == 0 || name.find(".tmp-") != std::string::npos) {
      old.push_back(entry.path());
    }
  }
  std::error_code ignored;
  for (const fs::path& path : old) fs::remove_all(path, ignored);
}

// Takes a checkpoint away: first its name, so that half of one is never taken for a whole.
void OutputFolder::Retire(const std::string& folder) const {
  const std::string away =
      StrCat(path_, "/", kTemporary, "old-", fs::path(folder).filename().string());
  std::error_code error;
  fs::remove_all(away, error);
  CallFileHook("rename", away);
  fs::rename(folder, away, error);
  if (error) Fail(folder, "remove", error.message());
  fs::remove_all(away, error);
}

void OutputFolder::AddCheckpoint(int64_t step, const std::function<void(const std::string&)>& fill,
                                 int64_t limit, int64_t keep) {
  const std::string target = StrCat(path_, "/", kPrefix, step);
  const std::string temporary = StrCat(path_, "/", kTemporary, kPrefix, step);
  std::error_code error;
  fs::remove_all(temporary, error);
  fs::create_directory(temporary, error);
  if (error) Fail(temporary, "create the folder", error.message());
  try {
    fill(temporary);
    SyncFolder(temporary);
    CallFileHook("rename", target);
    if (fs::exists(target)) {
      // Both names stay taken throughout: a crash leaves the old checkpoint or the new one.
      if (::renameat2(AT_FDCWD, temporary.c_str(), AT_FDCWD, target.c_str(), RENAME_EXCHANGE) !=
          0) {
        Fail(target, "put in place", std::strerror(errno));
      }
      fs::remove_all(temporary, error);
    } else {
      fs::rename(temporary, target, error);
      if (error) Fail(target, "put in place", error.message());
    }
    SyncFolder(path_);
  } catch (...) {
    fs::remove_all(temporary, error);
    throw;
  }
  if (limit == 0) return;
  std::vector<Checkpoint> all = ListCheckpoints(path_);
  while (static_cast<int64_t>(all.size()) > limit) {
    // The one just written stays, whatever steps an abandoned branch of the run had reached, and so
    // does the best.
    const auto oldest = std::find_if(all.begin(), all.end(), [&](const Checkpoint& checkpoint) {
      return checkpoint.step != step && checkpoint.step != keep;
    });
    if (oldest == all.end()) break;
    Retire(oldest->folder);
    all.erase(oldest);
  }
}

std::vector<std::string> OutputFolder::PublishFinal(int64_t step) const {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(StrCat(path_, "/", kPrefix, step))) {
    const std::string name = entry.path().filename().string();
    if (name.rfind("trainer_state", 0) == 0 || name == "training_config.json") continue;
    names.push_back(name);
    const std::string temporary = StrCat(path_, "/", kTemporary, name);
    std::error_code error;
    fs::remove(temporary, error);
    fs::create_hard_link(entry.path(), temporary, error);
    if (error) {  // a file system without links
      WriteFile(path_ + "/" + name, ReadFile(entry.path().string(), uint64_t{1} << 42));
      continue;
    }
    // rename leaves two links of one file alone.
    if (fs::equivalent(temporary, path_ + "/" + name, error)) {
      fs::remove(temporary, error);
    } else {
      CallFileHook("rename", path_ + "/" + name);
      fs::rename(temporary, path_ + "/" + name);
    }
  }
  SyncFolder(path_);
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace lapidary
