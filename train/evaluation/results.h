// What a task gave: every answer with its scores, figures with their intervals, by group; as a
// table, JSON and a page; and two results of the same records compared.
#ifndef LAPIDARY_TRAIN_EVALUATION_RESULTS_H_
#define LAPIDARY_TRAIN_EVALUATION_RESULTS_H_

#include <cstdint>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "train/evaluation/resampling.h"

namespace lapidary {

// One scorer in results: how its rows become a figure.
struct ResultMetric {
  std::string name;
  std::string figure = "mean";  // "mean", "bleu", "chrf"
  bool higher_is_better = true;
};
ResultMetric ResultMetricOf(
    const std::string& name);  // of Metrics(); else a mean, higher is better
Figure FigureOf(const ResultMetric& metric);

struct ScoredAnswer {
  std::string where, group, modality, question, expected, got, answer;
  std::vector<std::vector<double>> rows;  // [metrics]
};

struct EvalResults {
  std::string task, model, adapter;
  std::vector<ResultMetric> metrics;
  std::vector<ScoredAnswer> answers;
  double seconds = 0;
  // Rows of a metric, of one group or ("") all.
  StatRows Rows(size_t metric, const std::string& group) const;
  std::vector<std::string> Groups() const;  // sorted, without ""
};

std::string ResultsText(const EvalResults& results, const ResamplingOptions& options, int64_t show);
nlohmann::ordered_json ResultsJson(const EvalResults& results, const ResamplingOptions& options);
std::string ResultsHtml(const EvalResults& results, const ResamplingOptions& options);
// Reads ResultsJson back. Throws Error naming `where` for anything else.
EvalResults ReadResults(const std::string& text, const std::string& where);

// Paired comparison of each metric and group on the records that both have.
struct ResultsPair {
  std::string metric, group;  // group "": all
  bool higher_is_better = true;
  int64_t records = 0;
  PairedFigures figures;
  int64_t lost = 0, gained = 0;  // of metrics that are right or wrong
  double mcnemar = -1;           // -1: the metric is not right or wrong
};
// Throws Error if the two have no record or no metric in common.
std::vector<ResultsPair> CompareResults(const EvalResults& first, const EvalResults& second,
                                        const ResamplingOptions& options);
std::string ResultsPairText(const std::vector<ResultsPair>& pairs, const std::string& first,
                            const std::string& second);
nlohmann::ordered_json ResultsPairJson(const std::vector<ResultsPair>& pairs);

}  // namespace lapidary

#endif  // LAPIDARY_TRAIN_EVALUATION_RESULTS_H_
