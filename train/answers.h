// Does the model give the right answer? Each record's last trained answer is taken away, the model
// continues the prompt greedily, and the two texts are compared. With swapped media the prompt gets
// the media of another record with another answer: a model that looks at them must then fail.
#ifndef LAPIDARY_TRAIN_ANSWERS_H_
#define LAPIDARY_TRAIN_ANSWERS_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "data/dataset.h"
#include "data/sample.h"
#include "train/bundle.h"

namespace lapidary {

struct AnswerOptions {
  Compute compute = Compute::kBfloat16;
  ImageMask image_mask = ImageMask::kSlidingOnly;
  SampleOptions sample;     // as in training; budgets, thoughts
  bool swap_media = false;  // records without media, or without a partner, are left out
  // As in training: tokens at a time, and whether the base is streamed; null: by default.
  const ActivationPolicy* activations = nullptr;
  int64_t max_records = 0;   // 0: all; else spread evenly over the data set
  int64_t extra_tokens = 8;  // that an answer may be longer than the expected one before it is cut
  int64_t max_new_tokens = 0;  // above 0: an answer's length, whatever is expected
  std::function<void(int64_t done, int64_t total)> on_record;  // progress; may be empty
};

struct Answer {
  std::string where;     // "file:line"
  std::string modality;  // as in EvalResult
  std::string question;  // the prompt's last user text
  std::string expected;  // trimmed
  std::string got;       // trimmed
  bool correct = false;  // equal
  int64_t record = 0;    // index in the data set
};

struct AnswerResult {
  struct Share {
    int64_t correct = 0, total = 0;
    double Value() const {
      return total > 0 ? static_cast<double>(correct) / static_cast<double>(total) : 0;
    }
  };
  Share all;
  std::map<std::string, Share> by_modality;
  std::vector<Answer> answers;
  int64_t without_answer = 0;  // records that have nothing to compare with (raw text)
};

// Throws Error for a broken record.
AnswerResult EvaluateAnswers(Bundle& bundle, const Dataset& dataset, const AnswerOptions& options);

// {"accuracy", "correct", "total", "by_modality", "answers"}
nlohmann::ordered_json AnswersJson(const AnswerResult& result, bool with_answers);

}  // namespace lapidary

#endif  // LAPIDARY_TRAIN_ANSWERS_H_
