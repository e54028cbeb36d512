#include "train/evaluation/comparison.h"

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <set>

#include "autograd/base/error.h"
#include "train/page.h"
#include "train/progress.h"
#include "train/svg_plot.h"

namespace lapidary {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kShown = 20;

std::string Number(double value, int digits) {
  char text[48];
  std::snprintf(text, sizeof(text), "%.*f", digits, value);
  return text;
}
std::string Signed(double value, int digits) {
  char text[48];
  std::snprintf(text, sizeof(text), "%+.*f", digits, value);
  return text;
}
std::string PValue(double p) { return p < 0.001 ? "p < 0.001" : StrCat("p ", Number(p, 3)); }
std::string Percent(double share) { return StrCat(Number(100 * share, 2), " %"); }

bool Belongs(const ComparedGroup& group, const std::string& modality, const std::string& domain) {
  return group.kind == "all" || (group.kind == "modality" ? modality : domain) == group.name;
}

std::vector<ComparedGroup> Groups(const std::vector<ComparedRecord>& records,
                                  const std::vector<ComparedAnswer>& answers) {
  std::vector<std::string> domains;  // in the order given
  std::set<std::string> modalities;
  const auto add = [&](const std::string& modality, const std::string& domain) {
    modalities.insert(modality);
    if (std::find(domains.begin(), domains.end(), domain) == domains.end())
      domains.push_back(domain);
  };
  for (const ComparedRecord& r : records) add(r.pair.first.modality, r.domain);
  for (const ComparedAnswer& a : answers) add(a.modality, a.domain);
  std::vector<ComparedGroup> groups(1);
  groups[0].kind = groups[0].name = "all";
  const auto group = [&](const char* kind, const std::string& name) {
    ComparedGroup& g = groups.emplace_back();
    g.kind = kind;
    g.name = name;
  };
  // A single modality or domain would repeat the first row.
  if (modalities.size() > 1) {
    for (const std::string& name : modalities) group("modality", name);
  }
  if (domains.size() > 1) {
    for (const std::string& name : domains) group("domain", name);
  }
  return groups;
}

void FillLosses(ComparedGroup& group, const std::vector<ComparedRecord>& records,
                const ComparisonOptions& options) {
  StatRows before, after;
  std::vector<double> loss, right;
  double kl = 0, same = 0;
  for (const ComparedRecord& r : records) {
    if (!Belongs(group, r.pair.first.modality, r.domain)) continue;
    const EvalCounts &a = r.pair.first.counts, &b = r.pair.second;
    if (a.targets == 0) continue;
    group.before.Add(a);
    group.after.Add(b);
    kl += r.pair.kl_sum;
    same += static_cast<double>(r.pair.same_top);
    before.push_back({a.loss_sum, a.weight});
    after.push_back({b.loss_sum, b.weight});
    loss.push_back(b.loss_sum - a.loss_sum);
    right.push_back(static_cast<double>(b.correct - a.correct));
  }
  group.records = static_cast<int64_t>(loss.size());
  if (loss.empty()) return;
  const double targets = static_cast<double>(group.before.targets);
  group.kl = kl / targets;
  group.same_top = same / targets;
  group.loss_change = ComparePaired(before, after, RatioFigure, options.resampling).difference;
  group.loss_p = SignFlipTest(loss, options.resampling);
  group.accuracy_p = SignFlipTest(right, options.resampling);
}

void FillAnswers(ComparedGroup& group, const std::vector<ComparedAnswer>& answers) {
  for (const ComparedAnswer& a : answers) {
    if (!Belongs(group, a.modality, a.domain)) continue;
    ++group.answers;
    group.right_before += a.before_correct;
    group.right_after += a.after_correct;
    group.lost += a.before_correct && !a.after_correct;
    group.gained += !a.before_correct && a.after_correct;
  }
  group.answers_p = BinomialTest(group.lost, group.gained);
}

// Adjusts the p values of all groups and measures together.
void Adjust(std::vector<ComparedGroup>& groups) {
  std::vector<double*> places;
  for (ComparedGroup& g : groups) {
    if (g.records > 0) places.insert(places.end(), {&g.loss_p, &g.accuracy_p});
    if (g.answers > 0) places.push_back(&g.answers_p);
  }
  std::vector<double> p;
  for (const double* place : places) p.push_back(*place);
  p = HolmAdjusted(p);
  for (size_t i = 0; i < places.size(); ++i) *places[i] = p[i];
}

void Judge(ComparedGroup& group, const ComparisonOptions& o) {
  const double loss = group.loss_change.value;
  const double accuracy = group.after.Accuracy() - group.before.Accuracy();
  if (group.loss_p < o.alpha && loss > o.loss_tolerance) {
    group.reasons.push_back(StrCat("loss ", Number(group.before.Loss(), 3), " to ",
                                   Number(group.after.Loss(), 3), " (", PValue(group.loss_p), ")"));
  }
  if (group.accuracy_p < o.alpha && -accuracy > o.accuracy_tolerance) {
    group.reasons.push_back(StrCat("right tokens ", Percent(group.before.Accuracy()), " to ",
                                   Percent(group.after.Accuracy()), " (", PValue(group.accuracy_p),
                                   ")"));
  }
  if (group.answers_p < o.alpha && group.lost > group.gained) {
    group.reasons.push_back(StrCat("right answers ", group.right_before, " to ", group.right_after,
                                   " of ", group.answers, " (", PValue(group.answers_p), ")"));
  }
  group.worse = !group.reasons.empty();
  group.better = !group.worse && ((group.loss_p < o.alpha && -loss > o.loss_tolerance) ||
                                  (group.accuracy_p < o.alpha && accuracy > o.accuracy_tolerance) ||
                                  (group.answers_p < o.alpha && group.gained > group.lost));
}

std::string Verdict(const Comparison& comparison) {
  std::string worse, better, few;
  const auto add = [](std::string& list, const std::string& text) {
    list += (list.empty() ? "" : "; ") + text;
  };
  for (const ComparedGroup& g : comparison.groups) {
    const std::string name = g.kind == "all" ? std::string("all") : StrCat(g.kind, " ", g.name);
    std::string reasons;
    for (const std::string& reason : g.reasons) reasons += (reasons.empty() ? "" : ", ") + reason;
    if (g.worse) add(worse, StrCat(name, ": ", reasons));
    if (g.better) add(better, name);
    if (g.too_few) add(few, name);
  }
  std::string text = worse.empty() ? "broke nothing beyond noise" : "got worse: " + worse;
  if (!better.empty()) text += ". Better: " + better;
  if (!few.empty()) text += ". Too few records to tell: " + few;
  return text;
}

double Rise(const ComparedRecord& r) { return r.pair.second.Loss() - r.pair.first.counts.Loss(); }

}  // namespace

Comparison Compare(const std::vector<ComparedRecord>& records,
                   const std::vector<ComparedAnswer>& answers, const ComparisonOptions& options) {
  LAPIDARY_CHECK(!records.empty() || !answers.empty(),
                 "compare: there must be records on both sides; got none");
  Comparison comparison;
  comparison.groups = Groups(records, answers);
  int64_t tests = 0;
  for (ComparedGroup& group : comparison.groups) {
    FillLosses(group, records, options);
    FillAnswers(group, answers);
    tests += (group.records > 0 ? 2 : 0) + (group.answers > 0);
  }
  Adjust(comparison.groups);
  for (ComparedGroup& group : comparison.groups) {
    Judge(group, options);
    const int64_t most = std::max(group.records, group.answers);
    group.too_few = SmallestSignFlip(most) * static_cast<double>(tests) > options.alpha;
    comparison.worse |= group.worse;
  }
  comparison.verdict = Verdict(comparison);
  comparison.worst = records;
  std::stable_sort(
      comparison.worst.begin(), comparison.worst.end(),
      [](const ComparedRecord& a, const ComparedRecord& b) { return Rise(a) > Rise(b); });
  while (!comparison.worst.empty() &&
         (comparison.worst.size() > kShown || !(Rise(comparison.worst.back()) > 0))) {
    comparison.worst.pop_back();
  }
  for (const ComparedAnswer& a : answers) {
    if (a.before_correct && !a.after_correct && comparison.lost.size() < kShown)
      comparison.lost.push_back(a);
  }
  return comparison;
}

std::string ComparisonText(const Comparison& comparison) {
  size_t width = 12;
  for (const ComparedGroup& g : comparison.groups)
    width = std::max(width, g.kind.size() + g.name.size() + 1);
  char line[512];
  const auto name = [](const ComparedGroup& g) {
    return g.kind == "all" ? std::string("all") : StrCat(g.kind, " ", g.name);
  };
  std::snprintf(line, sizeof(line), "%-*s %8s %9s %9s %9s %20s %10s %9s %9s %16s\n",
                static_cast<int>(width), "", "records", "loss", "after", "change", "95 % interval",
                "p (Holm)", "KL", "same top", "right tokens");
  std::string text = comparison.groups[0].records > 0 ? line : "";
  for (const ComparedGroup& g : comparison.groups) {
    if (g.records == 0) continue;
    std::snprintf(
        line, sizeof(line),
        "%-*.200s %8lld %9.4f %9.4f %+9.4f %20s %10.4f %9.2e %7.2f %% %6.2f to %5.2f %%\n",
        static_cast<int>(width), name(g).c_str(), static_cast<long long>(g.records),
        g.before.Loss(), g.after.Loss(), g.loss_change.value,
        StrCat(Signed(g.loss_change.low, 4), " ", Signed(g.loss_change.high, 4)).c_str(), g.loss_p,
        g.kl, 100 * g.same_top, 100 * g.before.Accuracy(), 100 * g.after.Accuracy());
    text += line;
  }
  for (const ComparedGroup& g : comparison.groups) {
    if (g.answers == 0) continue;
    if (&g == &comparison.groups[0] && !text.empty()) text += "\n";
    std::snprintf(line, sizeof(line),
                  "%-*.200s answers: right %lld to %lld of %lld; %lld lost, %lld gained, %s\n",
                  static_cast<int>(width), name(g).c_str(), static_cast<long long>(g.right_before),
                  static_cast<long long>(g.right_after), static_cast<long long>(g.answers),
                  static_cast<long long>(g.lost), static_cast<long long>(g.gained),
                  PValue(g.answers_p).c_str());
    text += line;
  }
  return StrCat(text, "\nverdict: ", comparison.verdict, "\n");
}

Json ComparisonJson(const Comparison& comparison) {
  const auto side = [](const EvalCounts& c) {
    return Json{
        {"loss", c.Loss()}, {"perplexity", c.Perplexity()}, {"token_accuracy", c.Accuracy()}};
  };
  Json groups = Json::array();
  for (const ComparedGroup& g : comparison.groups) {
    Json row = {{"kind", g.kind}, {"name", g.name}, {"records", g.records}};
    if (g.records > 0) {
      row["targets"] = g.before.targets;
      row["before"] = side(g.before);
      row["after"] = side(g.after);
      row["kl"] = g.kl;
      row["top_agreement"] = g.same_top;
      row["loss_change"] = {{"value", g.loss_change.value},
                            {"low", g.loss_change.low},
                            {"high", g.loss_change.high},
                            {"p", g.loss_p}};
      row["token_accuracy_p"] = g.accuracy_p;
    }
    if (g.answers > 0) {
      row["answers"] = {{"total", g.answers},           {"right_before", g.right_before},
                        {"right_after", g.right_after}, {"lost", g.lost},
                        {"gained", g.gained},           {"p", g.answers_p}};
    }
    row["worse"] = g.worse;
    row["better"] = g.better;
    row["too_few"] = g.too_few;
    row["reasons"] = g.reasons;
    groups.push_back(std::move(row));
  }
  Json worst = Json::array();
  for (const ComparedRecord& r : comparison.worst) {
    worst.push_back({{"where", r.pair.first.where},
                     {"domain", r.domain},
                     {"modality", r.pair.first.modality},
                     {"loss_before", r.pair.first.counts.Loss()},
                     {"loss_after", r.pair.second.Loss()}});
  }
  return {{"verdict", comparison.verdict},
          {"worse", comparison.worse},
          {"groups", groups},
          {"worst", worst}};
}

std::string ComparisonHtml(const Comparison& comparison, const std::string& before,
                           const std::string& after) {
  std::string html =
      PageHead("Before and after", HtmlText(StrCat("Before: ", before, ". After: ", after, ".")));
  html += StrCat("<p class=\"verdict ", comparison.worse ? "bad" : "good", "\">",
                 HtmlText(comparison.verdict), "</p>\n");
  html += TableHead({"", "records", "loss before", "after", "change (95 %)", "p", "KL", "same top",
                     "right tokens before", "after", "right answers before", "after"});
  for (const ComparedGroup& g : comparison.groups) {
    const bool losses = g.records > 0, answers = g.answers > 0;
    const auto cell = [](bool there, const std::string& text) {
      return there ? text : std::string("-");
    };
    html += TableRow(
        {g.kind == "all" ? std::string("all") : StrCat(g.kind, " ", g.name),
         CountText(std::max(g.records, g.answers)), cell(losses, Number(g.before.Loss(), 4)),
         cell(losses, Number(g.after.Loss(), 4)),
         cell(losses, StrCat(Signed(g.loss_change.value, 4), " (", Signed(g.loss_change.low, 4),
                             " to ", Signed(g.loss_change.high, 4), ")")),
         cell(losses, Number(g.loss_p, 4)), cell(losses, NumberText(g.kl)),
         cell(losses, Percent(g.same_top)), cell(losses, Percent(g.before.Accuracy())),
         cell(losses, Percent(g.after.Accuracy())), cell(answers, CountText(g.right_before)),
         cell(answers, StrCat(g.right_after, " of ", g.answers))},
        g.worse    ? "bad"
        : g.better ? "good"
                   : "");
  }
  html += TableEnd();
  if (!comparison.worst.empty()) {
    html += "<h2>Records whose loss rose most</h2>\n" +
            TableHead({"record", "kind", "loss before", "after", "text"});
    for (const ComparedRecord& r : comparison.worst) {
      html +=
          TableRow({r.pair.first.where, StrCat(r.domain, ", ", r.pair.first.modality),
                    Number(r.pair.first.counts.Loss(), 4), Number(r.pair.second.Loss(), 4), r.text},
                   "");
    }
    html += TableEnd();
  }
  if (!comparison.lost.empty()) {
    html += "<h2>Answers that were right before</h2>\n" +
            TableHead({"record", "question", "expected", "before", "after"});
    for (const ComparedAnswer& a : comparison.lost)
      html += TableRow({a.where, a.question, a.expected, a.before, a.after}, "");
    html += TableEnd();
  }
  html +=
      "<p class=\"sub\">Losses in nats a target token. Intervals: paired bootstrap over records. "
      "p: sign-flip test over records (loss), McNemar's test (answers), corrected for all tests "
      "of the page by Holm's method.</p>\n";
  return html + PageEnd();
}

}  // namespace lapidary
