// Export in one pass: each tensor of the base is read once, in row chunks, merged with the adapter
// in float32, rounded once and handed to every requested file. Files appear under their names only
// when all of them are complete; resident memory is a chunk (16 MB) and its encodings; bytes do not
// depend on the number of threads.
#ifndef LAPIDARY_TRAIN_EXPORT_EXPORT_H_
#define LAPIDARY_TRAIN_EXPORT_EXPORT_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "model/load.h"
#include "train/export/merge.h"
#include "train/export/merge_report.h"
#include "train/export/targets.h"

namespace lapidary {

struct ExportOutput {
  std::string format;  // a row of ExportTargets(): "safetensors", "peft", "gguf:q4_0", ...
  std::string path;    // a folder (safetensors, peft) or a *.gguf file, whose mmproj becomes
                       // mmproj-NAME.gguf beside it
};

// "FORMAT=PATH"; throws Error for an unknown format or an empty path.
ExportOutput ParseExportOutput(const std::string& text);

// An adapter's folder and the factor of its change.
struct AdapterChoice {
  std::string folder;
  double weight = 1;
};

// "DIR" or "DIR=WEIGHT"; throws Error for a weight that is not a finite number other than 0.
AdapterChoice ParseAdapterChoice(const std::string& text);

struct ExportRequest {
  std::string model;  // Hugging Face folder, or a *.gguf (for the gguf formats and adapters)
  std::vector<AdapterChoice> adapters;  // merged one after another
  std::vector<ExportOutput> outputs;
  ExportOptions options;
  bool overwrite = false;  // replace what is there; else that is an error
  // Called once before anything is written, for each disk: a folder on it, the bytes that the
  // outputs take, the bytes that are free.
  std::function<void(const std::string& folder, uint64_t need, uint64_t free)> announce;
  // Called now and then with the bytes of the base read so far and in all.
  std::function<void(uint64_t done, uint64_t total)> progress;
  // Bytes that can be written to the file system of an existing folder; unset: asks the system.
  std::function<uint64_t(const std::string& folder)> free_bytes;
};

struct ExportedFile {
  std::string format, path;
  uint64_t bytes = 0;
  int64_t tensors = 0;  // 0 for a file beside the weights
};

struct ExportReport {
  std::vector<ExportedFile> files;
  std::vector<std::string> warnings;
  MergeReport merge;        // empty without adapters, or if nothing merged was written
  uint64_t base_bytes = 0;  // read
  double seconds = 0;
};

// Throws Error, leaving nothing behind, if the base is incomplete, misshapen or not finite; if an
// adapter does not fit or changes nothing; if an output exists (without overwrite), lies in the
// base's or an adapter's folder, occurs twice, or does not fit on the disk; if a value does not
// fit a format's range. Warns if rounding to bf16 swallows more than kSwallowedLimit of the change.
ExportReport Export(const ExportRequest& request);

// The same from tensors that are open already (canonical names; in memory or mapped). request.model
// names the folder that side files are taken from, request.adapters is ignored in favour of
// `adapters`.
ExportReport Export(const ExportRequest& request, const CheckpointFiles& base,
                    const std::vector<AdapterUse>& adapters);

// The share of an adapter's change that may be lost in rounding without a warning.
inline constexpr double kSwallowedLimit = 0.05;

}  // namespace lapidary

#endif  // LAPIDARY_TRAIN_EXPORT_EXPORT_H_
