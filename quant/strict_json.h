// JSON from outside: one parser for every file that is read, stricter than the library's default.
// Duplicate keys, depth above 64 and text that is not UTF-8 are errors, so that no two readers can
// see different values in one file.
#ifndef LAPIDARY_QUANT_STRICT_JSON_H_
#define LAPIDARY_QUANT_STRICT_JSON_H_

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace lapidary {

// Throws Error "`where`: must be JSON ...". `where` names the file in messages.
nlohmann::json ParseStrictJson(std::string_view text, const std::string& where);

// ReadFile + ParseStrictJson; throws Error if the file is larger than `limit` bytes.
nlohmann::json ReadJsonFile(const std::string& path, uint64_t limit = uint64_t{64} << 20);

}  // namespace lapidary

#endif  // LAPIDARY_QUANT_STRICT_JSON_H_
