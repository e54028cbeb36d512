// UTF-8 and the few text rules of Python that the chat template relies on (str.strip, str.lower,
// str.upper). Strings are UTF-8. A byte that is not part of a valid sequence (overlong, surrogate,
// above U+10FFFF, cut short) is a character of its own here; nothing throws.
#ifndef LAPIDARY_DATA_UNICODE_H_
#define LAPIDARY_DATA_UNICODE_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace lapidary {

// One character of a UTF-8 string.
struct CodePoint {
  uint32_t value = 0;  // kInvalidByte + the byte for a byte that is not UTF-8
  int length = 0;      // bytes used, 1 to 4
};
constexpr uint32_t kInvalidByte = 0x110000;

// The character at `p`, which must have `n` >= 1 bytes.
CodePoint DecodeUtf8(const char* p, size_t n);
// Appends `value` (a code point, or kInvalidByte + byte).
void AppendUtf8(std::string& out, uint32_t value);
// Whether all of `text` is valid UTF-8.
bool IsUtf8(std::string_view text);
// `text` with every invalid byte replaced by U+FFFD.
std::string ValidUtf8(std::string_view text);

// Python's str.isspace for one character, and str.strip().
bool IsPythonSpace(uint32_t value);
std::string_view PythonStrip(std::string_view text);

// Python's str.lower (without the rule for a final sigma) and str.upper.
std::string PythonLower(std::string_view text);
std::string PythonUpper(std::string_view text);

}  // namespace lapidary

#endif  // LAPIDARY_DATA_UNICODE_H_
