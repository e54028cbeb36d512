// What lies at a path, opened as far as it can be: the files that doctor's checks look at.
#ifndef LAPIDARY_TRAIN_DOCTOR_SUBJECT_H_
#define LAPIDARY_TRAIN_DOCTOR_SUBJECT_H_

#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "data/tokenizer.h"
#include "model/config.h"
#include "quant/gguf.h"
#include "quant/safetensors.h"
#include "train/doctor/doctor.h"

namespace lapidary {

// kAdapter: of PEFT; kGgufLora: of llama.cpp; kMlxAdapter: of mlx-lm.
enum class SubjectKind { kCheckpoint, kAdapter, kGguf, kGgufLora, kMlxAdapter };

// How matrices of a folder are stored: as themselves, or in a layout of several tensors each.
enum class FolderLayout { kPlain, kMlx, kCompressed };

// A tensor of a folder in the terms of the catalog (model/tensor_names.h).
struct NamedPart {
  const StoredTensor* tensor = nullptr;
  std::string canonical;  // of the matrix it is or belongs to: "...q_proj.weight"
  std::string part;       // "" the tensor itself; ".scales", ".weight_packed", ...
};

struct Subject {
  std::string path;
  SubjectKind kind = SubjectKind::kCheckpoint;
  std::map<std::string, std::string> texts;  // small files by name, those that exist
  std::vector<std::string> weight_files;     // names, sorted
  std::vector<SafetensorsFile> files;        // those of them that could be read
  bool all_read = true;                      // every one could
  std::optional<ModelConfig> config;         // none: absent or broken
  FolderLayout layout = FolderLayout::kPlain;
  std::vector<NamedPart> parts;          // every tensor of `files`
  std::unique_ptr<Tokenizer> tokenizer;  // null: absent or broken
  std::optional<GgufFile> gguf, mmproj;  // kGguf, kGgufLora
  std::string mmproj_path;               // "": none
  std::vector<DoctorFinding> findings;   // what came up while opening

  void Add(const char* id, std::string text, std::vector<std::string> items = {},
           bool repairable = false);
  // A small file as an object; null if it is absent or no JSON object.
  nlohmann::ordered_json Json(const std::string& name) const;
  // The chat template that a reader takes, "" if there is none.
  std::string Template() const;
};

// Throws Error if `path` is neither a folder with weights, nor a *.gguf.
Subject OpenSubject(const std::string& path);

// The name without the parts of quantized layouts: "x.weight_packed" -> "x.weight",
// ".weight_packed".
std::pair<std::string, std::string> SplitPart(const std::string& name, FolderLayout layout);
// The spelling on disk that this folder should have for a canonical name.
std::string ExpectedSpelling(const Subject& subject, const std::string& canonical);
// Whether the canonical name is one of the media embedders'.
bool IsMediaTensor(const std::string& canonical);

void ExamineFolder(Subject* subject);
void ExamineSides(Subject* subject);  // template, stop ids, tokenizer, processor of a folder
void ExamineAdapter(Subject* subject, const DoctorOptions& options);
void ExamineGguf(Subject* subject);
void ExamineLora(Subject* subject, const DoctorOptions& options);  // kGgufLora, kMlxAdapter
// The keys that llama.cpp wants of an adapter, with their values.
const std::vector<std::pair<std::string, std::string>>& GgufLoraKeys();
// "language_model.model.layers.0.mlp.up_proj" for any spelling of a module.
std::string MlxModuleSpelling(const std::string& module);
// config.json of an adapter's base. Throws Error if there is none.
ModelConfig ReadBaseConfig(const std::string& folder);
// PEFT's spelling of an adapter's tensor.
std::string AdapterTensorSpelling(const std::string& name);
// Adds the finding "not-finite" for those of `tensors` that have such values.
void CheckFinite(Subject* subject, const std::vector<const StoredTensor*>& tensors);

// Everything that a repair changes. The rest is copied.
struct RepairPlan {
  std::map<std::string, std::string> rename;            // tensors: from, to
  std::set<std::string> drop;                           // tensors
  std::map<std::string, nlohmann::ordered_json> json;   // small files, changed as objects
  std::map<std::string, std::string> text;              // small files, whole
  std::vector<std::pair<std::string, GgufValue>> keys;  // GGUF: set or added
  bool write_index = false;

  // The object of a small file: as it is there, {} if it is not.
  nlohmann::ordered_json& Json(const Subject& subject, const std::string& name);
  bool empty() const;
};

}  // namespace lapidary

#endif  // LAPIDARY_TRAIN_DOCTOR_SUBJECT_H_
