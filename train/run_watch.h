// A run's folder as one who watches sees it: what metrics.jsonl says so far, curves drawn with
// characters, speed and time left. Reads while the run writes.
#ifndef LAPIDARY_TRAIN_RUN_WATCH_H_
#define LAPIDARY_TRAIN_RUN_WATCH_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace lapidary {

using Curve = std::vector<std::pair<double, double>>;  // step, value; steps ascending

struct RunView {
  std::string folder;
  Curve loss, eval_loss, learning_rate, grad_norm, tokens_per_s;
  int64_t step = 0;
  int64_t total_steps = 0;  // 0: not known yet
  double epoch = 0;
  int64_t tokens = 0;
  double seconds_per_step = 0;  // of the last 20 lines; 0: not known yet
  double peak_memory_bytes = 0;
  double age_s = 0;       // since metrics.jsonl last grew
  bool finished = false;  // report.html was written after it, and all steps are done

  double SecondsLeft() const;  // not a number where unknown
};

// Throws Error if the folder holds no metrics.jsonl. A broken last line is one that is being
// written.
RunView ReadRun(const std::string& folder);

// A curve in braille dots, `columns` x `rows` characters, a row ending in "\n" each, with the
// highest and lowest value at the right. Values that are not finite are left out.
std::string DrawCurve(const Curve& curve, int columns, int rows);

// The same as a page that asks for itself again every `refresh_s` seconds, and for nothing else.
std::string WatchHtml(const RunView& view, int refresh_s);

// The whole view, at most `columns` wide.
std::string WatchText(const RunView& view, int columns, int rows);

}  // namespace lapidary

#endif  // LAPIDARY_TRAIN_RUN_WATCH_H_
