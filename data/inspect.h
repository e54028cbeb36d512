// What a data set holds, for people: samples with what is trained marked, counts, and problems by
// line. Library functions; the command is recipes/data.cc.
#ifndef LAPIDARY_DATA_INSPECT_H_
#define LAPIDARY_DATA_INSPECT_H_

#include <cstdint>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "data/dataset.h"
#include "data/sample.h"

namespace lapidary {

// How trained tokens are marked.
enum class SampleStyle {
  kPlain,  // [trained]
  kAnsi,   // bold green for a terminal
};

// The decoded sample, trained stretches marked, runs of soft tokens shortened to "<|image|> x 256".
std::string ShowSample(const Sample& sample, const Tokenizer& tokenizer, SampleStyle style);

// Figures over all records. Lengths are in tokens.
struct DataReport {
  std::string format;
  int64_t records = 0;  // lines that hold something
  int64_t usable = 0;
  int64_t dropped = 0;                        // left out by policy (too long)
  int64_t cut = 0;                            // cut by policy
  int64_t tokens = 0, trained = 0, soft = 0;  // soft: of media
  int64_t images = 0, sounds = 0, videos = 0;
  int64_t text_only = 0, with_image = 0, with_audio = 0, with_video = 0;  // records
  int64_t dropped_thoughts = 0;
  int64_t desirable = 0, undesirable = 0;  // records with a label
  int64_t shortest = 0, median = 0, p95 = 0, longest = 0;
  std::vector<Problem> problems;  // broken records and those dropped or cut, in order
  int64_t more_problems = 0;      // beyond the limit
};

// Told of every record in order: its sample, or the reason why there is none (`error` not empty).
// `record` is null if it could not be read.
using RecordObserver = std::function<void(int64_t index, const Record* record,
                                          const BuiltSample& built, const std::string& error)>;

// Builds every record, or the first `limit` if it is positive. Media are decoded, so that broken
// ones are found.
DataReport InspectDataset(const Dataset& dataset, const SampleBuilder& builder, int64_t limit = 0,
                          int64_t max_problems = 100, const RecordObserver& observe = {});

nlohmann::ordered_json ReportJson(const DataReport& report);
std::string ReportText(const DataReport& report);

}  // namespace lapidary

#endif  // LAPIDARY_DATA_INSPECT_H_
