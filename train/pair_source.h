// What preference training takes, as a loader wants it. A pair gives two documents, the chosen
// answer behind its prompt and then the rejected one; an answer with a label (loss.type kto) gives
// one.
#ifndef LAPIDARY_TRAIN_PAIR_SOURCE_H_
#define LAPIDARY_TRAIN_PAIR_SOURCE_H_

#include <memory>

#include "data/sample_source.h"
#include "train/config.h"

namespace lapidary {

// Whether a run is one of answers with labels, by the first record of its data; false too where
// that cannot be read.
bool TrainsUnpaired(const TrainConfig& config);

// Documents that a record of the run has: two of a pair, else one.
int64_t DocumentsPerRecord(const TrainConfig& config);
// Documents of a micro-batch.
int64_t TrainDocuments(const TrainConfig& config);

// `unpaired`: of answers with labels, else of pairs. Throws Error if the first record is not of
// that kind; others that are not are broken. A pair of which one side is dropped is dropped. The
// builder must outlive the source.
std::shared_ptr<const SampleSource> MakePreferenceSource(std::shared_ptr<const Dataset> dataset,
                                                         const SampleBuilder& builder,
                                                         bool unpaired);

}  // namespace lapidary

#endif  // LAPIDARY_TRAIN_PAIR_SOURCE_H_
