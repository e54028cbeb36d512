// Mathematical answers: found in a solution, brought to one spelling, compared as texts. The rules
// are those of lm-evaluation-harness: of its aime and hendrycks_math tasks (Hendrycks et al. 2021),
// and of minerva_math (Lewkowycz et al. 2022, appendix D), without its computer algebra.
#include <optional>

#include "autograd/base/error.h"
#include "data/unicode.h"
#include "train/evaluation/metrics.h"
#include "train/evaluation/pattern.h"
#include "train/evaluation/text.h"

namespace lapidary {
namespace {

using Texts = std::vector<std::string>;

Texts SplitAt(const std::string& text, const std::string& mark) {
  Texts parts;
  size_t at = 0;
  for (size_t hit = text.find(mark); hit != std::string::npos; hit = text.find(mark, at)) {
    parts.push_back(text.substr(at, hit - at));
    at = hit + mark.size();
  }
  parts.push_back(text.substr(at));
  return parts;
}

// The first character, all its bytes; the rest.
std::pair<std::string, std::string> FirstCharacter(const std::string& text) {
  const size_t length = static_cast<size_t>(DecodeUtf8(text.data(), text.size()).length);
  return {text.substr(0, length), text.substr(length)};
}

// The last \boxed{...} or \fbox{...}, whole; none without one that is closed.
std::optional<std::string> LastBoxed(const std::string& text) {
  if (text.find("\\boxed ") != std::string::npos)
    return "\\boxed " + SplitAt(SplitAt(text, "\\boxed ").back(), "$")[0];
  size_t at = text.rfind("\\boxed");
  if (at == std::string::npos) at = text.rfind("\\fbox");
  if (at == std::string::npos) return std::nullopt;
  int open = 0;
  for (size_t i = at; i < text.size(); ++i) {
    if (text[i] == '{') ++open;
    if (text[i] == '}' && --open == 0) return text.substr(at, i + 1 - at);
  }
  return std::nullopt;
}

// What is in the box.
std::optional<std::string> InBox(const std::string& boxed) {
  if (boxed.find("\\boxed ") != std::string::npos) {
    if (!boxed.starts_with("\\boxed ")) return std::nullopt;
    return boxed.substr(7);
  }
  if (!boxed.starts_with("\\boxed{") || !boxed.ends_with('}')) return std::nullopt;
  return boxed.substr(7, boxed.size() - 8);
}

// \frac12 to \frac{1}{2}. None where there is no character behind \frac.
std::optional<std::string> BraceFractions(const std::string& text) {
  const Texts parts = SplitAt(text, "\\frac");
  std::string out = parts[0];
  for (size_t i = 1; i < parts.size(); ++i) {
    if (parts[i].empty()) return std::nullopt;
    out += "\\frac";
    if (parts[i][0] == '{') {
      out += parts[i];
      continue;
    }
    const auto [a, behind] = FirstCharacter(parts[i]);
    if (behind.empty()) return text;
    const auto [b, rest] = FirstCharacter(behind);
    out += b == "{" ? StrCat("{", a, "}", behind) : StrCat("{", a, "}{", b, "}", rest);
  }
  return out;
}

std::optional<std::string> BraceRoots(const std::string& text) {
  const Texts parts = SplitAt(text, "\\sqrt");
  std::string out = parts[0];
  for (size_t i = 1; i < parts.size(); ++i) {
    if (parts[i].empty()) return std::nullopt;
    const auto [a, rest] = FirstCharacter(parts[i]);
    out += a == "{" ? "\\sqrt" + parts[i] : StrCat("\\sqrt{", a, "}", rest);
  }
  return out;
}

// int(text) of Python is a number, and how it prints; none where it fails.
std::optional<std::string> IntegerText(const std::string& text) {
  static const Pattern integer("^([+-]?)([0-9]+(?:_[0-9]+)*)$", {}, "integers");
  const std::optional<PatternMatch> match = integer.Find(PythonStrip(text));
  if (!match) return std::nullopt;
  std::string digits = ReplaceAll(match->groups[2], "_", "");
  digits.erase(0, std::min(digits.find_first_not_of('0'), digits.size() - 1));
  return (match->groups[1] == "-" && digits != "0" ? "-" : "") + digits;
}

// a/b of integers to \frac{a}{b}. None for a/b of anything else: such texts are compared as they
// are.
std::optional<std::string> SlashFraction(const std::string& text) {
  const Texts parts = SplitAt(text, "/");
  if (parts.size() != 2) return text;
  const std::optional<std::string> a = IntegerText(parts[0]), b = IntegerText(parts[1]);
  if (!a || !b) return std::nullopt;
  if (text != StrCat(*a, "/", *b)) return text;
  return StrCat("\\frac{", *a, "}{", *b, "}");
}

// One spelling of an answer; none if it cannot be brought to one.
std::optional<std::string> Normalized(std::string text) {
  for (const auto& [from, to] :
       std::initializer_list<std::pair<const char*, const char*>>{{"\n", ""},
                                                                  {"\\!", ""},
                                                                  {"\\\\", "\\"},
                                                                  {"tfrac", "frac"},
                                                                  {"dfrac", "frac"},
                                                                  {"\\left", ""},
                                                                  {"\\right", ""},
                                                                  {"^{\\circ}", ""},
                                                                  {"^\\circ", ""},
                                                                  {"\\$", ""}}) {
    text = ReplaceAll(std::move(text), from, to);
  }
  if (text.find("\\text{ ") != std::string::npos) {  // a unit behind the number
    const Texts parts = SplitAt(text, "\\text{ ");
    if (parts.size() != 2) return std::nullopt;
    text = parts[0];
  }
  text = ReplaceAll(std::move(text), "\\%", "");
  text = ReplaceAll(ReplaceAll(std::move(text), " .", " 0."), "{.", "{0.");
  if (text.empty()) return text;
  if (text[0] == '.') text = "0" + text;
  const Texts sides = SplitAt(text, "=");
  if (sides.size() == 2 && Characters(sides[0]).size() <= 2) text = sides[1];  // "k = 3"
  std::optional<std::string> out = BraceRoots(text);
  if (!out) return std::nullopt;
  out = BraceFractions(ReplaceAll(*out, " ", ""));
  if (!out) return std::nullopt;
  if (*out == "0.5") out = "\\frac{1}{2}";
  return SlashFraction(*out);
}

bool Equivalent(const std::string& a, const std::string& b) {
  const std::optional<std::string> x = Normalized(a), y = Normalized(b);
  return x && y ? *x == *y : a == b;
}

// What a solution answers: what stands in its last box; else between its first and last dollar;
// else all of it.
std::string AnswerOf(const std::string& solution) {
  std::string answer = solution;
  const size_t first = solution.find('$'), last = solution.rfind('$');
  if (first != last) answer = solution.substr(first + 1, last - first - 1);
  if (const std::optional<std::string> boxed = LastBoxed(solution)) {
    if (const std::optional<std::string> inside = InBox(*boxed)) answer = *inside;
  }
  return answer;
}

// --- Minerva ---

constexpr const char* kUnits[] = {"square",   "ways",    "integers", "dollars",  "mph",
                                  "inches",   "ft",      "hours",    "km",       "units",
                                  "sue",      "points",  "feet",     "minutes",  "digits",
                                  "cents",    "degrees", "cm",       "gm",       "pounds",
                                  "meters",   "meals",   "edges",    "students", "childrentickets",
                                  "multiples"};

// In the harness's order: letters are removed outside of LaTeX commands, the rest anywhere.
constexpr const char* kRemoved[] = {"square",       "ways",
                                    "integers",     "dollars",
                                    "mph",          "inches",
                                    "ft",           "hours",
                                    "km",           "units",
                                    "\\ldots",      "sue",
                                    "points",       "feet",
                                    "minutes",      "digits",
                                    "cents",        "degrees",
                                    "cm",           "gm",
                                    "pounds",       "meters",
                                    "meals",        "edges",
                                    "students",     "childrentickets",
                                    "multiples",    "\\text{s}",
                                    "\\text{.}",    "\\text{\ns}",
                                    "\\text{}^2",   "\\text{}^3",
                                    "\\text{\n}",   "\\text{}",
                                    "\\mathrm{th}", "^\\circ",
                                    "^{\\circ}",    "\\;",
                                    ",\\!",         "{,}",
                                    "\"",           "\\dots"};

bool IsUnit(const std::string& text) { return text.find_first_of("\\^{},\"") == std::string::npos; }

// re.sub with the groups put together by `with`.
template <class With>
std::string Sub(const char* pattern, const std::string& text, With with) {
  return Pattern(pattern, {}, "Minerva's normalization").Replace(text, with);
}

std::string MinervaNormalized(const std::string& final_answer) {
  std::string text = SplitAt(final_answer, "=").back();
  for (const char* unit : kUnits) {
    text = Sub(StrCat("(?<!\\\\)\\b", unit, "\\b").c_str(), text,
               [](const PatternMatch&) { return std::string(); });
  }
  for (const auto& [from, to] :
       std::initializer_list<std::pair<const char*, const char*>>{{"an ", ""},
                                                                  {"a ", ""},
                                                                  {".$", "$"},
                                                                  {"\\$", ""},
                                                                  {"\\ ", ""},
                                                                  {" ", ""},
                                                                  {"mbox", "text"},
                                                                  {",\\text{and}", ","},
                                                                  {"\\text{and}", ","},
                                                                  {"\\text{m}", "\\text{}"}}) {
    text = ReplaceAll(std::move(text), from, to);
  }
  for (const char* removed : kRemoved) {
    if (!IsUnit(removed)) {
      text = ReplaceAll(std::move(text), removed, "");
      continue;
    }
    // Outside of commands: "ft" is no part of \left.
    static const Pattern command("\\\\[a-zA-Z]+", {}, "commands");
    std::string out;
    size_t at = 0;
    for (const PatternMatch& match : command.FindAll(text)) {
      out += ReplaceAll(text.substr(at, match.begin - at), removed, "") + match.groups[0];
      at = match.end;
    }
    text = out + ReplaceAll(text.substr(at), removed, "");
  }
  const auto second = [](const PatternMatch& m) { return m.groups[2]; };
  text = Sub("(.*?)(\\$)(.*?)(\\$)(.*)", text,
             [](const PatternMatch& m) { return StrCat("$", m.groups[3], "$"); });
  text = Sub("(\\\\text\\{)(.*?)(\\})", text, second);
  text = Sub("(\\\\textbf\\{)(.*?)(\\})", text, second);
  text = Sub("(\\\\overline\\{)(.*?)(\\})", text, second);
  text = Sub("(\\\\boxed\\{)(.*)(\\})", text, second);
  text = Sub("(frac)([^{])(.)", text, [](const PatternMatch& m) {
    return StrCat("frac{", m.groups[2], "}{", m.groups[3], "}");
  });
  text = Sub("(sqrt)(\\[[^\\]]*\\])(\\w)", text, [](const PatternMatch& m) {
    return StrCat(m.groups[1], m.groups[2], "{", m.groups[3], "}");
  });
  text = Sub("(sqrt)(?!\\[)([^{])", text,
             [](const PatternMatch& m) { return StrCat("sqrt{", m.groups[2], "}"); });
  text = ReplaceAll(std::move(text), "$", "");
  static const Pattern thousands("^-?\\d{1,3}(,\\d{3})+\\z", {}, "thousands");
  if (thousands.Find(text)) text = ReplaceAll(std::move(text), ",", "");
  return text;
}

// What stands behind Minerva's phrase; without it nothing that any answer equals.
std::string MinervaAnswer(const std::string& solution) {
  static const Pattern phrase("Final Answer: The final answer is(.*?). I hope it is correct.", {},
                              "final answers");
  const std::optional<PatternMatch> match = phrase.Find(solution + "I hope it is correct.");
  return match ? std::string(PythonStrip(match->groups[1])) : "[invalidanswer]";
}

}  // namespace

std::vector<double> MathRow(const std::string& got, const Texts& references) {
  const std::string answer = AnswerOf(got);
  for (const std::string& reference : references) {
    if (Equivalent(answer, reference)) return {1, 1};
  }
  return {0, 1};
}

std::vector<double> MinervaRow(const std::string& got, const Texts& references) {
  const std::string answer = MinervaNormalized(MinervaAnswer(got));
  for (const std::string& reference : references) {
    std::string want = reference;
    if (const std::optional<std::string> boxed = LastBoxed(reference))
      want = InBox(*boxed).value_or(reference);
    if (!answer.empty() && MinervaNormalized(want) == answer) return {1, 1};
  }
  return {0, 1};
}

}  // namespace lapidary
