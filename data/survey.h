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
  // Soft tokens of every usable record that has any, in order.
  std::vector<int64_t> image_lengths, video_lengths, audio_lengths;
  int64_t samples = 0;  // a record that is split gives several
  int64_t steps = 0;    // of an epoch
  double seconds = 0;   // of an epoch; 0: not known
  int64_t text_tokens = 0, image_tokens = 0, video_tokens = 0, audio_tokens = 0;
  std::map<std::string, int64_t> scripts;  // letters by script: "Latin", "Cyrillic", "Han", ...
  int64_t duplicates = 0, leaks = 0, empty_answers = 0;
  // The first `max_findings` of every kind, in order of the records, and how many there are in all.
  std::vector<Finding> findings;
  struct Count {
    int64_t errors = 0, warnings = 0;
  };
  std::map<std::string, Count> found;  // by kind

  int64_t errors() const;
  int64_t warnings() const;
};

struct SurveyOptions {
  int64_t limit = 0;           // the first records only; 0: all
  int64_t max_findings = 100;  // listed of every kind; 0: all
  int64_t batch_size = 1;      // samples of a step, for the estimate
  double tokens_per_s = 0;     // speed, for the estimate; 0: not known
};

// Builds every record. `held_out` may be null: else records of it that also stand in `dataset` are
// leaks.
Survey SurveyDataset(const Dataset& dataset, const Dataset* held_out, const SampleBuilder& builder,
                     const SurveyOptions& options = {});

// "120 steps, about 3.50 hours, 31 % of the tokens trained".
std::string EpochText(const Survey& survey);
// "role: 1,234 warnings, the first 100 listed" of every kind that was found, a line each.
std::string FoundText(const Survey& survey);

nlohmann::ordered_json SurveyJson(const Survey& survey);
std::string SurveyText(const Survey& survey);
// A page with plots, complete in itself.
std::string SurveyHtml(const Survey& survey);

// Samples as a page: tokens with what is trained marked, pictures and frames as the model gets
// them, sounds as waves. Complete in itself.
std::string SamplesHtml(const std::vector<Sample>& samples, const Tokenizer& tokenizer);

}  // namespace lapidary

#endif  // LAPIDARY_DATA_SURVEY_H_
