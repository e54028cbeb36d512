// A data set on disk: JSON Lines files, indexed by line, each line one record in one of the formats
// of readers.h. Lines are parsed when they are read. Const and thread-safe.
#ifndef LAPIDARY_DATA_DATASET_H_
#define LAPIDARY_DATA_DATASET_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "autograd/base/file.h"
#include "data/record.h"

namespace lapidary {

struct RecordFormat;

struct DatasetOptions {
  std::string format = "auto";  // or the name of a row of RecordFormats()
};

class Dataset {
 public:
  // Maps the files and indexes their lines (blank ones are left out). With "auto" the format is the
  // one that fits most of the first 16 records. Throws Error if a file cannot be read, there is no
  // record, or no format fits.
  static std::shared_ptr<const Dataset> Open(const std::vector<std::string>& paths,
                                             const DatasetOptions& options = {});

  int64_t size() const { return static_cast<int64_t>(lines_.size()); }
  // The name of the format, for messages.
  std::string format() const;
  // Record `index`. Throws Error "file:line: ..." if it is broken. Media are named, not read; files
  // must exist.
  Record Read(int64_t index) const;
  // "file:line".
  std::string Where(int64_t index) const;
  // Changes whenever the lines do: names the data set in a resume point.
  uint64_t Fingerprint() const;

 private:
  struct Line {
    int32_t file;
    int64_t number;  // from 1
    int64_t begin;
    int64_t end;
  };
  Dataset() = default;
  void IndexFile(int32_t file);
  void ChooseFormat(const std::string& name);
  std::string_view LineText(int64_t index) const;

  std::vector<std::shared_ptr<const MappedFile>> files_;
  std::vector<Line> lines_;
  const RecordFormat* format_ = nullptr;
};

}  // namespace lapidary

#endif  // LAPIDARY_DATA_DATASET_H_
