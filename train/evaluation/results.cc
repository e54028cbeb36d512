#include "train/evaluation/results.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <numeric>
#include <set>

#include "autograd/base/error.h"
#include "train/evaluation/metrics.h"
#include "train/page.h"
#include "train/progress.h"
#include "train/svg_plot.h"

namespace lapidary {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kWorst = 30;

std::string Number(double value) {
  char text[48];
  std::snprintf(text, sizeof(text), "%.4f", value);
  return text;
}

std::string Cut(std::string text, size_t most) {
  if (text.size() <= most) return text;
  text.resize(most);
  return text + "...";
}

// Records from the worst of the first metric to the best, in order among equals.
std::vector<size_t> FromWorst(const EvalResults& results) {
  std::vector<size_t> order(results.answers.size());
  std::iota(order.begin(), order.end(), size_t{0});
  if (results.metrics.empty()) return order;
  const Figure figure = FigureOf(results.metrics[0]);
  std::vector<double> score;
  for (const ScoredAnswer& a : results.answers)
    score.push_back(figure(a.rows[0]) * (results.metrics[0].higher_is_better ? 1 : -1));
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return score[a] < score[b]; });
  return order;
}

bool IsRightOrWrong(const StatRows& rows) {
  return std::all_of(rows.begin(), rows.end(), [](const std::vector<double>& row) {
    return row.size() == 2 && row[1] == 1 && (row[0] == 0 || row[0] == 1);
  });
}

}  // namespace

ResultMetric ResultMetricOf(const std::string& name) {
  for (const Metric& metric : Metrics()) {
    if (name != metric.name) continue;
    const char* figure = metric.figure == BleuFigure   ? "bleu"
                         : metric.figure == ChrfFigure ? "chrf"
                                                       : "mean";
    return {name, figure, metric.higher_is_better};
  }
  return {name, "mean", true};
}

Figure FigureOf(const ResultMetric& metric) {
  return metric.figure == "bleu" ? BleuFigure : metric.figure == "chrf" ? ChrfFigure : RatioFigure;
}

StatRows EvalResults::Rows(size_t metric, const std::string& group) const {
  StatRows rows;
  for (const ScoredAnswer& a : answers) {
    if (group.empty() || a.group == group) rows.push_back(a.rows[metric]);
  }
  return rows;
}

std::vector<std::string> EvalResults::Groups() const {
  std::set<std::string> groups;
  for (const ScoredAnswer& a : answers) groups.insert(a.group);
  groups.erase("");
  return {groups.begin(), groups.end()};
}

std::string ResultsText(const EvalResults& results, const ResamplingOptions& options,
                        int64_t show) {
  char line[400];
  std::string text;
  size_t width = 8;
  const std::vector<std::string> groups = results.Groups();
  for (const std::string& group : groups)
    width = std::max(width, std::min<size_t>(group.size(), 40));
  std::snprintf(line, sizeof(line), "%-*s %8s  %-20s %10s   %s\n", static_cast<int>(width), "",
                "records", "scorer", "figure", "95 % interval");
  text += line;
  const auto rows = [&](const std::string& group, const std::string& name) {
    for (size_t m = 0; m < results.metrics.size(); ++m) {
      const StatRows stats = results.Rows(m, group);
      const Interval i = BootstrapInterval(stats, FigureOf(results.metrics[m]), options);
      std::snprintf(line, sizeof(line), "%-*.40s %8s  %-20s %10.4f   %.4f to %.4f\n",
                    static_cast<int>(width), name.c_str(),
                    CountText(static_cast<int64_t>(stats.size())).c_str(),
                    results.metrics[m].name.c_str(), i.value, i.low, i.high);
      text += line;
    }
  };
  for (const std::string& group : groups) rows(group, group);
  rows("", "all");
  text += StrCat(results.answers.size(), " answers in ", ClockText(results.seconds), "\n");
  const std::vector<size_t> order = FromWorst(results);
  for (size_t i = 0; i < order.size() && static_cast<int64_t>(i) < show; ++i) {
    const ScoredAnswer& a = results.answers[order[i]];
    text += StrCat("  ", a.where, ": ", Cut(a.question, 300), "\n    expected: ", a.expected,
                   "\n    got:      ", Cut(a.got, 600), "\n");
    if (a.answer != a.got) text += StrCat("    taken as: ", a.answer, "\n");
  }
  return text;
}

Json ResultsJson(const EvalResults& results, const ResamplingOptions& options) {
  const auto figures = [&](const std::string& group) {
    Json json = Json::object();
    for (size_t m = 0; m < results.metrics.size(); ++m) {
      const Interval i =
          BootstrapInterval(results.Rows(m, group), FigureOf(results.metrics[m]), options);
      json[results.metrics[m].name] = {{"value", i.value}, {"low", i.low}, {"high", i.high}};
    }
    return json;
  };
  Json metrics = Json::array();
  for (const ResultMetric& m : results.metrics)
    metrics.push_back(
        {{"name", m.name}, {"figure", m.figure}, {"higher_is_better", m.higher_is_better}});
  Json groups = Json::object();
  for (const std::string& group : results.Groups()) groups[group] = figures(group);
  Json answers = Json::array();
  for (const ScoredAnswer& a : results.answers) {
    answers.push_back({{"where", a.where},
                       {"group", a.group},
                       {"modality", a.modality},
                       {"question", a.question},
                       {"expected", a.expected},
                       {"got", a.got},
                       {"answer", a.answer},
                       {"rows", a.rows}});
  }
  return {{"task", results.task},       {"model", results.model}, {"adapter", results.adapter},
          {"seconds", results.seconds}, {"metrics", metrics},     {"figures", figures("")},
          {"by_group", groups},         {"records", answers}};
}

std::string ResultsHtml(const EvalResults& results, const ResamplingOptions& options) {
  std::string html =
      PageHead(results.task,
               HtmlText(StrCat(
                   results.model, results.adapter.empty() ? "" : StrCat(" with ", results.adapter),
                   ", ", results.answers.size(), " answers in ", ClockText(results.seconds))));
  html += TableHead({"", "records", "scorer", "figure", "95 % interval"});
  const auto rows = [&](const std::string& group, const std::string& name) {
    for (size_t m = 0; m < results.metrics.size(); ++m) {
      const StatRows stats = results.Rows(m, group);
      const Interval i = BootstrapInterval(stats, FigureOf(results.metrics[m]), options);
      html +=
          TableRow({name, CountText(static_cast<int64_t>(stats.size())), results.metrics[m].name,
                    Number(i.value), StrCat(Number(i.low), " to ", Number(i.high))},
                   "");
    }
  };
  rows("", "all");
  for (const std::string& group : results.Groups()) rows(group, group);
  html += TableEnd();
  html += "<h2>The worst answers</h2>\n" +
          TableHead({"record", "question", "expected", "got", "taken as"});
  const std::vector<size_t> order = FromWorst(results);
  for (size_t i = 0; i < order.size() && i < kWorst; ++i) {
    const ScoredAnswer& a = results.answers[order[i]];
    html += TableRow({a.where, Cut(a.question, 1500), a.expected, Cut(a.got, 3000),
                      a.answer == a.got ? "" : a.answer},
                     "");
  }
  return html + TableEnd() + PageEnd();
}

EvalResults ReadResults(const std::string& text, const std::string& where) {
  const Json json = Json::parse(text, nullptr, false);
  EvalResults results;
  try {
    results.task = json.at("task");
    results.model = json.at("model");
    results.adapter = json.at("adapter");
    for (const Json& m : json.at("metrics"))
      results.metrics.push_back({m.at("name"), m.at("figure"), m.at("higher_is_better")});
    for (const Json& a : json.at("records")) {
      ScoredAnswer answer;
      answer.where = a.at("where");
      answer.group = a.at("group");
      answer.question = a.at("question");
      answer.expected = a.at("expected");
      answer.got = a.at("got");
      answer.answer = a.at("answer");
      answer.rows = a.at("rows").get<std::vector<std::vector<double>>>();
      bool fits = answer.rows.size() == results.metrics.size();
      for (size_t m = 0; fits && m < answer.rows.size(); ++m) {
        const std::string& figure = results.metrics[m].figure;
        fits = answer.rows[m].size() == (figure == "bleu" ? 10u : figure == "chrf" ? 18u : 2u);
      }
      LAPIDARY_CHECK(fits, where,
                     ": every record must have the sums of every scorer; got others at ",
                     answer.where);
      results.answers.push_back(std::move(answer));
    }
  } catch (const nlohmann::json::exception& error) {
    throw Error(StrCat(where, ": must be what `lapidary eval --task ... --out FILE` wrote; got ",
                       json.is_discarded() ? "something that is not JSON" : error.what()));
  }
  return results;
}

std::vector<ResultsPair> CompareResults(const EvalResults& first, const EvalResults& second,
                                        const ResamplingOptions& options) {
  std::map<std::string, const ScoredAnswer*> by_record;
  const auto key = [](const ScoredAnswer& a) { return a.where + '\n' + a.question; };
  for (const ScoredAnswer& a : first.answers) by_record[key(a)] = &a;
  std::vector<ResultsPair> pairs;
  std::vector<std::string> groups = second.Groups();
  groups.insert(groups.begin(), "");
  for (size_t m = 0; m < second.metrics.size(); ++m) {
    const auto same = std::find_if(first.metrics.begin(), first.metrics.end(),
                                   [&](const auto& x) { return x.name == second.metrics[m].name; });
    if (same == first.metrics.end()) continue;
    const size_t other = static_cast<size_t>(same - first.metrics.begin());
    for (const std::string& group : groups) {
      StatRows a, b;
      for (const ScoredAnswer& answer : second.answers) {
        if (!group.empty() && answer.group != group) continue;
        const auto old = by_record.find(key(answer));
        if (old == by_record.end()) continue;
        a.push_back(old->second->rows[other]);
        b.push_back(answer.rows[m]);
      }
      if (a.empty()) continue;
      ResultsPair pair;
      pair.metric = second.metrics[m].name;
      pair.group = group;
      pair.higher_is_better = second.metrics[m].higher_is_better;
      pair.records = static_cast<int64_t>(a.size());
      pair.figures = ComparePaired(a, b, FigureOf(second.metrics[m]), options);
      if (IsRightOrWrong(a) && IsRightOrWrong(b)) {
        for (size_t i = 0; i < a.size(); ++i) {
          pair.lost += a[i][0] > b[i][0];
          pair.gained += a[i][0] < b[i][0];
        }
        pair.mcnemar = BinomialTest(pair.lost, pair.gained);
      }
      pairs.push_back(std::move(pair));
    }
  }
  LAPIDARY_CHECK(!pairs.empty(),
                 "compare: the results must have a scorer and records in common; got none");
  return pairs;
}

std::string ResultsPairText(const std::vector<ResultsPair>& pairs, const std::string& first,
                            const std::string& second) {
  char line[400];
  std::snprintf(line, sizeof(line), "%-20s %-20s %8s %10.10s %10.10s %10s %22s %10s %s\n", "scorer",
                "group", "records", first.c_str(), second.c_str(), "change", "95 % interval", "p",
                "test");
  std::string text = line;
  for (const ResultsPair& p : pairs) {
    const bool mcnemar = p.mcnemar >= 0;
    std::snprintf(line, sizeof(line),
                  "%-20.40s %-20.40s %8lld %10.4f %10.4f %+10.4f %+10.4f to %+8.4f %10.4f %s\n",
                  p.metric.c_str(), p.group.empty() ? "all" : p.group.c_str(),
                  static_cast<long long>(p.records), p.figures.first, p.figures.second,
                  p.figures.difference.value, p.figures.difference.low, p.figures.difference.high,
                  mcnemar ? p.mcnemar : p.figures.p,
                  mcnemar ? StrCat("McNemar, ", p.lost, " lost, ", p.gained, " gained").c_str()
                          : "paired bootstrap");
    text += line;
  }
  return text;
}

Json ResultsPairJson(const std::vector<ResultsPair>& pairs) {
  Json list = Json::array();
  for (const ResultsPair& p : pairs) {
    Json row = {{"metric", p.metric},
                {"group", p.group},
                {"higher_is_better", p.higher_is_better},
                {"records", p.records},
                {"first", p.figures.first},
                {"second", p.figures.second},
                {"difference", p.figures.difference.value},
                {"low", p.figures.difference.low},
                {"high", p.figures.difference.high},
                {"p_bootstrap", p.figures.p}};
    if (p.mcnemar >= 0) {
      row["lost"] = p.lost;
      row["gained"] = p.gained;
      row["p_mcnemar"] = p.mcnemar;
    }
    list.push_back(std::move(row));
  }
  return list;
}

}  // namespace lapidary
