// Did tuning one thing break another? Two models on the same held-out records: loss, divergence and
// right answers before and after, for each modality and each domain, and a verdict that tells harm
// from noise.
#ifndef LAPIDARY_TRAIN_EVALUATION_COMPARISON_H_
#define LAPIDARY_TRAIN_EVALUATION_COMPARISON_H_

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "train/evaluate.h"
#include "train/evaluation/resampling.h"

namespace lapidary {

// A record on both sides.
struct ComparedRecord {
  std::string domain;  // the name of its data
  PairRecord pair;
  std::string text;  // what it says, for people; may be empty
};

// An answer on both sides.
struct ComparedAnswer {
  std::string domain, modality, where, question, expected, before, after;
  bool before_correct = false, after_correct = false;
};

struct ComparisonOptions {
  ResamplingOptions resampling = {10000, 0.95, 42};
  double alpha = 0.05;  // of all tests together (Holm)
  // What counts as harm if it is beyond noise: more nats a token; a lower share of right tokens. A
  // large data set shows differences that nobody would notice.
  double loss_tolerance = 0.01, accuracy_tolerance = 0.005;
};

// One row of the comparison.
struct ComparedGroup {
  std::string kind;  // "all", "modality", "domain"
  std::string name;
  int64_t records = 0;
  EvalCounts before, after;
  double kl = 0;         // KL(before || after), nats a target
  double same_top = 0;   // share of targets with the same likeliest token
  Interval loss_change;  // nats a target
  double loss_p = 1;     // sign-flip test over records, adjusted for all tests of the comparison
  double accuracy_p = 1;
  int64_t answers = 0, right_before = 0, right_after = 0;
  int64_t lost = 0, gained = 0;  // answers right only before, only after
  double answers_p = 1;          // McNemar, adjusted
  bool worse = false, better = false;
  bool too_few = false;              // no difference could be told from noise
  std::vector<std::string> reasons;  // what got worse: "loss 1.20 to 1.31 (p 0.001)"
};

struct Comparison {
  std::vector<ComparedGroup> groups;  // "all" first, then modalities, then domains
  std::vector<ComparedRecord> worst;  // the largest rises of the loss a token, up to 20
  std::vector<ComparedAnswer> lost;   // answers right only before, up to 20
  bool worse = false;
  std::string verdict;  // one line
};

// Throws Error if there is nothing to compare.
Comparison Compare(const std::vector<ComparedRecord>& records,
                   const std::vector<ComparedAnswer>& answers, const ComparisonOptions& options);

// A table and the verdict line, as the command prints them.
std::string ComparisonText(const Comparison& comparison);
nlohmann::ordered_json ComparisonJson(const Comparison& comparison);
// A page that needs nothing else.
std::string ComparisonHtml(const Comparison& comparison, const std::string& before,
                           const std::string& after);

}  // namespace lapidary

#endif  // LAPIDARY_TRAIN_EVALUATION_COMPARISON_H_
