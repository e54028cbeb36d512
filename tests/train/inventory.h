// GGUF files against the inventories of golden/gguf/inventory: every key and tensor.
#ifndef LAPIDARY_TESTS_TRAIN_INVENTORY_H_
#define LAPIDARY_TESTS_TRAIN_INVENTORY_H_

#include <gtest/gtest.h>

#include <cstdio>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "autograd/base/error.h"
#include "autograd/base/sha256.h"
#include "quant/gguf.h"
#include "quant/strict_json.h"

namespace lapidary {

inline std::string Hash(const void* data, uint64_t bytes) {
  Sha256 hash;
  hash.Add(data, bytes);
  return hash.Hex();
}

inline nlohmann::json Scalar(const GgufValue& value, size_t i) {
  if (value.is_string()) return value.strings[i];
  if (value.is_float()) return value.floats[i];
  if (value.type == GgufType::kBool) return value.ints[i] != 0;
  return value.ints[i];
}

// Whether a key equals its entry of an inventory (../referee/gguf_inventory.py describes the form).
inline bool KeyEquals(const GgufValue& ours, const nlohmann::json& theirs) {
  const std::string type =
      ours.is_array ? StrCat("array of ", GgufTypeName(ours.type)) : GgufTypeName(ours.type);
  if (theirs["type"] != type) return false;
  const auto same = [&](const nlohmann::json& a, const nlohmann::json& b) {
    return a.is_number_float() ? b.is_number() && a.get<float>() == b.get<float>() : a == b;
  };
  if (!ours.is_array) return same(Scalar(ours, 0), theirs["value"]);
  if (theirs["length"] != ours.size()) return false;
  nlohmann::json list = nlohmann::json::array();
  for (size_t i = 0; i < ours.size(); ++i) list.push_back(Scalar(ours, i));
  if (theirs.contains("value")) {
    for (size_t i = 0; i < ours.size(); ++i) {
      if (!same(list[i], theirs["value"][i])) return false;
    }
    return true;
  }
  const std::string text = list.dump();
  return theirs["sha256_of_json"] == Hash(text.data(), text.size());
}

// Compares a GGUF file with an inventory, keys in `allowed` aside; returns the number of keys and
// tensors compared.
inline int CompareWithInventory(const std::string& path, const std::string& inventory_path,
                                const std::set<std::string>& allowed) {
  const nlohmann::json inventory = ReadJsonFile(inventory_path);
  const GgufFile file = GgufFile::Open(path);
  int compared = 0, wrong = 0;
  std::set<std::string> names;
  for (const auto& [key, value] : file.keys()) {
    names.insert(key);
    if (allowed.count(key)) continue;
    const bool equal = inventory["keys"].contains(key) && KeyEquals(value, inventory["keys"][key]);
    EXPECT_TRUE(equal) << inventory_path << ": key " << key;
    wrong += !equal;
    ++compared;
  }
  for (const auto& [key, value] : inventory["keys"].items())
    EXPECT_TRUE(names.count(key)) << inventory_path << ": no key " << key;
  EXPECT_EQ(file.tensors().tensors().size(), inventory["tensors"].size()) << inventory_path;
  for (const StoredTensor& tensor : file.tensors().tensors()) {
    const nlohmann::json theirs = inventory["tensors"].value(tensor.name, nlohmann::json());
    const std::vector<int64_t> ne(tensor.shape.rbegin(), tensor.shape.rend());
    const bool equal = theirs.is_object() && theirs["type"] == tensor.dtype && theirs["ne"] == ne &&
                       theirs["sha256"] == Hash(tensor.data, tensor.bytes);
    EXPECT_TRUE(equal) << inventory_path << ": tensor " << tensor.name;
    wrong += !equal;
    ++compared;
  }
  std::printf("%s: %d keys and tensors, %d differ\n", inventory_path.c_str(), compared, wrong);
  return compared;
}

}  // namespace lapidary

#endif  // LAPIDARY_TESTS_TRAIN_INVENTORY_H_
