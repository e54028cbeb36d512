#include "quant/strict_json.h"

#include <nlohmann/json.hpp>
#include <unordered_set>
#include <vector>

#include "autograd/base/error.h"
#include "autograd/base/file.h"

namespace lapidary {
namespace {

constexpr int kMaxDepth = 64;

}  // namespace

nlohmann::json ParseStrictJson(std::string_view text, const std::string& where) {
  using nlohmann::json;
  std::vector<std::unordered_set<std::string>> keys;  // of the objects that are open
  const auto check = [&](int depth, json::parse_event_t event, json& parsed) {
    LAPIDARY_CHECK(depth <= kMaxDepth, where, ": JSON must be nested at most ", kMaxDepth,
                   " levels deep");
    switch (event) {
      case json::parse_event_t::object_start:
        keys.emplace_back();
        break;
      case json::parse_event_t::object_end:
        keys.pop_back();
        break;
      case json::parse_event_t::key:
        LAPIDARY_CHECK(keys.back().insert(parsed.get<std::string>()).second, where,
                       ": keys of a JSON object must be unique; got ", parsed.dump(), " twice");
        break;
      default:
        break;
    }
    return true;
  };
  try {
    return json::parse(text.begin(), text.end(), check);
  } catch (const json::exception& e) {
    throw Error(StrCat(where, ": must be JSON; got ", e.what()));
  }
}

nlohmann::json ReadJsonFile(const std::string& path, uint64_t limit) {
  return ParseStrictJson(ReadFile(path, limit), path);
}

}  // namespace lapidary
