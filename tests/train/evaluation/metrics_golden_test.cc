// The scorers against what the usual packages say (golden/eval/scorers.json).
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "autograd/base/error.h"
#include "autograd/base/file.h"
#include "autograd/base/random.h"
#include "tests/golden.h"
#include "train/evaluation/metrics.h"
#include "train/evaluation/pattern.h"
#include "train/evaluation/text.h"

namespace lapidary {
namespace {

using nlohmann::json;
using Texts = std::vector<std::string>;

double ScoreOf(const std::string& metric, const std::string& got, const Texts& references) {
  const Metric& m = FindMetric(metric);
  return m.figure(m.row(got, references));
}

TEST(ScorerGolden, EqualsThePackages) {
  int cases = 0;
  for (const std::string& path : golden::Find("eval/scorers.json")) {
    const json golden = json::parse(ReadFile(path));
    std::map<std::string, int> compared;
    std::map<std::string, std::set<double>> values;
    std::map<std::string, std::vector<double>> totals;
    for (const json& c : golden.at("cases")) {
      const std::string got = c.at("got");
      const Texts references = c.at("references");
      for (const auto& [name, want] : c.at("scores").items()) {
        EXPECT_NEAR(ScoreOf(name, got, references), want.get<double>(), 1e-8)
            << name << " of '" << got << "' against " << c.at("references");
        ++compared[name];
        values[name].insert(want.get<double>());
        // Corpus figures of error rates take the first reference alone.
        const bool rate = name == "wer" || name == "cer";
        const std::vector<double> row =
            FindMetric(name).row(got, rate ? Texts{references[0]} : references);
        std::vector<double>& total = totals[name];
        total.resize(row.size());
        for (size_t i = 0; i < row.size(); ++i) total[i] += row[i];
      }
    }
    for (const auto& [name, want] : golden.at("corpus").items())
      EXPECT_NEAR(FindMetric(name).figure(totals.at(name)), want.get<double>(), 1e-8) << name;
    for (const json& c : golden.at("math")) {
      for (const char* name : {"math_equal", "math_minerva"}) {
        EXPECT_EQ(ScoreOf(name, c.at("got"), {c.at("reference").get<std::string>()}),
                  c.at(name).get<double>())
            << name << " of " << c.at("got") << " against " << c.at("reference");
        ++compared[name];
        values[name].insert(c.at(name).get<double>());
      }
    }
    for (const auto& [name, count] : compared) {
      std::printf("%s: %d answers, %zu different scores\n", name.c_str(), count,
                  values[name].size());
      EXPECT_GE(values[name].size(), 2u) << name << " is never put to the test";
      cases += count;
    }
  }
  EXPECT_GT(cases, 0) << "no golden/eval/scorers.json under any root";
}

TEST(Scorers, NamesAreKnown) {
  EXPECT_STREQ(FindMetric("rougeL").name, "rougeL");
  try {
    FindMetric("chfr");
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("try 'chrf'"), std::string::npos) << error.what();
  }
}

TEST(Scorers, FunctionCalls) {
  const std::string want = R"({"name": "book", "arguments": {"city": "Oslo", "days": 2}})";
  const auto call = [&](const std::string& got) { return ScoreOf("function_call", got, {want}); };
  const auto name = [&](const std::string& got) { return ScoreOf("function_name", got, {want}); };
  for (const std::string& right :
       {std::string(R"([{"arguments": {"days": 2.0, "city": "Oslo"}, "name": "book"}])"),
        std::string(
            R"({"function": {"name": "book", "arguments": "{\"city\":\"Oslo\",\"days\":2}"}})"),
        std::string("```json\n") + want + "\n```",
        std::string("<|tool_call>call:book{city:<|\"|>Oslo<|\"|>,days:2}<tool_call|>")}) {
    EXPECT_EQ(call(right), 1) << right;
    EXPECT_EQ(name(right), 1) << right;
  }
  for (const std::string& wrong :
       {std::string(R"({"name": "book", "arguments": {"city": "Oslo"}})"),
        std::string(R"({"name": "book", "arguments": {"city": "Oslo", "days": "2"}})"),
        std::string("call:book{city:<|\"|>Bergen<|\"|>,days:2}"), std::string("call:book{}")}) {
    EXPECT_EQ(call(wrong), 0) << wrong;
    EXPECT_EQ(name(wrong), 1) << wrong;
  }
  for (const std::string& wrong :
       {want + want, std::string("I would book it."), std::string("call:cook{days:2}"),
        std::string("call:book{city:<|\"|>Oslo"), std::string("call:book{a:1}call:book{a:1}"),
        std::string()}) {
    EXPECT_EQ(name(wrong), 0) << wrong;
  }
  EXPECT_EQ(ScoreOf("function_call", "No call.", {"None needed."}), 1);
  EXPECT_EQ(ScoreOf("function_call", want, {"None needed."}), 0);
  EXPECT_EQ(ScoreOf("function_call", R"(call:f{a:[1,{b:true}],c:{},d:null})",
                    {R"({"name":"f","arguments":{"a":[1,{"b":true}],"c":{},"d":null}})"}),
            1);
}

TEST(Scorers, SpokenTextForgetsCaseAndPunctuation) {
  EXPECT_EQ(ScoreOf("wer_normalized", "Hello, world - it's FINE!", {"hello world it\u2019s fine"}),
            0);
  EXPECT_EQ(ScoreOf("wer_normalized", "its fine", {"it's fine"}), 0.5);
  EXPECT_EQ(ScoreOf("cer_normalized", "\xe4\xbd\xa0\xe5\xa5\xbd\xe3\x80\x82",
                    {"\xe4\xbd\xa0 \xe5\xa5\xbd"}),
            1.0 / 3);
}

// Nothing that a model may write makes a scorer throw, or give what is no share.
TEST(Scorers, AnyTextHasAScore) {
  const std::string parts[] = {"\\boxed{",
                               "}",
                               "\\frac",
                               "\\sqrt",
                               "$",
                               "{",
                               "call:",
                               "[",
                               "\"",
                               "<|\"|>",
                               "\xff",
                               "\xe4\xbd",
                               "\n",
                               " ",
                               "1",
                               "/",
                               "=",
                               "%",
                               "a",
                               "\\text{ ",
                               ",",
                               ":",
                               "\\boxed ",
                               std::string(1, '\0'),
                               "final answer is",
                               "]"};
  for (uint64_t trial = 0; trial < 1500; ++trial) {
    std::string text[2];
    for (int side = 0; side < 2; ++side) {
      const uint64_t length = RandomBits({trial, 1, static_cast<uint64_t>(side)}, 0)[0] % 14;
      for (uint64_t i = 0; i < length; ++i)
        text[side] += parts[RandomBits({trial, 2, static_cast<uint64_t>(side)}, i)[0] % 26];
    }
    for (const Metric& metric : Metrics()) {
      const double score = metric.figure(metric.row(text[0], {text[1], text[0] + "x"}));
      EXPECT_TRUE(std::isfinite(score) && score >= 0) << metric.name << " " << text[0];
    }
  }
  const std::string deep(5000, '[');
  EXPECT_EQ(ScoreOf("function_call", deep, {deep}), 1);  // neither is a call
  EXPECT_EQ(ScoreOf("function_call", "call:f" + std::string(5000, '{'), {"{\"name\":\"f\"}"}), 0);
}

TEST(Pattern, IsPythons) {
  const Pattern word("(\\w+)@(x)?", {}, "test");
  const auto found = word.FindAll("\xc3\xa9t\xc3\xa9@x b@");
  ASSERT_EQ(found.size(), 2u);
  EXPECT_EQ(found[0].groups, (Texts{"\xc3\xa9t\xc3\xa9@x", "\xc3\xa9t\xc3\xa9", "x"}));
  EXPECT_EQ(found[1].groups, (Texts{"b@", "b", ""}));
  EXPECT_EQ(Pattern("x*", {}, "test").FindAll("axb").size(), 4u);  // "", "x", "", ""
  EXPECT_EQ(Pattern("a|(b)", {.ignore_case = true}, "test")
                .Replace("xAyB", [](const PatternMatch& m) { return "<" + m.groups[1] + ">"; }),
            "x<>y<B>");
  EXPECT_TRUE(Pattern("^b$", {.multi_line = true}, "test").Find("a\nb\nc"));
  EXPECT_TRUE(Pattern(EscapePattern("a.b*(c)"), {}, "test").Find("xa.b*(c)"));
  EXPECT_FALSE(Pattern(EscapePattern("a.b"), {}, "test").Find("axb"));
  EXPECT_THROW(Pattern("(", {}, "test"), Error);
  EXPECT_THROW(Pattern("(a+)+$", {}, "test").Find(std::string(5000, 'a') + "b"), Error);
  EXPECT_FALSE(Pattern("(.|\\n)*z", {}, "test").Find(std::string(3000, 'a')));
}

}  // namespace
}  // namespace lapidary
