// How sure a figure is: bootstrap intervals and paired tests over records. A record is a row of
// sums (right answers and 1; edits and words; n-gram counts ...), and a figure is a function of the
// rows' total, so that corpus figures (BLEU, WER) are resampled as exactly as means. Everything is
// a function of its arguments and the seed.
#ifndef LAPIDARY_TRAIN_EVALUATION_RESAMPLING_H_
#define LAPIDARY_TRAIN_EVALUATION_RESAMPLING_H_

#include <cstdint>
#include <functional>
#include <vector>

namespace lapidary {

// The figure of the total of some rows.
using Figure = std::function<double(const std::vector<double>& total)>;
using StatRows = std::vector<std::vector<double>>;  // [records][the same width everywhere]

// sums[0] / sums[1], 0 of nothing: means, losses a token, error rates.
double RatioFigure(const std::vector<double>& sums);

struct ResamplingOptions {
  int64_t samples = 1000;  // of the bootstrap, and random sign patterns
  double level = 0.95;
  uint64_t seed = 42;
};

struct Interval {
  double value = 0;  // of all rows
  double low = 0, high = 0;
};

// Percentile bootstrap (Efron 1979): rows drawn with replacement. No rows: zeros.
Interval BootstrapInterval(const StatRows& rows, const Figure& figure,
                           const ResamplingOptions& options);

// Two systems on the same records, row by row.
struct PairedFigures {
  double first = 0, second = 0;
  Interval difference;  // second - first; the rows are drawn in pairs
  // Paired bootstrap resampling (Koehn 2004) as sacrebleu does it: the share of resamples whose
  // difference is at least as far from the resamples' mean as the real one is from 0,
  // (c + 1) / (n + 1). Equal systems have p = 1 (sacrebleu counts "further": the smallest p).
  double p = 1;
};
// Throws Error if there are not equally many rows.
PairedFigures ComparePaired(const StatRows& first, const StatRows& second, const Figure& figure,
                            const ResamplingOptions& options);

// Two-sided exact test of n = a + b fair coins showing a heads: McNemar's test, a and b the records
// that only one of two systems has right; or the sign test. 1 for n = 0.
double BinomialTest(int64_t a, int64_t b);

// Paired randomization (Fisher 1935): how often is |sum| of the differences, each with a random
// sign, as large as it is? All sign patterns up to 14 differences that are not 0, else
// options.samples random ones, (c + 1) / (n + 1).
double SignFlipTest(const std::vector<double>& differences, const ResamplingOptions& options);
// The smallest p that the test can give with n differences: more than 0.05 means that it cannot
// tell anything.
double SmallestSignFlip(int64_t n);

// Holm's correction for several tests at once: adjusted p values, in order.
std::vector<double> HolmAdjusted(const std::vector<double>& p);

}  // namespace lapidary

#endif  // LAPIDARY_TRAIN_EVALUATION_RESAMPLING_H_
