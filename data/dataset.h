// A data set: rows of one or more sources (files and folders in any container of rows.h), each row
// a record in one of the formats of readers.h. Rows are parsed when they are read. Const and
// thread-safe.
//
// An epoch takes every record of a source `repeat` times: the whole part of it as copies, the rest
// as a sample that is drawn anew in every epoch as a function of (seed, epoch). With weights, the
// epoch has as many records as all sources together and gives every source its share.
#ifndef LAPIDARY_DATA_DATASET_H_
#define LAPIDARY_DATA_DATASET_H_

#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <utility>
#include <vector>

#include "data/record.h"

namespace lapidary {

struct RecordFormat;
class RowSource;

// One source of records, as the configuration gives it.
struct SourceSpec {
  // A file, a folder, or a pattern with * and ?; a folder of shards (.parquet, .arrow, .jsonl,
  // .tar, ...) counts as all of them in order of their names.
  std::string path = {};
  std::string container = "auto";  // or the name of a row of Containers()
  std::string format = "auto";     // or the name of a row of RecordFormats()
  // (name that the format knows, name in the rows): the second is read as the first.
  std::vector<std::pair<std::string, std::string>> columns = {};
  std::string prompt = {};  // what {audio, text} and {image, text} pairs are asked
  double repeat = 1;        // times in an epoch, > 0
  double weight = 0;        // > 0: share of the epoch, against the weights of the other sources
  int64_t max_samples = 0;  // the first ones only; 0: all
};

struct DatasetOptions {
  std::string format = "auto";  // of sources that do not say it
  // Whether records may name media by absolute paths or outside the folder of their file.
  bool allow_outside_paths = false;
};

class Dataset {
 public:
  // With the format "auto" it is the one that fits most of the first 16 records of the source.
  // Throws Error if a source cannot be read, there is no record, no format fits, or repeats and
  // weights are out of range.
  static std::shared_ptr<const Dataset> Open(const std::vector<SourceSpec>& sources,
                                             const DatasetOptions& options = {});
  static std::shared_ptr<const Dataset> Open(const std::vector<std::string>& paths,
                                             const DatasetOptions& options = {});

  // Two data sets of the same rows: a share `held_out` (in (0, 1), at least one record) drawn by
  // `seed`, second, and the rest, first.
  std::pair<std::shared_ptr<const Dataset>, std::shared_ptr<const Dataset>> Split(
      double held_out, uint64_t seed) const;

  // Different records.
  int64_t size() const { return static_cast<int64_t>(entries_.size()); }
  // Records of an epoch: the same in every epoch.
  int64_t EpochSize() const;
  // The records of epoch `epoch`: in the order of the sources, or shuffled by (seed, epoch).
  std::vector<int64_t> Order(uint64_t seed, int64_t epoch, bool shuffle) const;

  // The name of the format, of several sources all different ones, for messages.
  std::string format() const;
  // "a.jsonl (messages, 120 records), b.csv (alpaca, 30 records, x 2)".
  std::string Describe() const;
  // Record `index`. Throws Error "file:line: ..." if it is broken. Media are named, not read; files
  // must exist.
  Record Read(int64_t index) const;
  // The row behind it, columns renamed.
  nlohmann::ordered_json ReadRow(int64_t index) const;
  // "file:line".
  std::string Where(int64_t index) const;
  // Changes whenever the rows do: names the data set in a resume point.
  uint64_t Fingerprint() const;

  // Records of each source, and how often an epoch takes each of them.
  struct Share {
    int64_t records = 0;
    double repeat = 1;
  };
  std::vector<Share> Shares() const;

 private:
  struct Source {
    SourceSpec spec;
    const RecordFormat* format = nullptr;
    std::string unreadable;  // why none of the first rows could be read
    std::vector<std::shared_ptr<const RowSource>> rows;
  };
  struct Entry {
    int32_t source;
    int32_t rows;
    int64_t row;
  };
  Dataset() = default;
  void Add(const SourceSpec& spec);
  void ChooseFormat(Source& source, int64_t first);
  void InheritFormats();
  void ResolveWeights();

  DatasetOptions options_;
  std::vector<std::shared_ptr<Source>> sources_;
  std::vector<double> repeats_;  // of each source
  std::vector<Entry> entries_;   // by source
};

// The order of Dataset::Order, from the shares alone.
std::vector<int64_t> EpochOrder(const std::vector<Dataset::Share>& shares, uint64_t seed,
                                int64_t epoch, bool shuffle);

}  // namespace lapidary

#endif  // LAPIDARY_DATA_DATASET_H_
