// Interrupted training: stopped after any step, killed at any write, sync or rename, out of disk.
// Whatever happens, a resumed run ends with the bits of one that was never stopped, and what was
// saved before stays.
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>

#include "tests/train/tiny_run.h"
#include "train/output_folder.h"

namespace lapidary {
namespace {

using tiny::RunInChild;

const tiny::RunPlace& Place() {
  static const tiny::RunPlace place;
  return place;
}

// The result of a run that nothing disturbs: 3 steps an epoch (5 micro-batches of 2, the last step
// short), 6 in all.
const std::string& StraightHash() {
  static const std::string hash = RunInChild(Place().Config("straight"));
  return hash;
}

volatile std::sig_atomic_t stop_flag = 0;

TEST(Resume, TheStraightRunIsDeterministic) {
  ASSERT_EQ(StraightHash().size(), 64u) << StraightHash();
  EXPECT_EQ(RunInChild(Place().Config("again")), StraightHash());
  EXPECT_EQ(LatestCheckpoint(Place().path() + "/straight")->step, 6);
}

TEST(Resume, ThreadsCheckpointingAndLossChunksChangeNoBit) {
  const auto threads = [] { ::setenv("LAPIDARY_THREADS", "1", 1); };
  EXPECT_EQ(RunInChild(Place().Config("one-thread"), {}, threads), StraightHash());
  EXPECT_EQ(RunInChild(Place().Config("kept", {"gradient_checkpointing=false"})), StraightHash());
  EXPECT_EQ(RunInChild(Place().Config("chunk", {"loss_chunk=64"})), StraightHash());
}

TEST(Resume, StoppedAfterAnyStep) {
  for (int64_t at = 1; at <= 5; ++at) {
    const std::string out = StrCat("stop-", at);
    stop_flag = 0;
    TrainHooks hooks;
    hooks.stop = &stop_flag;
    hooks.on_step = [at](int64_t step, double) { stop_flag = step == at; };
    EXPECT_EQ(RunInChild(Place().Config(out, {"save_steps=0"}), hooks), "interrupted");
    EXPECT_EQ(LatestCheckpoint(Place().path() + "/" + out)->step, at);
    EXPECT_EQ(RunInChild(Place().Config(out, {"save_steps=0", "resume_from_checkpoint=true"})),
              StraightHash())
        << "stopped after step " << at;
  }
}

// The metrics of a stopped and resumed run are those of the straight one, times and memory aside.
TEST(Resume, MetricsGoOnWhereTheyStopped) {
  const auto losses = [](const std::string& path) {
    std::vector<std::string> lines;
    std::ifstream in(path + "/metrics.jsonl");
    for (std::string line; std::getline(in, line);) {
      const auto json = nlohmann::json::parse(line);
      lines.push_back(nlohmann::json{{"step", json["step"]},
                                     {"loss", json["loss"]},
                                     {"grad_norm", json["grad_norm"]},
                                     {"learning_rate", json["learning_rate"]},
                                     {"num_tokens", json["num_tokens"]}}
                          .dump());
    }
    return lines;
  };
  ASSERT_EQ(RunInChild(Place().Config("log", {"logging_steps=2"})), StraightHash());
  stop_flag = 0;
  TrainHooks hooks;
  hooks.stop = &stop_flag;
  hooks.on_step = [](int64_t step, double) { stop_flag = step == 3; };  // inside a pair
  EXPECT_EQ(RunInChild(Place().Config("log-2", {"logging_steps=2"}), hooks), "interrupted");
  EXPECT_EQ(RunInChild(Place().Config("log-2", {"logging_steps=2", "resume_from_checkpoint=true"})),
            StraightHash());
  EXPECT_EQ(losses(Place().path() + "/log-2"), losses(Place().path() + "/log"));
  EXPECT_EQ(losses(Place().path() + "/log").size(), 3u);
}

// States of every type are stored as they are.
TEST(Resume, WithSmallOptimizerStates) {
  for (const std::string optim : {"adamw_8bit", "adamw_bf16"}) {
    const std::vector<std::string> set = {"optim=" + optim, "lora.r=16"};
    const std::string straight = RunInChild(Place().Config(optim, set));
    ASSERT_EQ(straight.size(), 64u) << straight;
    EXPECT_NE(straight, RunInChild(Place().Config(optim + "-32", {"lora.r=16"})));
    stop_flag = 0;
    TrainHooks hooks;
    hooks.stop = &stop_flag;
    hooks.on_step = [](int64_t step, double) { stop_flag = step == 3; };
    EXPECT_EQ(RunInChild(Place().Config(optim + "-2", set), hooks), "interrupted");
    std::vector<std::string> again = set;
    again.push_back("resume_from_checkpoint=true");
    EXPECT_EQ(RunInChild(Place().Config(optim + "-2", again)), straight);
    again[0] = "optim=adamw_torch";
    EXPECT_NE(RunInChild(Place().Config(optim + "-2", again)).find("'optim' must be as in the run"),
              std::string::npos);
  }
}

TEST(Resume, WithPacking) {
  const std::vector<std::string> set = {"packing=true", "max_length=64", "save_steps=1"};
  const std::string straight = RunInChild(Place().Config("packed", set));
  ASSERT_EQ(straight.size(), 64u) << straight;
  stop_flag = 0;
  TrainHooks hooks;
  hooks.stop = &stop_flag;
  hooks.on_step = [](int64_t step, double) { stop_flag = step == 2; };
  EXPECT_EQ(RunInChild(Place().Config("packed-2", set), hooks), "interrupted");
  std::vector<std::string> again = set;
  again.push_back("resume_from_checkpoint=true");
  EXPECT_EQ(RunInChild(Place().Config("packed-2", again)), straight);
}

TEST(Resume, FullFineTuning) {
  const std::vector<std::string> set = {"lora=null", "max_steps=4", "learning_rate=1e-3"};
  const std::string straight = RunInChild(Place().Config("full", set));
  ASSERT_EQ(straight.size(), 64u) << straight;
  stop_flag = 0;
  TrainHooks hooks;
  hooks.stop = &stop_flag;
  hooks.on_step = [](int64_t step, double) { stop_flag = step == 3; };
  EXPECT_EQ(RunInChild(Place().Config("full-2", set), hooks), "interrupted");
  std::vector<std::string> again = set;
  again.push_back("resume_from_checkpoint=true");
  EXPECT_EQ(RunInChild(Place().Config("full-2", again)), straight);
}

// --- SIGKILL ---

int kill_at = 0, seen = 0;

void KillHook(const char*, const std::string&) {
  if (++seen == kill_at) ::raise(SIGKILL);
}

TEST(Resume, KilledAtEveryWriteSyncAndRename) {
  const std::vector<std::string> set = {"max_steps=2", "save_steps=1", "save_total_limit=1"};
  std::vector<std::string> again = set;
  again.push_back("resume_from_checkpoint=true");
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
      EXPECT_EQ(first, straight);  // no such point any more: the run went through
      break;
    }
    ++points;
    EXPECT_EQ(RunInChild(Place().Config(out, again)), straight) << "killed at action " << kill_at;
    // Nothing half-made is left behind.
    for (const auto& entry : std::filesystem::directory_iterator(Place().path() + "/" + out)) {
      EXPECT_EQ(entry.path().filename().string().find("tmp-"), std::string::npos) << entry.path();
    }
    std::filesystem::remove_all(Place().path() + "/" + out);
  }
  std::printf("killed at %d writes, syncs and renames\n", points);
  EXPECT_GT(points, 40);
}

// --- a full disk ---

int full_at = 0;

void FullHook(const char* action, const std::string& path) {
  if (std::string(action) == "write" && path.find("checkpoint-4") != std::string::npos &&
      ++seen == full_at) {
    throw Error(
        StrCat(path, ": cannot write; got No space left on device; try freeing disk space"));
  }
}

TEST(Resume, AFullDiskIsOneLineAndEarlierCheckpointsStay) {
  for (full_at = 1; full_at <= 4; ++full_at) {
    const std::string out = StrCat("disk-", full_at);
    const std::string answer = RunInChild(Place().Config(out), {}, [] {
      seen = 0;
      SetFileHook(FullHook);
    });
    EXPECT_NE(answer.find(": cannot write; got No space left on device; try freeing disk space"),
              std::string::npos)
        << answer;
    EXPECT_EQ(answer.find('\n'), std::string::npos);
    EXPECT_EQ(LatestCheckpoint(Place().path() + "/" + out)->step, 2);
    EXPECT_FALSE(std::filesystem::exists(Place().path() + "/" + out + "/tmp-checkpoint-4"));
    EXPECT_EQ(RunInChild(Place().Config(out, {"resume_from_checkpoint=true"})), StraightHash());
  }
}

// The system call itself fails: files may not grow beyond 20 kB.
TEST(Resume, AWriteThatFailsIsNamed) {
  const std::string answer = RunInChild(Place().Config("limit"), {}, [] {
    ::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit = {20000, 20000};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  });
  EXPECT_NE(answer.find("cannot write; got File too large"), std::string::npos) << answer;
  EXPECT_FALSE(LatestCheckpoint(Place().path() + "/limit"));
}

// --- what may change between runs ---

TEST(Resume, AnotherRunIsRefusedByKey) {
  ASSERT_EQ(StraightHash().size(), 64u);
  const std::string folder = Place().path() + "/straight/checkpoint-6";
  EXPECT_EQ(RunInChild(Place().Config("straight", {"resume_from_checkpoint=true", "seed=7"})),
            folder +
                ": 'seed' must be as in the run, 42; got 7; try that value, or a new "
                "output_dir");
  const std::string lora =
      RunInChild(Place().Config("straight", {"resume_from_checkpoint=true", "lora.r=4"}));
  EXPECT_NE(lora.find("'lora' must be as in the run"), std::string::npos) << lora;
  EXPECT_EQ(RunInChild(Place().Config("straight", {"resume_from_checkpoint=true"})),
            StraightHash());
}

TEST(Resume, FromANamedCheckpoint) {
  ASSERT_EQ(StraightHash().size(), 64u);
  const std::string from = Place().path() + "/straight/checkpoint-4";
  EXPECT_EQ(RunInChild(Place().Config("branch", {"resume_from_checkpoint=" + from})),
            StraightHash());
  EXPECT_EQ(RunInChild(Place().Config("none", {"resume_from_checkpoint=/nonexistent/x"})),
            "/nonexistent/x: must be a checkpoint-N folder with trainer_state.json; got none; try "
            "\"latest\"");
}

}  // namespace
}  // namespace lapidary
