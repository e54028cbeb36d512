// OpenCheckpoint of safetensors.h: one file, shards with an index, shards without one.
#include <algorithm>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "autograd/base/error.h"
#include "quant/safetensors.h"
#include "quant/strict_json.h"

namespace lapidary {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

bool EndsWith(const std::string& text, std::string_view tail) {
  return text.size() >= tail.size() &&
         text.compare(text.size() - tail.size(), tail.size(), tail) == 0;
}

TensorSet FromFiles(const std::string& where, const std::vector<std::string>& paths,
                    std::vector<std::string> warnings) {
  std::vector<StoredTensor> tensors;
  for (const std::string& path : paths) {
    const SafetensorsFile file = SafetensorsFile::Open(path);
    tensors.insert(tensors.end(), file.tensors().begin(), file.tensors().end());
  }
  return TensorSet(where, std::move(tensors), std::move(warnings));
}

// The *.safetensors files of a folder by name, without adapters and consolidated copies of other
// tools.
std::vector<std::string> AllShards(const std::string& folder) {
  std::vector<std::string> paths;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (EndsWith(name, ".safetensors") && name != "adapter_model.safetensors")
      paths.push_back(entry.path().string());
  }
  std::sort(paths.begin(), paths.end());
  return paths;
}

TensorSet FromIndex(const std::string& index_path) {
  const json index = ReadJsonFile(index_path);
  LAPIDARY_CHECK(
      index.is_object() && index.contains("weight_map") && index["weight_map"].is_object(),
      index_path, ": must have an object weight_map");
  const std::string folder = fs::path(index_path).parent_path().string();
  std::map<std::string, std::set<std::string>> shards;
  for (const auto& [tensor, shard] : index["weight_map"].items()) {
    LAPIDARY_CHECK(shard.is_string(), index_path, ": weight_map must hold file names; got ",
                   shard.dump().substr(0, 80));
    const std::string name = shard.get<std::string>();
    LAPIDARY_CHECK(!name.empty() && name.find('/') == std::string::npos &&
                       name.find('\0') == std::string::npos && name != "." && name != "..",
                   index_path, ": shards must be files of the same folder; got ",
                   shard.dump().substr(0, 80));
    shards[name].insert(tensor);
  }
  LAPIDARY_CHECK(!shards.empty(), index_path, ": weight_map must name tensors; got none");

  std::vector<std::string> missing, paths;
  for (const auto& [name, tensors] : shards) {
    const std::string path = (fs::path(folder) / name).string();
    paths.push_back(path);
    if (!fs::exists(path)) missing.push_back(name);
  }
  if (!missing.empty()) {
    const std::vector<std::string> present = AllShards(folder.empty() ? "." : folder);
    LAPIDARY_CHECK(!present.empty(), index_path, ": its shards must be in the folder; got no ",
                   missing[0], "; try downloading it again");
    // A download that stopped half-way looks the same as an index left over from another layout; in
    // the latter no shard exists.
    LAPIDARY_CHECK(missing.size() == shards.size(), index_path, ": all ", shards.size(),
                   " shards must be in the folder; got no ", missing[0],
                   "; try downloading it again");
    return FromFiles(folder, present,
                     {StrCat(index_path, ": its shards must be in the folder; got no ", missing[0],
                             "; used all ", present.size(), " *.safetensors files instead")});
  }
  TensorSet set = FromFiles(folder.empty() ? "." : folder, paths, {});
  std::map<std::string, std::string> actual;  // tensor -> shard
  for (const StoredTensor& tensor : set.tensors()) {
    const std::string shard = fs::path(tensor.file->path()).filename().string();
    LAPIDARY_CHECK(shards[shard].count(tensor.name) == 1, index_path,
                   ": must list every tensor of its shards; got no '", tensor.name, "' in ", shard);
    actual[tensor.name] = shard;
  }
  for (const auto& [name, tensors] : shards) {
    for (const std::string& tensor : tensors) {
      LAPIDARY_CHECK(actual.count(tensor) == 1, index_path, ": ", name, " must hold '", tensor,
                     "'; got none");
    }
  }
  return set;
}

}  // namespace

TensorSet OpenCheckpoint(const std::string& path) {
  std::error_code ignored;
  LAPIDARY_CHECK(fs::exists(path, ignored), path,
                 ": must exist; got nothing; try a folder with model.safetensors");
  if (!fs::is_directory(path, ignored)) {
    return EndsWith(path, ".json") ? FromIndex(path) : FromFiles(path, {path}, {});
  }
  const std::string single = (fs::path(path) / "model.safetensors").string();
  if (fs::exists(single, ignored)) return FromFiles(path, {single}, {});
  const std::string index = (fs::path(path) / "model.safetensors.index.json").string();
  if (fs::exists(index, ignored)) return FromIndex(index);
  const std::vector<std::string> shards = AllShards(path);
  LAPIDARY_CHECK(!shards.empty(), path,
                 ": must hold model.safetensors or model.safetensors.index.json; got neither");
  return FromFiles(
      path, shards,
      {StrCat(path, ": no index; used all ", shards.size(), " *.safetensors files of the folder")});
}

}  // namespace lapidary
