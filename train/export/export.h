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
#include "quant/adapter.h"

namespace lapidary {

struct ExportOutput {
  std::string format;  // a row of ExportTargets(): "safetensors", "peft", "gguf:q4_0", ...
  std::string path;    // a folder (safetensors, peft) or a *.gguf file, whose mmproj becomes
                       // mmproj-NAME.gguf beside it
};

// "FORMAT=PATH"; throws Error for an unknown format or an empty path.
ExportOutput ParseExportOutput(const std::string& text);

struct ExportRequest {
  std::string model;    // Hugging Face folder
  std::string adapter;  // PEFT folder; empty: none
  std::vector<ExportOutput> outputs;
  bool overwrite = false;  // replace what is there; else that is an error
  // Called now and then with the bytes of the base read so far and in all.
  std::function<void(uint64_t done, uint64_t total)> progress;
  // Bytes that can be written to the file system of an existing folder; unset: asks the system.
  std::function<uint64_t(const std::string& folder)> free_bytes;
};

struct ExportedFile {
  std::string format, path;
  uint64_t bytes = 0;
  int64_t tensors = 0;  // 0 for a file that was copied
};

struct ExportReport {
  std::vector<ExportedFile> files;
  std::vector<std::string> warnings;
  uint64_t base_bytes = 0;  // read
  double seconds = 0;
};

// Throws Error, leaving nothing behind, if the base is incomplete, misshapen or not finite; if the
// adapter does not fit or changes nothing; if an output exists (without overwrite), lies in the
// base's or the adapter's folder, occurs twice, or does not fit on the disk; if a value does not
// fit a format's range.
ExportReport Export(const ExportRequest& request);

// The same from tensors that are open already (canonical names; in memory or mapped). request.model
// names the folder that side files are taken from, request.adapter is ignored in favour of
// `adapter` (null: none).
ExportReport Export(const ExportRequest& request, const CheckpointFiles& base,
                    const Adapter* adapter);

}  // namespace lapidary

#endif  // LAPIDARY_TRAIN_EXPORT_EXPORT_H_
