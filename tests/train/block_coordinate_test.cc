// Full fine-tuning block by block: which layers train when, that a run is a sequence of slice runs,
// and that it goes on with the same bits wherever it was stopped or killed.
#include <gtest/gtest.h>

#include <csignal>
#include <set>

#include "quant/safetensors.h"
#include "tests/train/tiny_run.h"
#include "train/block_schedule.h"
#include "train/output_folder.h"

namespace lapidary {
namespace {

using Json = nlohmann::json;
using tiny::RunInChild;
using Strings = std::vector<std::string>;

const tiny::RunPlace& Place() {
  static const tiny::RunPlace place;
  return place;
}

std::string Out(const std::string& name) { return Place().path() + "/" + name; }

Strings With(Strings set, const Strings& more) {
  set.insert(set.end(), more.begin(), more.end());
  return set;
}

// Two blocks of one layer.
Strings Blocks(int64_t switch_every, const std::string& order) {
  return {"lora=null",
          "learning_rate=1e-3",
          "gradient_accumulation_steps=1",
          "per_device_train_batch_size=1",
          "lr_scheduler_type=constant",
          "warmup_steps=0",
          "block_coordinate.layers_per_block=1",
          StrCat("block_coordinate.switch_every=", switch_every),
          "block_coordinate.order=" + order};
}

std::vector<Json> Lines(const std::string& out) {
  std::vector<Json> lines;
  std::ifstream in(Out(out) + "/metrics.jsonl");
  for (std::string line; std::getline(in, line);) lines.push_back(Json::parse(line));
  return lines;
}

// --- the schedule ---

TEST(BlockSchedule, EveryCycleVisitsEveryBlockOnce) {
  for (const std::string order : {"ascending", "descending", "random"}) {
    const BlockSchedule schedule({.layers_per_block = 3, .switch_every = 4, .order = order}, 11, 7);
    ASSERT_EQ(schedule.blocks(), 4);
    for (int64_t cycle = 0; cycle < 5; ++cycle) {
      std::set<int64_t> seen;
      for (int64_t visit = 0; visit < 4; ++visit) {
        const int64_t first = (cycle * 4 + visit) * 4, block = schedule.BlockAt(first);
        seen.insert(block);
        for (int64_t i = 1; i < 4; ++i) EXPECT_EQ(schedule.BlockAt(first + i), block);
        if (order != "random") {
          EXPECT_EQ(block, order == "ascending" ? visit : 3 - visit);
        }
      }
      EXPECT_EQ(seen.size(), 4u) << order << ", cycle " << cycle;
    }
    EXPECT_EQ(schedule.Visited(0), std::vector<bool>(4, false));
    EXPECT_EQ(schedule.Visited(1 << 30), std::vector<bool>(4, true));
    std::vector<bool> two(4, false);
    two[static_cast<size_t>(schedule.BlockAt(0))] = two[static_cast<size_t>(schedule.BlockAt(4))] =
        true;
    EXPECT_EQ(schedule.Visited(5), two);
  }
  const BlockSchedule schedule({.layers_per_block = 3}, 11, 7);
  EXPECT_EQ(schedule.Layers(0), (std::vector<int64_t>{0, 1, 2}));
  EXPECT_EQ(schedule.Layers(3), (std::vector<int64_t>{9, 10}));
  EXPECT_THROW(BlockSchedule({.layers_per_block = 12}, 11, 7), Error);
}

TEST(BlockSchedule, RandomIsDrawnAnewInEveryCycle) {
  const BlockSchedule a({.switch_every = 1}, 16, 1), b({.switch_every = 1}, 16, 2);
  std::set<std::vector<int64_t>> orders;
  for (const BlockSchedule* schedule : {&a, &b}) {
    for (int64_t cycle = 0; cycle < 3; ++cycle) {
      std::vector<int64_t> order;
      for (int64_t i = 0; i < 16; ++i) order.push_back(schedule->BlockAt(cycle * 16 + i));
      orders.insert(order);
    }
  }
  EXPECT_EQ(orders.size(), 6u);
}

// --- runs ---

// Six records in order, two steps a block: what three runs of `trainable_layers` give, each on its
// two records, each from the result of the one before.
TEST(BlockCoordinate, IsASequenceOfSliceRuns) {
  const Strings lines = [] {
    Strings all;
    std::ifstream in(Out("train.jsonl"));
    for (std::string line; std::getline(in, line);) all.push_back(line + "\n");
    return all;
  }();
  for (const std::string dtype : {"BF16", "F32"}) {
    const Strings common = {"shuffle=false", "save_dtype=" + dtype, "optim=adamw_torch"};
    std::string six, base = Out("base");
    std::string by_hand;
    for (int slice = 0; slice < 3; ++slice) {
      const std::string two = lines[2 * slice] + lines[2 * slice + 1], name = StrCat(dtype, slice);
      six += two;
      WriteFile(Out(name + ".jsonl"), two);
      Strings set = With(Blocks(2, "ascending"), common);
      std::erase_if(set, [](const std::string& s) { return s.starts_with("block_coordinate"); });
      set = With(set, {"dataset.train=" + Out(name + ".jsonl"), "max_steps=2",
                       "model_name_or_path=" + base, StrCat("trainable_layers=[", slice % 2, "]")});
      by_hand = RunInChild(Place().Config(name, set));
      ASSERT_EQ(by_hand.size(), 64u) << by_hand;
      base = Out(name);
    }
    WriteFile(Out(dtype + ".jsonl"), six);
    const std::string blocks = RunInChild(Place().Config(
        "blocks-" + dtype, With(With(Blocks(2, "ascending"), common),
                                {"dataset.train=" + Out(dtype + ".jsonl"), "max_steps=6"})));
    EXPECT_EQ(blocks, by_hand) << dtype;
    EXPECT_FALSE(std::filesystem::exists(Out("blocks-" + dtype) + "/tmp-blocks"));
    // Another order of the blocks is another model.
    EXPECT_NE(
        RunInChild(Place().Config("other-" + dtype,
                                  With(With(Blocks(2, "descending"), common),
                                       {"dataset.train=" + Out(dtype + ".jsonl"), "max_steps=6"}))),
        by_hand);
  }
}

TEST(BlockCoordinate, MovesAllLayersAndNothingElseAndLearns) {
  const std::string result = RunInChild(
      Place().Config("learns", With(Blocks(3, "random"), {"max_steps=24", "save_steps=0"})));
  ASSERT_EQ(result.size(), 64u) << result;
  const std::vector<Json> lines = Lines("learns");
  ASSERT_EQ(lines.size(), 24u);
  std::set<int64_t> blocks;
  double first = 0, last = 0;
  for (size_t i = 0; i < 24; ++i) {
    blocks.insert(lines[i].at("block").get<int64_t>());
    (i < 6 ? first : last) += i < 6 || i >= 18 ? lines[i].at("loss").get<double>() : 0;
  }
  EXPECT_EQ(blocks, (std::set<int64_t>{0, 1}));
  EXPECT_LT(last, 0.7 * first);
  const TensorSet before = OpenCheckpoint(Out("base")), after = OpenCheckpoint(Out("learns"));
  int moved = 0;
  for (const StoredTensor& tensor : after.tensors()) {
    const bool trains = tensor.name.find(".layers.") != std::string::npos &&
                        tensor.name.find("layer_scalar") == std::string::npos;
    const bool same = before.Get(tensor.name).ReadAll() == tensor.ReadAll();
    EXPECT_EQ(same, !trains) << tensor.name;
    moved += trains;
  }
  EXPECT_GT(moved, 20);
}

volatile std::sig_atomic_t stop_flag = 0;

TEST(BlockCoordinate, GoesOnBitForBitFromAnyStep) {
  // A matrix of a layer that rests keeps what the base has; states of 8 bits.
  const Strings set =
      With(Blocks(2, "random"),
           {"max_steps=7", "save_steps=0", "optim=adamw_8bit", "freeze=layers\\.1\\..*up_proj",
            "lr_scheduler_type=cosine",
            "param_groups=[{\"pattern\": \"layers\\\\.1\\\\.\", \"weight_decay\": 0.1}]"});
  const std::string straight = RunInChild(Place().Config("straight", set));
  ASSERT_EQ(straight.size(), 64u) << straight;
  for (int64_t at = 1; at <= 5; ++at) {
    const std::string out = StrCat("stop-", at);
    stop_flag = 0;
    TrainHooks hooks;
    hooks.stop = &stop_flag;
    hooks.on_step = [at](int64_t step, double) { stop_flag = step == at; };
    EXPECT_EQ(RunInChild(Place().Config(out, set), hooks), "interrupted");
    EXPECT_EQ(RunInChild(Place().Config(out, With(set, {"resume_from_checkpoint=true"}))), straight)
        << "stopped after step " << at;
  }
  const std::string message = RunInChild(
      Place().Config("stop-3", With(set, {"resume_from_checkpoint=true", "save_dtype=F32"})));
  EXPECT_NE(message.find("'save_dtype' must be as in the run"), std::string::npos) << message;
  EXPECT_NE(RunInChild(Place().Config("stop-3", With(set, {"resume_from_checkpoint=true",
                                                           "block_coordinate.switch_every=3"})))
                .find("'block_coordinate' must be as in the run"),
            std::string::npos);
}

// The step after a switch is refused: the checkpoint is of a block that was not trained yet.
TEST(BlockCoordinate, ARefusedStepAfterASwitchLosesNothing) {
  const Strings set =
      With(Blocks(1, "ascending"), {"max_steps=40", "save_steps=0", "learning_rate=1e-6"});
  const std::string message =
      RunInChild(Place().Config("spike", With(set, {"loss_spike_factor=1.000001"})));
  ASSERT_NE(message.find("the loss must not leap above"), std::string::npos) << message;
  EXPECT_EQ(RunInChild(Place().Config("spike", With(set, {"resume_from_checkpoint=true"}))),
            RunInChild(Place().Config("no-spike", set)));
}

int kill_at = 0, seen = 0;

void KillHook(const char*, const std::string& path) {
  if (path.find("tmp-blocks") != std::string::npos && ++seen == kill_at) ::raise(SIGKILL);
}

// (Other writes: resume_test.cc.)
TEST(BlockCoordinate, KilledWhereverABlockIsLeft) {
  const Strings set =
      With(Blocks(1, "ascending"), {"max_steps=3", "save_steps=2", "save_total_limit=1"});
  const std::string straight = RunInChild(Place().Config("kill-none", set));
  ASSERT_EQ(straight.size(), 64u) << straight;
  int points = 0;
  for (kill_at = 1;; ++kill_at) {
    const std::string out = StrCat("kill-", kill_at);
    const std::string first = RunInChild(Place().Config(out, set), {}, [] {
      seen = 0;
      SetFileHook(KillHook);
    });
    if (first != "killed") {
      EXPECT_EQ(first, straight);
      break;
    }
    ++points;
    EXPECT_EQ(RunInChild(Place().Config(out, With(set, {"resume_from_checkpoint=true"}))), straight)
        << "killed at action " << kill_at;
    for (const auto& entry : std::filesystem::directory_iterator(Out(out))) {
      EXPECT_EQ(entry.path().filename().string().find("tmp-"), std::string::npos) << entry.path();
    }
    std::filesystem::remove_all(Out(out));
  }
  std::printf("killed at %d writes, syncs and renames\n", points);
  EXPECT_GE(points, 6);
}

// The disk is full when a block is left: one line, and the checkpoint before stays.
TEST(BlockCoordinate, ABlockThatCannotBeWrittenIsOneLine) {
  const Strings set = With(Blocks(2, "ascending"), {"max_steps=4", "save_steps=1"});
  const std::string message = RunInChild(Place().Config("full", set), {}, [] {
    SetFileHook([](const char* action, const std::string& path) {
      if (std::string(action) == "write" && path.find("tmp-blocks") != std::string::npos) {
        throw Error(path + ": cannot write; got No space left on device; try freeing disk space");
      }
    });
  });
  EXPECT_NE(message.find("tmp-blocks/block-0-0.safetensors: cannot write"), std::string::npos)
      << message;
  EXPECT_EQ(LatestCheckpoint(Out("full"))->step, 2);
  EXPECT_EQ(RunInChild(Place().Config("full", With(set, {"resume_from_checkpoint=true"}))),
            RunInChild(Place().Config("not-full", set)));
}

TEST(BlockCoordinate, WhatDoesNotGoWithItIsNamed) {
  const auto message = [](const Strings& more) {
    try {
      Place().Config("no", With(Blocks(1, "ascending"), more));
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("no error");
  };
  EXPECT_NE(message({"lora={\"r\": 2}"}).find("must go without lora"), std::string::npos);
  EXPECT_NE(message({"trainable_layers=[0]"}).find("without trainable_layers"), std::string::npos);
  EXPECT_NE(message({"qat.format=q4_0"}).find("without qat"), std::string::npos);
  EXPECT_NE(message({"ema_decay=0.9"}).find("without ema_decay"), std::string::npos);
  EXPECT_NE(message({"block_coordinate.order=sideways"}).find("'block_coordinate.order' must be"),
            std::string::npos);
  EXPECT_NE(message({"block_coordinate.switch_evry=1"}).find("try 'block_coordinate.switch_every'"),
            std::string::npos);
  EXPECT_EQ(
      RunInChild(Place().Config(
          "many", With(Blocks(1, "random"), {"block_coordinate.layers_per_block=3"}))),
      "block_coordinate.layers_per_block: must be from 1 to the 2 layers of the model; got 3");
  EXPECT_NE(
      RunInChild(Place().Config("group", With(Blocks(1, "random"),
                                              {"param_groups=[{\"pattern\": \"layers\\\\.7\"}]"})))
          .find("a pattern must be found in a parameter's name"),
      std::string::npos);
}

}  // namespace
}  // namespace lapidary
