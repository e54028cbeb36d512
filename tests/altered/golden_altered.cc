// The golden tests notice: for every file of a golden root, a copy of the root in which one value
// of that file is altered must make the test of that file fail, and the same copy without the
// alteration must let it pass.
//   golden_altered ROOT NAME=PROGRAM... [--only REGEX] [--every]
// Prints a line an alteration: file, what was altered, caught or NOT CAUGHT. By default the first
// alteration that a rule finds in a file is tried; --every tries all that rules.cc lists.
#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
#include <mutex>
#include <regex>
#include <set>
#include <sstream>
#include <thread>

#include "autograd/base/error.h"
#include "autograd/base/file.h"
#include "tests/altered/alter.h"
#include "tests/altered/rules.h"

namespace lapidary::altered {
namespace {

namespace fs = std::filesystem;

struct Case {
  std::string file, what;
  const Rule* rule = nullptr;
  std::vector<std::string> keep;  // files of the copy, sorted
};

struct Outcome {
  bool caught = false;
  std::string line;
};

struct TestRun {
  bool passed = false, failed = false;  // neither: it crashed, or ran no test
  std::string tail;                     // of its output
};

// Runs `program` on the golden root `root`.
TestRun RunTest(const std::string& program, const std::string& filter, const std::string& root) {
  const std::string log = root + ".log";
  std::vector<std::string> words = {"timeout",
                                    "300",
                                    "env",
                                    "LAPIDARY_GOLDEN=" + root,
                                    "LAPIDARY_THREADS=1",
                                    program,
                                    "--gtest_filter=" + filter};
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_addopen(&actions, 1, log.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  ::posix_spawn_file_actions_adddup2(&actions, 1, 2);
  pid_t child = 0;
  const int error =
      ::posix_spawnp(&child, words[0].c_str(), &actions, nullptr, arguments.data(), environ);
  ::posix_spawn_file_actions_destroy(&actions);
  LAPIDARY_CHECK(error == 0, "golden_altered: the program timeout must start; got error ", error);
  int status = 0;
  ::waitpid(child, &status, 0);
  const std::string output = ReadFile(log);
  fs::remove(log);
  TestRun run;
  const bool ran = output.find("[ RUN      ]") != std::string::npos;
  run.passed = ran && WIFEXITED(status) && WEXITSTATUS(status) == 0;
  run.failed = ran && WIFEXITED(status) && WEXITSTATUS(status) == 1 &&
               output.find("[  FAILED  ]") != std::string::npos;
  run.tail = output.substr(output.size() > 3000 ? output.size() - 3000 : 0);
  return run;
}

class Driver {
 public:
  Driver(std::string root, std::map<std::string, std::string> programs)
      : root_(fs::canonical(root).string()), programs_(std::move(programs)) {
    char name[] = "/tmp/lapidary-altered-XXXXXX";
    LAPIDARY_CHECK(::mkdtemp(name) != nullptr, name, ": must be a folder that can be made");
    folder_ = name;
    for (const auto& entry : fs::recursive_directory_iterator(root_)) {
      if (!entry.is_directory()) files_.push_back(entry.path().string().substr(root_.size() + 1));
    }
    std::sort(files_.begin(), files_.end());
  }
  ~Driver() { fs::remove_all(folder_); }

  // Every file must have a rule or a reason. Returns the number of files without.
  int Plan(const std::string& only, bool every) {
    int bad = 0;
    const std::regex wanted(only.empty() ? "." : only);
    for (const std::string& file : files_) {
      if (!std::regex_search(file, wanted)) continue;
      const size_t before = cases_.size();
      for (const Rule& rule : Rules()) AddCases(file, rule, every, before);
      if (cases_.size() > before) continue;
      const auto reason = std::find_if(
          Exceptions().begin(), Exceptions().end(),
          [&](const Exception& e) { return std::regex_match(file, std::regex(e.files)); });
      if (reason != Exceptions().end()) {
        std::printf("no expected value  %s: %s\n", file.c_str(), reason->reason.c_str());
      } else {
        std::printf("NO RULE            %s\n", file.c_str());
        ++bad;
      }
    }
    return bad;
  }

  // Returns the number of alterations that were not caught.
  int RunAll() {
    std::vector<std::thread> workers;
    for (int w = 0; w < 2; ++w) {
      workers.emplace_back([this, w] {
        for (size_t i; (i = next_++) < cases_.size();) {
          Outcome outcome;
          try {
            outcome = RunOne(cases_[i], StrCat(folder_, "/copy-", w));
          } catch (const std::exception& e) {
            outcome.line = StrCat("NOT CAUGHT  ", cases_[i].file, "  ", e.what());
          }
          const std::lock_guard<std::mutex> lock(mutex_);
          std::printf("%s\n", outcome.line.c_str());
          std::fflush(stdout);
          if (!outcome.caught) missed_.push_back(outcome.line.substr(0, outcome.line.find('\n')));
        }
      });
    }
    for (std::thread& worker : workers) worker.join();
    std::set<std::string> files;
    for (const Case& c : cases_) files.insert(c.file);
    std::printf("%zu files, %zu alterations, %zu not caught\n", files.size(), cases_.size(),
                missed_.size());
    for (const std::string& line : missed_) std::printf("%s\n", line.c_str());
    return static_cast<int>(missed_.size());
  }

  size_t cases() const { return cases_.size(); }

 private:
  void AddCases(const std::string& file, const Rule& rule, bool every, size_t before) {
    std::smatch match;
    const std::regex files(rule.files);
    if (!std::regex_match(file, match, files)) return;
    std::set<std::string> keep;
    for (const std::string& kept : rule.keep) {
      const std::regex pattern(match.format(kept));
      for (const std::string& other : files_) {
        if (std::regex_match(other, pattern)) keep.insert(other);
      }
    }
    keep.insert(file);
    for (const std::string& what : rule.alterations) {
      if (!every && cases_.size() > before) return;
      if (!Alter(root_ + "/" + file, what).found) continue;
      cases_.push_back({file, what, &rule, {keep.begin(), keep.end()}});
    }
  }

  // The files of a case as links below `copy`; none of an earlier case stays.
  void MakeCopy(const Case& c, const std::string& copy) const {
    fs::remove_all(copy);
    for (const std::string& file : c.keep) {
      const fs::path path = fs::path(copy) / file;
      fs::create_directories(path.parent_path());
      fs::create_symlink(root_ + "/" + file, path);
    }
  }

  // Whether the unaltered copy of a case passes; each kind of copy is run once.
  bool ControlPasses(const Case& c, const std::string& copy, std::string* tail) {
    std::string key = c.rule->program + " " + c.rule->filter;
    for (const std::string& file : c.keep) key += " " + file;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (const auto it = controls_.find(key); it != controls_.end()) return it->second;
    }
    MakeCopy(c, copy);
    const TestRun run = RunTest(programs_.at(c.rule->program), c.rule->filter, copy);
    *tail = run.tail;
    const std::lock_guard<std::mutex> lock(mutex_);
    return controls_[key] = run.passed;
  }

  Outcome RunOne(const Case& c, const std::string& copy) {
    Outcome outcome;
    std::string tail;
    const Altered altered = Alter(root_ + "/" + c.file, c.what);
    const auto line = [&](const char* verdict) {
      outcome.line = StrCat(verdict, "  ", c.file, "  ", altered.describe, "  (", c.rule->program,
                            " ", c.rule->filter, ")");
    };
    if (!programs_.contains(c.rule->program)) {
      line("NO PROGRAM");
    } else if (!ControlPasses(c, copy, &tail)) {
      line("CONTROL FAILS");
      outcome.line += "\n" + tail;
    } else {
      MakeCopy(c, copy);
      fs::remove(copy + "/" + c.file);
      WriteFile(copy + "/" + c.file, altered.bytes);
      const TestRun run = RunTest(programs_.at(c.rule->program), c.rule->filter, copy);
      outcome.caught = run.failed;
      line(run.failed ? "caught    " : run.passed ? "NOT CAUGHT" : "CRASHED   ");
      if (!run.failed && !run.passed) outcome.line += "\n" + run.tail;
    }
    return outcome;
  }

  std::string root_, folder_;
  std::map<std::string, std::string> programs_;
  std::vector<std::string> files_;
  std::vector<Case> cases_;
  std::atomic<size_t> next_{0};
  std::mutex mutex_;
  std::map<std::string, bool> controls_;
  std::vector<std::string> missed_;
};

int Main(int argc, char** argv) {
  std::string root, only;
  bool every = false;
  std::map<std::string, std::string> programs;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    const size_t equals = word.find('=');
    if (word == "--every") {
      every = true;
    } else if (word == "--only" && i + 1 < argc) {
      only = argv[++i];
    } else if (equals != std::string::npos) {
      programs[word.substr(0, equals)] = word.substr(equals + 1);
    } else {
      root = word;
    }
  }
  LAPIDARY_CHECK(!root.empty(), "golden_altered: a golden root must be given; got none");
  Driver driver(root, programs);
  const int without_rule = driver.Plan(only, every);
  LAPIDARY_CHECK(driver.cases() > 0, root, ": must hold golden files; got none");
  return driver.RunAll() + without_rule == 0 ? 0 : 1;
}

}  // namespace
}  // namespace lapidary::altered

int main(int argc, char** argv) {
  try {
    return lapidary::altered::Main(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 2;
  }
}
