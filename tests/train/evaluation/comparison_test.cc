// Windows as llama-perplexity cuts them, and verdicts on planted differences.
#include "train/evaluation/comparison.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <numeric>

#include "autograd/base/error.h"
#include "autograd/base/random.h"
#include "train/evaluation/windows.h"
#include "train/page.h"

namespace lapidary {
namespace {

std::vector<int32_t> Count(int n) {
  std::vector<int32_t> ids(static_cast<size_t>(n));
  std::iota(ids.begin(), ids.end(), 100);
  return ids;
}

std::vector<int32_t> Targets(const Batch& batch) {
  std::vector<int32_t> targets;
  for (const int32_t t : batch.targets) {
    if (t >= 0) targets.push_back(t);
  }
  return targets;
}

TEST(Windows, DisjointOnesScoreTheirSecondHalf) {
  const Sequences s = WindowSequences(Count(21), {8, 0, 2}, "run");
  ASSERT_EQ(s.lengths, (std::vector<int64_t>{8, 8}));
  const Batch second = s.get(1);
  EXPECT_EQ(second.ids[0], 2);
  EXPECT_EQ(second.ids[1], 109);
  EXPECT_EQ(Targets(second), (std::vector<int32_t>{113, 114, 115}));
  EXPECT_EQ(second.documents[0].where, "run window 1");
  EXPECT_EQ(WindowSequences(Count(21), {8, 0, -1}, "run").get(1).ids[0], 108);
}

TEST(Windows, StridedOnesScoreEveryTargetOnce) {
  const Sequences s = WindowSequences(Count(24), {8, 4, 2}, "run");
  std::vector<int32_t> all;
  for (size_t i = 0; i < s.lengths.size(); ++i) {
    for (const int32_t t : Targets(s.get(static_cast<int64_t>(i)))) all.push_back(t);
  }
  std::vector<int32_t> want(all.size());
  std::iota(want.begin(), want.end(), 104);
  EXPECT_EQ(all, want);
  EXPECT_EQ(all.size(), 16u);
  EXPECT_EQ(s.get(1).ids[0], 104);
}

TEST(Windows, SizesAreChecked) {
  EXPECT_THROW(WindowSequences(Count(15), {8, 0, 2}, "run"), Error);
  EXPECT_THROW(WindowSequences(Count(100), {3, 0, 2}, "run"), Error);
  EXPECT_THROW(WindowSequences(Count(100), {8, 8, 2}, "run"), Error);
  EXPECT_THROW(WindowSequences(Count(100), {8, -1, 2}, "run"), Error);
}

// `n` records whose loss changes by `shift` with noise.
void AddRecords(std::vector<ComparedRecord>& records, const std::string& domain,
                const std::string& modality, int n, double shift) {
  for (int i = 0; i < n; ++i) {
    const uint64_t at = records.size();
    ComparedRecord r;
    r.domain = domain;
    r.pair.first.where = domain + ":" + std::to_string(i);
    r.pair.first.modality = modality;
    EvalCounts& a = r.pair.first.counts;
    a.weight = 20;
    a.targets = 20;
    a.records = 1;
    a.correct = 10;
    a.loss_sum = 20 * (1 + RandomUniform({1, 0, 0}, at));
    r.pair.second = a;
    r.pair.second.loss_sum += 20 * (shift + 0.2 * (RandomUniform({2, 0, 0}, at) - 0.5));
    r.pair.kl_sum = 2;
    r.pair.same_top = 19;
    records.push_back(r);
  }
}

const ComparedGroup& Group(const Comparison& c, const std::string& name) {
  for (const ComparedGroup& g : c.groups) {
    if (g.name == name) return g;
  }
  throw Error("no group " + name);
}

ComparisonOptions Quick() {
  ComparisonOptions options;
  options.resampling.samples = 2000;
  return options;
}

TEST(Compare, NoiseBreaksNothing) {
  std::vector<ComparedRecord> records;
  AddRecords(records, "chat", "text", 40, 0);
  AddRecords(records, "charts", "image", 40, 0);
  const Comparison c = Compare(records, {}, Quick());
  EXPECT_FALSE(c.worse);
  EXPECT_EQ(c.verdict, "broke nothing beyond noise");
  ASSERT_EQ(c.groups.size(), 5u);
  EXPECT_EQ(c.groups[0].name, "all");
  EXPECT_NEAR(c.groups[0].kl, 0.1, 1e-12);
  EXPECT_NEAR(c.groups[0].same_top, 0.95, 1e-12);
}

// Text got better by more than pictures got worse: the sum hides it, the verdict does not.
TEST(Compare, NamesWhatGotWorse) {
  std::vector<ComparedRecord> records;
  AddRecords(records, "chat", "text", 60, -0.3);
  AddRecords(records, "charts", "image", 40, 0.1);
  AddRecords(records, "code", "text", 3, 0.5);
  const Comparison c = Compare(records, {}, Quick());
  EXPECT_TRUE(c.worse);
  EXPECT_TRUE(Group(c, "image").worse);
  EXPECT_TRUE(Group(c, "charts").worse);
  EXPECT_TRUE(Group(c, "chat").better);
  EXPECT_FALSE(Group(c, "all").worse);
  EXPECT_TRUE(Group(c, "code").too_few);
  EXPECT_FALSE(Group(c, "code").worse);
  for (const char* part : {"got worse: modality image: loss ", "domain charts: loss ",
                           "Better: all", "Too few records to tell: domain code"}) {
    EXPECT_NE(c.verdict.find(part), std::string::npos) << part << "\n" << c.verdict;
  }
  ASSERT_FALSE(c.worst.empty());
  EXPECT_EQ(c.worst[0].domain, "code");
  EXPECT_NE(ComparisonText(c).find("\nverdict: got worse"), std::string::npos);
  EXPECT_EQ(ComparisonJson(c).at("groups").size(), 6u);
}

// A rise that is certain but too small to matter is no harm.
TEST(Compare, ToleranceIsKept) {
  std::vector<ComparedRecord> records;
  AddRecords(records, "chat", "text", 2000, 0.009);
  ComparisonOptions options = Quick();
  const Comparison tolerant = Compare(records, {}, options);
  EXPECT_LT(tolerant.groups[0].loss_p, 0.05);
  EXPECT_FALSE(tolerant.worse);
  options.loss_tolerance = 0;
  EXPECT_TRUE(Compare(records, {}, options).worse);
}

TEST(Compare, AnswersArePaired) {
  std::vector<ComparedAnswer> answers;
  for (int i = 0; i < 40; ++i) {
    const bool before = i < 30, after = i >= 12 && i < 32;  // 12 lost, 2 gained
    answers.push_back(
        {"quiz", "text", "quiz:" + std::to_string(i), "<q>", "a", "b", "c", before, after});
  }
  const Comparison c = Compare({}, answers, Quick());
  EXPECT_EQ(c.groups[0].lost, 12);
  EXPECT_EQ(c.groups[0].gained, 2);
  EXPECT_NEAR(c.groups[0].answers_p, BinomialTest(12, 2), 1e-12);
  EXPECT_TRUE(c.worse);
  EXPECT_NE(c.verdict.find("right answers 30 to 20 of 40"), std::string::npos) << c.verdict;
  EXPECT_EQ(c.lost.size(), 12u);
  EXPECT_THROW(Compare({}, {}, Quick()), Error);
}

TEST(Compare, ThePageIsWhole) {
  std::vector<ComparedRecord> records;
  AddRecords(records, "a<b>", "text", 20, 0.5);
  records[0].text = "<script>alert(1)</script>";
  const std::string html = ComparisonHtml(Compare(records, {}, Quick()), "base", "tuned & co");
  for (const char* part : {"name=\"viewport\"", "tuned &amp; co", "class=\"verdict bad\"",
                           "&lt;script&gt;", "</html>"}) {
    EXPECT_NE(html.find(part), std::string::npos) << part;
  }
  for (const char* part : {"<script", "http:", "https:", "src="})
    EXPECT_EQ(html.find(part), std::string::npos) << part;
}

}  // namespace
}  // namespace lapidary
