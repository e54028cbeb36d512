#include "train/evaluation/ifeval.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>

#include "autograd/base/error.h"
#include "data/json.h"
#include "data/unicode.h"
#include "train/evaluation/pattern.h"
#include "train/evaluation/text.h"

namespace lapidary {
namespace {

using Json = nlohmann::ordered_json;
using Texts = std::vector<std::string>;

std::string Strip(const std::string& text) { return std::string(PythonStrip(text)); }
bool Blank(const std::string& text) { return PythonStrip(text).empty(); }

Texts SplitAt(const std::string& text, const std::string& mark) {
  Texts parts(1);
  for (size_t i = 0; i < text.size();) {
    if (text.compare(i, mark.size(), mark) == 0) {
      parts.emplace_back();
      i += mark.size();
    } else {
      parts.back() += text[i++];
    }
  }
  return parts;
}

Texts SplitAt(const std::string& text, const Pattern& mark) {
  Texts parts;
  size_t at = 0;
  for (const PatternMatch& match : mark.FindAll(text)) {
    parts.push_back(text.substr(at, match.begin - at));
    at = match.end;
  }
  parts.push_back(text.substr(at));
  return parts;
}

// Without the characters of `marks` at its ends.
std::string StripOf(const std::string& text, const char* marks, bool left, bool right) {
  const size_t begin = left ? text.find_first_not_of(marks) : 0;
  if (begin == std::string::npos || text.empty()) return "";
  const size_t end = right ? text.find_last_not_of(marks) : text.size() - 1;
  return end == std::string::npos ? "" : text.substr(begin, end + 1 - begin);
}

std::string Without(std::string text, const std::string& front, const std::string& back) {
  if (!front.empty() && text.starts_with(front)) text.erase(0, front.size());
  if (!back.empty() && text.ends_with(back)) text.resize(text.size() - back.size());
  return text;
}

// Python's str.isupper (or islower): cased characters, all of that case.
bool AllCase(const std::string& text, bool upper) {
  bool cased = false;
  for (const uint32_t c : Characters(text)) {
    const std::string one = FromCharacters({c});
    const bool is_upper = PythonLower(one) != one, is_lower = PythonUpper(one) != one;
    if (upper ? is_lower : is_upper) return false;
    cased |= is_upper || is_lower;
  }
  return cased;
}

// The instruction with its arguments; absent, null, empty and 0 are the same, as in the harness.
class Arguments {
 public:
  Arguments(const Json& json, std::string where) : json_(json), where_(std::move(where)) {}
  std::string Text(const char* key) const {
    const Json* v = Find(key);
    LAPIDARY_CHECK(v != nullptr && v->is_string(), where_, ": '", key, "' must be a string; got ",
                   v == nullptr ? "none" : DumpJson(*v).substr(0, 40));
    return v->get<std::string>();
  }
  int64_t Number(const char* key) const {
    const Json* v = Find(key);
    LAPIDARY_CHECK(v != nullptr && v->is_number(), where_, ": '", key, "' must be a number; got ",
                   v == nullptr ? "none" : DumpJson(*v).substr(0, 40));
    return static_cast<int64_t>(v->get<double>());
  }
  Texts List(const char* key) const {
    const Json* v = Find(key);
    LAPIDARY_CHECK(v != nullptr && v->is_array(), where_, ": '", key, "' must be a list; got ",
                   v == nullptr ? "none" : DumpJson(*v).substr(0, 40));
    Texts items;
    for (const Json& item : *v) items.push_back(PythonStr(item));
    return items;
  }
  // `count` against the arguments `number` and `relation`.
  bool Compare(int64_t count, const char* number, const char* relation) const {
    const std::string word = Text(relation);
    LAPIDARY_CHECK(word == "less than" || word == "at least", where_, ": '", relation,
                   "' must be \"less than\" or \"at least\"; got '", word, "'");
    return word == "less than" ? count < Number(number) : count >= Number(number);
  }
  const std::string& where() const { return where_; }

 private:
  const Json* Find(const char* key) const {
    const auto it = json_.find(key);
    if (it == json_.end() || it->is_null()) return nullptr;
    const bool empty = (it->is_number() && it->get<double>() == 0) ||
                       (it->is_string() && it->get_ref<const std::string&>().empty()) ||
                       (it->is_array() && it->empty());
    return empty ? nullptr : &*it;
  }
  const Json& json_;
  const std::string where_;
};

Pattern Keyword(const std::string& text, const Arguments& a) {
  return Pattern(text, {.ignore_case = true}, a.where());
}

bool Bullets(const std::string& text, const Arguments& a) {
  static const Pattern star("^\\s*\\*[^\\*].*$", {.multi_line = true}, "bullets");
  static const Pattern dash("^\\s*-.*$", {.multi_line = true}, "bullets");
  return static_cast<int64_t>(star.FindAll(text).size() + dash.FindAll(text).size()) ==
         a.Number("num_bullets");
}

bool Highlights(const std::string& text, const Arguments& a) {
  static const Pattern one("\\*[^\\n\\*]*\\*", {}, "highlights");
  static const Pattern two("\\*\\*[^\\n\\*]*\\*\\*", {}, "highlights");
  int64_t count = 0;
  for (const PatternMatch& m : one.FindAll(text))
    count += !Blank(StripOf(m.groups[0], "*", true, true));
  for (const PatternMatch& m : two.FindAll(text)) count += !Blank(Without(m.groups[0], "**", "**"));
  return count >= a.Number("num_highlights");
}

bool Paragraphs(const std::string& text, const Arguments& a) {
  static const Pattern divider("\\s?\\*\\*\\*\\s?", {}, "paragraphs");
  const Texts parts = SplitAt(text, divider);
  int64_t count = static_cast<int64_t>(parts.size());
  for (size_t i = 0; i < parts.size(); ++i) {
    if (!Blank(parts[i])) continue;
    if (i != 0 && i + 1 != parts.size()) return false;
    --count;
  }
  return count == a.Number("num_paragraphs");
}

bool FirstWord(const std::string& text, const Arguments& a) {
  const Texts parts = SplitAt(text, "\n\n");
  int64_t count = 0;
  for (const std::string& part : parts) count += !Blank(part);
  const int64_t nth = a.Number("nth_paragraph");
  if (nth > count || nth < 1) return false;
  const std::string paragraph = Strip(parts[static_cast<size_t>(nth - 1)]);
  if (paragraph.empty()) return false;
  std::string word = SplitWords(paragraph)[0];
  word = StripOf(StripOf(word, "'", true, false), "\"", true, false);
  const std::string first = PythonLower(word.substr(0, word.find_first_of(".,?!'\"")));
  return count == a.Number("num_paragraphs") && first == PythonLower(a.Text("first_word"));
}

bool Postscript(const std::string& text, const Arguments& a) {
  const std::string marker = Strip(a.Text("postscript_marker"));
  const std::string pattern = marker == "P.P.S"  ? "\\s*p\\.\\s?p\\.\\s?s.*$"
                              : marker == "P.S." ? "\\s*p\\.\\s?s\\..*$"
                                                 : "\\s*" + PythonLower(marker) + ".*$";
  return Pattern(pattern, {.multi_line = true}, a.where()).Find(PythonLower(text)).has_value();
}

bool TwoResponses(const std::string& text, const Arguments&) {
  Texts whole;
  const Texts parts = SplitAt(text, "******");
  for (size_t i = 0; i < parts.size(); ++i) {
    if (!Blank(parts[i])) {
      whole.push_back(parts[i]);
    } else if (i != 0 && i + 1 != parts.size()) {
      return false;
    }
  }
  return whole.size() == 2 && Strip(whole[0]) != Strip(whole[1]);
}

bool JsonText(const std::string& text, const Arguments&) {
  std::string bare = Strip(text);
  for (const char* front : {"```json", "```Json", "```JSON", "```"})
    bare = Without(bare, front, "");
  bare = Strip(Without(bare, "", "```"));
  // Python's json takes these words for numbers, too.
  static const Pattern number("(\"(?:[^\"\\\\]|\\\\.)*+\")|-?Infinity|NaN", {}, "numbers");
  return Json::accept(number.Replace(bare, [](const PatternMatch& match) {
    return match.groups[1].empty() ? std::string("0") : match.groups[1];
  }));
}

bool Title(const std::string& text, const Arguments&) {
  static const Pattern title("<<[^\\n]+>>", {}, "titles");
  for (const PatternMatch& m : title.FindAll(text)) {
    const std::string inner = StripOf(StripOf(m.groups[0], "<", true, false), ">", false, true);
    if (!Blank(inner)) return true;
  }
  return false;
}

bool IsLanguage(const std::string& text, const std::string& code) {
  static const Pattern letter("\\p{L}", {}, "letters");
  if (!letter.Find(text)) return true;  // the harness lets pass what has no language
  return LanguageOf(text) == code;
}

struct Instruction {
  const char* id;
  bool (*follows)(const std::string& text, const Arguments& a);
};

const std::vector<Instruction>& Instructions() {
  using T = const std::string&;
  using A = const Arguments&;
  static const std::vector<Instruction> list = {
      {"keywords:existence",
       [](T text, A a) {
         const Texts words = a.List("keywords");
         return std::all_of(words.begin(), words.end(), [&](const std::string& word) {
           return Keyword(word, a).Find(text).has_value();
         });
       }},
      {"keywords:frequency",
       [](T text, A a) {
         const Pattern word = Keyword(Strip(a.Text("keyword")), a);
         return a.Compare(static_cast<int64_t>(word.FindAll(text).size()), "frequency", "relation");
       }},
      {"keywords:forbidden_words",
       [](T text, A a) {
         const Texts words = a.List("forbidden_words");
         return std::none_of(words.begin(), words.end(), [&](const std::string& word) {
           return Keyword("\\b" + word + "\\b", a).Find(text).has_value();
         });
       }},
      {"keywords:letter_frequency",
       [](T text, A a) {
         const std::string letter = PythonLower(Strip(a.Text("letter")));
         const std::vector<uint32_t> all = Characters(PythonLower(text));
         const std::vector<uint32_t> one = Characters(letter);
         LAPIDARY_CHECK(one.size() == 1, a.where(), ": 'letter' must be one letter; got '", letter,
                        "'");
         return a.Compare(std::count(all.begin(), all.end(), one[0]), "let_frequency",
                          "let_relation");
       }},
      {"language:response_language",
       [](T text, A a) { return IsLanguage(text, a.Text("language")); }},
      {"length_constraints:number_sentences",
       [](T text, A a) { return a.Compare(CountSentences(text), "num_sentences", "relation"); }},
      {"length_constraints:number_paragraphs", Paragraphs},
      {"length_constraints:number_words",
       [](T text, A a) {
         static const Pattern word("\\w+", {}, "words");
         return a.Compare(static_cast<int64_t>(word.FindAll(text).size()), "num_words", "relation");
       }},
      {"length_constraints:nth_paragraph_first_word", FirstWord},
      {"detectable_content:number_placeholders",
       [](T text, A a) {
         static const Pattern place("\\[.*?\\]", {}, "placeholders");
         return static_cast<int64_t>(place.FindAll(text).size()) >= a.Number("num_placeholders");
       }},
      {"detectable_content:postscript", Postscript},
      {"detectable_format:number_bullet_lists", Bullets},
      {"detectable_format:constrained_response",
       [](T text, A) {
         for (const char* option :
              {"My answer is yes.", "My answer is no.", "My answer is maybe."}) {
           if (text.find(option) != std::string::npos) return true;
         }
         return false;
       }},
      {"detectable_format:number_highlighted_sections", Highlights},
      {"detectable_format:multiple_sections",
       [](T text, A a) {
         const Pattern mark("\\s?" + Strip(a.Text("section_spliter")) + "\\s?\\d+\\s?", {},
                            a.where());
         return static_cast<int64_t>(mark.FindAll(text).size()) >= a.Number("num_sections");
       }},
      {"detectable_format:json_format", JsonText},
      {"detectable_format:title", Title},
      {"combination:two_responses", TwoResponses},
      {"combination:repeat_prompt",
       [](T text, A a) {
         return PythonLower(Strip(text))
             .starts_with(PythonLower(Strip(a.Text("prompt_to_repeat"))));
       }},
      {"startend:end_checker",
       [](T text, A a) {
         const std::string bare = PythonLower(StripOf(Strip(text), "\"", true, true));
         return bare.ends_with(PythonLower(Strip(a.Text("end_phrase"))));
       }},
      {"startend:quotation",
       [](T text, A) {
         const std::string bare = Strip(text);
         return bare.size() > 1 && bare.front() == '"' && bare.back() == '"';
       }},
      {"change_case:capital_word_frequency",
       [](T text, A a) {
         const Texts words = TreebankWords(text);
         return a.Compare(std::count_if(words.begin(), words.end(),
                                        [](const std::string& w) { return AllCase(w, true); }),
                          "capital_frequency", "capital_relation");
       }},
      {"change_case:english_capital",
       [](T text, A) { return AllCase(text, true) && IsLanguage(text, "en"); }},
      {"change_case:english_lowercase",
       [](T text, A) { return AllCase(text, false) && IsLanguage(text, "en"); }},
      {"punctuation:no_comma", [](T text, A) { return text.find(',') == std::string::npos; }},
  };
  return list;
}

// The answer as it is, without asterisks, and without its first, last, or both lines.
Texts Readings(const std::string& answer) {
  const Texts lines = SplitAt(answer, "\n");
  const auto part = [&](size_t front, size_t back) {
    std::string text;
    for (size_t i = front; i + back < lines.size(); ++i) text += (i > front ? "\n" : "") + lines[i];
    return Strip(text);
  };
  Texts readings = {answer, part(1, 0), part(0, 1), part(1, 1)};
  for (size_t i = 0; i < 4; ++i) readings.push_back(ReplaceAll(readings[i], "*", ""));
  return readings;
}

}  // namespace

std::vector<std::string> IfevalMetrics() {
  return {"prompt_strict", "instruction_strict", "prompt_loose", "instruction_loose"};
}

bool FollowsInstruction(const std::string& id, const Json& arguments, const std::string&,
                        const std::string& answer, const std::string& where) {
  for (const Instruction& instruction : Instructions()) {
    if (id == instruction.id)
      return !Blank(answer) &&
             instruction.follows(answer, Arguments(arguments, StrCat(where, ": ", id)));
  }
  throw Error(StrCat(where, ": instructions must be IFEval's; got '", id, "'"));
}

std::vector<std::vector<double>> IfevalRows(const Json& row, const std::string& answer,
                                            const std::string& where) {
  const auto list = [&](const char* key) -> const Json& {
    const auto it = row.find(key);
    LAPIDARY_CHECK(it != row.end() && it->is_array(), where, ": '", key,
                   "' must be a list, as in google/IFEval; got something else");
    return *it;
  };
  const Json &ids = list("instruction_id_list"), &arguments = list("kwargs");
  LAPIDARY_CHECK(ids.size() == arguments.size(), where,
                 ": every instruction must have its kwargs; got ", ids.size(), " and ",
                 arguments.size());
  double strict = 0, loose = 0;
  const Texts readings = Readings(answer);
  for (size_t i = 0; i < ids.size(); ++i) {
    const std::string id = PythonStr(ids[i]);
    const Json given = arguments[i].is_object() ? arguments[i] : Json::object();
    const auto follows = [&](const std::string& text) {
      return FollowsInstruction(id, given, "", text, where);
    };
    strict += follows(answer);
    loose += std::any_of(readings.begin(), readings.end(), follows);
  }
  const double count = static_cast<double>(ids.size());
  return {{strict == count ? 1.0 : 0.0, 1},
          {strict, count},
          {loose == count ? 1.0 : 0.0, 1},
          {loose, count}};
}

std::string IfevalInstructions(const Json& row) {
  std::string text;
  const auto ids = row.find("instruction_id_list");
  if (ids == row.end() || !ids->is_array()) return text;
  for (const Json& id : *ids) text += (text.empty() ? "" : ", ") + PythonStr(id);
  return text;
}

}  // namespace lapidary
