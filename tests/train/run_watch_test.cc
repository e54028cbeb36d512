#include "train/run_watch.h"

#include <gtest/gtest.h>

#include <cmath>
#include <sstream>

#include "autograd/base/error.h"
#include "autograd/base/file.h"
#include "tests/fuzz/mutate.h"
#include "tests/quant/temp_folder.h"

namespace lapidary {
namespace {

std::string Metrics(int steps) {
  std::string text = "{\"step\":0,\"epoch\":0,\"eval_loss\":5.5}\n";
  for (int i = 1; i <= steps; ++i) {
    text += StrCat("{\"step\":", i, ",\"epoch\":", 0.1 * i, ",\"loss\":", 5.0 / i,
                   ",\"learning_rate\":1e-4,\"grad_norm\":2,\"num_tokens\":", 100 * i,
                   ",\"seconds\":0.5,\"tokens_per_s\":200,\"peak_memory_bytes\":5e8}\n");
  }
  return text;
}

TEST(RunWatch, ReadsARunThatGoes) {
  const TempFolder folder;
  EXPECT_THROW(ReadRun(folder.path()), Error);
  WriteFile(folder / "metrics.jsonl", Metrics(5) + "{\"step\":6,\"lo");
  WriteFile(folder / "training_config.json", "{\"max_steps\": -1, \"num_train_epochs\": 2}");
  const RunView view = ReadRun(folder.path());
  EXPECT_EQ(view.step, 5);
  EXPECT_EQ(view.total_steps, 20);  // ten steps an epoch, two epochs
  EXPECT_EQ(view.tokens, 500);
  EXPECT_EQ(view.loss.size(), 5u);
  EXPECT_EQ(view.eval_loss.size(), 1u);
  EXPECT_DOUBLE_EQ(view.seconds_per_step, 0.5);
  EXPECT_DOUBLE_EQ(view.SecondsLeft(), 7.5);
  EXPECT_FALSE(view.finished);
  const std::string text = WatchText(view, 60, 24);
  for (const char* part :
       {"step 5 of 20", "0:08 left", "200 tokens/s", "500 MB", "loss: 1", "gradient norm: 2"}) {
    EXPECT_NE(text.find(part), std::string::npos) << part << "\n" << text;
  }
  WriteFile(folder / "training_config.json", "{\"max_steps\": 5}");
  WriteFile(folder / "report.html", "x");
  EXPECT_TRUE(ReadRun(folder.path()).finished);
}

// The dots of a falling line go from the upper left to the lower right.
TEST(RunWatch, DrawsWithDots) {
  Curve curve;
  for (int i = 0; i < 8; ++i) curve.emplace_back(i, 7 - i);
  const std::string text = DrawCurve(curve, 14, 2);
  EXPECT_EQ(text, "\u2811\u2884\u2800\u2800 7\n\u2800\u2800\u2811\u2884 0\n");
  EXPECT_EQ(DrawCurve({}, 40, 3), "  no values yet\n");
  EXPECT_EQ(DrawCurve({{1, NAN}}, 40, 3), "  no values yet\n");
  EXPECT_NE(DrawCurve({{1, 2}}, 40, 3).find("2"), std::string::npos);
}

TEST(RunWatch, SurvivesMutatedMetrics) {
  const TempFolder folder;
  const std::string whole = Metrics(6);
  WriteFile(folder / "training_config.json", "{\"num_train_epochs\": 1e300}");
  for (uint64_t i = 0; i < 100; ++i) {
    WriteFile(folder / "metrics.jsonl", fuzz::Mutator(3, i)(whole, whole.size()));
    const std::string text = WatchText(ReadRun(folder.path()), 50, 20);
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) {
      int columns = 0;
      for (const char c : line) columns += (c & 0xc0) != 0x80;
      EXPECT_LE(columns, 70) << line;
    }
  }
}

}  // namespace
}  // namespace lapidary
