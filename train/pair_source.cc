#include "train/pair_source.h"

#include <exception>
#include <optional>
#include <utility>

#include "autograd/base/error.h"
#include "data/readers.h"

namespace lapidary {
namespace {

void CheckPair(const Record& record) {
  LAPIDARY_CHECK(record.kind == RecordKind::kPreference, record.where,
                 ": must be a preference pair; got another kind of record; try "
                 "{\"prompt\", \"chosen\", \"rejected\"}, or leave out 'loss'");
}

class PairSource : public SampleSource {
 public:
  PairSource(std::shared_ptr<const Dataset> dataset, const SampleBuilder& builder)
      : dataset_(std::move(dataset)), builder_(builder) {}

  int64_t size() const override { return dataset_->size(); }
  std::vector<Dataset::Share> Shares() const override { return dataset_->Shares(); }
  std::string Where(int64_t record) const override { return dataset_->Where(record); }
  // Another one than that of single documents, whose cursors do not fit.
  uint64_t Fingerprint() const override { return ~dataset_->Fingerprint(); }
  bool OneEach() const override { return false; }

  RecordOutcome Build(int64_t index, int64_t) const override {
    RecordOutcome outcome;
    try {
      auto pair = builder_.BuildPair(Pair(index), &outcome.note);
      if (!pair) return outcome;
      outcome.samples.push_back(std::move(pair->chosen));
      outcome.samples.push_back(std::move(pair->rejected));
    } catch (const std::exception& e) {
      const std::string where = dataset_->Where(index);
      outcome.note = e.what();
      if (!outcome.note.starts_with(where)) outcome.note = where + ": " + outcome.note;
      outcome.broken = true;
    }
    return outcome;
  }

  std::vector<int64_t> Measure(int64_t index) const override {
    try {
      const Record pair = Pair(index);
      const int64_t chosen = builder_.Measure(ChosenOf(pair));
      const int64_t rejected = builder_.Measure(RejectedOf(pair));
      if (chosen == 0 || rejected == 0) return {};
      return {chosen, rejected};
    } catch (const Error&) {
      return {};
    }
  }

 private:
  Record Pair(int64_t index) const {
    Record record = dataset_->Read(index);
    CheckPair(record);
    return record;
  }

  std::shared_ptr<const Dataset> dataset_;
  const SampleBuilder& builder_;
};

}  // namespace

std::shared_ptr<const SampleSource> MakePairSource(std::shared_ptr<const Dataset> dataset,
                                                   const SampleBuilder& builder) {
  // The usual mistake, told before anything is measured.
  std::optional<Record> first;
  try {
    first = dataset->Read(0);
  } catch (const Error&) {  // a broken record, which the loader reports or leaves out
  }
  if (first) CheckPair(*first);
  return std::make_shared<PairSource>(std::move(dataset), builder);
}

}  // namespace lapidary
