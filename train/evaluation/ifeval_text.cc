// What instruction checks need to know of language: words, sentences, and which language it is.
#include <cld2/public/compact_lang_det.h>

#include <algorithm>
#include <set>

#include "data/unicode.h"
#include "train/evaluation/ifeval.h"
#include "train/evaluation/pattern.h"
#include "train/evaluation/text.h"

namespace lapidary {
namespace {

// \1 and so on in `with` stand for groups.
struct Rule {
  Pattern pattern;
  const char* with;
};

std::string Apply(const Rule& rule, const std::string& text) {
  return rule.pattern.Replace(text, [&](const PatternMatch& match) {
    std::string out;
    for (const char* p = rule.with; *p != '\0'; ++p) {
      if (*p == '\\') {
        out += match.groups[static_cast<size_t>(*++p - '0')];
      } else {
        out += *p;
      }
    }
    return out;
  });
}

std::vector<Rule> MakeRules(std::initializer_list<std::pair<const char*, const char*>> list) {
  std::vector<Rule> rules;
  for (const auto& [pattern, with] : list) rules.push_back({Pattern(pattern, {}, "words"), with});
  return rules;
}

// Words that end in a period without ending a sentence.
const std::set<std::string>& Abbreviations() {
  static const std::set<std::string> list = {
      "a.m",  "adm",  "apr", "aug", "ave", "brig", "bros", "capt",   "cmdr", "co",
      "col",  "corp", "d.c", "dec", "dr",  "e.g",  "feb",  "fig",    "gen",  "gov",
      "i.e",  "inc",  "jan", "jr",  "lt",  "ltd",  "maj",  "messrs", "mr",   "mrs",
      "ms",   "mt",   "nov", "oct", "p.m", "ph.d", "prof", "rep",    "rev",  "sen",
      "sept", "sgt",  "sr",  "st",  "u.k", "u.n",  "u.s",  "u.s.a",  "v",    "vs"};
  return list;
}

}  // namespace

std::vector<std::string> TreebankWords(const std::string& text) {
  // NLTKWordTokenizer's substitutions, in its order.
  static const std::vector<Rule> first = MakeRules({
      {"([«“‘„]|[`]+)", " \\1 "},
      {"^\"", "``"},
      {"(``)", " \\1 "},
      {"([ \\(\\[{<])(\"|\\'{2})", "\\1 `` "},
      {"(?i)(?<!\\w)(\\')(?!(?:re|ve|ll|m|t|s|d|n)\\b)(?=\\w)", "\\1 "},
      {"([^\\.])(\\.)([\\]\\)}>\"\\'»”’ ]*+)\\s*$", "\\1 \\2 \\3 "},
      {"([:,])([^\\d])", " \\1 \\2"},
      {"([:,])$", " \\1 "},
      {"\\.{2,}", " \\0 "},
      {"[;@#$%&]", " \\0 "},
      {"[\\x{2012}-\\x{2015}]", " \\0 "},
      {"([^\\.])(\\.)([\\]\\)}>\"\\']*)\\s*$", "\\1 \\2\\3 "},
      {"[?!]", " \\0 "},
      {"([^'])' ", "\\1 ' "},
      {"[*]", " \\0 "},
      {"[\\]\\[\\(\\)\\{\\}\\<\\>]", " \\0 "},
      {"--", " -- "},
  });
  static const std::vector<Rule> second = MakeRules({
      {"([»”’])", " \\1 "},
      {"''", " '' "},
      {"\"", " '' "},
      {"\\s+", " "},
      {"([^' ])('[sS]|'[mM]|'[dD]|') ", "\\1 \\2 "},
      {"([^' ])('ll|'LL|'re|'RE|'ve|'VE|n't|N'T) ", "\\1 \\2 "},
      {"(?i)\\b(can)(not)\\b", " \\1 \\2 "},
      {"(?i)\\b(d)('ye)\\b", " \\1 \\2 "},
      {"(?i)\\b(gim)(me)\\b", " \\1 \\2 "},
      {"(?i)\\b(gon)(na)\\b", " \\1 \\2 "},
      {"(?i)\\b(got)(ta)\\b", " \\1 \\2 "},
      {"(?i)\\b(lem)(me)\\b", " \\1 \\2 "},
      {"(?i)\\b(more)('n)\\b", " \\1 \\2 "},
      {"(?i)\\b(wan)(na)(?=\\s)", " \\1 \\2 "},
      {"(?i) ('t)(is)\\b", " \\1 \\2 "},
      {"(?i) ('t)(was)\\b", " \\1 \\2 "},
  });
  std::string out = text;
  for (const Rule& rule : first) out = Apply(rule, out);
  out = " " + out + " ";
  for (const Rule& rule : second) out = Apply(rule, out);
  return SplitWords(out);
}

// Kiss and Strunk (2006), "Unsupervised multilingual sentence boundary detection": a period, a
// question or an exclamation mark before white space ends a sentence, but not behind an
// abbreviation, an ellipsis, an initial, or a number before a small letter.
int64_t CountSentences(const std::string& text) {
  static const Pattern end("(\\S*)[.?!](?=((?:[?!)\";}\\]*:@'({\\[])|\\s+(\\S+)))", {},
                           "sentences");
  if (PythonStrip(text).empty()) return 0;
  static const Pattern number("^-?[.,]?\\d[\\d,.-]*\\.$", {}, "numbers");
  static const Pattern initial("^[^\\W\\d]\\.$", {}, "initials");
  static const Pattern closing("^[\"')\\]}]+\\s*\\z", {}, "closing marks");
  int64_t count = 1;
  for (const PatternMatch& match : end.FindAll(text)) {
    const std::string& word = match.groups[0];
    const std::string& next = match.groups[3];
    // Closing marks belong to what they close; at the end of the text they are no sentence.
    const bool mark = next.empty();
    if (mark && closing.Find(std::string_view(text).substr(match.end))) continue;
    if (word.ends_with('.')) {
      std::string type = PythonLower(word.substr(0, word.size() - 1));
      while (!type.empty() && IsAsciiPunctuation(static_cast<unsigned char>(type[0])))
        type.erase(0, 1);
      const std::string tail = type.substr(type.rfind('-') + 1);
      if (Abbreviations().contains(type) || Abbreviations().contains(tail)) continue;
      if (word.ends_with("..")) continue;
      const std::vector<uint32_t> characters = Characters(next);
      const std::string one = mark ? "" : FromCharacters({characters[0]});
      const bool small = PythonUpper(one) != one, capital = PythonLower(one) != one;
      if (initial.Find(word) && (mark || small || capital)) continue;
      if (number.Find(word) && (mark || small)) continue;
    }
    ++count;
  }
  return count;
}

std::string LanguageOf(const std::string& text) {
  const std::string valid = ValidUtf8(text);
  bool reliable = false;
  const CLD2::Language language =
      CLD2::DetectLanguage(PythonLower(valid).c_str(), static_cast<int>(PythonLower(valid).size()),
                           /*is_plain_text=*/true, &reliable);
  if (language == CLD2::UNKNOWN_LANGUAGE) return "";
  const std::string code = CLD2::LanguageCode(language);
  if (code == "iw") return "he";
  if (code == "zh") return "zh-cn";
  if (code == "zh-Hant") return "zh-tw";
  if (code == "nb" || code == "nn") return "no";
  return code;
}

}  // namespace lapidary
