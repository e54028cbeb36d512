#include "train/export/record_export.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>

#include "autograd/base/error.h"
#include "autograd/base/file.h"
#include "train/report.h"
#include "train/run_card.h"

namespace lapidary {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr uint64_t kCardLimit = uint64_t{1} << 26, kReportLimit = uint64_t{1} << 30;

// The folder of the run that a path belongs to, and the checkpoint; "" if there is none.
struct Origin {
  std::string run, checkpoint;
};
Origin OriginOf(const std::string& input) {
  fs::path path = fs::path(input).lexically_normal();
  if (!path.has_filename()) path = path.parent_path();
  if (fs::is_regular_file(path / "run_card.json")) return {path.string(), ""};
  const std::string name = path.filename().string();
  const fs::path parent = path.has_parent_path() ? path.parent_path() : fs::path(".");
  if (name.starts_with("checkpoint-") && fs::is_regular_file(parent / "run_card.json")) {
    return {parent.string(), name};
  }
  return {};
}

void Note(const Origin& origin, const std::vector<Json>& entries) {
  const std::string path = origin.run + "/run_card.json";
  Json card = Json::parse(ReadFile(path, kCardLimit), nullptr, false);
  LAPIDARY_CHECK(card.is_object(), path, ": must be a JSON object; got something else");
  const Json before = card.value("exports", Json::array());
  LAPIDARY_CHECK(before.is_array(), path, ": 'exports' must be a list; got something else");
  Json kept = Json::array();
  for (const Json& old : before) {
    const bool replaced = std::any_of(entries.begin(), entries.end(), [&](const Json& entry) {
      return old.is_object() && old.contains("path") && old.at("path") == entry.at("path");
    });
    if (!replaced) kept.push_back(old);
  }
  for (Json entry : entries) {
    if (!origin.checkpoint.empty()) entry["of"] = origin.checkpoint;
    kept.push_back(std::move(entry));
  }
  card["exports"] = std::move(kept);
  WriteFile(path, card.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
  const std::string report = origin.run + "/report.html";
  if (fs::is_regular_file(report)) {
    WriteFile(report, WithRunCard(ReadFile(report, kReportLimit), card));
  }
}

}  // namespace

std::vector<std::string> RecordExports(const std::vector<std::string>& inputs,
                                       const std::vector<ExportedFile>& files) {
  std::map<std::string, Origin> runs;
  for (const std::string& input : inputs) {
    const Origin origin = OriginOf(input);
    if (!origin.run.empty()) runs[origin.run] = origin;
  }
  std::vector<std::string> lines;
  if (runs.empty()) return lines;
  std::vector<Json> entries;
  try {
    for (const ExportedFile& file : files) {
      entries.push_back({{"path", file.path},
                         {"format", file.format},
                         {"bytes", file.bytes},
                         {"sha256", HashFile(file.path)}});
    }
  } catch (const std::exception& error) {
    return {StrCat("not noted in a run card: ", error.what())};
  }
  for (const auto& [run, origin] : runs) {
    try {
      Note(origin, entries);
      lines.push_back(
          StrCat("hashes of ", files.size(), " files noted in ", run, "/run_card.json"));
    } catch (const std::exception& error) {
      lines.push_back(StrCat("not noted in the run card: ", error.what()));
    }
  }
  return lines;
}

}  // namespace lapidary
