#include "train/config.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "autograd/base/error.h"

namespace lapidary {
namespace {

const char kMinimal[] = R"({
  // comments are fine
  "model_name_or_path": "base",
  "dataset": {"train": "train.jsonl"}, /* and these */
  "output_dir": "out"
})";

std::string With(const std::string& extra) {
  return StrCat(R"({"model_name_or_path": "base", "dataset": {"train": ["a", "b"]},)",
                R"( "output_dir": "out", )", extra, "}");
}

std::string MessageOf(const std::string& text, const std::vector<std::string>& overrides = {}) {
  try {
    ParseTrainConfig(text, "my.json", overrides);
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(TrainConfig, DefaultsAreFilledIn) {
  const TrainConfig config = ParseTrainConfig(kMinimal, "my.json", {});
  EXPECT_EQ(config.model_name_or_path, "base");
  ASSERT_EQ(config.train_files.size(), 1u);
  EXPECT_EQ(config.train_files[0].path, "train.jsonl");
  EXPECT_FALSE(config.lora);
  EXPECT_EQ(config.learning_rate, 2e-5);
  EXPECT_EQ(config.compute, "bfloat16");
  EXPECT_EQ(ParseTrainConfig(With(R"("lora": {})"), "my.json", {}).learning_rate, 2e-4);
}

TEST(TrainConfig, LoraAsInPeft) {
  const TrainConfig config = ParseTrainConfig(
      With(R"("lora": {"r": 4, "lora_alpha": 8, "lora_dropout": 0.1, "use_rslora": true,
              "use_dora": true, "target_modules": ["q_proj", "v_proj"],
              "modules_to_save": ["embedding_projection"], "rank_pattern": {"up_proj": 2},
              "alpha_pattern": {"up_proj": 3.5}})"),
      "my.json", {});
  ASSERT_TRUE(config.lora);
  EXPECT_EQ(config.lora->r, 4);
  EXPECT_EQ(config.lora->lora_alpha, 8);
  EXPECT_TRUE(config.lora->use_rslora);
  EXPECT_TRUE(config.lora->use_dora);
  EXPECT_FALSE(config.lora->target_modules.is_regex);
  EXPECT_EQ(config.lora->target_modules.names, (std::vector<std::string>{"q_proj", "v_proj"}));
  EXPECT_EQ(config.lora->rank_pattern[0], (std::pair<std::string, int64_t>{"up_proj", 2}));
  EXPECT_EQ(config.lora->alpha_pattern[0], (std::pair<std::string, double>{"up_proj", 3.5}));
  const TrainConfig word =
      ParseTrainConfig(With(R"("lora": {"target_modules": "all-linear"})"), "my.json", {});
  EXPECT_TRUE(word.lora->target_modules.is_regex);
  EXPECT_EQ(word.lora->target_modules.names, std::vector<std::string>{"all-linear"});
}

TEST(TrainConfig, ResolvedTextParsesToItself) {
  for (const std::string& extra :
       {std::string(R"("seed": 1)"),
        std::string(R"("lora": {"r": 4, "rank_pattern": {"x": 2}}, "resume_from_checkpoint": true,
                       "lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": {"power": 2})")}) {
    const TrainConfig config = ParseTrainConfig(With(extra), "my.json", {});
    const std::string text = TrainConfigText(config);
    EXPECT_EQ(TrainConfigText(ParseTrainConfig(text, "resolved", {})), text);
  }
}

TEST(TrainConfig, OverridesReachEveryDepth) {
  const TrainConfig config = ParseTrainConfig(
      kMinimal, "my.json",
      {"learning_rate=1e-3", "lora.r=8", "lora.target_modules=[\"q_proj\"]", "output_dir=other",
       "dataset.eval=held.jsonl", "resume_from_checkpoint=true", "max_steps=7"});
  EXPECT_EQ(config.learning_rate, 1e-3);
  EXPECT_EQ(config.lora->r, 8);
  EXPECT_EQ(config.lora->target_modules.names, std::vector<std::string>{"q_proj"});
  EXPECT_EQ(config.output_dir, "other");
  ASSERT_EQ(config.train_files.size(), 1u);
  EXPECT_EQ(config.train_files[0].path, "train.jsonl");
  ASSERT_EQ(config.eval_files.size(), 1u);
  EXPECT_EQ(config.eval_files[0].path, "held.jsonl");
  EXPECT_EQ(config.resume_from_checkpoint, "latest");
  EXPECT_EQ(config.max_steps, 7);
}

TEST(TrainConfig, EveryMistakeIsOneLineWithFileAndKey) {
  EXPECT_EQ(MessageOf(With(R"("learning_rte": 1)")),
            "my.json: keys must be known; got 'learning_rte'; try 'learning_rate'");
  EXPECT_EQ(MessageOf(With(R"("zzzzz": 1)")),
            "my.json: keys must be known; got 'zzzzz'; try --print-config for the list");
  EXPECT_EQ(MessageOf(With(R"("lora": {"rank": 8})")),
            "my.json: keys must be known; got 'lora.rank'; try --print-config for the list");
  EXPECT_EQ(MessageOf(With(R"("lora": {"target_module": "q"})")),
            "my.json: keys must be known; got 'lora.target_module'; try 'lora.target_modules'");
  EXPECT_EQ(MessageOf(R"({"dataset": {"trian": "x"}})"),
            "my.json: keys must be known; got 'dataset.trian'; try 'dataset.train'");
  EXPECT_EQ(MessageOf(With(R"("seed": "x")")),
            "my.json: 'seed' must be an integer >= 0; got \"x\"");
  EXPECT_EQ(MessageOf(With(R"("seed": 1.5)")), "my.json: 'seed' must be an integer >= 0; got 1.5");
  EXPECT_EQ(MessageOf(With(R"("seed": 18446744073709551615)")),
            "my.json: 'seed' must be an integer >= 0; got 18446744073709551615");
  EXPECT_EQ(MessageOf(With(R"("lora": {"r": 0})")),
            "my.json: 'lora.r' must be an integer from 1 to 1048576; got 0");
  EXPECT_EQ(MessageOf(With(R"("lora": 5)")), "my.json: 'lora' must be an object or null; got 5");
  EXPECT_EQ(MessageOf(With(R"("packing": "yes")")),
            "my.json: 'packing' must be true or false; got \"yes\"");
  EXPECT_EQ(MessageOf(With(R"("compute": "bfloat61")")),
            "my.json: 'compute' must be one of bfloat16, float32; got \"bfloat61\"; try "
            "'bfloat16'");
  EXPECT_EQ(MessageOf(With(R"("weight_decay": -1)")),
            "my.json: 'weight_decay' must be a number from 0 to 1000; got -1");
  EXPECT_EQ(MessageOf(With(R"("max_steps": 0)")),
            "my.json: 'max_steps' must be above 0, or -1 for none; got 0");
  EXPECT_EQ(MessageOf(With(R"("loss_chunk": 100)")),
            "my.json: 'loss_chunk' must be a multiple of 64; got 100");
  EXPECT_EQ(MessageOf(With(R"("image_seq_length": 100)")),
            "my.json: 'image_seq_length' must be 70, 140, 280, 560 or 1120 (0: the checkpoint's); "
            "got 100");
  EXPECT_EQ(MessageOf(With(R"("lr_scheduler_kwargs": {"power": 2})")),
            "my.json: lr_scheduler_kwargs.power: the schedule 'linear' must know it; got one that "
            "knows: ");
  EXPECT_EQ(MessageOf("{}"),
            "my.json: 'model_name_or_path' must be given; got none; try the folder of a "
            "checkpoint");
  EXPECT_EQ(MessageOf(R"({"model_name_or_path": "m", "output_dir": "o"})"),
            "my.json: 'dataset.train' must be given; got none; try \"dataset\": {\"train\": "
            "\"my.jsonl\"}");
  EXPECT_EQ(MessageOf(With(R"("seed": 1, "seed": 2)")),
            "my.json: a key must stand once; got 'seed' twice");
  EXPECT_EQ(MessageOf("[]"), "my.json: must be a JSON object; got []");
  EXPECT_NE(
      MessageOf("{").find("my.json: must be JSON (comments are fine); got an error at line 1"),
      std::string::npos);
  EXPECT_EQ(MessageOf(kMinimal, {"seed=-1"}), "--set: 'seed' must be an integer >= 0; got -1");
  EXPECT_EQ(MessageOf(kMinimal, {"seed"}),
            "--set: must be key=value; got 'seed'; try --set max_steps=10");
  EXPECT_EQ(MessageOf(kMinimal, {"output_dir.x=1"}),
            "--set: 'output_dir.x' must lead through objects; got \"out\" above it");
  EXPECT_EQ(MessageOf(kMinimal, {"sed=1"}), "--set: keys must be known; got 'sed'; try 'seed'");
}

TEST(TrainConfig, AMissingFileIsNamed) {
  try {
    LoadTrainConfig("/nonexistent/my.json", {});
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "/nonexistent/my.json: cannot open; got No such file or directory");
  }
}

// The configurations that come with the program.
TEST(TrainConfig, RecipesAreValid) {
  int count = 0;
  for (const auto& entry :
       std::filesystem::directory_iterator(LAPIDARY_SOURCE_DIR "/recipes/configs")) {
    if (entry.path().extension() != ".json") continue;
    EXPECT_NO_THROW(LoadTrainConfig(entry.path().string(), {})) << entry.path();
    ++count;
  }
  EXPECT_GE(count, 4);
}

TEST(TrainConfig, HelpHasEveryKey) {
  const std::string help = TrainConfigHelp();
  const TrainConfig blank;
  const nlohmann::ordered_json defaults = TrainConfigJson(blank);
  for (const auto& [key, value] : defaults.items()) {
    EXPECT_NE(help.find(key == "dataset" ? "dataset.train" : key), std::string::npos) << key;
  }
}

}  // namespace
}  // namespace lapidary
