// Runs a task on a model: every record is asked, answered (greedily, or several times by drawing)
// or has its options weighed by log-likelihood, and scored.
#ifndef LAPIDARY_TRAIN_EVALUATION_RUN_TASK_H_
#define LAPIDARY_TRAIN_EVALUATION_RUN_TASK_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "train/bundle.h"
#include "train/evaluate.h"
#include "train/evaluation/results.h"
#include "train/evaluation/task.h"

namespace lapidary {

struct RunTaskOptions {
  Compute compute = Compute::kBfloat16;
  ImageMask image_mask = ImageMask::kSlidingOnly;
  SampleOptions sample;            // budgets of media; thoughts as the task says
  std::vector<std::string> shots;  // data sets with the solved examples: their first records
  int64_t max_records = 0;         // 0: all; else spread evenly over the data
  int64_t max_new_tokens = 0;      // 0: the task's
  int64_t samples = 0;             // answers to a question; 0: as the task says
  uint64_t seed = 42;              // of shuffled options and drawn answers
  // A Journal of answers as they come, so that the same call goes on after it was broken off; taken
  // away by FinishTask. "": none.
  std::string journal;
  std::string journal_settings;                                // what the answers depend on; JSON
  std::function<void(int64_t done, int64_t total)> on_record;  // progress; may be empty
};

// `data`: the data set's files or folders in any container of data/rows.h. Throws Error for a row
// that does not fit the task. With several samples a question's rows are the sums over them (so
// figures are means over all answers, resampled by question), and a scorer that is right or wrong
// gets a second figure "NAME pass@K": one of the K is right.
EvalResults RunTask(Bundle& bundle, const EvalTask& task, const std::vector<std::string>& data,
                    const RunTaskOptions& options);

// Takes the journal away, once the results are stored.
void FinishTask(const RunTaskOptions& options);

// What counts of a text that the model wrote: what stands behind its thoughts; nothing if a thought
// is never closed.
std::string WithoutThoughts(const std::string& text);

}  // namespace lapidary

#endif  // LAPIDARY_TRAIN_EVALUATION_RUN_TASK_H_
