// The scorers: how right is a text, given the texts it should be? Each is equal to the package that
// people report with (named in its meaning; tests hold it to stored figures of that package). A
// record gives a row of sums and a figure is a function of their total, so that corpus figures
// (BLEU, WER) and means are resampled the same way (resampling.h).
#ifndef LAPIDARY_TRAIN_EVALUATION_METRICS_H_
#define LAPIDARY_TRAIN_EVALUATION_METRICS_H_

#include <string>
#include <vector>

namespace lapidary {

struct Metric {
  const char* name;
  const char* meaning;
  bool higher_is_better;
  // Sums of one record. `references`: right answers, at least one; the best counts unless the
  // metric knows better.
  std::vector<double> (*row)(const std::string& got, const std::vector<std::string>& references);
  double (*figure)(const std::vector<double>& total);
};

// In the order of the documentation.
const std::vector<Metric>& Metrics();
// Throws Error naming the nearest.
const Metric& FindMetric(const std::string& name);
// One line each: name and meaning.
std::string MetricsHelp();

// Rows of overlap.cc: n-grams and common subsequences.
std::vector<double> Rouge1Row(const std::string& got, const std::vector<std::string>& references);
std::vector<double> Rouge2Row(const std::string& got, const std::vector<std::string>& references);
std::vector<double> RougeLRow(const std::string& got, const std::vector<std::string>& references);
std::vector<double> BleuRow(const std::string& got, const std::vector<std::string>& references);
std::vector<double> BleuZhRow(const std::string& got, const std::vector<std::string>& references);
std::vector<double> BleuCharRow(const std::string& got, const std::vector<std::string>& references);
double BleuFigure(const std::vector<double>& total);
std::vector<double> ChrfRow(const std::string& got, const std::vector<std::string>& references);
double ChrfFigure(const std::vector<double>& total);
// Of function_call.cc.
std::vector<double> CallNameRow(const std::string& got, const std::vector<std::string>& references);
std::vector<double> CallRow(const std::string& got, const std::vector<std::string>& references);
// Of math_answer.cc.
std::vector<double> MathRow(const std::string& got, const std::vector<std::string>& references);
std::vector<double> MinervaRow(const std::string& got, const std::vector<std::string>& references);

}  // namespace lapidary

#endif  // LAPIDARY_TRAIN_EVALUATION_METRICS_H_
