// Regular expressions on UTF-8 text as Python's `re` understands them (PCRE2 with Unicode
// properties). For patterns of the user's tasks and of instructions: bounded in time, never
// crashing on long texts. Const and thread-safe.
#ifndef LAPIDARY_TRAIN_EVALUATION_PATTERN_H_
#define LAPIDARY_TRAIN_EVALUATION_PATTERN_H_

#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace lapidary {

struct PatternOptions {
  bool ignore_case = false;
  bool multi_line = false;  // ^ and $ at every line
  bool dot_all = false;     // . matches a line's end too
};

struct PatternMatch {
  size_t begin = 0, end = 0;        // bytes
  std::vector<std::string> groups;  // [0] the whole; an unused group is ""
};

class Pattern {
 public:
  // `where` goes into messages. Throws Error for text that is no regular expression.
  Pattern(const std::string& text, const PatternOptions& options, const std::string& where);
  ~Pattern();
  Pattern(Pattern&&) noexcept;
  Pattern& operator=(Pattern&&) noexcept;

  // Invalid UTF-8 is read as U+FFFD. Throws Error if the match takes too many steps.
  std::optional<PatternMatch> Find(std::string_view text) const;
  // All that do not overlap, empty ones included, as Python's finditer.
  std::vector<PatternMatch> FindAll(std::string_view text) const;
  // Python's sub with a function.
  std::string Replace(std::string_view text,
                      const std::function<std::string(const PatternMatch&)>& with) const;

 private:
  struct Compiled;
  std::unique_ptr<Compiled> compiled_;
};

// `text` so that it stands for itself in a pattern.
std::string EscapePattern(std::string_view text);

}  // namespace lapidary

#endif  // LAPIDARY_TRAIN_EVALUATION_PATTERN_H_
