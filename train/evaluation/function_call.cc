// Calls of functions in an answer, compared by name and arguments. Two spellings are read: JSON
// ({"name": ..., "arguments": {...}}, a list of these, arguments also as a string of JSON, or under
// "function"), and Gemma's own, call:NAME{key:value,...} with strings between <|"|>.
#include <nlohmann/json.hpp>
#include <optional>

#include "data/json.h"
#include "data/unicode.h"
#include "train/evaluation/metrics.h"

namespace lapidary {
namespace {

using Json = nlohmann::json;  // keys sorted: their order means nothing
using Texts = std::vector<std::string>;

struct Call {
  std::string name;
  Json arguments = Json::object();
};

constexpr std::string_view kQuote = "<|\"|>";
constexpr int kMaxDepth = 64;

// Gemma's notation of values.
class ValueReader {
 public:
  explicit ValueReader(std::string_view text) : rest_(text) {}

  std::optional<Json> Object(int depth = 0) {
    Json object = Json::object();
    if (depth > kMaxDepth || !Take("{")) return std::nullopt;
    while (!Take("}")) {
      if (!object.empty() && !Take(",")) return std::nullopt;
      std::optional<std::string> key = Take(kQuote) ? Until(kQuote) : Until(":");
      if (!key) return std::nullopt;
      if (rest_.starts_with(':')) rest_.remove_prefix(1);
      std::optional<Json> value = Value(depth + 1);
      if (!value) return std::nullopt;
      object[std::string(PythonStrip(*key))] = std::move(*value);
    }
    return object;
  }
  std::string_view rest() const { return rest_; }

 private:
  void Space() {
    while (!rest_.empty() && std::string_view(" \t\r\n").find(rest_[0]) != std::string_view::npos)
      rest_.remove_prefix(1);
  }
  bool Take(std::string_view mark) {
    Space();
    if (!rest_.starts_with(mark)) return false;
    rest_.remove_prefix(mark.size());
    return true;
  }
  // What stands before a mark, which is passed.
  std::optional<std::string> Until(std::string_view mark) {
    const size_t at = rest_.find(mark);
    if (at == std::string_view::npos) return std::nullopt;
    std::string text(rest_.substr(0, at));
    rest_.remove_prefix(at + mark.size());
    return text;
  }
  std::optional<Json> Value(int depth) {
    if (depth > kMaxDepth) return std::nullopt;
    if (Take(kQuote)) {
      const std::optional<std::string> text = Until(kQuote);
      return text ? std::optional<Json>(*text) : std::nullopt;
    }
    if (rest_.starts_with('{')) return Object(depth);
    if (Take("[")) {
      Json list = Json::array();
      while (!Take("]")) {
        if (!list.empty() && !Take(",")) return std::nullopt;
        std::optional<Json> item = Value(depth + 1);
        if (!item) return std::nullopt;
        list.push_back(std::move(*item));
      }
      return list;
    }
    const std::string_view word = rest_.substr(0, rest_.find_first_of(",}]"));
    if (PythonStrip(word).empty()) return std::nullopt;
    rest_.remove_prefix(word.size());
    if (PythonStrip(word) == "None") return Json();
    Json value = Json::parse(std::string(PythonStrip(word)), nullptr, false);
    if (value.is_discarded()) value = std::string(PythonStrip(word));  // a bare word
    return value;
  }

  std::string_view rest_;
};

std::optional<Call> JsonCall(const Json& json) {
  if (!json.is_object()) return std::nullopt;
  if (json.contains("function") && json["function"].is_object()) return JsonCall(json["function"]);
  if (!json.contains("name") || !json["name"].is_string()) return std::nullopt;
  Call call{json["name"], Json::object()};
  for (const char* key : {"arguments", "parameters", "args"}) {
    if (!json.contains(key)) continue;
    call.arguments = json[key];
    break;
  }
  if (call.arguments.is_string()) {
    const Json inner = Json::parse(call.arguments.get<std::string>(), nullptr, false);
    if (!inner.is_discarded()) call.arguments = inner;
  }
  if (call.arguments.is_null()) call.arguments = Json::object();
  return call;
}

// All calls of a text; none at all if it holds no well-formed call.
std::optional<std::vector<Call>> ReadCalls(const std::string& raw) {
  std::string text(PythonStrip(raw));
  if (text.starts_with("```")) {  // a block of code
    text = text.substr(std::min(text.find('\n'), text.size()));
    if (const size_t end = text.rfind("```"); end != std::string::npos) text.resize(end);
  }
  std::vector<Call> calls;
  size_t depth = 0, deepest = 0;  // nlohmann's parser is iterative, its destructor is not
  for (const char c : text) {
    if (c == '[' || c == '{') deepest = std::max(deepest, ++depth);
    if ((c == ']' || c == '}') && depth > 0) --depth;
  }
  if (deepest > static_cast<size_t>(kMaxJsonDepth)) return std::nullopt;
  const Json json = Json::parse(text, nullptr, false);
  if (json.is_structured()) {
    for (const Json& item : json.is_array() ? json : Json::array({json})) {
      std::optional<Call> call = JsonCall(item);
      if (!call) return std::nullopt;
      calls.push_back(std::move(*call));
    }
    return calls;
  }
  std::string_view rest = text;
  for (size_t at = rest.find("call:"); at != std::string_view::npos; at = rest.find("call:")) {
    rest.remove_prefix(at + 5);
    const size_t brace = rest.find('{');
    if (brace == std::string_view::npos) return std::nullopt;
    Call call{std::string(PythonStrip(rest.substr(0, brace))), {}};
    ValueReader reader(rest.substr(brace));
    std::optional<Json> arguments = reader.Object();
    if (!arguments) return std::nullopt;
    call.arguments = std::move(*arguments);
    calls.push_back(std::move(call));
    rest = reader.rest();
  }
  if (calls.empty()) return std::nullopt;
  return calls;
}

std::vector<double> Score(const std::string& got, const Texts& references, bool arguments) {
  const std::optional<std::vector<Call>> have = ReadCalls(got);
  for (const std::string& reference : references) {
    const std::optional<std::vector<Call>> want = ReadCalls(reference);
    if (!have || !want) {
      // No call was to be made, and none was.
      if (!have && !want) return {1, 1};
      continue;
    }
    bool same = have->size() == want->size();
    for (size_t i = 0; same && i < have->size(); ++i) {
      same = (*have)[i].name == (*want)[i].name &&
             (!arguments || (*have)[i].arguments == (*want)[i].arguments);
    }
    if (same) return {1, 1};
  }
  return {0, 1};
}

}  // namespace

std::vector<double> CallNameRow(const std::string& got, const Texts& references) {
  return Score(got, references, false);
}
std::vector<double> CallRow(const std::string& got, const Texts& references) {
  return Score(got, references, true);
}

}  // namespace lapidary
