#include "tests/recipes/program.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "autograd/base/error.h"
#include "autograd/base/file.h"

namespace lapidary {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

int64_t CountLines(const std::string& path) {
  std::ifstream in(path);
  int64_t count = 0;
  for (std::string line; std::getline(in, line);) ++count;
  return count;
}

void SendSignalInTime(pid_t child, const HowToRun& how) {
  const Clock::time_point start = Clock::now();
  for (;;) {
    const double waited = std::chrono::duration<double, std::milli>(Clock::now() - start).count();
    if (how.lines > 0 ? CountLines(how.metrics) >= how.lines : waited >= how.milliseconds) break;
    siginfo_t info = {};
    if (::waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
        info.si_pid == child) {
      return;  // it is through
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  ::kill(child, how.signal);
}

}  // namespace

Finished RunLapidary(const std::string& at, const std::vector<std::string>& words,
                     const HowToRun& how) {
  char name[] = "/tmp/lapidary-run-XXXXXX";
  LAPIDARY_CHECK(::mkdtemp(name) != nullptr, name, ": must be a folder that can be made");
  const std::string folder = name;
  WriteFile(folder + "/in", how.in);
  WriteFile(folder + "/out", "");
  std::vector<std::string> all = {LAPIDARY_PROGRAM};
  all.insert(all.end(), words.begin(), words.end());
  std::vector<char*> arguments;
  for (std::string& word : all) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  const pid_t child = ::fork();
  LAPIDARY_CHECK(child >= 0, "fork must work");
  if (child == 0) {
    const std::string out = how.out.empty() ? folder + "/out" : how.out, err = folder + "/err",
                      in = folder + "/in";
    const int flags = O_WRONLY | O_CREAT | O_TRUNC;
    if (::chdir(at.c_str()) != 0) ::_exit(126);
    ::dup2(::open(in.c_str(), O_RDONLY), 0);
    ::dup2(::open(out.c_str(), flags, 0600), 1);
    ::dup2(::open(err.c_str(), flags, 0600), 2);
    ::setenv("LAPIDARY_THREADS", "1", 1);
    for (const std::string& variable : how.env) {
      const size_t equals = variable.find('=');
      ::setenv(variable.substr(0, equals).c_str(), variable.substr(equals + 1).c_str(), 1);
    }
    if (how.file_limit > 0) {
      const rlimit limit = {how.file_limit, how.file_limit};
      ::setrlimit(RLIMIT_FSIZE, &limit);
      ::signal(SIGXFSZ, SIG_IGN);
    }
    ::alarm(300);
    ::execv(arguments[0], arguments.data());
    ::_exit(127);
  }
  if (how.signal != 0) SendSignalInTime(child, how);
  int status = 0;
  rusage usage = {};
  ::wait4(child, &status, 0, &usage);
  Finished finished;
  finished.peak_bytes = int64_t{usage.ru_maxrss} * 1024;
  finished.code = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  finished.out = ReadFile(folder + "/out");
  finished.err = ReadFile(folder + "/err");
  fs::remove_all(folder);
  return finished;
}

Workshop::Workshop() {
  char name[] = "/tmp/lapidary-recipes-XXXXXX";
  LAPIDARY_CHECK(::mkdtemp(name) != nullptr, name, ": must be a folder that can be made");
  path_ = name;
  const Finished made = Run({"make-model", "--shape", "tiny", "--layers", "2", "--out", "base"});
  LAPIDARY_CHECK(made.code == 0, "make-model must work; got ", made.err);
  const char* words[] = {"amber", "basalt", "coral", "diorite", "emerald", "flint", "garnet"};
  std::string train, eval;
  for (int i = 0; i < 13; ++i) {
    const std::string line =
        nlohmann::json{{"messages",
                        {{{"role", "user"}, {"content", StrCat("stone ", i, "?")}},
                         {{"role", "assistant"},
                          {"content", StrCat(words[i % 7], i % 3 == 0 ? " and more" : "")}}}}}
            .dump() +
        "\n";
    (i < 10 ? train : eval) += line;
  }
  WriteFile(path_ + "/train.jsonl", train);
  WriteFile(path_ + "/eval.jsonl", eval);
  WriteFile(path_ + "/lora.json",
            R"({"model_name_or_path": "base", "dataset": {"train": "train.jsonl"},
 "output_dir": "out", "lora": {"r": 2, "lora_alpha": 4, "lora_dropout": 0.1}, "learning_rate": 1e-2,
 "lr_scheduler_type": "cosine", "warmup_steps": 1, "weight_decay": 0.01, "num_train_epochs": 2,
 "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "max_length": 128,
 "save_steps": 2, "report_samples": 0})");
}

Workshop::~Workshop() { fs::remove_all(path_); }

std::vector<std::string> Workshop::Listing() const {
  std::vector<std::string> found;
  for (const auto& entry : fs::recursive_directory_iterator(path_)) {
    found.push_back(entry.is_regular_file() ? StrCat(entry.path().string(), " ", entry.file_size())
                                            : entry.path().string());
  }
  std::sort(found.begin(), found.end());
  return found;
}

}  // namespace lapidary
