// What users trip over in a checkpoint folder, an adapter (PEFT, GGUF, MLX) or a GGUF file, found
// by looking at the files alone: names of another vintage, tensors that are missing or not finite,
// the wrong chat template, missing stop ids, ... checks.cc has the table of checks, and what each
// runtime does with a file that fails one. Nothing here loads a model; weights are read once, in
// chunks.
#ifndef LAPIDARY_TRAIN_DOCTOR_DOCTOR_H_
#define LAPIDARY_TRAIN_DOCTOR_DOCTOR_H_

#include <array>
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace lapidary {

enum class Severity { kWarning, kError };

inline constexpr int kDoctorRuntimes = 7;
extern const std::array<const char*, kDoctorRuntimes> kDoctorRuntimeNames;  // "Transformers", ...

struct DoctorCheck;  // a row of the table: train/doctor/checks.h

struct DoctorFinding {
  const DoctorCheck* check = nullptr;
  std::string text;                // what was found, one sentence
  std::vector<std::string> items;  // the tensors, files or keys concerned
  bool repairable = false;         // by RepairSubject
};

struct DoctorReport {
  std::string path, kind;  // "checkpoint", "adapter", "GGUF", "GGUF adapter", "MLX adapter"
  int64_t tensors = 0;
  std::vector<DoctorFinding> findings;  // in the order of the table

  int64_t Count(Severity severity) const;
};

struct DoctorOptions {
  // The base of an adapter: a checkpoint folder. "": the adapter's base_model_name_or_path where
  // that is a folder; without one only gaps between layers are seen.
  std::string base;
};

// Throws Error only if `path` is nothing that can be looked at; broken files are findings.
DoctorReport Examine(const std::string& path, const DoctorOptions& options = {});

struct DoctorRepair {
  std::vector<std::string> repaired;  // ids of checks
  DoctorReport after;                 // what `out` still has
};

// Writes a copy of `path` to `out`, which must not exist, with everything mended that can be: the
// copy appears whole or not at all, `path` is not touched, tensors keep their bytes. A GGUF's
// mmproj is copied beside it. Throws Error if nothing of it can be repaired or the disk is full.
DoctorRepair Repair(const std::string& path, const std::string& out,
                    const DoctorOptions& options = {});

// {"path", "kind", "errors", "warnings", "findings": [{"id", "severity", "what", "found", "items",
// "repairable", "runtimes": {...}}]}
nlohmann::ordered_json DoctorJson(const DoctorReport& report);

}  // namespace lapidary

#endif  // LAPIDARY_TRAIN_DOCTOR_DOCTOR_H_
