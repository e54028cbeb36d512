#include "train/pair_source.h"

#include <exception>
#include <optional>
#include <utility>

#include "autograd/base/error.h"
#include "data/readers.h"

namespace lapidary {
namespace {

void CheckKind(const Record& record, bool unpaired) {
  LAPIDARY_CHECK(!unpaired || record.label, record.where,
                 ": must be an answer with a label, as the first record; got another kind of "
                 "record; try {\"prompt\", \"completion\", \"label\"}");
  if (unpaired) return;
  LAPIDARY_CHECK(!record.label, record.where,
                 ": must be a preference pair; got an answer with a label; try loss.type \"kto\", "
                 "with all records of this kind");
  LAPIDARY_CHECK(record.kind == RecordKind::kPreference, record.where,
                 ": must be a preference pair; got another kind of record; try "
                 "{\"prompt\", \"chosen\", \"rejected\"}, or leave out 'loss'");
}

class PreferenceSource : public SampleSource {
 public:
  PreferenceSource(std::shared_ptr<const Dataset> dataset, const SampleBuilder& builder,
                   bool unpaired)
      : dataset_(std::move(dataset)), builder_(builder), unpaired_(unpaired) {}

  int64_t size() const override { return dataset_->size(); }
  std::vector<Dataset::Share> Shares() const override { return dataset_->Shares(); }
  std::string Where(int64_t record) const override { return dataset_->Where(record); }
  // Another one than that of plain documents, whose cursors do not fit.
  uint64_t Fingerprint() const override { return ~dataset_->Fingerprint(); }
  bool OneEach() const override { return false; }

  RecordOutcome Build(int64_t index, int64_t) const override {
    RecordOutcome outcome;
    try {
      const Record record = Read(index);
      if (unpaired_) {
        BuiltSample built = builder_.Build(WithoutLabel(record));
        outcome.note = std::move(built.note);
        if (built.sample) outcome.samples.push_back(std::move(*built.sample));
        for (Sample& sample : outcome.samples) sample.label = record.label;
        return outcome;
      }
      auto pair = builder_.BuildPair(record, &outcome.note);
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
      const Record pair = Read(index);
      if (unpaired_) {
        const int64_t tokens = builder_.Measure(WithoutLabel(pair));
        return tokens > 0 ? std::vector<int64_t>{tokens} : std::vector<int64_t>{};
      }
      const int64_t chosen = builder_.Measure(ChosenOf(pair));
      const int64_t rejected = builder_.Measure(RejectedOf(pair));
      if (chosen == 0 || rejected == 0) return {};
      return {chosen, rejected};
    } catch (const Error&) {
      return {};
    }
  }

 private:
  Record Read(int64_t index) const {
    Record record = dataset_->Read(index);
    CheckKind(record, unpaired_);
    return record;
  }

  std::shared_ptr<const Dataset> dataset_;
  const SampleBuilder& builder_;
  const bool unpaired_;
};

}  // namespace

bool TrainsUnpaired(const TrainConfig& config) {
  if (!config.loss || config.loss->type != "kto") return false;
  try {
    SourceSpec first = config.train_files.at(0);
    first.max_samples = 1;
    return Dataset::Open({first}, {.allow_outside_paths = config.allow_outside_paths})
        ->Read(0)
        .label.has_value();
  } catch (const Error&) {  // told where the data are opened
    return false;
  }
}

int64_t DocumentsPerRecord(const TrainConfig& config) {
  return config.loss && !TrainsUnpaired(config) ? 2 : 1;
}

int64_t TrainDocuments(const TrainConfig& config) {
  return config.per_device_train_batch_size * DocumentsPerRecord(config);
}

std::shared_ptr<const SampleSource> MakePreferenceSource(std::shared_ptr<const Dataset> dataset,
                                                         const SampleBuilder& builder,
                                                         bool unpaired) {
  // The usual mistake, told before anything is measured.
  std::optional<Record> first;
  try {
    first = dataset->Read(0);
  } catch (const Error&) {  // a broken record, which the loader reports or leaves out
  }
  if (first) CheckKind(*first, unpaired);
  return std::make_shared<PreferenceSource>(std::move(dataset), builder, unpaired);
}

}  // namespace lapidary
