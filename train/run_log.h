// metrics.jsonl: one JSON object a line, appended as the run goes, readable at any time; and the
// facts about the machine that go into it.
#ifndef LAPIDARY_TRAIN_RUN_LOG_H_
#define LAPIDARY_TRAIN_RUN_LOG_H_

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>

namespace lapidary {

class RunLog {
 public:
  // Opens `path` for appending. Lines of steps beyond `last_step`, which a run that is resumed
  // there will write again, and a broken last line are dropped first; -1 drops all.
  RunLog(std::string path, int64_t last_step);
  ~RunLog();
  RunLog(const RunLog&) = delete;
  RunLog& operator=(const RunLog&) = delete;

  // Appends one line. Throws Error naming the file if it cannot (disk full).
  void Add(const nlohmann::ordered_json& line);

 private:
  std::string path_;
  int fd_ = -1;
};

// The most memory that this process has had in use (VmHWM), bytes; 0 where unknown.
int64_t PeakMemoryBytes();
// "Intel(R) Xeon(R) ..., 2 threads, amx, 16 GB".
std::string MachineText();

}  // namespace lapidary

#endif  // LAPIDARY_TRAIN_RUN_LOG_H_
