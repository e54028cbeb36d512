#include "train/evaluation/metrics.h"

#include <cmath>
#include <map>

#include "autograd/base/error.h"
#include "data/unicode.h"
#include "train/config.h"
#include "train/evaluation/pattern.h"
#include "train/evaluation/resampling.h"
#include "train/evaluation/text.h"

namespace lapidary {
namespace {

using Texts = std::vector<std::string>;
using Row = std::vector<double>;

// The best of a score over the references, as a share of one record.
template <class Score>
Row Best(const Texts& references, Score score) {
  double best = 0;
  for (const std::string& reference : references) best = std::max(best, score(reference));
  return {best, 1};
}

Row Exact(const std::string& got, const Texts& references) {
  const std::string_view bare = PythonStrip(got);
  return Best(references, [&](const std::string& r) { return PythonStrip(r) == bare ? 1.0 : 0.0; });
}

// lm-evaluation-harness: exact_match with ignore_case and ignore_punctuation.
std::string Loose(const std::string& text) {
  std::string out;
  for (const char c : PythonLower(text)) {
    if (!IsAsciiPunctuation(static_cast<unsigned char>(c))) out += c;
  }
  return out;
}

Row ExactLoose(const std::string& got, const Texts& references) {
  const std::string loose = Loose(got);
  return Best(references, [&](const std::string& r) { return Loose(r) == loose ? 1.0 : 0.0; });
}

Row Contains(const std::string& got, const Texts& references) {
  const std::string lower = PythonLower(got);
  return Best(references, [&](const std::string& r) {
    const std::string part = PythonLower(PythonStrip(r));
    return !part.empty() && lower.find(part) != std::string::npos ? 1.0 : 0.0;
  });
}

// normalize_answer of SQuAD's evaluation: lower case, no punctuation, no articles, single spaces.
Texts SquadWords(const std::string& text) {
  static const Pattern article("\\b(a|an|the)\\b", {}, "articles");
  std::string bare;
  for (const char c : PythonLower(text)) {
    if (!IsAsciiPunctuation(static_cast<unsigned char>(c))) bare += c;
  }
  return SplitWords(article.Replace(bare, [](const PatternMatch&) { return std::string(" "); }));
}

Row SquadExact(const std::string& got, const Texts& references) {
  const Texts words = SquadWords(got);
  return Best(references, [&](const std::string& r) { return SquadWords(r) == words ? 1.0 : 0.0; });
}

Row SquadF1(const std::string& got, const Texts& references) {
  const Texts words = SquadWords(got);
  return Best(references, [&](const std::string& reference) {
    const Texts want = SquadWords(reference);
    if (words.empty() || want.empty()) return words == want ? 1.0 : 0.0;
    std::map<std::string, int64_t> counts;
    for (const std::string& word : want) ++counts[word];
    double same = 0;
    for (const std::string& word : words) same += counts[word]-- > 0;
    if (same == 0) return 0.0;
    const double precision = same / static_cast<double>(words.size()),
                 recall = same / static_cast<double>(want.size());
    return 2 * precision * recall / (precision + recall);
  });
}

// Edits and length of the reference with the fewest edits for its length.
template <class Parts>
Row ErrorRow(const std::string& got, const Texts& references, Parts parts) {
  const auto have = parts(got);
  Row best;
  for (const std::string& reference : references) {
    const auto want = parts(reference);
    const Row row = {static_cast<double>(EditDistance(have, want)),
                     static_cast<double>(want.size())};
    const auto rate = [](const Row& r) { return r[0] / std::max(1.0, r[1]); };
    if (best.empty() || rate(row) < rate(best)) best = row;
  }
  return best;
}

// jiwer's words: runs of white space are a space, and words stand between spaces (a single line
// break or tab joins two).
Texts SpacedWords(const std::string& text) {
  static const Pattern run("\\s\\s+", {}, "white space");
  const std::string even = run.Replace(text, [](const PatternMatch&) { return std::string(" "); });
  Texts words(1);
  for (const char c : PythonStrip(even)) {
    if (c == ' ') {
      words.emplace_back();
    } else {
      words.back() += c;
    }
  }
  std::erase(words, std::string());
  return words;
}

Row Wer(const std::string& got, const Texts& references) {
  return ErrorRow(got, references, SpacedWords);
}

Row Cer(const std::string& got, const Texts& references) {
  return ErrorRow(got, references,
                  [](const std::string& text) { return Characters(PythonStrip(text)); });
}

// Lower case without punctuation (letters' apostrophes stay), as transcriptions are compared.
std::string Spoken(const std::string& text) {
  static const Pattern mark("[\\p{P}\\p{S}]+", {}, "punctuation");
  static const Pattern apostrophe("(?<=\\p{L})['\xe2\x80\x99](?=\\p{L})", {}, "apostrophes");
  std::string kept = apostrophe.Replace(PythonLower(text),
                                        [](const PatternMatch&) { return std::string("\x01"); });
  kept = mark.Replace(kept, [](const PatternMatch&) { return std::string(" "); });
  return ReplaceAll(JoinWords(SplitWords(kept)), "\x01", "'");
}

Row WerNormalized(const std::string& got, const Texts& references) {
  return ErrorRow(got, references, [](const std::string& t) { return SplitWords(Spoken(t)); });
}

Row CerNormalized(const std::string& got, const Texts& references) {
  return ErrorRow(got, references, [](const std::string& t) { return Characters(Spoken(t)); });
}

// Average normalized Levenshtein similarity (Biten et al. 2019, arXiv:1905.13648), as the DocVQA
// evaluation computes it: below one half counts as 0.
Row Anls(const std::string& got, const Texts& references) {
  const auto normal = [](const std::string& text) {
    return Characters(JoinWords(SplitWords(PythonLower(text))));
  };
  const auto length = [](const std::string& text) { return Characters(PythonUpper(text)).size(); };
  const std::vector<uint32_t> have = normal(got);
  return Best(references, [&](const std::string& reference) {
    const size_t longest = std::max(length(reference), length(got));
    const double distance = static_cast<double>(EditDistance(have, normal(reference)));
    const double score = longest == 0 ? 1 : 1 - distance / static_cast<double>(longest);
    return score < 0.5 ? 0.0 : score;
  });
}

// ChartQA (Masry et al. 2022, arXiv:2203.10244): numbers within 5 %, other texts equal but for
// case.
Row Relaxed(const std::string& got, const Texts& references) {
  const auto number = [](const std::string& text) -> std::optional<double> {
    if (!text.ends_with('%')) return PythonFloat(text);
    const std::optional<double> value =
        PythonFloat(std::string_view(text).substr(0, text.find_last_not_of('%') + 1));
    return value ? std::optional<double>(*value / 100) : std::nullopt;
  };
  const std::string have(PythonStrip(got));
  const std::optional<double> value = number(have);
  return Best(references, [&](const std::string& reference) {
    const std::string want(PythonStrip(reference));
    const std::optional<double> target = number(want);
    if (value && target && *target != 0)
      return std::abs(*value - *target) / std::abs(*target) <= 0.05 ? 1.0 : 0.0;
    return PythonLower(have) == PythonLower(want) ? 1.0 : 0.0;
  });
}

double Mean(const Row& total) { return RatioFigure(total); }

}  // namespace

const std::vector<Metric>& Metrics() {
  static const std::vector<Metric> metrics = {
      {"exact_match", "share of answers equal to a reference, outer white space aside", true, Exact,
       Mean},
      {"exact_match_loose", "the same without case and punctuation (lm-eval)", true, ExactLoose,
       Mean},
      {"contains", "share of answers that hold a reference, case aside", true, Contains, Mean},
      {"squad_exact", "SQuAD's exact match: no case, punctuation, articles", true, SquadExact,
       Mean},
      {"squad_f1", "SQuAD's F1 of words", true, SquadF1, Mean},
      {"rouge1", "ROUGE-1 F measure (rouge-score, no stemming)", true, Rouge1Row, Mean},
      {"rouge2", "ROUGE-2 F measure", true, Rouge2Row, Mean},
      {"rougeL", "ROUGE-L F measure", true, RougeLRow, Mean},
      {"bleu", "corpus BLEU, 0 to 100 (sacrebleu, 13a)", true, BleuRow, BleuFigure},
      {"bleu_zh", "the same with sacrebleu's zh tokenizer", true, BleuZhRow, BleuFigure},
      {"bleu_char", "the same over characters", true, BleuCharRow, BleuFigure},
      {"chrf", "corpus chrF2, 0 to 100 (sacrebleu)", true, ChrfRow, ChrfFigure},
      {"wer", "word error rate (jiwer)", false, Wer, Mean},
      {"cer", "character error rate (jiwer)", false, Cer, Mean},
      {"wer_normalized", "the same, lower case without punctuation", false, WerNormalized, Mean},
      {"cer_normalized", "the same of characters", false, CerNormalized, Mean},
      {"anls", "normalized Levenshtein similarity (DocVQA)", true, Anls, Mean},
      {"relaxed_accuracy", "numbers within 5 %, else equal (ChartQA)", true, Relaxed, Mean},
      {"math_equal", "last boxed answer equal after normalization (lm-eval: aime, hendrycks_math)",
       true, MathRow, Mean},
      {"math_minerva",
       "\"Final Answer: The final answer is ...\" equal as text after Minerva's normalization",
       true, MinervaRow, Mean},
      {"function_name", "share of records with the right functions called, in order", true,
       CallNameRow, Mean},
      {"function_call", "the same with equal arguments", true, CallRow, Mean},
  };
  return metrics;
}

const Metric& FindMetric(const std::string& name) {
  std::vector<std::string> names;
  for (const Metric& metric : Metrics()) {
    if (name == metric.name) return metric;
    names.push_back(metric.name);
  }
  const std::string near = NearestName(name, names);
  throw Error(
      StrCat("scorer: must be a known one; got '", name, "'",
             near.empty() ? "; try `lapidary eval --scorers`" : StrCat("; try '", near, "'")));
}

std::string MetricsHelp() {
  std::string text;
  for (const Metric& metric : Metrics()) {
    std::string name = metric.name;
    name.resize(std::max<size_t>(20, name.size()), ' ');
    text += StrCat(name, metric.meaning, "\n");
  }
  return text;
}

}  // namespace lapidary
