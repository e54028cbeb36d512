// Where a Loader takes its documents from: records that are built when they are wanted, or a
// prepared file. Const and thread-safe.
#ifndef LAPIDARY_DATA_SAMPLE_SOURCE_H_
#define LAPIDARY_DATA_SAMPLE_SOURCE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "data/dataset.h"
#include "data/sample.h"

namespace lapidary {

// What became of one record: its documents (none if policy dropped it), and what was done to it.
struct RecordOutcome {
  std::vector<Sample> samples;
  std::string note;     // for the report, or the error
  bool broken = false;  // note is an error
};

class SampleSource {
 public:
  virtual ~SampleSource() = default;
  // Different records.
  virtual int64_t size() const = 0;
  // How often an epoch takes them (EpochOrder).
  virtual std::vector<Dataset::Share> Shares() const = 0;
  // Record `record` as it is in epoch `epoch` (augmentation changes with it). Does not throw Error.
  virtual RecordOutcome Build(int64_t record, int64_t epoch) const = 0;
  // Tokens of its documents; none if it is dropped or broken.
  virtual std::vector<int64_t> Measure(int64_t record) const = 0;
  virtual std::string Where(int64_t record) const = 0;
  virtual uint64_t Fingerprint() const = 0;
  // Whether every record gives one document or an error, so that records need not be measured.
  virtual bool OneEach() const = 0;
};

// Records of a data set through a builder, which must outlive the source.
std::shared_ptr<const SampleSource> MakeRecordSource(std::shared_ptr<const Dataset> dataset,
                                                     const SampleBuilder& builder);

}  // namespace lapidary

#endif  // LAPIDARY_DATA_SAMPLE_SOURCE_H_
