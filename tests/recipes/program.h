// Runs the real `lapidary` program in a folder of its own.
#ifndef LAPIDARY_TESTS_RECIPES_PROGRAM_H_
#define LAPIDARY_TESTS_RECIPES_PROGRAM_H_

#include <cstdint>
#include <string>
#include <vector>

namespace lapidary {

struct Finished {
  int code = 0;  // exit code; -N: ended by signal N
  std::string out, err;
  int64_t peak_bytes = 0;  // the most that was resident at once
};

struct HowToRun {
  std::string in;                // standard input
  std::vector<std::string> env;  // NAME=VALUE on top of the test's own
  std::string out;               // where standard output goes; empty: to Finished::out
  uint64_t file_limit = 0;       // bytes that a file may have (a full disk); 0: any
  // Signal to send; after so many lines of OUT/metrics.jsonl, or else after so many milliseconds.
  int signal = 0;
  std::string metrics;
  int lines = 0;
  double milliseconds = 0;
};

// `words`: the arguments behind `lapidary`. Relative paths are those of the folder `at`.
Finished RunLapidary(const std::string& at, const std::vector<std::string>& words,
                     const HowToRun& how = {});

// A folder with a two-layer model `base`, data `train.jsonl` and `eval.jsonl` and a LoRA
// configuration `lora.json` over them (output_dir "out", 6 steps, a checkpoint every 2).
class Workshop {
 public:
  Workshop();
  ~Workshop();
  Workshop(const Workshop&) = delete;
  Workshop& operator=(const Workshop&) = delete;
  const std::string& path() const { return path_; }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  Finished Run(const std::vector<std::string>& words, const HowToRun& how = {}) const {
    return RunLapidary(path_, words, how);
  }
  // Every file with its size, sorted: what a refused command must leave as it was.
  std::vector<std::string> Listing() const;

 private:
  std::string path_;
};

}  // namespace lapidary

#endif  // LAPIDARY_TESTS_RECIPES_PROGRAM_H_
