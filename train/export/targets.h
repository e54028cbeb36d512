// The formats that `export` knows, one row each, and how a row turns a checkpoint into a plan:
// which files, which tensors of the base in which encoding, which metadata, what stands beside
// them. A new target is one function, declared below, and one row in targets.cc.
#ifndef LAPIDARY_TRAIN_EXPORT_TARGETS_H_
#define LAPIDARY_TRAIN_EXPORT_TARGETS_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "model/gguf_names.h"
#include "model/load.h"
#include "quant/file_writer.h"
#include "quant/imatrix.h"
#include "train/export/encoding.h"
#include "train/export/merge.h"

namespace lapidary {

// What a user may choose beside format and path.
struct ExportOptions {
  // Files of a Hugging Face or MLX folder, and parts of a GGUF model, hold at most so many bytes of
  // tensors (a larger tensor has a file of its own). 0: one file.
  uint64_t max_shard_bytes = 0;
  // Pattern (ECMAScript, searched in the GGUF name) and format, the first match wins: as
  // llama-quantize's --tensor-type. Only matrices of the text model are asked about.
  std::vector<std::pair<std::string, std::string>> tensor_types;
  // Of GGUF models: matrices are quantized with it (quant/formats/weighted.h), those trained on a
  // grid aside. `imatrix_path` goes into the file's keys.
  std::shared_ptr<const ImportanceMatrix> imatrix;
  std::string imatrix_path;
  // general.* keys of GGUF files, without the prefix: "author", "license", "tags", ...
  std::vector<std::pair<std::string, std::string>> metadata;
  bool modelfile = false;  // beside a GGUF model, for `ollama create`
};

// Where the bytes of one tensor of a planned file come from.
struct PlannedTensor {
  std::string source;  // canonical name in the base; empty: `make`
  RowEncoding encoding;
  GgufLayout layout = GgufLayout::kSame;
  std::function<std::vector<uint8_t>()> make;  // small tensors that no checkpoint holds
};

struct PlannedFile {
  std::string path;
  const FileType* type = nullptr;
  FileManifest manifest;
  std::vector<PlannedTensor> tensors;  // one for each of the manifest

  void Add(TensorSpec spec, PlannedTensor tensor);
};

// A small file beside the weights: taken over as it is, or made.
struct PlannedSide {
  std::string path;
  std::string from;  // empty: `text`
  std::string text;
};

struct OutputPlan {
  std::string format, path;
  bool is_folder = false;
  std::vector<PlannedFile> files;
  // In the order in which they appear, after the weights; what makes a folder loadable is last.
  std::vector<PlannedSide> sides;
  std::vector<std::string> warnings;
};

// What plans are made from.
struct PlanInput {
  const CheckpointFiles& base;
  std::string path;  // of the base: a Hugging Face folder, or a *.gguf
  const std::vector<AdapterUse>& adapters;
  const AdapterMerge& merge;  // of all of them
  const ExportOptions& options;
  // Formats that matrices were trained on (trained_grids.h), by canonical name. A GGUF mix of one
  // of these formats keeps each of them.
  const std::map<std::string, const Format*>& trained;

  bool from_gguf() const { return base.tokenizer != nullptr; }
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
// What follows the colon of a target's name; empty without one.
std::string_view TargetVariant(const ExportTarget& target);

// The mmproj file that belongs to a text model: "dir/x.gguf" -> "dir/mmproj-x.gguf".
std::string MmprojPath(const std::string& text_path);

// ---- for the targets themselves

using PlanFunction = OutputPlan(const PlanInput&, const ExportTarget&, const std::string&);
PlanFunction PlanSafetensors, PlanCompressedTensors, PlanMlx, PlanGguf, PlanPeft, PlanGgufLora,
    PlanMlxLora;

// The shape as written: scalars of old checkpoints become [1], as the catalog has them.
const TensorShape& WrittenShape(const StoredTensor& tensor);
// The spelling of a tensor that the class named in config.json loads: the text-only class has no
// "language_model".
std::string CheckpointName(const PlanInput& input, const std::string& canonical);
// Throws Error unless the base is a Hugging Face folder, whose side files `target` needs.
void NeedFolder(const PlanInput& input, const ExportTarget& target);
// Files of a Hugging Face folder beside the weights, those that exist; config.json is last.
std::vector<PlannedSide> FolderSides(const PlanInput& input, const std::string& to);
// `file` (FOLDER/model.safetensors) as it is, or cut into shards with their index, which is put in
// front of the plan's sides.
void AddSharded(OutputPlan& plan, PlannedFile file, uint64_t max_shard_bytes);
// The mmproj-*.gguf of PlanGguf for a text model at `path`, as llama.cpp's converter writes it
// beside the mix `mix`.
PlannedFile PlanMmproj(const PlanInput& input, const std::string& path, std::string_view mix);

}  // namespace lapidary

#endif  // LAPIDARY_TRAIN_EXPORT_TARGETS_H_
