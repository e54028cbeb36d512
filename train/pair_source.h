// Preference pairs as a loader wants them: every record gives two documents, the chosen answer
// behind its prompt and then the rejected one.
#ifndef LAPIDARY_TRAIN_PAIR_SOURCE_H_
#define LAPIDARY_TRAIN_PAIR_SOURCE_H_

#include <memory>

#include "data/sample_source.h"

namespace lapidary {

// Throws Error if the first record is not a pair; others that are not are broken. A pair of which one side is dropped is dropped. The
// builder must outlive the source.
std::shared_ptr<const SampleSource> MakePairSource(std::shared_ptr<const Dataset> dataset,
                                                   const SampleBuilder& builder);

}  // namespace lapidary

#endif  // LAPIDARY_TRAIN_PAIR_SOURCE_H_
