// The formats that `export` knows, one row each, and how a row turns a checkpoint into a plan:
// which files, which tensors of the base in which encoding, which metadata, what is copied beside
// them.
#ifndef LAPIDARY_TRAIN_EXPORT_TARGETS_H_
#define LAPIDARY_TRAIN_EXPORT_TARGETS_H_

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "model/gguf_names.h"
#include "model/load.h"
#include "quant/adapter.h"
#include "quant/file_writer.h"

namespace lapidary {

// Where the bytes of one tensor of a planned file come from.
struct PlannedTensor {
  std::string source;            // canonical name in the base; empty: `generated`
  std::vector<float> generated;  // small tensors that no checkpoint holds
  const Format* format = nullptr;
  GgufLayout layout = GgufLayout::kSame;
};

struct PlannedFile {
  std::string path;
  const FileType* type = nullptr;
  FileManifest manifest;               // tensors: generated ones first, then by source name
  std::vector<PlannedTensor> tensors;  // one for each of the manifest
};

// A file taken over as it is.
struct PlannedCopy {
  std::string from, path;
};

struct OutputPlan {
  std::string format, path;
  bool is_folder = false;
  std::vector<PlannedFile> files;
  std::vector<PlannedCopy>
      copies;  // in the order in which they appear; what makes a folder loadable is last
};

// What plans are made from.
struct PlanInput {
  const CheckpointFiles& base;
  std::string folder;                // of the base, for tokenizer, template and processor files
  const Adapter* adapter = nullptr;  // null: none
  // Formats that matrices were trained on (model/qat.h), by canonical name; null: none. A GGUF mix
  // of one of these formats keeps each of them.
  const std::map<std::string, const Format*>* trained = nullptr;
};

struct ExportTarget {
  std::string name;  // as the user writes it: "gguf:q4_0"
  std::string help;
  // Throws Error if the base cannot be written this way.
  OutputPlan (*plan)(const PlanInput& input, const ExportTarget& target, const std::string& path);
};

const std::vector<ExportTarget>& ExportTargets();
// Throws Error listing the targets.
const ExportTarget& FindExportTarget(std::string_view name);

// The mmproj file that belongs to a text model: "dir/x.gguf" -> "dir/mmproj-x.gguf".
std::string MmprojPath(const std::string& text_path);

}  // namespace lapidary

#endif  // LAPIDARY_TRAIN_EXPORT_TARGETS_H_
