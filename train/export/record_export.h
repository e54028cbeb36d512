// What an export wrote, noted in the run card of the run whose result it is.
#ifndef LAPIDARY_TRAIN_EXPORT_RECORD_EXPORT_H_
#define LAPIDARY_TRAIN_EXPORT_RECORD_EXPORT_H_

#include <string>
#include <vector>

#include "train/export/export.h"

namespace lapidary {

// Of `inputs`, the model and adapters of an export, those that are a run's folder, or a checkpoint
// in one, get the files with their SHA-256 as "exports" of run_card.json, and in report.html. A
// file that was exported to the same path before is replaced. Each file is read once for its hash.
// Returns a line for each run: what was noted, or why it could not be (a folder that is read only,
// a card that is none): an export never fails by it.
std::vector<std::string> RecordExports(const std::vector<std::string>& inputs,
                                       const std::vector<ExportedFile>& files);

}  // namespace lapidary

#endif  // LAPIDARY_TRAIN_EXPORT_RECORD_EXPORT_H_
