#include "data/unicode.h"

#include <algorithm>
#include <iterator>

namespace lapidary {
namespace {

// first, first + step, ..., last: the other case is `added` away.
struct CaseRange {
  uint32_t first;
  uint32_t last;
  int step;
  int added;
};
struct CaseString {
  uint32_t value;
  const char* text;
};
#include "data/unicode_tables.inc"

template <size_t n>
uint32_t MapCase(const CaseRange (&ranges)[n], uint32_t value) {
  const CaseRange* end = std::end(ranges);
  const CaseRange* found =
      std::upper_bound(std::begin(ranges), end, value,
                       [](uint32_t v, const CaseRange& range) { return v < range.first; });
  // Ranges of step 2 interleave (capital, small, capital, ...), so the second to last may hold it
  // too.
  for (int back = 0; back < 2 && found != std::begin(ranges); ++back) {
    --found;
    if (value <= found->last && (value - found->first) % found->step == 0) {
      return static_cast<uint32_t>(static_cast<int64_t>(value) + found->added);
    }
  }
  return value;
}

}  // namespace

CodePoint DecodeUtf8(const char* p, size_t n) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(p[i]); };
  const uint32_t lead = byte(0);
  if (lead < 0x80) return {lead, 1};
  const CodePoint invalid = {kInvalidByte + lead, 1};
  const int length = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
  if (lead < 0xc2 || lead > 0xf4 || n < static_cast<size_t>(length)) return invalid;
  uint32_t value = lead & (0x7f >> length);
  for (int i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return invalid;
    value = value << 6 | (byte(i) & 0x3f);
  }
  if (length == 3 && (value < 0x800 || (value >= 0xd800 && value < 0xe000))) return invalid;
  if (length == 4 && (value < 0x10000 || value > 0x10ffff)) return invalid;
  return {value, length};
}

void AppendUtf8(std::string& out, uint32_t value) {
  if (value >= kInvalidByte) {
    out += static_cast<char>(value - kInvalidByte);
  } else if (value < 0x80) {
    out += static_cast<char>(value);
  } else if (value < 0x800) {
    out += static_cast<char>(0xc0 | value >> 6);
    out += static_cast<char>(0x80 | (value & 0x3f));
  } else if (value < 0x10000) {
    out += static_cast<char>(0xe0 | value >> 12);
    out += static_cast<char>(0x80 | (value >> 6 & 0x3f));
    out += static_cast<char>(0x80 | (value & 0x3f));
  } else {
    out += static_cast<char>(0xf0 | value >> 18);
    out += static_cast<char>(0x80 | (value >> 12 & 0x3f));
    out += static_cast<char>(0x80 | (value >> 6 & 0x3f));
    out += static_cast<char>(0x80 | (value & 0x3f));
  }
}

bool IsUtf8(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const CodePoint c = DecodeUtf8(text.data() + i, text.size() - i);
    if (c.value >= kInvalidByte) return false;
    i += c.length;
  }
  return true;
}

std::string ValidUtf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    const CodePoint c = DecodeUtf8(text.data() + i, text.size() - i);
    AppendUtf8(out, c.value >= kInvalidByte ? 0xfffd : c.value);
    i += c.length;
  }
  return out;
}

bool IsPythonSpace(uint32_t v) {
  return (v >= 0x09 && v <= 0x0d) || (v >= 0x1c && v <= 0x20) || v == 0x85 || v == 0xa0 ||
         v == 0x1680 || (v >= 0x2000 && v <= 0x200a) || v == 0x2028 || v == 0x2029 || v == 0x202f ||
         v == 0x205f || v == 0x3000;
}

std::string_view PythonStrip(std::string_view text) {
  while (!text.empty()) {
    const CodePoint c = DecodeUtf8(text.data(), text.size());
    if (!IsPythonSpace(c.value)) break;
    text.remove_prefix(c.length);
  }
  while (!text.empty()) {
    size_t begin = text.size() - 1;
    while (begin > 0 && text.size() - begin < 4 && (text[begin] & 0xc0) == 0x80) --begin;
    const CodePoint c = DecodeUtf8(text.data() + begin, text.size() - begin);
    if (!IsPythonSpace(c.value) || begin + c.length != text.size()) break;
    text.remove_suffix(c.length);
  }
  return text;
}

std::string PythonLower(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    const CodePoint c = DecodeUtf8(text.data() + i, text.size() - i);
    i += c.length;
    if (c.value < 0x80) {
      out += static_cast<char>(c.value >= 'A' && c.value <= 'Z' ? c.value + 32 : c.value);
    } else if (c.value == 0x130) {  // the only character whose lower case is two
      out += "i\xcc\x87";
    } else {
      AppendUtf8(out, MapCase(kLower, c.value));
    }
  }
  return out;
}

std::string PythonUpper(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    const CodePoint c = DecodeUtf8(text.data() + i, text.size() - i);
    i += c.length;
    if (c.value < 0x80) {
      out += static_cast<char>(c.value >= 'a' && c.value <= 'z' ? c.value - 32 : c.value);
      continue;
    }
    const CaseString* end = std::end(kUpperStrings);
    const CaseString* found = std::lower_bound(
        std::begin(kUpperStrings), end, c.value,
        [](const CaseString& entry, uint32_t value) { return entry.value < value; });
    if (found != end && found->value == c.value) {
      out += found->text;
    } else {
      AppendUtf8(out, MapCase(kUpper, c.value));
    }
  }
  return out;
}

}  // namespace lapidary
