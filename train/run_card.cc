#include "train/run_card.h"

#include <algorithm>
#include <ctime>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "autograd/base/file.h"
#include "autograd/base/sha256.h"
#include "train/run_log.h"

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

Json RunCard(const TrainConfig& config, const TrainSummary& summary) {
  bool whole = false;
  const std::string base = HashWeights(config.model_name_or_path, &whole);
  Json card = {
      {"version", "lapidary " LAPIDARY_VERSION},
      {"date", Today()},
      {"machine", MachineText()},
      {"seed", config.seed},
      {"compute", config.compute},
      {"steps", summary.steps},
      {"base", {{"path", config.model_name_or_path}, {"sha256", base}, {"whole", whole}}},
  };
  if (!config.base_format.empty()) card["base"]["base_format"] = config.base_format;
  if (!config.embedding_format.empty()) card["base"]["embedding_format"] = config.embedding_format;
  Json data = Json::array();
  for (const auto* files : {&config.train_files, &config.eval_files}) {
    for (const SourceSpec& source : *files) {
      Json entry = {{"path", source.path}};
      if (fs::is_regular_file(source.path)) {
        entry["bytes"] = fs::file_size(source.path);
        // Minutes of reading otherwise.
        if (entry["bytes"] <= kMaxHashed) entry["sha256"] = HashFile(source.path);
      }
      data.push_back(entry);
    }
  }
  card["data"] = data;
  Json result = Json::array();
  for (const std::string& name : summary.result_files) {
    if (fs::path(name).extension() != ".safetensors") continue;
    const std::string path = config.output_dir + "/" + name;
    result.push_back({{"path", path}, {"sha256", HashFile(path)}});
  }
  card["result"] = result;
  return card;
}

}  // namespace lapidary
