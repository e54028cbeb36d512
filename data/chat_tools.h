// How tools, tool calls and tool results are written inside a Gemma 4 conversation
// (gemma4-12b.md 8.2, "Value formatting" and "Declaration grammar"). The functions append to `out`
// and follow the Jinja template to the byte, oddities included: a member that is absent prints
// nothing, lists of types print as Python prints them, and so on. They throw Error where the
// template fails.
#ifndef LAPIDARY_DATA_CHAT_TOOLS_H_
#define LAPIDARY_DATA_CHAT_TOOLS_H_

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <utility>
#include <vector>

namespace lapidary {

// A member of an object; null if `object` is not an object or lacks it. Null members count as
// present.
const nlohmann::ordered_json* FindMember(const nlohmann::ordered_json& object, const char* key);

// Python's bool(value); an absent value is false.
bool IsTruthy(const nlohmann::ordered_json* value);

// The members of an object sorted by key, case aside; equal keys keep their order (Jinja's
// dictsort).
std::vector<std::pair<std::string, const nlohmann::ordered_json*>> SortedMembers(
    const nlohmann::ordered_json& object);

// One value of a call or a response: strings between <|"|>, keys bare or (quote_keys) between <|"|>
// as well.
void AppendValue(const nlohmann::ordered_json& value, bool quote_keys, std::string& out);

// "declaration:NAME{...}" of one entry of `tools`. `where` goes into messages.
void AppendToolDeclaration(const nlohmann::ordered_json& tool, const std::string& where,
                           std::string& out);

// "<|tool_response>response:NAME{...}<tool_response|>".
void AppendToolResponse(const std::string& name, const nlohmann::ordered_json& response,
                        std::string& out);

}  // namespace lapidary

#endif  // LAPIDARY_DATA_CHAT_TOOLS_H_
