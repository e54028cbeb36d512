#include "train/run_card.h"

#include <algorithm>
#include <ctime>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "autograd/base/error.h"
#include "autograd/base/file.h"
#include "autograd/base/parallel.h"
#include "autograd/base/sha256.h"
#include "autograd/kernels/isa.h"
#include "train/run_log.h"
#include "train/versions.h"

namespace lapidary {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr uint64_t kWholeLimit = uint64_t{1} << 30;
constexpr uint64_t kHead = uint64_t{1} << 20;
constexpr uint64_t kMaxHashed = uint64_t{1} << 32;  // data files up to this are hashed

std::vector<std::string> WeightFiles(const std::string& path) {
  if (!fs::is_directory(path)) return {path};
  std::vector<std::string> files;
  for (const auto& entry : fs::directory_iterator(path)) {
    if (entry.path().extension() == ".safetensors") files.push_back(entry.path().string());
  }
  std::sort(files.begin(), files.end());
  return files;
}

std::string Today() {
  const std::time_t now = std::time(nullptr);
  std::tm utc = {};
  ::gmtime_r(&now, &utc);
  char text[32];
  std::strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%S UTC", &utc);
  return text;
}

}  // namespace

namespace {

// The first `bytes`, in pieces whose pages do not stay resident: a base must not count twice.
void AddFile(const MappedFile& file, uint64_t bytes, Sha256* hash) {
  constexpr uint64_t kPiece = uint64_t{1} << 22;
  for (uint64_t at = 0; at < bytes; at += kPiece) {
    const uint64_t count = std::min(kPiece, bytes - at);
    hash->Add(file.data() + at, count);
    file.DropPages(at, count);
  }
}

}  // namespace

std::string HashFile(const std::string& path) {
  const auto file = MappedFile::Open(path);
  Sha256 hash;
  AddFile(*file, file->size(), &hash);
  return hash.Hex();
}

std::string HashWeights(const std::string& path, bool* whole) {
  std::vector<std::shared_ptr<const MappedFile>> files;
  uint64_t total = 0;
  for (const std::string& name : WeightFiles(path)) {
    files.push_back(MappedFile::Open(name));
    total += files.back()->size();
  }
  *whole = total <= kWholeLimit;
  Sha256 hash;
  for (const auto& file : files) {
    if (*whole) {
      AddFile(*file, file->size(), &hash);
    } else {
      AddFile(*file, std::min(kHead, file->size()), &hash);
      hash.Add(std::to_string(file->size()));
    }
  }
  return hash.Hex();
}

namespace {

// The small files of a base that a run reads: they decide how text becomes tokens.
constexpr const char* kSideFiles[] = {"config.json", "tokenizer.json", "chat_template.jinja",
                                      "processor_config.json", "generation_config.json"};

Json DataCard(const std::vector<SourceSpec>& sources) {
  Json list = Json::array();
  for (const SourceSpec& source : sources) {
    Json entry = {{"path", source.path}};
    if (fs::is_regular_file(source.path)) {
      entry["bytes"] = fs::file_size(source.path);
      // Minutes of reading otherwise.
      if (entry["bytes"] <= kMaxHashed) entry["sha256"] = HashFile(source.path);
    }
    list.push_back(entry);
  }
  return list;
}

// A word of a shell command.
std::string Quoted(const std::string& word) {
  std::string out = "'";
  for (const char c : word) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

}  // namespace

Json RunCard(const TrainConfig& config, const TrainSummary& summary) {
  bool whole = false;
  const std::string base = HashWeights(config.model_name_or_path, &whole);
  Json card = {
      {"run_card_version", 1},
      {"version", "lapidary " + ProgramVersion()},
      {"built_with", BuildText()},
      {"date", Today()},
      {"machine", MachineText()},
      {"instruction_set", IsaName(ActiveIsa())},
      {"threads", Threads()},
      {"seed", config.seed},
      {"compute", config.compute},
      {"steps", summary.steps},
      {"total_steps", summary.total_steps},
      {"tokens", summary.tokens},
      {"interrupted", summary.interrupted},
      {"base", {{"path", config.model_name_or_path}, {"sha256", base}, {"whole", whole}}},
  };
  if (!config.base_format.empty()) card["base"]["base_format"] = config.base_format;
  if (!config.embedding_format.empty()) card["base"]["embedding_format"] = config.embedding_format;
  if (fs::is_directory(config.model_name_or_path)) {
    for (const char* name : kSideFiles) {
      const std::string path = config.model_name_or_path + "/" + name;
      if (fs::is_regular_file(path))
        card["base_files"].push_back({{"path", path}, {"sha256", HashFile(path)}});
    }
  }
  card["data"] = DataCard(config.train_files);
  card["held_out"] = DataCard(config.eval_files);
  Json result = Json::array();
  for (const std::string& name : summary.result_files) {
    if (fs::path(name).extension() != ".safetensors") continue;
    const std::string path = config.output_dir + "/" + name;
    result.push_back({{"path", path}, {"sha256", HashFile(path)}});
  }
  card["result"] = result;
  card["configuration_sha256"] = Sha256Hex(TrainConfigText(config));
  card["formats"] = Json::object();
  for (const auto& [format, version] : FormatVersions()) card["formats"][format] = version;
  // Same bits on the same instruction set, whatever the number of threads.
  card["again"] = StrCat("LAPIDARY_ISA=", IsaName(ActiveIsa()), " lapidary train ",
                         Quoted(config.output_dir + "/training_config.json"),
                         " --set output_dir=", Quoted(config.output_dir + "-again"));
  return card;
}

}  // namespace lapidary
