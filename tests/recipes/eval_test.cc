// `lapidary eval` from outside: text, a reference, groups, two models side by side.
#include <gtest/gtest.h>

#include <cmath>
#include <csignal>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "autograd/base/file.h"
#include "tests/recipes/program.h"

namespace lapidary {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using Words = std::vector<std::string>;

const Workshop& Shop() {
  static const Workshop shop;
  return shop;
}

json Eval(Words words, int code = 0) {
  words.insert(words.begin(), "eval");
  words.insert(words.end(), {"--json", "--quiet"});
  const Finished run = Shop().Run(words);
  EXPECT_EQ(run.code, code) << run.err;
  const json parsed = json::parse(run.out, nullptr, false);
  EXPECT_TRUE(parsed.is_object()) << run.out << run.err;
  return parsed;
}

std::string ErrorOf(Words words) {
  words.insert(words.begin(), "eval");
  const Finished run = Shop().Run(words);
  EXPECT_EQ(run.code, 2) << run.out;
  return run.err;
}

TEST(Eval, TextInWindows) {
  std::string text;
  for (int i = 0; i < 200; ++i)
    text += "A stone is a stone, and number " + std::to_string(i) + ". ";
  WriteFile(Shop() / "text.txt", text);
  const json result =
      Eval({"--model", "base", "--text", "text.txt", "--ppl-window", "64", "--out", "text.json"});
  EXPECT_GT(result.at("records").get<int>(), 10);
  EXPECT_EQ(result.at("targets"), 31 * result.at("records").get<int>());
  EXPECT_NEAR(std::log(result.at("perplexity").get<double>()), result.at("loss").get<double>(),
              1e-9);
  EXPECT_GT(result.at("perplexity_error").get<double>(), 0);
  EXPECT_LT(result.at("loss_interval")[0], result.at("loss"));
  EXPECT_GT(result.at("loss_interval")[1], result.at("loss"));
  const json stored = json::parse(ReadFile(Shop() / "text.json"));
  EXPECT_EQ(stored.at("loss"), result.at("loss"));
  const json same = Eval({"--model", "base", "--text", "text.txt", "--ppl-window", "64",
                          "--ppl-stride", "16", "--reference", "base"});
  EXPECT_EQ(same.at("reference").at("kl"), 0);
  EXPECT_EQ(same.at("reference").at("top_agreement"), 1);
}

TEST(Eval, GroupsByFieldAndByFile) {
  const json files = Eval({"--model", "base", "--data", "one=train.jsonl", "--data", "eval.jsonl"});
  EXPECT_EQ(files.at("by_group").size(), 2u);
  EXPECT_EQ(files.at("by_group").at("eval").at("records"), 3);
  EXPECT_TRUE(files.at("by_group").contains("one"));
  std::string tagged;
  for (int i = 0; i < 4; ++i) {
    tagged +=
        json{{"kind", i % 2},
             {"messages",
              {{{"role", "user"}, {"content", "q"}}, {{"role", "assistant"}, {"content", "a"}}}}}
            .dump() +
        "\n";
  }
  WriteFile(Shop() / "tagged.jsonl", tagged);
  const json fields = Eval({"--model", "base", "--data", "tagged.jsonl", "--group", "kind"});
  EXPECT_EQ(fields.at("by_group").at("0").at("records"), 2);
  EXPECT_NE(
      ErrorOf({"--model", "base", "--data", "tagged.jsonl", "--group", "kinds"}).find("try 'kind'"),
      std::string::npos);
}

// A model is itself; a broken one is worse, says so, and gives exit code 1.
TEST(Eval, CompareTellsHarm) {
  std::string many;
  for (int i = 0; i < 5; ++i) many += ReadFile(Shop() / "train.jsonl");
  WriteFile(Shop() / "many.jsonl", many);
  const json same =
      Eval({"--compare", "base", "base", "--data", "many.jsonl", "--answers", "--limit", "8"});
  EXPECT_EQ(same.at("worse"), false);
  EXPECT_EQ(same.at("groups")[0].at("kl"), 0);
  EXPECT_EQ(same.at("groups")[0].at("answers").at("total"), 8);
  EXPECT_EQ(Shop()
                .Run({"train", "lora.json", "--set", "output_dir=tuned", "--set", "max_steps=8",
                      "--set", "learning_rate=0.02", "--quiet"})
                .code,
            0);
  const json better =
      Eval({"--compare", "base", "tuned", "--data", "many.jsonl", "--html", "page.html"});
  EXPECT_EQ(better.at("groups")[0].at("better"), true);
  EXPECT_LT(better.at("groups")[0].at("loss_change").at("high"), 0);
  EXPECT_NE(ReadFile(Shop() / "page.html").find("</html>"), std::string::npos);
  // The way back: what was tuned, untuned.
  EXPECT_EQ(
      Shop()
          .Run({"export", "--model", "base", "--adapter", "tuned", "--out", "safetensors=merged"})
          .code,
      0);
  const json worse = Eval({"--compare", "merged", "base", "--data", "m=many.jsonl"}, 1);
  EXPECT_EQ(worse.at("worse"), true);
  EXPECT_NE(worse.at("verdict").get<std::string>().find("got worse: all: loss"), std::string::npos)
      << worse.at("verdict");
  EXPECT_FALSE(worse.at("worst").empty());
}

// A ready task by its name, its results compared with another run's.
TEST(Eval, TasksRunAndCompare) {
  std::string rows;
  for (int i = 0; i < 6; ++i) {
    rows += json{{"question", "stone " + std::to_string(i) + "?"},
                 {"choices", {"amber", "basalt"}},
                 {"answer", i % 2}}
                .dump() +
            "\n";
  }
  WriteFile(Shop() / "quiz.jsonl", rows);
  const json result = Eval({"--model", "base", "--task", "multiple_choice", "--data", "quiz.jsonl",
                            "--out", "quiz.json", "--html", "quiz.html"});
  EXPECT_EQ(result.at("records").size(), 6u);
  EXPECT_GE(result.at("figures").at("acc").at("high"), result.at("figures").at("acc").at("value"));
  EXPECT_NE(ReadFile(Shop() / "quiz.html").find("</html>"), std::string::npos);
  const Finished pair = Shop().Run({"compare", "a=quiz.json", "b=quiz.json", "--json"});
  EXPECT_EQ(pair.code, 0) << pair.err;
  EXPECT_EQ(json::parse(pair.out)[0].at("p_mcnemar"), 1);
  EXPECT_NE(ErrorOf({"--model", "base", "--task", "multiple_choise", "--data", "quiz.jsonl"})
                .find("try multiple_choice"),
            std::string::npos);
  const json scored = Eval({"--model", "base", "--data", "eval.jsonl", "--score", "wer", "--score",
                            "rougeL", "--no-loss", "--max-new-tokens", "3", "--out", "s.json"});
  EXPECT_EQ(scored.at("records").size(), 3u);
  EXPECT_GT(scored.at("figures").at("wer").at("value").get<double>(), 0);
  EXPECT_EQ(Shop().Run({"compare", "a=s.json", "b=s.json"}).code, 0);
  EXPECT_NE(ErrorOf({"--model", "base", "--data", "eval.jsonl", "--score", "wre"})
                .find("scorer: must be a known one; got 'wre'"),
            std::string::npos);
  EXPECT_NE(Shop().Run({"eval", "--scorers"}).out.find("rougeL"), std::string::npos);
}

// Killed in the middle, the same call gives the results of one that was not.
TEST(Eval, TaskGoesOnAfterAKill) {
  WriteFile(Shop() / "say.json", R"({"name": "say", "prompt": "{q}", "answer": "{q}",
      "metrics": ["contains"], "samples": 2, "max_new_tokens": 40})");
  std::string rows;
  for (int i = 0; i < 20; ++i) rows += json{{"q", "stone " + std::to_string(i)}}.dump() + "\n";
  WriteFile(Shop() / "say.jsonl", rows);
  const auto words = [](const std::string& out) {
    return Words{"eval",      "--model", "base", "--task",  "say.json", "--data",
                 "say.jsonl", "--out",   out,    "--quiet", "--seed",   "7"};
  };
  const auto results = [](const std::string& path) {
    json parsed = json::parse(ReadFile(Shop() / path));
    parsed.erase("seconds");
    return parsed;
  };
  ASSERT_EQ(Shop().Run(words("whole.json")).code, 0);
  EXPECT_FALSE(fs::exists(Shop() / "whole.json.part.jsonl"));
  const std::string part = Shop() / "cut.json.part.jsonl";
  HowToRun killed;
  killed.signal = SIGKILL;
  for (killed.milliseconds = 40; killed.milliseconds < 5000; killed.milliseconds *= 1.4) {
    Shop().Run(words("cut.json"), killed);
    ASSERT_FALSE(fs::exists(Shop() / "cut.json"));
    if (fs::exists(part) && !ReadFile(part).empty()) break;
  }
  const std::string kept = ReadFile(part);
  ASSERT_FALSE(kept.empty());
  Words other = words("cut.json");
  other.back() = "8";
  const Finished refused = Shop().Run(other);
  EXPECT_EQ(refused.code, 2);
  EXPECT_NE(refused.err.find("cut.json.part.jsonl: must hold answers of the same model"),
            std::string::npos)
      << refused.err;
  EXPECT_EQ(ReadFile(part), kept);
  ASSERT_EQ(Shop().Run(words("cut.json")).code, 0);
  EXPECT_EQ(results("cut.json"), results("whole.json"));
  EXPECT_TRUE(results("cut.json").at("figures").contains("contains pass@2"));
  EXPECT_FALSE(fs::exists(part));
}

TEST(Eval, WrongCallsAreNamed) {
  EXPECT_NE(ErrorOf({"--data", "eval.jsonl"}).find("--model must be given"), std::string::npos);
  EXPECT_NE(ErrorOf({"--model", "base"}).find("one of --data, --text and --tokens"),
            std::string::npos);
  EXPECT_NE(ErrorOf({"--model", "base", "--data", "eval.jsonl", "--ppl-window", "8"})
                .find("--ppl-window"),
            std::string::npos);
  EXPECT_NE(ErrorOf({"--model", "base", "--text", "eval.jsonl", "--ppl-window", "4096"})
                .find("try a smaller --ppl-window"),
            std::string::npos);
  EXPECT_NE(ErrorOf({"--model", "base", "--data", "eval.jsonl", "--answers", "--samples", "3"})
                .find("--samples: must come with --task"),
            std::string::npos);
  EXPECT_NE(ErrorOf({"--compare", "base", "base"}).find("--data must be given"), std::string::npos);
}

}  // namespace
}  // namespace lapidary
