#include "tests/altered/alter.h"

#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <regex>
#include <sstream>

#include "autograd/base/error.h"
#include "autograd/base/file.h"
#include "autograd/base/float16.h"
#include "data/image.h"
#include "data/json.h"

namespace lapidary::altered {
namespace {

using Json = nlohmann::ordered_json;

std::string Short(const Json& value) {
  const std::string text = DumpJson(value);
  return text.size() > 40 ? text.substr(0, 37) + "..." : text;
}

// The first value under key `key` at any depth, with its path.
Json* FindKey(Json& root, const std::string& key, std::string* path) {
  if (!root.is_structured()) return nullptr;
  for (auto it = root.begin(); it != root.end(); ++it) {
    const std::string step =
        root.is_object() ? it.key() : std::to_string(std::distance(root.begin(), it));
    if (root.is_object() && it.key() == key) {
      *path += "/" + step;
      return &it.value();
    }
    std::string below;
    if (Json* found = FindKey(it.value(), key, &below)) {
      *path += "/" + step + below;
      return found;
    }
  }
  return nullptr;
}

bool Fits(const Json& value, const std::string& conditions) {
  std::istringstream parts(conditions);
  for (std::string part; std::getline(parts, part, ',');) {
    const size_t equals = part.find('=');
    const std::string key = part.substr(0, equals);
    if (!value.is_object() || !value.contains(key)) return false;
    if (equals == std::string::npos) continue;
    const Json& got = value.at(key);
    if ((got.is_string() ? got.get<std::string>() : DumpJson(got)) != part.substr(equals + 1)) {
      return false;
    }
  }
  return true;
}

// The value at a path (alter.h), or null; `place` gets the path without selectors.
Json* Find(Json& root, const std::string& path, std::string* place) {
  Json* at = &root;
  std::istringstream steps(path);
  for (std::string step; std::getline(steps, step, '/');) {
    if (step.empty()) continue;
    if (step.rfind("**", 0) == 0) {
      at = FindKey(*at, step.substr(2), place);
      if (at == nullptr) return nullptr;
      continue;
    }
    if (!at->is_structured() || at->empty()) return nullptr;
    if (step == "*" || step.front() == '[') {
      const std::string conditions = step == "*" ? "" : step.substr(1, step.size() - 2);
      auto it = at->begin();
      while (it != at->end() && !Fits(it.value(), conditions)) ++it;
      if (it == at->end()) return nullptr;
      *place += "/" + (at->is_object() ? it.key() : std::to_string(std::distance(at->begin(), it)));
      at = &it.value();
    } else if (at->is_object()) {
      if (!at->contains(step)) return nullptr;
      *place += "/" + step;
      at = &at->at(step);
    } else {
      const size_t index = std::stoul(step);
      if (index >= at->size()) return nullptr;
      *place += "/" + step;
      at = &at->at(index);
    }
  }
  return at;
}

void Change(Json* value) {
  if (value->is_boolean()) {
    *value = !value->get<bool>();
  } else if (value->is_number_integer()) {
    *value = value->get<int64_t>() + 1;
  } else if (value->is_number()) {
    *value = value->get<double>() == 0 ? 1.0 : value->get<double>() * 1.5;
  } else if (value->is_string() && !value->get<std::string>().empty()) {
    std::string text = *value;
    char& c = text.back();
    c = c == '0' ? '1' : c == '1' ? '0' : c == 'e' ? 'a' : 'e';
    *value = text;
  } else {
    throw Error(StrCat("alter: must be a number or a text; got ", Short(*value)));
  }
}

Altered AlterJson(const std::string& path, const std::string& where, bool swap) {
  Json root = ParseJson(ReadFile(path), path);
  std::string place;
  Json* value = Find(root, where, &place);
  if (value == nullptr) return {};
  Altered altered;
  altered.found = true;
  if (swap) {
    Json& first = value->begin().value();
    auto other = value->begin();
    while (other != value->end() && other.value() == first) ++other;
    if (other == value->end()) return {};
    altered.describe = StrCat(place, ": ", Short(first), " and ", Short(other.value()), " swapped");
    std::swap(first, other.value());
  } else {
    const std::string before = Short(*value);
    Change(value);
    altered.describe = StrCat(place, ": ", before, " -> ", Short(*value));
  }
  altered.bytes = DumpJson(root);
  return altered;
}

// Element `i` of a tensor's data as a number.
double Element(const std::string& dtype, const char* data, int64_t i) {
  if (dtype == "F32") {
    float v;
    std::memcpy(&v, data + i * 4, 4);
    return v;
  }
  uint16_t bits;
  std::memcpy(&bits, data + i * 2, 2);
  return dtype == "BF16" ? F32FromBf16(bits) : F32FromF16(bits);
}

Altered AlterTensor(const std::string& path, const std::string& pattern) {
  std::string bytes = ReadFile(path);
  uint64_t header = 0;
  std::memcpy(&header, bytes.data(), 8);
  const Json index = Json::parse(bytes.substr(8, header));
  const std::regex regex(pattern);
  for (const auto& [name, entry] : index.items()) {
    if (name == "__metadata__" || !std::regex_search(name, regex)) continue;
    const std::string dtype = entry.at("dtype");
    const uint64_t begin = 8 + header + entry.at("data_offsets")[0].get<uint64_t>();
    const uint64_t size = 8 + header + entry.at("data_offsets")[1].get<uint64_t>() - begin;
    if (size == 0) continue;
    char* data = bytes.data() + begin;
    std::string describe;
    if (dtype == "F32" || dtype == "BF16" || dtype == "F16") {
      const int64_t width = dtype == "F32" ? 4 : 2, count = static_cast<int64_t>(size) / width;
      int64_t largest = 0;
      for (int64_t i = 1; i < count; ++i) {
        if (std::abs(Element(dtype, data, i)) > std::abs(Element(dtype, data, largest)))
          largest = i;
      }
      const double before = Element(dtype, data, largest);
      const auto after = static_cast<float>(before == 0 ? 1 : before * 1.5);
      if (dtype == "F32") {
        std::memcpy(data + largest * 4, &after, 4);
      } else {
        const uint16_t bits = dtype == "BF16" ? Bf16FromF32(after) : F16FromF32(after);
        std::memcpy(data + largest * 2, &bits, 2);
      }
      describe = StrCat(name, "[", largest, "]: ", before, " -> ", after);
    } else {  // integers: the lowest byte of one in the middle
      const uint64_t width = dtype == "I64" ? 8 : dtype == "I32" ? 4 : 1;
      const uint64_t at = size / width / 2 * width;
      const int before = static_cast<uint8_t>(data[at]);
      data[at] = static_cast<char>(before ^ (width == 1 ? 0x40 : 1));
      describe = StrCat(name, "[", at / width, "]: ", before, " -> ",
                        static_cast<int>(static_cast<uint8_t>(data[at])));
    }
    return {true, bytes, describe};
  }
  return {};
}

Altered AlterBytes(const std::string& path, double share) {
  std::string bytes = ReadFile(path);
  if (bytes.empty()) return {};
  const auto at = std::min<size_t>(static_cast<size_t>(share * static_cast<double>(bytes.size())),
                                   bytes.size() - 1);
  const size_t end = std::min(at + 32, bytes.size());
  for (size_t i = at; i < end; ++i) bytes[i] = static_cast<char>(bytes[i] ^ 0x55);
  return {true, bytes, StrCat("bytes ", at, " to ", end, " of ", bytes.size())};
}

Altered AlterPng(const std::string& path) {
  Image image = DecodeImage(ReadFile(path), path);
  const size_t at = image.pixels.size() / 2;
  const int before = image.pixels[at];
  image.pixels[at] = static_cast<uint8_t>(before ^ 0x40);
  return {true, EncodePng(image),
          StrCat("value ", at, ": ", before, " -> ", static_cast<int>(image.pixels[at]))};
}

std::string RunTool(const std::string& command) {
  std::FILE* pipe = popen(command.c_str(), "r");
  LAPIDARY_CHECK(pipe != nullptr, command, ": must run");
  std::string out;
  std::vector<char> buffer(1 << 20);
  for (size_t n; (n = std::fread(buffer.data(), 1, buffer.size(), pipe)) > 0;) {
    out.append(buffer.data(), n);
  }
  LAPIDARY_CHECK(pclose(pipe) == 0, command, ": must end well");
  return out;
}

Altered AlterText(const std::string& path, const std::string& what, bool packed) {
  const size_t arrow = what.find("->");
  LAPIDARY_CHECK(arrow != std::string::npos && arrow > 0, "alter: text must be A->B; got ", what);
  const std::string from = what.substr(0, arrow), to = what.substr(arrow + 2);
  std::string text = packed ? RunTool("xz -dc '" + path + "'") : ReadFile(path);
  const size_t at = text.find(from);
  if (at == std::string::npos) return {};
  text.replace(at, from.size(), to);
  if (packed) {
    char plain[] = "/tmp/lapidary-altered-XXXXXX";
    const int file = ::mkstemp(plain);
    LAPIDARY_CHECK(file >= 0, plain, ": must be a file that can be written");
    ::close(file);
    WriteFile(plain, text);
    text = RunTool(StrCat("xz -0 -c '", plain, "'"));
    std::filesystem::remove(plain);
  }
  return {true, text, StrCat("at ", at, ": ", from, " -> ", to)};
}

}  // namespace

Altered Alter(const std::string& path, const std::string& what) {
  const size_t colon = what.find(':');
  const std::string kind = what.substr(0, colon);
  const std::string rest = colon == std::string::npos ? "" : what.substr(colon + 1);
  if (kind == "json" || kind == "swap") return AlterJson(path, rest, kind == "swap");
  if (kind == "tensor") return AlterTensor(path, rest);
  if (kind == "bytes") return AlterBytes(path, std::stod(rest));
  if (kind == "png") return AlterPng(path);
  if (kind == "text" || kind == "xz") return AlterText(path, rest, kind == "xz");
  throw Error(StrCat("alter: must be a known kind; got ", what));
}

}  // namespace lapidary::altered
