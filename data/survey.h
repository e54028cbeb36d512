// A closer look at a data set: figures by modality and script, duplicates, leakage into held-out
// data, and findings by record. What `lapidary data stats` and `lapidary data check` show.
#ifndef LAPIDARY_DATA_SURVEY_H_
#define LAPIDARY_DATA_SURVEY_H_

#include <cstdint>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "data/dataset.h"
#include "data/inspect.h"
#include "data/sample.h"

namespace lapidary {

struct Finding {
  std::string where;   // "file:line"
  bool error = false;  // training would stop; else a warning
  std::string kind;  // "unusable", "too long", "role", "order", "empty answer", "tag", "encoding",
                     // "duplicate", "leak"
  std::string message;  // begins with `where`
};

struct Survey {
  DataReport report;
  std::vector<int64_t> lengths;  // tokens of every usable record, in order
  int64_t text_tokens = 0, image_tokens = 0, video_tokens = 0, audio_tokens = 0;
  std::map<std::string, int64_t> scripts;  // letters by script: "Latin", "Cyrillic", "Han", ...
  int64_t duplicates = 0, leaks = 0, empty_answers = 0;
  std::vector<Finding> findings;

  int64_t errors() const;
};

// Builds every record (or the first `limit`). `held_out` may be null: else records of it that also
// stand in `dataset` are leaks.
Survey SurveyDataset(const Dataset& dataset, const Dataset* held_out, const SampleBuilder& builder,
                     int64_t limit = 0);

nlohmann::ordered_json SurveyJson(const Survey& survey);
std::string SurveyText(const Survey& survey);
// A page with plots, complete in itself.
std::string SurveyHtml(const Survey& survey);

// Samples as a page: tokens with what is trained marked, pictures and frames as the model gets
// them, sounds as waves. Complete in itself.
std::string SamplesHtml(const std::vector<Sample>& samples, const Tokenizer& tokenizer);

}  // namespace lapidary

#endif  // LAPIDARY_DATA_SURVEY_H_
