#define PCRE2_CODE_UNIT_WIDTH 8
#include "train/evaluation/pattern.h"

#include <pcre2.h>

#include <utility>

#include "autograd/base/error.h"
#include "data/unicode.h"

namespace lapidary {

struct Pattern::Compiled {
  pcre2_code* code = nullptr;
  pcre2_match_context* limits = nullptr;
  std::string where, text;
  ~Compiled() {
    pcre2_code_free(code);
    pcre2_match_context_free(limits);
  }
};

namespace {

// Steps and kilobytes of memory of one match.
constexpr uint32_t kSteps = 20'000'000, kHeap = 256 << 10;

std::string MessageOf(int code) {
  PCRE2_UCHAR8 text[256] = {};
  pcre2_get_error_message(code, text, sizeof(text));
  return reinterpret_cast<const char*>(text);
}

}  // namespace

Pattern::Pattern(const std::string& text, const PatternOptions& options, const std::string& where)
    : compiled_(std::make_unique<Compiled>()) {
  compiled_->where = where;
  compiled_->text = text;
  uint32_t flags = PCRE2_UTF | PCRE2_UCP;
  if (options.ignore_case) flags |= PCRE2_CASELESS;
  if (options.multi_line) flags |= PCRE2_MULTILINE;
  if (options.dot_all) flags |= PCRE2_DOTALL;
  int error = 0;
  PCRE2_SIZE place = 0;
  pcre2_compile_context* context = pcre2_compile_context_create(nullptr);
  pcre2_set_newline(context, PCRE2_NEWLINE_LF);
  pcre2_set_max_pattern_length(context, 1 << 16);
  compiled_->code = pcre2_compile(reinterpret_cast<PCRE2_SPTR8>(text.data()), text.size(), flags,
                                  &error, &place, context);
  pcre2_compile_context_free(context);
  LAPIDARY_CHECK(compiled_->code != nullptr, where, ": must be a regular expression; got '", text,
                 "': ", MessageOf(error), " at character ", place);
  compiled_->limits = pcre2_match_context_create(nullptr);
  pcre2_set_match_limit(compiled_->limits, kSteps);
  pcre2_set_heap_limit(compiled_->limits, kHeap);
}

Pattern::~Pattern() = default;
Pattern::Pattern(Pattern&&) noexcept = default;
Pattern& Pattern::operator=(Pattern&&) noexcept = default;

std::vector<PatternMatch> Pattern::FindAll(std::string_view raw) const {
  const std::string text = ValidUtf8(raw);
  std::vector<PatternMatch> found;
  pcre2_match_data* data = pcre2_match_data_create_from_pattern(compiled_->code, nullptr);
  PCRE2_SIZE at = 0;
  uint32_t flags = PCRE2_NO_UTF_CHECK;  // it is valid
  int code = 0;
  while (at <= text.size()) {
    code = pcre2_match(compiled_->code, reinterpret_cast<PCRE2_SPTR8>(text.data()), text.size(), at,
                       flags, data, compiled_->limits);
    if (code == PCRE2_ERROR_NOMATCH && (flags & PCRE2_NOTEMPTY_ATSTART) != 0) {
      // Behind an empty match: on from the next character.
      at += static_cast<PCRE2_SIZE>(
          at < text.size() ? DecodeUtf8(text.data() + at, text.size() - at).length : 1);
      flags = PCRE2_NO_UTF_CHECK;
      continue;
    }
    if (code < 0) break;
    const PCRE2_SIZE* places = pcre2_get_ovector_pointer(data);
    const uint32_t groups = pcre2_get_ovector_count(data);
    PatternMatch match = {places[0], places[1], {}};
    for (uint32_t g = 0; g < groups; ++g) {
      const bool used = static_cast<int>(g) < code && places[2 * g] != PCRE2_UNSET;
      match.groups.push_back(used ? text.substr(places[2 * g], places[2 * g + 1] - places[2 * g])
                                  : std::string());
    }
    // \K may put the beginning behind the end: taken as empty.
    if (match.begin > match.end) match.begin = match.end;
    flags = PCRE2_NO_UTF_CHECK;
    if (match.begin == match.end) flags |= PCRE2_NOTEMPTY_ATSTART;
    at = match.end;
    found.push_back(std::move(match));
  }
  pcre2_match_data_free(data);
  LAPIDARY_CHECK(code >= 0 || code == PCRE2_ERROR_NOMATCH, compiled_->where,
                 ": a match must take fewer steps; got '", compiled_->text, "' on ", text.size(),
                 " bytes: ", MessageOf(code), "; try a pattern with fewer nested repeats");
  return found;
}

std::optional<PatternMatch> Pattern::Find(std::string_view text) const {
  // All of them: texts are answers, and the first is as dear as the rest.
  std::vector<PatternMatch> all = FindAll(text);
  if (all.empty()) return std::nullopt;
  return std::move(all[0]);
}

std::string Pattern::Replace(std::string_view raw,
                             const std::function<std::string(const PatternMatch&)>& with) const {
  const std::string text = ValidUtf8(raw);
  std::string out;
  size_t at = 0;
  for (const PatternMatch& match : FindAll(text)) {
    out += text.substr(at, match.begin - at) + with(match);
    at = match.end;
  }
  return out + text.substr(at);
}

std::string EscapePattern(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (std::string_view("\\^$.|?*+()[]{}-#").find(c) != std::string_view::npos) out += '\\';
    out += c;
  }
  return out;
}

}  // namespace lapidary
