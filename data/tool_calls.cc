#include "data/tool_calls.h"

#include "autograd/base/error.h"
#include "data/json.h"

namespace lapidary {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view kQuote = "<|\"|>";

// Functions return false where the text is something else.
class CallParser {
 public:
  explicit CallParser(std::string_view text) : text_(text) {}

  bool Value(Json* out, int depth) {
    if (depth > kMaxJsonDepth) return false;
    std::string string;
    if (String(&string)) {
      *out = std::move(string);
      return true;
    }
    if (Take("{")) return Object(out, depth);
    if (Take("[")) return List(out, depth);
    const size_t end = std::min(text_.find_first_of(",}]"), text_.size());
    try {
      *out = ParseJson(text_.substr(0, end), "value");
    } catch (const Error&) {
      return false;
    }
    text_.remove_prefix(end);
    return !out->is_string() && !out->is_structured();
  }

  bool Take(std::string_view prefix) {
    if (!text_.starts_with(prefix)) return false;
    text_.remove_prefix(prefix.size());
    return true;
  }

  // Up to the character `end`, which is taken too.
  bool Until(char end, std::string* out) {
    const size_t at = text_.find(end);
    if (at == std::string_view::npos || at == 0) return false;
    *out = text_.substr(0, at);
    text_.remove_prefix(at + 1);
    return true;
  }

  // What follows "{".
  bool Object(Json* out, int depth) {
    *out = Json::object();
    if (Take("}")) return true;
    do {
      std::string key;
      const bool quoted = String(&key);
      if (quoted ? !Take(":") : !Until(':', &key)) return false;
      Json value;
      if (!Value(&value, depth + 1)) return false;
      (*out)[key] = std::move(value);
    } while (Take(","));
    return Take("}");
  }

  bool done() const { return text_.empty(); }

 private:
  bool String(std::string* out) {
    if (!text_.starts_with(kQuote)) return false;
    const size_t end = text_.find(kQuote, kQuote.size());
    if (end == std::string_view::npos) return false;
    *out = text_.substr(kQuote.size(), end - kQuote.size());
    text_.remove_prefix(end + kQuote.size());
    return true;
  }

  bool List(Json* out, int depth) {
    *out = Json::array();
    if (Take("]")) return true;
    do {
      Json value;
      if (!Value(&value, depth + 1)) return false;
      out->push_back(std::move(value));
    } while (Take(","));
    return Take("]");
  }

  std::string_view text_;
};

}  // namespace

std::optional<ToolCall> ParseToolCall(std::string_view text) {
  CallParser parser(text);
  ToolCall call;
  if (!parser.Take("call:") || !parser.Until('{', &call.name)) return std::nullopt;
  if (!parser.Object(&call.arguments, 1) || !parser.done()) return std::nullopt;
  return call;
}

}  // namespace lapidary
