#include "train/evaluation/resampling.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "autograd/base/error.h"
#include "autograd/base/random.h"

namespace lapidary {
namespace {

// Streams of random numbers.
constexpr uint64_t kDrawStream = 0x65766472;  // rows of a resample
constexpr uint64_t kSignStream = 0x65767367;  // signs

constexpr int64_t kExactSigns = 14;
// Sums in another order differ in their last bits: patterns this near count as equal.
constexpr double kTie = 1e-9;

// The rows of resample `sample`: one of n for every place.
class Draw {
 public:
  Draw(uint64_t seed, int64_t sample, int64_t n)
      : key_{seed, static_cast<uint64_t>(sample), kDrawStream}, n_(static_cast<uint64_t>(n)) {}
  size_t operator()(int64_t place) {
    const uint64_t block = static_cast<uint64_t>(place) / 4;
    if (place % 4 == 0) words_ = RandomBits(key_, block);
    return static_cast<size_t>((static_cast<uint64_t>(words_[place % 4]) * n_) >> 32);
  }

 private:
  RandomKey key_;
  uint64_t n_;
  std::array<uint32_t, 4> words_ = {};
};

void AddRow(std::vector<double>& total, const std::vector<double>& row) {
  for (size_t i = 0; i < total.size(); ++i) total[i] += row[i];
}

std::vector<double> Total(const StatRows& rows) {
  std::vector<double> total(rows[0].size());
  for (const std::vector<double>& row : rows) AddRow(total, row);
  return total;
}

// The value at a share of sorted ones, between neighbours in proportion.
double Quantile(const std::vector<double>& sorted, double share) {
  const double place = share * static_cast<double>(sorted.size() - 1);
  const size_t low = static_cast<size_t>(place);
  const size_t high = std::min(low + 1, sorted.size() - 1);
  return sorted[low] + (place - static_cast<double>(low)) * (sorted[high] - sorted[low]);
}

void SetBounds(std::vector<double> values, double level, Interval* interval) {
  std::sort(values.begin(), values.end());
  interval->low = Quantile(values, (1 - level) / 2);
  interval->high = Quantile(values, (1 + level) / 2);
}

void CheckRows(const StatRows& rows, const ResamplingOptions& options) {
  LAPIDARY_CHECK(options.samples >= 1, "bootstrap: must have at least one resample; got ",
                 options.samples);
  LAPIDARY_CHECK(options.level > 0 && options.level < 1,
                 "bootstrap: the level must be between 0 and 1; got ", options.level);
  for (const std::vector<double>& row : rows) {
    LAPIDARY_CHECK(row.size() == rows[0].size(), "bootstrap: rows must be equally wide; got ",
                   row.size(), " and ", rows[0].size());
  }
}

}  // namespace

double RatioFigure(const std::vector<double>& sums) { return sums[1] != 0 ? sums[0] / sums[1] : 0; }

Interval BootstrapInterval(const StatRows& rows, const Figure& figure,
                           const ResamplingOptions& options) {
  CheckRows(rows, options);
  Interval interval;
  if (rows.empty()) return interval;
  interval.value = figure(Total(rows));
  const int64_t n = static_cast<int64_t>(rows.size());
  std::vector<double> values;
  for (int64_t s = 0; s < options.samples; ++s) {
    std::vector<double> total(rows[0].size());
    Draw draw(options.seed, s, n);
    for (int64_t i = 0; i < n; ++i) AddRow(total, rows[draw(i)]);
    values.push_back(figure(total));
  }
  SetBounds(std::move(values), options.level, &interval);
  return interval;
}

PairedFigures ComparePaired(const StatRows& first, const StatRows& second, const Figure& figure,
                            const ResamplingOptions& options) {
  CheckRows(first, options);
  CheckRows(second, options);
  LAPIDARY_CHECK(first.size() == second.size(),
                 "paired comparison: both sides must have the same records; got ", first.size(),
                 " and ", second.size());
  PairedFigures pair;
  if (first.empty()) return pair;
  pair.first = figure(Total(first));
  pair.second = figure(Total(second));
  pair.difference.value = pair.second - pair.first;
  const int64_t n = static_cast<int64_t>(first.size());
  std::vector<double> values;
  for (int64_t s = 0; s < options.samples; ++s) {
    std::vector<double> a(first[0].size()), b(second[0].size());
    Draw draw(options.seed, s, n);
    for (int64_t i = 0; i < n; ++i) {
      const size_t row = draw(i);
      AddRow(a, first[row]);
      AddRow(b, second[row]);
    }
    values.push_back(figure(b) - figure(a));
  }
  const double samples = static_cast<double>(options.samples);
  const double mean = std::accumulate(values.begin(), values.end(), 0.0) / samples;
  const double real = std::abs(pair.difference.value);
  // Equal systems differ by 0 in every resample: that is no evidence.
  const int64_t beyond = std::count_if(values.begin(), values.end(),
                                       [&](double v) { return std::abs(v - mean) >= real; });
  pair.p = (static_cast<double>(beyond) + 1) / (samples + 1);
  SetBounds(std::move(values), options.level, &pair.difference);
  return pair;
}

double BinomialTest(int64_t a, int64_t b) {
  const int64_t n = a + b;
  if (n <= 0) return 1;
  const double log_half = static_cast<double>(n) * std::log(0.5);
  double tail = 0;
  for (int64_t k = 0; k <= std::min(a, b); ++k) {
    const double x = static_cast<double>(k), m = static_cast<double>(n);
    tail += std::exp(std::lgamma(m + 1) - std::lgamma(x + 1) - std::lgamma(m - x + 1) + log_half);
  }
  return std::min(1.0, 2 * tail);
}

double SignFlipTest(const std::vector<double>& differences, const ResamplingOptions& options) {
  std::vector<double> d;
  for (const double x : differences) {
    if (x != 0) d.push_back(x);
  }
  if (d.empty()) return 1;
  const double real = std::abs(std::accumulate(d.begin(), d.end(), 0.0));
  double size = 0;
  for (const double x : d) size += std::abs(x);
  const double limit = real - kTie * size;
  const int64_t n = static_cast<int64_t>(d.size());
  if (n <= kExactSigns) {
    int64_t beyond = 0;
    for (int64_t pattern = 0; pattern < int64_t{1} << n; ++pattern) {
      double sum = 0;
      for (int64_t i = 0; i < n; ++i) sum += pattern >> i & 1 ? d[i] : -d[i];
      beyond += std::abs(sum) >= limit;
    }
    return static_cast<double>(beyond) / static_cast<double>(int64_t{1} << n);
  }
  int64_t beyond = 0;
  for (int64_t s = 0; s < options.samples; ++s) {
    const RandomKey key = {options.seed, static_cast<uint64_t>(s), kSignStream};
    std::array<uint32_t, 4> words = {};
    double sum = 0;
    for (int64_t i = 0; i < n; ++i) {
      if (i % 128 == 0) words = RandomBits(key, static_cast<uint64_t>(i / 128));
      sum += words[i / 32 % 4] >> (i % 32) & 1 ? d[i] : -d[i];
    }
    beyond += std::abs(sum) >= limit;
  }
  return (static_cast<double>(beyond) + 1) / (static_cast<double>(options.samples) + 1);
}

double SmallestSignFlip(int64_t n) {
  return n <= 0 ? 1 : std::pow(0.5, static_cast<double>(std::min<int64_t>(n, 60) - 1));
}

std::vector<double> HolmAdjusted(const std::vector<double>& p) {
  std::vector<size_t> order(p.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return p[a] < p[b]; });
  std::vector<double> adjusted(p.size());
  double least = 0;
  for (size_t rank = 0; rank < order.size(); ++rank) {
    least = std::max(least, std::min(1.0, p[order[rank]] * static_cast<double>(p.size() - rank)));
    adjusted[order[rank]] = least;
  }
  return adjusted;
}

}  // namespace lapidary
