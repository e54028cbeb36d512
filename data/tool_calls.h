// Tool calls as the model writes them, read back: the inverse of data/chat_tools.h.
#ifndef LAPIDARY_DATA_TOOL_CALLS_H_
#define LAPIDARY_DATA_TOOL_CALLS_H_

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

namespace lapidary {

struct ToolCall {
  std::string name;
  nlohmann::ordered_json arguments;  // an object
};

// `text`: what stands between <|tool_call> and <tool_call|>, "call:NAME{key:value,...}", strings
// between <|"|>. Nothing if it is anything else, or nests more than kMaxJsonDepth deep.
std::optional<ToolCall> ParseToolCall(std::string_view text);

}  // namespace lapidary

#endif  // LAPIDARY_DATA_TOOL_CALLS_H_
