// Whole runs: what they write, and what they say when something is wrong.
#include "train/trainer.h"

#include <gtest/gtest.h>

#include "model/load.h"
#include "tests/train/tiny_run.h"
#include "train/progress.h"
#include "train/report.h"
#include "train/run_log.h"
#include "train/svg_plot.h"

namespace lapidary {
namespace {

namespace fs = std::filesystem;

const tiny::RunPlace& Place() {
  static const tiny::RunPlace place;
  return place;
}

std::string MessageOf(const std::string& out, const std::vector<std::string>& set) {
  try {
    Train(Place().Config(out, set), {});
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(Trainer, LearnsAndWritesEverything) {
  const std::string out = Place().path() + "/learn";
  const TrainSummary summary = Train(
      Place().Config("learn", {"dataset.eval=" + Place().path() + "/eval.jsonl", "eval_steps=5",
                               "report_samples=2", "num_train_epochs=6", "lora.lora_dropout=0"}),
      {});
  EXPECT_FALSE(summary.interrupted);
  EXPECT_EQ(summary.steps, 18);  // 5 micro-batches an epoch, two a step, the last step short
  EXPECT_EQ(summary.total_steps, 18);
  std::vector<double> losses, evals;
  for (const auto& line : summary.log) {
    if (line.contains("loss")) losses.push_back(line["loss"]);
    if (line.contains("eval_loss")) evals.push_back(line["eval_loss"]);
  }
  ASSERT_EQ(losses.size(), 18u);
  EXPECT_LT(losses.back(), 0.6 * losses.front());
  ASSERT_EQ(evals.size(), 5u);  // before, after steps 5, 10, 15, at the end
  EXPECT_LT(evals.back(), evals.front());
  for (const char* name : {"adapter_model.safetensors", "adapter_config.json", "metrics.jsonl",
                           "report.html", "run_card.json", "training_config.json",
                           "checkpoint-18/trainer_state.h5", "checkpoint-18/trainer_state.json"}) {
    EXPECT_TRUE(fs::exists(out + "/" + name)) << name;
  }
  EXPECT_EQ(std::distance(fs::directory_iterator(out), fs::directory_iterator()),
            6 + 2 + 1);  // the files, two checkpoints, the lock
  const auto state = nlohmann::json::parse(ReadFile(out + "/checkpoint-18/trainer_state.json"));
  EXPECT_EQ(state["global_step"], 18);
  EXPECT_EQ(state["max_steps"], 18);
  EXPECT_DOUBLE_EQ(state["epoch"], 6.0);
  EXPECT_EQ(state["log_history"].size(), summary.log.size());
  const auto adapter = nlohmann::json::parse(ReadFile(out + "/adapter_config.json"));
  EXPECT_EQ(adapter["base_model_name_or_path"], Place().path() + "/base");
  const std::string report = ReadFile(out + "/report.html");
  EXPECT_EQ(report.find("<script"), std::string::npos);
  EXPECT_EQ(report.find("http://"), std::string::npos);
  EXPECT_EQ(report.find("https://"), std::string::npos);
  for (const char* text : {"Loss", "Learning rate", "Gradient norm", "Held-out data", "Answers",
                           "Samples by length", "tokens in the longest sample",
                           "--set output_dir=", "SHA-256", "amber and a little more", "</html>"}) {
    EXPECT_NE(report.find(text), std::string::npos) << text;
  }
}

TEST(Trainer, AFullFineTuningIsACheckpointToLoad) {
  Train(Place().Config("full", {"lora=null", "max_steps=2", "learning_rate=1e-3"}), {});
  const std::string out = Place().path() + "/full";
  EXPECT_TRUE(LoadModel(out).warnings.empty());
  EXPECT_TRUE(fs::exists(out + "/tokenizer.json"));
  EXPECT_TRUE(fs::exists(out + "/chat_template.jinja"));
  EXPECT_NE(HashFile(out + "/model.safetensors"),
            HashFile(Place().path() + "/base/model.safetensors"));
  // It can be the base of the next run.
  EXPECT_EQ(MessageOf("next", {"model_name_or_path=" + out, "max_steps=1"}), "no error");
}

TEST(Trainer, MistakesAreOneLine) {
  const std::string base = Place().path();
  EXPECT_EQ(MessageOf("e1", {"model_name_or_path=" + base + "/nowhere"}),
            base +
                "/nowhere: a model must be a folder with config.json and safetensors, or a "
                ".gguf file; got nothing");
  EXPECT_EQ(MessageOf("e2", {"dataset.train=" + base + "/nowhere.jsonl"}),
            base + "/nowhere.jsonl: cannot open; got No such file or directory");
  WriteFile(base + "/empty.jsonl", "\n\n");
  EXPECT_EQ(MessageOf("e3", {"dataset.train=" + base + "/empty.jsonl"}),
            base + "/empty.jsonl: must have at least one record; got 1 source(s) without any");
  WriteFile(base + "/masked.jsonl",
            R"({"messages": [{"role": "user", "content": "only a question"}]})"
            "\n");
  EXPECT_EQ(MessageOf("e4", {"dataset.train=" + base + "/masked.jsonl"}),
            base +
                "/masked.jsonl:1: a sample must have tokens to train; got none; try an "
                "assistant message");
  const std::string skipped =
      MessageOf("e5", {"dataset.train=" + base + "/masked.jsonl", "on_error=skip"});
  EXPECT_NE(skipped.find("none of them usable"), std::string::npos) << skipped;
  const std::string too_long = MessageOf("e6", {"max_length=4"});
  EXPECT_NE(too_long.find("train.jsonl:"), std::string::npos) << too_long;
  EXPECT_NE(too_long.find("max_length"), std::string::npos) << too_long;
  const std::string target = MessageOf("e7", {"lora.target_modules=[\"nothing\"]"});
  EXPECT_NE(target.find("got 'nothing', which matches none"), std::string::npos) << target;
  WriteFile(base + "/broken.jsonl", ReadFile(base + "/train.jsonl") + "{not json\n");
  const std::string broken = MessageOf("e8", {"dataset.train=" + base + "/broken.jsonl"});
  EXPECT_EQ(broken.find(base + "/broken.jsonl:11: "), 0u) << broken;
  for (const std::string& text : {skipped, too_long, target, broken}) {
    EXPECT_EQ(text.find('\n'), std::string::npos) << text;
  }
}

TEST(Trainer, ABrokenRecordCanBeSkippedAloud) {
  const std::string base = Place().path();
  WriteFile(base + "/mixed.jsonl", ReadFile(base + "/train.jsonl") + "{not json\n");
  const TrainSummary summary = Train(
      Place().Config("skip", {"dataset.train=" + base + "/mixed.jsonl", "on_error=skip"}), {});
  ASSERT_FALSE(summary.warnings.empty());
  EXPECT_EQ(summary.warnings[0].find(base + "/mixed.jsonl:11: "), 0u) << summary.warnings[0];
}

TEST(Trainer, ASecondRunIntoTheSameFolder) {
  EXPECT_EQ(MessageOf("twice", {"max_steps=1"}), "no error");
  EXPECT_EQ(MessageOf("twice", {"max_steps=1"}),
            Place().path() +
                "/twice: output_dir must be without an earlier run; got 'training_config.json'; "
                "try another output_dir, --resume, or --set overwrite_output_dir=true");
  EXPECT_EQ(MessageOf("twice", {"max_steps=1", "overwrite_output_dir=true"}), "no error");
}

TEST(RunLog, KeepsTheLinesOfEarlierSteps) {
  const std::string path = Place().path() + "/log.jsonl";
  WriteFile(path, "{\"step\":1}\n{\"step\":2}\n{\"step\":3}\n{\"st");
  { RunLog(path, 2).Add({{"step", 3}, {"again", true}}); }
  EXPECT_EQ(ReadFile(path), "{\"step\":1}\n{\"step\":2}\n{\"step\":3,\"again\":true}\n");
  { RunLog log(path, -1); }
  EXPECT_EQ(ReadFile(path), "");
}

TEST(Progress, BarsAndNumbers) {
  EXPECT_EQ(ClockText(59.6), "1:00");
  EXPECT_EQ(ClockText(3661), "1:01:01");
  EXPECT_EQ(ClockText(NAN), "?");
  EXPECT_EQ(CountText(1234567), "1,234,567");
  EXPECT_EQ(CountText(-1000), "-1,000");
  EXPECT_EQ(CountText(999), "999");
  EXPECT_EQ(BytesText(1.5e9), "1.50 GB");
  const Progress progress(nullptr, "train", 10);
  EXPECT_EQ(progress.Bar(5, "loss 1.0", 50, 70),
            "train [============>           ] 5/10  0:50 < 0:50  loss 1.0");
  EXPECT_LE(progress.Bar(5, std::string(200, 'x'), 50, 60).size(), 59u);
}

TEST(SvgPlot, EscapesAndSurvivesOddValues) {
  EXPECT_EQ(HtmlText("<a & \"b\">"), "&lt;a &amp; &quot;b&quot;&gt;");
  EXPECT_NE(PlotSvg({.title = "t", .series = {}}).find("no values"), std::string::npos);
  Plot plot;
  plot.title = "loss <1>";
  plot.series = {{"a", "#000", {{1, 2}, {2, NAN}, {3, INFINITY}, {4, 5}}, true}};
  const std::string svg = PlotSvg(plot);
  EXPECT_EQ(svg.find("nan"), std::string::npos);
  EXPECT_EQ(svg.find("inf"), std::string::npos);
  EXPECT_NE(svg.find("loss &lt;1&gt;"), std::string::npos);
  plot.series = {{"a", "#000", {{1, 2}}, false}};
  EXPECT_NE(PlotSvg(plot).find("<circle"), std::string::npos);
}

}  // namespace
}  // namespace lapidary
