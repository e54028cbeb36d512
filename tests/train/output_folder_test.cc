#include "train/output_folder.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "autograd/base/error.h"
#include "autograd/base/file.h"
#include "tests/quant/temp_folder.h"

namespace lapidary {
namespace {

namespace fs = std::filesystem;

class OutputFolderTest : public testing::Test {
 protected:
  OutputFolderTest() {
    config_.output_dir = path_ + "/run";
    config_.model_name_or_path = path_ + "/base";
  }

  std::string Message() const {
    try {
      OutputFolder folder(config_);
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  }
  static void Fill(const std::string& folder) {
    WriteFile(folder + "/adapter_model.safetensors", "weights");
    WriteFile(folder + "/trainer_state.json", "{}");
  }

  const TempFolder folder_;
  const std::string path_ = folder_.path();
  TrainConfig config_;
};

TEST_F(OutputFolderTest, OneRunAtATime) {
  const OutputFolder first(config_);
  EXPECT_EQ(Message(), config_.output_dir +
                           ": output_dir must belong to one run at a time; got one that another "
                           "process is writing; try another output_dir");
}

TEST_F(OutputFolderTest, ASecondRunNeedsAWord) {
  { OutputFolder(config_).AddCheckpoint(3, Fill, 0); }
  EXPECT_EQ(Message(), config_.output_dir +
                           ": output_dir must be without an earlier run; got 'checkpoint-3'; try "
                           "another output_dir, --resume, or --set overwrite_output_dir=true");
  config_.resume_from_checkpoint = "latest";
  EXPECT_EQ(OutputFolder(config_).resume()->step, 3);
  config_.resume_from_checkpoint.clear();
  config_.overwrite_output_dir = true;
  WriteFile(config_.output_dir + "/notes.txt", "mine");
  WriteFile(config_.output_dir + "/metrics.jsonl", "");
  EXPECT_EQ(Message(), "no error");
  EXPECT_FALSE(LatestCheckpoint(config_.output_dir));
  EXPECT_FALSE(fs::exists(config_.output_dir + "/metrics.jsonl"));
  EXPECT_EQ(ReadFile(config_.output_dir + "/notes.txt"), "mine");
}

TEST_F(OutputFolderTest, TheLimitRemovesTheOldest) {
  OutputFolder folder(config_);
  for (const int64_t step : {5, 10, 15}) folder.AddCheckpoint(step, Fill, 2);
  EXPECT_FALSE(fs::exists(config_.output_dir + "/checkpoint-5"));
  EXPECT_TRUE(fs::exists(config_.output_dir + "/checkpoint-10"));
  EXPECT_EQ(LatestCheckpoint(config_.output_dir)->step, 15);
  folder.AddCheckpoint(7, Fill, 2);  // a branch that began earlier: the new one stays
  EXPECT_TRUE(fs::exists(config_.output_dir + "/checkpoint-7"));
}

TEST_F(OutputFolderTest, AnOldCheckpointIsReplacedInOneStep) {
  OutputFolder folder(config_);
  folder.AddCheckpoint(1, Fill, 0);
  folder.AddCheckpoint(
      1,
      [](const std::string& at) {
        Fill(at);
        WriteFile(at + "/adapter_model.safetensors", "better");
      },
      0);
  EXPECT_EQ(ReadFile(config_.output_dir + "/checkpoint-1/adapter_model.safetensors"), "better");
  EXPECT_FALSE(fs::exists(config_.output_dir + "/tmp-checkpoint-1"));
}

TEST_F(OutputFolderTest, AFailedCheckpointLeavesNothing) {
  OutputFolder folder(config_);
  folder.AddCheckpoint(1, Fill, 0);
  EXPECT_THROW(folder.AddCheckpoint(
                   2,
                   [](const std::string& at) {
                     Fill(at);
                     throw Error("no");
                   },
                   1),
               Error);
  EXPECT_EQ(LatestCheckpoint(config_.output_dir)->step, 1);
  EXPECT_FALSE(fs::exists(config_.output_dir + "/tmp-checkpoint-2"));
}

TEST_F(OutputFolderTest, IncompleteFoldersDoNotCount) {
  { OutputFolder(config_).AddCheckpoint(1, Fill, 0); }
  fs::create_directory(config_.output_dir + "/checkpoint-9");
  fs::create_directory(config_.output_dir + "/checkpoint-x");
  fs::create_directory(config_.output_dir + "/tmp-checkpoint-10");
  EXPECT_EQ(LatestCheckpoint(config_.output_dir)->step, 1);
  config_.resume_from_checkpoint = "latest";
  EXPECT_EQ(OutputFolder(config_).resume()->step, 1);
  EXPECT_FALSE(fs::exists(config_.output_dir + "/tmp-checkpoint-10"));
}

TEST_F(OutputFolderTest, TheFinalResultSharesTheBytes) {
  OutputFolder folder(config_);
  folder.AddCheckpoint(1, Fill, 0);
  const std::vector<std::string> want = {"adapter_model.safetensors"};
  EXPECT_EQ(folder.PublishFinal(1), want);
  EXPECT_EQ(folder.PublishFinal(1), want);
  EXPECT_TRUE(fs::equivalent(config_.output_dir + "/adapter_model.safetensors",
                             config_.output_dir + "/checkpoint-1/adapter_model.safetensors"));
  EXPECT_FALSE(fs::exists(config_.output_dir + "/tmp-adapter_model.safetensors"));
}

TEST_F(OutputFolderTest, AFileInTheWayIsNamed) {
  WriteFile(path_ + "/run", "x");
  EXPECT_NE(Message().find(config_.output_dir + ": cannot create the folder"), std::string::npos);
}

}  // namespace
}  // namespace lapidary
