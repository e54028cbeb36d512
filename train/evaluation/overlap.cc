// Scores of overlapping n-grams and common subsequences: ROUGE, BLEU, chrF.
#include <algorithm>
#include <cmath>
#include <map>

#include "data/unicode.h"
#include "train/evaluation/metrics.h"
#include "train/evaluation/text.h"

namespace lapidary {
namespace {

using Texts = std::vector<std::string>;
using Row = std::vector<double>;
using Chars = std::vector<uint32_t>;

template <class T>
using NGrams = std::map<std::vector<T>, int64_t>;

template <class T>
NGrams<T> CountNGrams(const std::vector<T>& items, size_t n) {
  NGrams<T> counts;
  for (size_t i = 0; i + n <= items.size(); ++i)
    ++counts[std::vector<T>(items.begin() + static_cast<int64_t>(i),
                            items.begin() + static_cast<int64_t>(i + n))];
  return counts;
}

template <class T>
int64_t Sum(const NGrams<T>& counts) {
  int64_t sum = 0;
  for (const auto& [gram, count] : counts) sum += count;
  return sum;
}

template <class T>
int64_t Common(const NGrams<T>& a, const NGrams<T>& b) {
  int64_t common = 0;
  for (const auto& [gram, count] : a) {
    const auto other = b.find(gram);
    if (other != b.end()) common += std::min(count, other->second);
  }
  return common;
}

// --- ROUGE (Lin 2004) ---

// rouge-score's tokens: runs of a-z and 0-9 in lower case.
Texts RougeTokens(const std::string& text) {
  Texts tokens;
  bool inside = false;
  for (const char c : PythonLower(text)) {
    const bool letter = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
    if (letter && !inside) tokens.emplace_back();
    if (letter) tokens.back() += c;
    inside = letter;
  }
  return tokens;
}

double FMeasure(double common, double got, double want) {
  const double precision = common / std::max(got, 1.0), recall = common / std::max(want, 1.0);
  return precision + recall > 0 ? 2 * precision * recall / (precision + recall) : 0;
}

Row RougeN(const std::string& got, const Texts& references, size_t n) {
  const NGrams<std::string> have = CountNGrams(RougeTokens(got), n);
  double best = 0;
  for (const std::string& reference : references) {
    const NGrams<std::string> want = CountNGrams(RougeTokens(reference), n);
    best = std::max(best, FMeasure(static_cast<double>(Common(have, want)),
                                   static_cast<double>(Sum(have)), static_cast<double>(Sum(want))));
  }
  return {best, 1};
}

int64_t CommonSubsequence(const Texts& a, const Texts& b) {
  std::vector<int64_t> row(b.size() + 1);
  for (const std::string& word : a) {
    int64_t diagonal = 0;
    for (size_t j = 1; j <= b.size(); ++j) {
      const int64_t next = word == b[j - 1] ? diagonal + 1 : std::max(row[j], row[j - 1]);
      diagonal = row[j];
      row[j] = next;
    }
  }
  return row[b.size()];
}

// --- BLEU (Papineni et al. 2002) as sacrebleu 2 ---

constexpr size_t kOrders = 4;

bool IsDigit(uint32_t c) { return c >= '0' && c <= '9'; }
bool IsStop(uint32_t c) { return c == '.' || c == ','; }

// The four substitutions of mteval-v13a, each from left to right without overlap.
Texts Mteval(const Chars& line) {
  Chars a, b, c, d;
  for (const uint32_t x : line) {
    const bool symbol = (x >= '{' && x <= '~') || (x >= '[' && x <= '`') ||
                        (x >= ' ' && x <= '&') || (x >= '(' && x <= '+') ||
                        (x >= ':' && x <= '@') || x == '/';
    if (symbol) a.push_back(' ');
    a.push_back(x);
    if (symbol) a.push_back(' ');
  }
  for (size_t i = 0; i < a.size(); ++i) {
    b.push_back(a[i]);
    if (IsDigit(a[i]) || i + 1 >= a.size() || !IsStop(a[i + 1])) continue;
    b.insert(b.end(), {' ', a[i + 1], ' '});
    ++i;
  }
  for (size_t i = 0; i < b.size(); ++i) {
    if (!IsStop(b[i]) || i + 1 >= b.size() || IsDigit(b[i + 1])) {
      c.push_back(b[i]);
      continue;
    }
    c.insert(c.end(), {' ', b[i], ' ', b[i + 1]});
    ++i;
  }
  for (size_t i = 0; i < c.size(); ++i) {
    d.push_back(c[i]);
    if (!IsDigit(c[i]) || i + 1 >= c.size() || c[i + 1] != '-') continue;
    d.insert(d.end(), {' ', '-', ' '});
    ++i;
  }
  return SplitWords(FromCharacters(d));
}

std::string RightStrip(const std::string& text) {
  const std::string marked = "x" + text;  // so that only the end is stripped
  return std::string(PythonStrip(marked)).substr(1);
}

Texts Tokens13a(const std::string& text) {
  std::string line = ReplaceAll(RightStrip(text), "<skipped>", "");
  line = ReplaceAll(ReplaceAll(line, "-\n", ""), "\n", " ");
  line = ReplaceAll(ReplaceAll(line, "&quot;", "\""), "&amp;", "&");
  line = ReplaceAll(ReplaceAll(line, "&lt;", "<"), "&gt;", ">");
  return Mteval(Characters(" " + line + " "));
}

// The ranges of sacrebleu's zh tokenizer. Two of them are written there with five hexadecimal
// digits behind \u and so mean 2001 to 2a6d and 2f81 to 2fa1: kept, so that figures agree.
bool IsChinese(uint32_t c) {
  constexpr uint32_t kRanges[][2] = {
      {0x3400, 0x4db5}, {0x4e00, 0x9fa5}, {0x9fa6, 0x9fbb}, {0xf900, 0xfa2d}, {0xfa30, 0xfa6a},
      {0xfa70, 0xfad9}, {0x2001, 0x2a6d}, {0x2f81, 0x2fa1}, {0xff00, 0xffef}, {0x2e80, 0x2eff},
      {0x3000, 0x303f}, {0x31c0, 0x31ef}, {0x2f00, 0x2fdf}, {0x2ff0, 0x2fff}, {0x3100, 0x312f},
      {0x31a0, 0x31bf}, {0xfe10, 0xfe1f}, {0xfe30, 0xfe4f}, {0x2600, 0x26ff}, {0x2700, 0x27bf},
      {0x3200, 0x32ff}, {0x3300, 0x33ff}};
  return std::any_of(std::begin(kRanges), std::end(kRanges),
                     [c](const uint32_t(&r)[2]) { return c >= r[0] && c <= r[1]; });
}

Texts TokensZh(const std::string& text) {
  Chars line;
  for (const uint32_t c : Characters(PythonStrip(text))) {
    if (IsChinese(c)) line.push_back(' ');
    line.push_back(c);
    if (IsChinese(c)) line.push_back(' ');
  }
  return Mteval(line);
}

Texts TokensChar(const std::string& text) {
  Texts tokens;
  for (const uint32_t c : Characters(text)) {
    if (!IsPythonSpace(c)) AppendUtf8(tokens.emplace_back(), c);
  }
  return tokens;
}

// {words, reference words, matches of 1 to 4, n-grams of 1 to 4}.
Row Bleu(const std::string& got, const Texts& references, Texts (*tokens)(const std::string&)) {
  const Texts have = tokens(got);
  std::vector<Texts> want;
  for (const std::string& reference : references) want.push_back(tokens(reference));
  const auto gap = [&](const Texts& words) {
    return std::abs(static_cast<int64_t>(words.size()) - static_cast<int64_t>(have.size()));
  };
  size_t nearest = want[0].size();
  int64_t smallest = gap(want[0]);
  for (const Texts& words : want) {
    if (gap(words) < smallest || (gap(words) == smallest && words.size() < nearest)) {
      smallest = gap(words);
      nearest = words.size();
    }
  }
  Row row = {static_cast<double>(have.size()), static_cast<double>(nearest)};
  row.resize(2 + 2 * kOrders);
  for (size_t n = 1; n <= kOrders; ++n) {
    NGrams<std::string> most;
    for (const Texts& words : want) {
      for (const auto& [gram, count] : CountNGrams(words, n))
        most[gram] = std::max(most[gram], count);
    }
    const NGrams<std::string> counts = CountNGrams(have, n);
    row[1 + n] = static_cast<double>(Common(counts, most));
    row[1 + kOrders + n] = static_cast<double>(Sum(counts));
  }
  return row;
}

// --- chrF (Popović 2015), beta 2, six orders ---

constexpr size_t kCharOrders = 6;

double ChrfOf(const Row& row) {
  double precision = 0, recall = 0;
  int orders = 0;
  for (size_t n = 0; n < kCharOrders; ++n) {
    const double got = row[3 * n], want = row[3 * n + 1], common = row[3 * n + 2];
    if (!(got > 0 && want > 0)) continue;
    precision += common / got;
    recall += common / want;
    ++orders;
  }
  if (orders == 0 || !(precision + recall > 0)) return 0;
  precision /= orders;
  recall /= orders;
  return 100 * 5 * precision * recall / (4 * precision + recall);
}

}  // namespace

Row Rouge1Row(const std::string& got, const Texts& references) {
  return RougeN(got, references, 1);
}
Row Rouge2Row(const std::string& got, const Texts& references) {
  return RougeN(got, references, 2);
}

Row RougeLRow(const std::string& got, const Texts& references) {
  const Texts have = RougeTokens(got);
  double best = 0;
  for (const std::string& reference : references) {
    const Texts want = RougeTokens(reference);
    best = std::max(best,
                    FMeasure(static_cast<double>(CommonSubsequence(have, want)),
                             static_cast<double>(have.size()), static_cast<double>(want.size())));
  }
  return {best, 1};
}

Row BleuRow(const std::string& got, const Texts& references) {
  return Bleu(got, references, Tokens13a);
}
Row BleuZhRow(const std::string& got, const Texts& references) {
  return Bleu(got, references, TokensZh);
}
Row BleuCharRow(const std::string& got, const Texts& references) {
  return Bleu(got, references, TokensChar);
}

double BleuFigure(const Row& total) {
  const double got = total[0], want = total[1];
  double logs = 0, smooth = 1, matches = 0;
  for (size_t n = 1; n <= kOrders; ++n) matches += total[1 + n];
  if (matches == 0) return 0;
  for (size_t n = 1; n <= kOrders; ++n) {
    const double common = total[1 + n], all = total[1 + kOrders + n];
    if (all == 0) return 0;  // a precision of 0
    if (common == 0) smooth *= 2;
    logs += std::log(common == 0 ? 100 / (smooth * all) : 100 * common / all);
  }
  const double brevity = got < want ? std::exp(1 - want / got) : 1;
  return brevity * std::exp(logs / static_cast<double>(kOrders));
}

Row ChrfRow(const std::string& got, const Texts& references) {
  const auto bare = [](const std::string& text) {
    Chars out;
    for (const uint32_t c : Characters(text)) {
      if (!IsPythonSpace(c)) out.push_back(c);
    }
    return out;
  };
  const Chars have = bare(got);
  Row best;
  double highest = -1;
  for (const std::string& reference : references) {
    const Chars want = bare(reference);
    Row row;
    for (size_t n = 1; n <= kCharOrders; ++n) {
      const NGrams<uint32_t> a = CountNGrams(have, n), b = CountNGrams(want, n);
      row.insert(row.end(), {b.empty() ? 0.0 : static_cast<double>(Sum(a)),
                             static_cast<double>(Sum(b)), static_cast<double>(Common(a, b))});
    }
    const double score = ChrfOf(row);
    if (score <= highest) continue;
    highest = score;
    best = std::move(row);
  }
  return best;
}

double ChrfFigure(const Row& total) { return ChrfOf(total); }

}  // namespace lapidary
