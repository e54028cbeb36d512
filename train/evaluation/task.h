// A benchmark as a small JSON file: which columns of a data set are the question, the options, the
// media and the answer; how the model is asked; how its answer is found in what it writes; and the
// scorers. The data are the user's. recipes/configs/eval holds ready ones and a README with every
// key.
#ifndef LAPIDARY_TRAIN_EVALUATION_TASK_H_
#define LAPIDARY_TRAIN_EVALUATION_TASK_H_

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "data/readers.h"
#include "data/record.h"
#include "train/evaluation/pattern.h"

namespace lapidary {

// A way to find the answer in a text.
struct ExtractRule {
  std::string pattern;
  int64_t group = 0;  // of the pattern; 0: all of it
  bool last = false;  // the last match instead of the first
  bool ignore_case = false;
  std::string as;  // the answer is then this text; "": what was matched
};

struct EvalTask {
  std::string name, about;
  bool choices = false;  // kind "choices": log-likelihood of every option; else the model writes
  std::string system, prompt;
  std::vector<std::string> images, audios, videos;  // columns with media; empty ones are left out
  std::vector<std::string> options;  // one column with a list, or a column for every option
  std::string option_format = "{letter}. {option}\n";  // one option in {options}
  bool shuffle_options = false;                        // by record, with the seed of the run
  // The right answer, one of these.
  std::string answer;                // template of the text
  std::string answers;               // column with a list of right texts
  std::string answer_letter;         // template of the option's letter
  std::string answer_index;          // column with the option's number, from 0
  int64_t answer_option = -1;        // always this option, before shuffling
  std::vector<ExtractRule> extract;  // in order; the first that matches
  std::string otherwise;             // the answer if none matches; null: the whole text
  bool whole_otherwise = true;
  std::vector<std::string> metrics;
  std::string group;  // column
  int64_t shots = 0;  // solved examples in front
  std::string shot_answer;
  int64_t max_new_tokens = 512;
  bool think = false;
  int64_t samples = 1;  // answers to a question; several are drawn as generation_config.json says
  bool ifeval = false;  // metrics of instruction following, from the record's own columns
};

// Throws Error `path: rule; got; try` for anything that is not a task; unknown keys name the
// nearest.
EvalTask LoadEvalTask(const std::string& path);
EvalTask ParseEvalTask(const std::string& text, const std::string& where);

// A question put to the model.
struct TaskItem {
  std::string where, group;
  std::string question;                 // the rendered prompt
  std::vector<std::string> options;     // in the order shown
  std::vector<std::string> references;  // right answers
  int64_t right_option = -1;            // of `options`, if the answer is one of them
  Record record;                        // the conversation up to the answer
};

// One row as an item. `solved`: rows of the examples in front. Throws Error "`place.where`: ..."
// for a missing column or an answer that fits no option.
TaskItem MakeTaskItem(const EvalTask& task, const nlohmann::ordered_json& row,
                      const std::vector<nlohmann::ordered_json>& solved, const RecordPlace& place,
                      uint64_t seed);

// What counts as the answer in a text that the model wrote.
class AnswerExtractor {
 public:
  explicit AnswerExtractor(const EvalTask& task);
  std::string operator()(const std::string& text) const;

 private:
  const EvalTask& task_;
  std::vector<Pattern> patterns_;
};

}  // namespace lapidary

#endif  // LAPIDARY_TRAIN_EVALUATION_TASK_H_
