#include "train/evaluation/text.h"

#include <charconv>
#include <cmath>

#include "data/unicode.h"

namespace lapidary {

std::vector<uint32_t> Characters(std::string_view text) {
  std::vector<uint32_t> out;
  for (size_t at = 0; at < text.size();) {
    const CodePoint c = DecodeUtf8(text.data() + at, text.size() - at);
    out.push_back(c.value);
    at += static_cast<size_t>(c.length);
  }
  return out;
}

std::string FromCharacters(const std::vector<uint32_t>& characters) {
  std::string out;
  for (const uint32_t c : characters) AppendUtf8(out, c);
  return out;
}

std::vector<std::string> SplitWords(std::string_view text) {
  std::vector<std::string> words;
  bool inside = false;
  for (size_t at = 0; at < text.size();) {
    const CodePoint c = DecodeUtf8(text.data() + at, text.size() - at);
    const bool space = IsPythonSpace(c.value);
    if (!space && !inside) words.emplace_back();
    if (!space) words.back().append(text.substr(at, static_cast<size_t>(c.length)));
    inside = !space;
    at += static_cast<size_t>(c.length);
  }
  return words;
}

std::string JoinWords(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) {
    if (!text.empty()) text += ' ';
    text += word;
  }
  return text;
}

std::string ReplaceAll(std::string text, std::string_view from, std::string_view to) {
  if (from.empty()) return text;
  std::string out;
  size_t at = 0;
  for (size_t hit = text.find(from); hit != std::string::npos; hit = text.find(from, at)) {
    out.append(text, at, hit - at).append(to);
    at = hit + from.size();
  }
  return out.append(text, at, std::string::npos);
}

std::optional<double> PythonFloat(std::string_view text) {
  const std::string_view bare = PythonStrip(text);
  std::string digits;
  for (size_t i = 0; i < bare.size(); ++i) {
    const char c = bare[i];
    if (c == '_') {  // between digits only
      const auto digit = [&](size_t at) {
        return at < bare.size() && bare[at] >= '0' && bare[at] <= '9';
      };
      if (i == 0 || !digit(i - 1) || !digit(i + 1)) return std::nullopt;
      continue;
    }
    digits += c;
  }
  std::string_view number = digits;
  double sign = 1;
  if (!number.empty() && (number[0] == '+' || number[0] == '-')) {
    sign = number[0] == '-' ? -1 : 1;
    number.remove_prefix(1);
  }
  if (number.empty() || number[0] == '+' || number[0] == '-') return std::nullopt;
  const std::string lower = PythonLower(number);
  if (lower == "inf" || lower == "infinity") return sign * HUGE_VAL;
  if (lower == "nan") return std::nan("");
  if (number.find_first_not_of("0123456789.eE+-") != std::string_view::npos) return std::nullopt;
  double value = 0;
  const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), value);
  if (end != number.data() + number.size()) return std::nullopt;
  if (error == std::errc::result_out_of_range) {  // as Python: inf, or 0
    const size_t e = lower.find('e');
    const bool small = e != std::string::npos && e + 1 < lower.size() && lower[e + 1] == '-';
    return sign * (small ? 0 : HUGE_VAL);
  }
  if (error != std::errc()) return std::nullopt;
  return sign * value;
}

bool IsAsciiPunctuation(uint32_t c) {
  return (c >= 33 && c <= 47) || (c >= 58 && c <= 64) || (c >= 91 && c <= 96) ||
         (c >= 123 && c <= 126);
}

}  // namespace lapidary
