#include "data/sample_source.h"

#include <exception>
#include <utility>

#include "autograd/base/error.h"

namespace lapidary {
namespace {

class RecordSource : public SampleSource {
 public:
  RecordSource(std::shared_ptr<const Dataset> dataset, const SampleBuilder& builder)
      : dataset_(std::move(dataset)), builder_(builder) {}

  int64_t size() const override { return dataset_->size(); }
  std::vector<Dataset::Share> Shares() const override { return dataset_->Shares(); }
  std::string Where(int64_t record) const override { return dataset_->Where(record); }
  uint64_t Fingerprint() const override { return dataset_->Fingerprint(); }
  bool OneEach() const override {
    const OnTooLong policy = builder_.options().on_too_long;
    // Of answers with a label those to be desired are taken.
    return policy != OnTooLong::kDrop && policy != OnTooLong::kSplit &&
           builder_.options().preference == PreferencePolicy::kError;
  }

  RecordOutcome Build(int64_t record, int64_t epoch) const override {
    RecordOutcome outcome;
    try {
      BuiltSample built = builder_.Build(dataset_->Read(record), {record, epoch});
      outcome.note = std::move(built.note);
      if (built.sample) outcome.samples.push_back(std::move(*built.sample));
      for (Sample& sample : built.more) outcome.samples.push_back(std::move(sample));
    } catch (const std::exception& e) {
      const std::string where = dataset_->Where(record);
      outcome.note = e.what();
      if (!outcome.note.starts_with(where)) outcome.note = where + ": " + outcome.note;
      outcome.broken = true;
    }
    return outcome;
  }

  std::vector<int64_t> Measure(int64_t record) const override {
    try {
      return builder_.MeasureAll(dataset_->Read(record));
    } catch (const Error&) {
      return {};
    }
  }

 private:
  std::shared_ptr<const Dataset> dataset_;
  const SampleBuilder& builder_;
};

}  // namespace

std::shared_ptr<const SampleSource> MakeRecordSource(std::shared_ptr<const Dataset> dataset,
                                                     const SampleBuilder& builder) {
  return std::make_shared<RecordSource>(std::move(dataset), builder);
}

}  // namespace lapidary
