// JSON as Python sees it: object order kept (a repeated key keeps its place and takes the last
// value), integers of any size, and text forms of values equal to Python's str(). An integer beyond
// 64 bits is kept as a binary value that holds its digits. Containers with columns of bytes (data/
// rows.h) give binary values of the subtype kRawBytes; nothing else produces binary values.
#ifndef LAPIDARY_DATA_JSON_H_
#define LAPIDARY_DATA_JSON_H_

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace lapidary {

// Nesting deeper than this is an error: what handles values later may recurse.
constexpr int kMaxJsonDepth = 100;

// Parses one JSON document. Throws Error "`where`: must be JSON; got ..." .
nlohmann::ordered_json ParseJson(std::string_view text, const std::string& where);

// Bytes of a file inside a row.
constexpr int kRawBytes = 1;
nlohmann::ordered_json RawBytes(std::string_view bytes);
bool IsRawBytes(const nlohmann::ordered_json& value);
// The bytes of a value for which IsRawBytes holds.
std::string_view GetRawBytes(const nlohmann::ordered_json& value);

// Whether `value` is an integer, of any size.
bool IsJsonInteger(const nlohmann::ordered_json& value);

// Python's str(value): 1.0, 1e-07, True, None, ['a', 1], {'k': 'v'}; a string is itself.
std::string PythonStr(const nlohmann::ordered_json& value);

// JSON text of `value` (integers beyond 64 bits in full), keys in order, no spaces.
std::string DumpJson(const nlohmann::ordered_json& value);

}  // namespace lapidary

#endif  // LAPIDARY_DATA_JSON_H_
