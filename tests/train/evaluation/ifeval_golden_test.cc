// IFEval's checks against lm-evaluation-harness's verdicts (golden/eval/ifeval.json).
#include <gtest/gtest.h>

#include <cstdio>
#include <nlohmann/json.hpp>

#include "autograd/base/error.h"
#include "autograd/base/file.h"
#include "tests/golden.h"
#include "train/evaluation/ifeval.h"

namespace lapidary {
namespace {

using Json = nlohmann::ordered_json;

TEST(IfevalGolden, EqualsTheHarness) {
  int cases = 0;
  for (const std::string& path : golden::Find("eval/ifeval.json")) {
    const Json golden = Json::parse(ReadFile(path));
    const Json& instructions = golden.at("instructions");
    std::vector<int> seen(2 * instructions.size());
    for (const Json& c : golden.at("cases")) {
      const std::string text = c.at("text");
      for (size_t i = 0; i < instructions.size(); ++i) {
        const Json& verdicts = c.at("verdicts")[i];
        if (verdicts.is_null()) continue;
        for (size_t k = 0; k < verdicts.size(); ++k) {
          const Json row = {{"instruction_id_list", {instructions[i][0]}},
                            {"kwargs", {instructions[i][1][k]}}};
          const auto rows = IfevalRows(row, text, "test");
          EXPECT_EQ(rows[0][0], verdicts[k][0].get<double>())
              << instructions[i][0] << instructions[i][1][k] << " strict of '" << text << "'";
          EXPECT_EQ(rows[2][0], verdicts[k][1].get<double>())
              << instructions[i][0] << instructions[i][1][k] << " loose of '" << text << "'";
          seen[2 * i + static_cast<size_t>(verdicts[k][0].get<int>())] = 1;
          ++cases;
        }
      }
    }
    for (size_t i = 0; i < instructions.size(); ++i) {
      EXPECT_TRUE(seen[2 * i] && seen[2 * i + 1]) << instructions[i][0] << " has one verdict only";
    }
  }
  std::printf("%d verdicts, strict and loose\n", cases);
  EXPECT_GT(cases, 0) << "no golden/eval/ifeval.json under any root";
}

TEST(Ifeval, SumsAndErrors) {
  const Json row = {{"instruction_id_list", {"punctuation:no_comma", "startend:quotation"}},
                    {"kwargs", {Json::object(), nullptr}}};
  const auto rows = IfevalRows(row, "Sure, here:\n\"no comma\"", "here");
  const std::vector<std::vector<double>> want = {{0, 1}, {0, 2}, {1, 1}, {2, 2}};
  EXPECT_EQ(rows, want);
  const auto message = [](const Json& r) {
    try {
      IfevalRows(r, "text", "file:3");
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("no error");
  };
  EXPECT_NE(message({{"instruction_id_list", {"x:y"}}, {"kwargs", {nullptr}}}).find("file:3: "),
            std::string::npos);
  EXPECT_NE(message({{"instruction_id_list", {"keywords:existence"}}, {"kwargs", {nullptr}}})
                .find("'keywords' must be a list"),
            std::string::npos);
  EXPECT_NE(message({{"instruction_id_list", {"keywords:existence"}}, {"kwargs", Json::array()}})
                .find("every instruction"),
            std::string::npos);
  EXPECT_NE(message({{"instruction_id_list", {"keywords:existence"}},
                     {"kwargs", {{{"keywords", {"("}}}}}})
                .find("regular expression"),
            std::string::npos);
}

}  // namespace
}  // namespace lapidary
