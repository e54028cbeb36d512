#include "data/media_ref.h"

#include <filesystem>
#include <nlohmann/json.hpp>
#include <system_error>

#include "autograd/base/error.h"
#include "data/chat_tools.h"
#include "data/json.h"

namespace lapidary {
namespace {

using Json = nlohmann::ordered_json;

// Shorter strings are taken for file names, however they are spelled.
constexpr size_t kMinBase64 = 64;

int Base64Digit(char c) {
  if (c >= 'A' && c <= 'Z') return c - 'A';
  if (c >= 'a' && c <= 'z') return c - 'a' + 26;
  if (c >= '0' && c <= '9') return c - '0' + 52;
  if (c == '+' || c == '-') return 62;
  if (c == '/' || c == '_') return 63;
  return -1;
}

// %20 and the like.
std::string DecodePercent(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto hex = [](char c) {
      return c >= '0' && c <= '9'                 ? c - '0'
             : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 87
                                                  : -1;
    };
    if (text[i] == '%' && i + 2 < text.size() && hex(text[i + 1]) >= 0 && hex(text[i + 2]) >= 0) {
      out += static_cast<char>(hex(text[i + 1]) * 16 + hex(text[i + 2]));
      i += 2;
    } else {
      out += text[i];
    }
  }
  return out;
}

// What an error shows of a reference.
std::string Shown(const std::string& text) {
  return "'" + (text.size() <= 80 ? text : text.substr(0, 77) + "...") + "'";
}

MediaRef InMemory(std::string bytes, MediaKind kind, const RecordPlace& place) {
  LAPIDARY_CHECK(!bytes.empty(), place.where, ": ", MediaKindName(kind),
                 " bytes must be base64 of something; got none");
  MediaRef ref;
  ref.kind = kind;
  ref.source = MediaSource::Memory(std::move(bytes),
                                   StrCat(place.where, " (", MediaKindName(kind), " bytes)"));
  return ref;
}

bool Below(const std::filesystem::path& path, const std::filesystem::path& folder) {
  const std::filesystem::path inside = path.lexically_relative(folder);
  return !inside.empty() && *inside.begin() != "..";
}

MediaRef FromText(const std::string& text, MediaKind kind, const RecordPlace& place) {
  const std::string_view view = text;
  if (view.starts_with("data:")) {
    const size_t comma = view.find(',');
    LAPIDARY_CHECK(comma != std::string_view::npos, place.where,
                   ": a data: URL must have a comma; got ", Shown(text));
    if (!view.substr(0, comma).ends_with(";base64")) {
      return InMemory(DecodePercent(view.substr(comma + 1)), kind, place);
    }
    const auto bytes = DecodeBase64(view.substr(comma + 1));
    LAPIDARY_CHECK(bytes, place.where, ": a data: URL must hold base64; got ", Shown(text));
    return InMemory(*bytes, kind, place);
  }
  LAPIDARY_CHECK(!view.starts_with("http://") && !view.starts_with("https://"), place.where,
                 ": media must be local files or bytes; got ", Shown(text),
                 "; try to download it and name the file");
  std::filesystem::path path(view.starts_with("file://") ? DecodePercent(view.substr(7)) : text);
  if (path.is_relative()) path = std::filesystem::path(place.folder) / path;
  std::error_code ignored;
  const bool exists = !text.empty() && text.find('\0') == std::string::npos &&
                      std::filesystem::is_regular_file(path, ignored);
  if (!exists && text.size() >= kMinBase64) {
    if (const auto bytes = DecodeBase64(text)) return InMemory(*bytes, kind, place);
  }
  LAPIDARY_CHECK(place.outside || !LeavesFolder(path, place.folder), place.where, ": ",
                 MediaKindName(kind), " files must lie below the folder of the data; got ",
                 Shown(text), "; try allow_outside_paths if you trust the file");
  LAPIDARY_CHECK(exists, place.where, ": ", MediaKindName(kind), " file must exist; got ",
                 Shown(text), " (", Shown(path.string()), ")");
  MediaRef ref;
  ref.kind = kind;
  ref.source = MediaSource::File(path.string());
  return ref;
}

}  // namespace

bool LeavesFolder(const std::filesystem::path& path, const std::string& folder) {
  namespace fs = std::filesystem;
  const fs::path base = fs::absolute(folder.empty() ? "." : folder);
  if (!Below(fs::absolute(path).lexically_normal(), base.lexically_normal())) return true;
  // Through links, too. What cannot be resolved is no file, which its reader says.
  std::error_code failed;
  const fs::path real_base = fs::weakly_canonical(base, failed);
  const fs::path real = failed ? fs::path() : fs::weakly_canonical(fs::absolute(path), failed);
  return failed || !Below(real, real_base);
}

std::optional<std::string> DecodeBase64(std::string_view text) {
  std::string out;
  out.reserve(text.size() / 4 * 3);
  uint32_t bits = 0;
  int count = 0;
  size_t digits = 0, padding = 0;
  for (const char c : text) {
    if (c == '\n' || c == '\r' || c == ' ' || c == '\t') continue;
    if (c == '=') {
      ++padding;
      continue;
    }
    const int digit = Base64Digit(c);
    if (digit < 0 || padding > 0) return std::nullopt;
    ++digits;
    bits = bits << 6 | static_cast<uint32_t>(digit);
    count += 6;
    if (count >= 8) {
      count -= 8;
      out += static_cast<char>(bits >> count & 0xff);
    }
  }
  if (digits % 4 == 1 || (padding > 0 && (digits + padding) % 4 != 0) || padding > 2) {
    return std::nullopt;
  }
  return out;
}

MediaRef ReadMediaRef(const Json& value, MediaKind kind, const RecordPlace& place) {
  if (value.is_string()) return FromText(value.get<std::string>(), kind, place);
  if (IsRawBytes(value)) return InMemory(std::string(GetRawBytes(value)), kind, place);
  LAPIDARY_CHECK(value.is_object(), place.where, ": ", MediaKindName(kind),
                 " must be a path, a data: URL, base64 or an object around these; got ",
                 DumpJson(value).substr(0, 60));
  // {"bytes": base64 or null, "path": ...}, {"url": ...}, {"data": base64, "format": ...}
  for (const char* key : {"bytes", "data"}) {
    const Json* member = FindMember(value, key);
    if (member == nullptr || member->is_null()) continue;
    if (IsRawBytes(*member)) return InMemory(std::string(GetRawBytes(*member)), kind, place);
    const auto bytes = member->is_string() ? DecodeBase64(member->get_ref<const std::string&>())
                                           : std::optional<std::string>();
    if (!bytes && member->is_string() && std::string_view(key) == "data") {
      return FromText(member->get<std::string>(), kind, place);
    }
    LAPIDARY_CHECK(bytes, place.where, ": ", key, " of ", MediaKindName(kind),
                   " must be base64; got ", DumpJson(*member).substr(0, 40));
    return InMemory(*bytes, kind, place);
  }
  for (const char* key : {"path", "url", MediaKindName(kind), "file"}) {
    const Json* member = FindMember(value, key);
    if (member != nullptr && !member->is_null()) return ReadMediaRef(*member, kind, place);
  }
  throw Error(StrCat(place.where, ": ", MediaKindName(kind),
                     " must have one of bytes, data, path, url; got ",
                     DumpJson(value).substr(0, 60)));
}

}  // namespace lapidary
