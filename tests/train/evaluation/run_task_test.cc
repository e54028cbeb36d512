// Tasks on a small model: several answers a question, and runs that are broken off and go on.
#include "train/evaluation/run_task.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "autograd/base/error.h"
#include "autograd/base/file.h"
#include "tests/fuzz/mutate.h"
#include "tests/message_of.h"
#include "tests/quant/temp_folder.h"
#include "train/evaluation/metrics.h"
#include "train/make_model.h"

namespace lapidary {
namespace {

using Json = nlohmann::ordered_json;

Bundle& Model() {
  static const TempFolder folder;
  static Bundle bundle = [] {
    MakeModel(MakeModelConfig("tiny", 2), folder.path() + "/base", {}, [](int64_t, int64_t) {});
    return OpenBundle(folder.path() + "/base");
  }();
  return bundle;
}

constexpr char kVowels[] = R"({"name": "vowels", "prompt": "{q}", "answer": "{a}",
    "extract": [{"pattern": "[aeiou]"}], "otherwise": "none", "metrics": ["exact_match", "cer"],
    "max_new_tokens": 6, "samples": 4})";
constexpr char kChoices[] = R"({"name": "choices", "kind": "choices", "prompt": "{q}",
    "options": "o", "answer_index": "i"})";

// Records for both tasks.
std::string Data(const TempFolder& folder) {
  std::string rows;
  for (int i = 0; i < 8; ++i) {
    rows += Json{{"q", "stone " + std::to_string(i) + "?"},
                 {"a", std::string(1, "aeiou"[i % 5])},
                 {"o", {"amber", "a basalt", "flint"}},
                 {"i", i % 3}}
                .dump() +
            "\n";
  }
  const std::string path = folder / "data.jsonl";
  WriteFile(path, rows);
  return path;
}

RunTaskOptions Options(const TempFolder& folder) {
  RunTaskOptions options;
  options.compute = Compute::kFloat32;
  options.journal = folder / "answers.jsonl";
  options.journal_settings = R"({"model": "m"})";
  return options;
}

std::vector<Json> Lines(const std::string& path) {
  std::istringstream in(ReadFile(path));
  std::vector<Json> lines;
  for (std::string line; std::getline(in, line);) lines.push_back(Json::parse(line));
  return lines;
}

// Figures and answers, without times.
Json What(EvalResults results) {
  results.seconds = 0;
  return ResultsJson(results, {});
}

// Figures of several samples, counted again from the texts: the mean over all answers, and how
// often one of a question's answers is right.
TEST(RunTask, SeveralSamples) {
  const TempFolder folder;
  const std::string data = Data(folder);
  const EvalTask task = ParseEvalTask(kVowels, "vowels");
  RunTaskOptions options = Options(folder);
  const EvalResults results = RunTask(Model(), task, {data}, options);
  ASSERT_EQ(results.metrics.size(), 3u);  // an error rate is not right or wrong
  EXPECT_EQ(results.metrics[2].name, "exact_match pass@4");
  const AnswerExtractor extract(task);
  double right = 0, one_right = 0;
  std::set<std::string> texts;
  const std::vector<Json> lines = Lines(options.journal);
  ASSERT_EQ(lines.size(), 32u);
  for (size_t i = 0; i < 8; ++i) {
    double here = 0;
    for (size_t k = 0; k < 4; ++k) {
      const Json& line = lines[4 * i + k];
      EXPECT_EQ(line["sample"], k);
      texts.insert(line["text"]);
      here += extract(WithoutThoughts(line["text"].get<std::string>())) ==
              std::string(1, "aeiou"[i % 5]);
    }
    right += here;
    one_right += here > 0;
    EXPECT_EQ(results.answers[i].rows[0], (std::vector<double>{here, 4}));
  }
  EXPECT_GT(texts.size(), 16u);  // drawn, not the same again
  EXPECT_GT(right, 0);
  EXPECT_GT(4 * one_right, right);
  const Json figures = What(results).at("figures");
  EXPECT_DOUBLE_EQ(figures.at("exact_match").at("value"), right / 32);
  EXPECT_DOUBLE_EQ(figures.at("exact_match pass@4").at("value"), one_right / 8);
  // One answer is the likeliest, and has no second figure.
  FinishTask(options);
  options.samples = 1;
  const EvalResults one = RunTask(Model(), task, {data}, options);
  EXPECT_EQ(one.metrics.size(), 2u);
  EXPECT_EQ(Lines(options.journal).size(), 8u);
  EXPECT_NE(MessageOf([&] {
              options.samples = 2;
              RunTask(Model(), ParseEvalTask(kChoices, "choices"), {data}, options);
            }).find("samples must be 1 where options are weighed; got 2"),
            std::string::npos);
}

// Broken off behind any record, and inside a line: the same results, and nothing is asked twice.
TEST(RunTask, GoesOnWhereItEnded) {
  for (const char* text : {kVowels, kChoices}) {
    const TempFolder folder;
    const std::string data = Data(folder);
    const EvalTask task = ParseEvalTask(text, "task");
    RunTaskOptions options = Options(folder);
    const Json want = What(RunTask(Model(), task, {data}, options));
    const std::string all = ReadFile(options.journal);
    FinishTask(options);
    EXPECT_FALSE(std::filesystem::exists(options.journal));
    options.on_record = [](int64_t done, int64_t) {
      if (done == 3) throw Error("broken off");
    };
    EXPECT_EQ(MessageOf([&] { RunTask(Model(), task, {data}, options); }), "broken off");
    const size_t before = Lines(options.journal).size();
    EXPECT_EQ(before, 3 * static_cast<size_t>(task.samples));
    const std::string kept = ReadFile(options.journal);
    options.on_record = nullptr;
    for (const size_t cut : {size_t{0}, size_t{9}}) {
      WriteFile(options.journal, kept.substr(0, kept.size() - cut));
      EXPECT_EQ(What(RunTask(Model(), task, {data}, options)), want) << text;
      const std::string again = ReadFile(options.journal);
      const size_t whole = kept.rfind('\n', kept.size() - cut - 1) + 1;  // lines that were whole
      EXPECT_EQ(again.substr(0, whole), kept.substr(0, whole));
      EXPECT_EQ(std::count(again.begin(), again.end(), '\n'),
                std::count(all.begin(), all.end(), '\n'));
    }
    RunTaskOptions other = options;
    other.journal_settings = R"({"model": "another"})";
    EXPECT_NE(MessageOf([&] {
                RunTask(Model(), task, {data}, other);
              }).find("must hold answers of the same model, data and settings"),
              std::string::npos);
  }
}

// Any bytes in the place of answers are read or refused.
TEST(RunTask, JournalsAreChecked) {
  const TempFolder folder;
  const std::string data = Data(folder);
  const EvalTask task = ParseEvalTask(kChoices, "choices");
  const RunTaskOptions options = Options(folder);
  RunTask(Model(), task, {data}, options);
  const std::string good = ReadFile(options.journal);
  int refused = 0, read = 0;
  for (uint64_t i = 0; i < 60; ++i) {
    WriteFile(options.journal, fuzz::Mutator(3, i)(good, good.size()));
    const std::string said = MessageOf([&] { RunTask(Model(), task, {data}, options); });
    ++(said == "no error" ? read : refused);
  }
  EXPECT_GT(refused, 5);
  EXPECT_GT(read, 5);
  for (const char* line : {R"({"where": 1, "sample": 0, "seconds": 1, "likelihoods": [1, 2, 3]})",
                           R"({"where": "a", "sample": 1, "seconds": 1, "likelihoods": [1]})",
                           R"({"where": "a", "sample": 0, "seconds": 1, "text": "a"})",
                           R"({"where": "a", "sample": 0, "seconds": 1, "likelihoods": [null]})"}) {
    WriteFile(options.journal, std::string(line) + "\n");
    EXPECT_NE(
        MessageOf([&] { RunTask(Model(), task, {data}, options); }).find("lines must be answers"),
        std::string::npos)
        << line;
  }
}

}  // namespace
}  // namespace lapidary
