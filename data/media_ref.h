// The ways in which records name a picture, a sound or a clip (formats.md 8.3): a path relative to
// the data file, a file:// address, a data: URL, bare base64, or objects around these. Nothing is
// fetched from a network.
#ifndef LAPIDARY_DATA_MEDIA_REF_H_
#define LAPIDARY_DATA_MEDIA_REF_H_

#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "data/readers.h"
#include "data/record.h"

namespace lapidary {

// The bytes of base64 text (either alphabet, padding optional, white space allowed); none if it is
// something else.
std::optional<std::string> DecodeBase64(std::string_view text);

// Whether `path` is not below `folder` ("": where the program runs), its ".." and links resolved.
bool LeavesFolder(const std::filesystem::path& path, const std::string& folder);

// The medium that `value` names; files must exist. Throws Error "`place.where`: ...".
MediaRef ReadMediaRef(const nlohmann::ordered_json& value, MediaKind kind,
                      const RecordPlace& place);

}  // namespace lapidary

#endif  // LAPIDARY_DATA_MEDIA_REF_H_
