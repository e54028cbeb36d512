// Small text tools that the scorers share, with Python's rules.
#ifndef LAPIDARY_TRAIN_EVALUATION_TEXT_H_
#define LAPIDARY_TRAIN_EVALUATION_TEXT_H_

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace lapidary {

// The characters; an invalid byte is one (unicode.h).
std::vector<uint32_t> Characters(std::string_view text);
std::string FromCharacters(const std::vector<uint32_t>& characters);
// str.split(): at runs of white space.
std::vector<std::string> SplitWords(std::string_view text);
std::string JoinWords(const std::vector<std::string>& words);
// str.replace.
std::string ReplaceAll(std::string text, std::string_view from, std::string_view to);
// float(text), none where Python raises ValueError.
std::optional<double> PythonFloat(std::string_view text);
// string.punctuation.
bool IsAsciiPunctuation(uint32_t c);

// Levenshtein distance: insertions, deletions and substitutions cost 1.
template <class T>
int64_t EditDistance(const std::vector<T>& a, const std::vector<T>& b) {
  std::vector<int64_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = static_cast<int64_t>(j);
  for (size_t i = 1; i <= a.size(); ++i) {
    int64_t diagonal = row[0];
    row[0] = static_cast<int64_t>(i);
    for (size_t j = 1; j <= b.size(); ++j) {
      const int64_t change = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, change});
    }
  }
  return row[b.size()];
}

}  // namespace lapidary

#endif  // LAPIDARY_TRAIN_EVALUATION_TEXT_H_
