// Whole runs of the tiny model: what ends them, what they keep, what they may not do, and every
// configuration that comes with the program.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <chrono>
#include <cmath>
#include <csignal>
#include <cstddef>
#include <map>
#include <thread>

#include "data/image.h"
#include "quant/safetensors.h"
#include "tests/train/tiny_run.h"
#include "train/output_folder.h"
#include "train/plan.h"

namespace lapidary {
namespace {

using Json = nlohmann::json;
using tiny::RunInChild;

const tiny::RunPlace& Place() {
  static const tiny::RunPlace place;
  return place;
}

std::vector<std::string> With(std::vector<std::string> set, const std::vector<std::string>& more) {
  set.insert(set.end(), more.begin(), more.end());
  return set;
}

std::string Out(const std::string& name) { return Place().path() + "/" + name; }

Json State(const std::string& out, int64_t step) {
  return Json::parse(ReadFile(StrCat(Out(out), "/checkpoint-", step, "/trainer_state.json")));
}

std::vector<Json> Lines(const std::string& out) {
  std::vector<Json> lines;
  std::ifstream in(Out(out) + "/metrics.jsonl");
  for (std::string line; std::getline(in, line);) lines.push_back(Json::parse(line));
  return lines;
}

std::string Hash(const std::string& folder) {
  return HashFile(folder + "/adapter_model.safetensors");
}

// A run that is stopped and goes on ends with the bits of one that was not.
void ExpectResumes(const std::string& name, const std::vector<std::string>& set) {
  const std::string straight = RunInChild(Place().Config(name, set));
  ASSERT_EQ(straight.size(), 64u) << name << ": " << straight;
  static volatile std::sig_atomic_t stop = 0;
  stop = 0;
  TrainHooks hooks;
  hooks.stop = &stop;
  hooks.on_step = [](int64_t step, double) { stop = step == 3; };
  EXPECT_EQ(RunInChild(Place().Config(name + "-2", set), hooks), "interrupted");
  EXPECT_EQ(RunInChild(Place().Config(name + "-2", With(set, {"resume_from_checkpoint=true"}))),
            straight)
      << name;
}

void WritePairs(const std::string& path, int count) {
  std::string text;
  for (int i = 0; i < count; ++i) {
    text += Json{{"prompt", StrCat("stone ", i, "?")},
                 {"chosen", StrCat(" amber ", i)},
                 {"rejected", StrCat(" a long and winding story of ", i)}}
                .dump() +
            "\n";
  }
  WriteFile(path, text);
}

TEST(Runs, EveryOptimizerGoesOnBitForBit) {
  ExpectResumes("adafactor", {"optim=adafactor", "optim_args.beta1=0.9"});
  ExpectResumes("lion", {"optim=lion_8bit", "lora.r=16", "learning_rate=1e-3"});
  ExpectResumes("muon", {"optim=muon", "ema_decay=0.9", "neftune_noise_alpha=5",
                         "loraplus_lr_ratio=4", "freeze=layers\\.0\\..*q_proj"});
  ExpectResumes("sgd", {"optim=sgd", "optim_args.nesterov=true"});
}

// The averages are what is saved, and are not the parameters.
TEST(Runs, AveragesAreTheResult) {
  const std::string plain = RunInChild(Place().Config("ema-none", {"max_steps=3"}));
  const std::string averaged = RunInChild(Place().Config("ema", {"max_steps=3", "ema_decay=0.5"}));
  ASSERT_EQ(averaged.size(), 64u) << averaged;
  EXPECT_NE(plain, averaged);
}

TEST(Runs, PreferenceTrainingPrefers) {
  WritePairs(Out("pairs.jsonl"), 6);
  for (const std::string type : {"dpo", "kto", "orpo", "simpo"}) {
    const std::vector<std::string> set = {"loss.type=" + type,
                                          "dataset.train=" + Out("pairs.jsonl"),
                                          "dataset.eval=" + Out("pairs.jsonl"),
                                          "per_device_train_batch_size=2",
                                          "num_train_epochs=6",
                                          "gradient_accumulation_steps=1",
                                          "save_steps=0",
                                          "lora.lora_dropout=0"};
    const std::string hash = RunInChild(Place().Config(type, set));
    ASSERT_EQ(hash.size(), 64u) << type << ": " << hash;
    const std::vector<Json> lines = Lines(type);
    const Json &first = lines.front(), &last = lines.back();
    EXPECT_GT(last.at("eval_rewards/margins").get<double>(),
              first.at("eval_rewards/margins").get<double>())
        << type;
    EXPECT_EQ(last.at("eval_rewards/accuracies"), 1.0) << type;
    EXPECT_LT(last.at("eval_preference_loss").get<double>(),
              first.at("eval_preference_loss").get<double>())
        << type;
    if (type == "dpo") {  // the policy begins as the reference
      EXPECT_NEAR(first.at("eval_preference_loss").get<double>(), std::log(2), 1e-3);
      EXPECT_TRUE(lines[1].contains("rewards/chosen")) << lines[1];
    }
  }
  ExpectResumes("dpo-resumed", {"loss.type=dpo", "dataset.train=" + Out("pairs.jsonl"),
                                "per_device_train_batch_size=1"});
  EXPECT_NE(
      RunInChild(Place().Config("no-pairs", {"loss.type=dpo"})).find("must be a preference pair"),
      std::string::npos);
}

TEST(Runs, KtoTakesAnswersWithLabels) {
  std::string text;
  for (int i = 0; i < 12; ++i) {
    text += Json{{"prompt", StrCat("stone ", i / 2, "?")},
                 {"completion", i % 2 == 0 ? StrCat(" amber ", i) : StrCat(" a long story of ", i)},
                 {"label", i % 2 == 0}}
                .dump() +
            "\n";
  }
  WriteFile(Out("answers.jsonl"), text);
  const std::vector<std::string> set = {"loss.type=kto",
                                        "loss.undesirable_weight=0.9",
                                        "dataset.train=" + Out("answers.jsonl"),
                                        "per_device_train_batch_size=4",
                                        "gradient_accumulation_steps=1",
                                        "num_train_epochs=6",
                                        "save_steps=0",
                                        "lora.lora_dropout=0"};
  const std::string hash = RunInChild(Place().Config(
      "kto-labels",
      With(set, {"dataset.eval=" + Out("answers.jsonl"), "per_device_eval_batch_size=3"})));
  ASSERT_EQ(hash.size(), 64u) << hash;
  const std::vector<Json> lines = Lines("kto-labels");
  EXPECT_EQ(LatestCheckpoint(Out("kto-labels"))->step, 18);  // three micro-batches of 4 an epoch
  EXPECT_NEAR(lines.front().at("eval_preference_loss").get<double>(), 0.475, 1e-3);
  EXPECT_NEAR(lines.front().at("eval_rewards/margins").get<double>(), 0, 1e-3);
  EXPECT_GT(lines.back().at("eval_rewards/margins").get<double>(), 0.1);
  EXPECT_LT(lines.back().at("eval_preference_loss").get<double>(), 0.45);
  EXPECT_TRUE(lines[1].contains("kl"));
  ExpectResumes("kto-resumed", set);
  // Pairs among them, or they among pairs, and other methods, are named.
  WritePairs(Out("pair.jsonl"), 6);
  WriteFile(Out("mixed.jsonl"), text + ReadFile(Out("pair.jsonl")));
  const std::string mixed =
      RunInChild(Place().Config("kto-mixed", With(set, {"dataset.train=" + Out("mixed.jsonl")})));
  EXPECT_NE(mixed.find("mixed.jsonl:1"), std::string::npos) << mixed;
  EXPECT_NE(mixed.find(": label must be true"), std::string::npos) << mixed;
  EXPECT_NE(RunInChild(Place().Config("dpo-labels", With(set, {"loss.type=dpo"})))
                .find("must be a preference pair; got an answer with a label; try loss.type "
                      "\"kto\""),
            std::string::npos);
  EXPECT_NE(RunInChild(Place().Config("sft-labels", {"dataset.train=" + Out("answers.jsonl")}))
                .find("an answer with a label needs a preference trainer"),
            std::string::npos);
}

TEST(Runs, TheBestIsKeptAndTheRunEndsEarly) {
  // A rate at which the loss soon rises.
  const std::vector<std::string> set = {
      "dataset.eval=" + Out("eval.jsonl"), "eval_steps=1",      "max_steps=12",
      "load_best_model_at_end=true",       "save_steps=100",    "save_total_limit=1",
      "early_stopping_patience=2",         "learning_rate=0.3", "lr_scheduler_type=constant"};
  const std::string result = RunInChild(Place().Config("best", set));
  ASSERT_EQ(result.size(), 64u) << result;
  const auto last = LatestCheckpoint(Out("best"));
  ASSERT_TRUE(last);
  ASSERT_LT(last->step, 12);
  const Json state = State("best", last->step);
  const int64_t best = state.at("best_global_step");
  EXPECT_EQ(state.at("best_model_checkpoint"), StrCat(Out("best"), "/checkpoint-", best));
  EXPECT_EQ(last->step, best + 2);
  EXPECT_EQ(state.at("stateful_callbacks")["EarlyStoppingCallback"]["attributes"]
                                          ["early_stopping_patience_counter"],
            2);
  EXPECT_EQ(Hash(StrCat(Out("best"), "/checkpoint-", best)), result);
  double least = INFINITY;
  for (const Json& line : Lines("best")) {
    if (line.contains("eval_loss") && line.at("step") > 0) {
      least = std::min(least, line.at("eval_loss").get<double>());
    }
  }
  EXPECT_EQ(state.at("best_metric").get<double>(), least);
}

TEST(Runs, BudgetsEndThem) {
  EXPECT_EQ(RunInChild(Place().Config("tokens", {"max_tokens=1"})).size(), 64u);
  EXPECT_EQ(LatestCheckpoint(Out("tokens"))->step, 1);
  EXPECT_EQ(RunInChild(Place().Config("time", {"max_time=1e-9"})).size(), 64u);
  EXPECT_EQ(LatestCheckpoint(Out("time"))->step, 1);
  // They can go on, and end where they would have.
  EXPECT_EQ(RunInChild(Place().Config("tokens", {"resume_from_checkpoint=true"})),
            RunInChild(Place().Config("no-budget")));
}

TEST(Runs, OverfitOneBatchLeavesNoTrace) {
  const std::string straight = RunInChild(Place().Config("untested", {"max_steps=2"}));
  EXPECT_EQ(RunInChild(Place().Config("tested", {"max_steps=2", "overfit_one_batch=15"})),
            straight);
  const std::string message = RunInChild(
      Place().Config("unlearned", {"max_steps=2", "overfit_one_batch=3", "learning_rate=1e-7"}));
  EXPECT_NE(message.find("overfit_one_batch: 3 steps on the first batch must halve its loss"),
            std::string::npos)
      << message;
}

TEST(Runs, ASpikeStopsWithItsRecordsAndASave) {
  const std::string message = RunInChild(Place().Config(
      "spike", {"max_steps=40", "loss_spike_factor=1.000001", "learning_rate=1e-6"}));
  EXPECT_NE(message.find("train.jsonl:"), std::string::npos) << message;
  EXPECT_NE(message.find("the loss must not leap above"), std::string::npos) << message;
  const auto saved = LatestCheckpoint(Out("spike"));
  ASSERT_TRUE(saved);
  EXPECT_GE(saved->step, 10);
  // The same step is refused again, unless the limit is another.
  EXPECT_EQ(
      RunInChild(Place().Config("spike", {"max_steps=40", "loss_spike_factor=0",
                                          "learning_rate=1e-6", "resume_from_checkpoint=true"}))
          .size(),
      64u);
}

TEST(Runs, ASliceOfLayersAloneMoves) {
  const std::vector<std::string> set = {"lora=null", "trainable_layers=[1]",
                                        "freeze=layers\\.1\\..*norm", "max_steps=4",
                                        "learning_rate=1e-2"};
  const std::string straight = RunInChild(Place().Config("slice", set));
  ASSERT_EQ(straight.size(), 64u) << straight;
  const SafetensorsFile before = SafetensorsFile::Open(Out("base") + "/model.safetensors");
  const SafetensorsFile after = SafetensorsFile::Open(Out("slice") + "/model.safetensors");
  std::map<std::string, const StoredTensor*> originals;
  for (const StoredTensor& tensor : before.tensors()) originals[tensor.name] = &tensor;
  int moved = 0, stayed = 0;
  for (const StoredTensor& tensor : after.tensors()) {
    ASSERT_TRUE(originals.contains(tensor.name)) << tensor.name;
    const StoredTensor* old = originals[tensor.name];
    const bool same = old->ReadAll() == tensor.ReadAll();
    const bool in_slice = tensor.name.find("layers.1.") != std::string::npos &&
                          tensor.name.find("norm") == std::string::npos &&
                          tensor.name.find("scalar") == std::string::npos;
    EXPECT_EQ(same, !in_slice) << tensor.name;
    ++(same ? stayed : moved);
  }
  EXPECT_GE(moved, 6);
  EXPECT_GE(stayed, 10);
  EXPECT_EQ(RunInChild(Place().Config("slice-no", With(set, {"trainable_layers=[9]"}))),
            "trainable_layers: must be below 2; got 9");
}

TEST(Runs, ReplayIsItsShareOfAnEpoch) {
  const std::string general = Out("general.jsonl");
  Place().WriteData("general.jsonl", 7);
  // 10 records of its own, a third of the whole from 7 others: 5 of them an epoch.
  ASSERT_EQ(
      RunInChild(Place().Config("replay",
                                {"dataset.replay=" + general, "dataset.replay_ratio=0.3333333333",
                                 "num_train_epochs=1", "gradient_accumulation_steps=1",
                                 "per_device_train_batch_size=1"}))
          .size(),
      64u);
  EXPECT_EQ(LatestCheckpoint(Out("replay"))->step, 15);
}

// --- SIGKILL at random points ---

TEST(Runs, KilledAtRandomPointsEndsTheSame) {
  const std::vector<std::string> set = {"max_steps=8", "save_steps=1", "save_total_limit=1"};
  const auto began = std::chrono::steady_clock::now();
  const std::string straight = RunInChild(Place().Config("unkilled", set));
  const double whole =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
  ASSERT_EQ(straight.size(), 64u) << straight;
  const char* wish = std::getenv("LAPIDARY_KILLS");
  const int kills = wish ? std::atoi(wish) : 20;
  uint64_t random = 12345;
  int killed = 0, rounds = 0;
  // A signal that comes when a run has ended kills nothing and is not counted.
  for (int i = 0; killed < kills && i < 10 * kills; ++i) {
    const std::string out = StrCat("killed-", rounds);
    std::fflush(nullptr);
    const pid_t child = ::fork();
    if (child == 0) {
      try {
        Train(Place().Config(out, With(set, {"resume_from_checkpoint=true"})), {});
      } catch (const std::exception&) {
        ::_exit(3);
      }
      ::_exit(0);
    }
    random = random * 6364136223846793005u + 1442695040888963407u;
    const double wait = whole * 0.8 * static_cast<double>(random >> 40) / (1 << 24);
    std::this_thread::sleep_for(std::chrono::duration<double>(wait));
    ::kill(child, SIGKILL);
    int status = 0;
    ::waitpid(child, &status, 0);
    if (tiny::Killed(status)) {
      ++killed;
      continue;
    }
    // Ran through before it was hit: it must be right, and the next begins anew.
    ASSERT_TRUE(tiny::ExitedWell(status)) << status;
    EXPECT_EQ(Hash(Out(out)), straight);
    ++rounds;
  }
  const std::string out = StrCat("killed-", rounds);
  EXPECT_EQ(RunInChild(Place().Config(out, With(set, {"resume_from_checkpoint=true"}))), straight);
  std::printf("killed %d times, in %d runs\n", killed, rounds + 1);
  EXPECT_EQ(killed, kills);
}

// --- no network ---

// From here on the system call `socket` (and `connect`) kills the process.
void ForbidSockets() {
  sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_socket, 2, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_connect, 1, 0),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
  };
  const sock_fprog program = {static_cast<unsigned short>(std::size(code)), code};
  LAPIDARY_CHECK(::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
                     ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0,
                 "seccomp: the filter must load; got ", std::strerror(errno));
}

TEST(Runs, TrainingOpensNoSocket) {
  const int status = tiny::Fork([] {
    ForbidSockets();
    ::socket(AF_INET, SOCK_STREAM, 0);
  });
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS) << "the filter must bite";
  EXPECT_EQ(
      RunInChild(Place().Config("offline", {"max_steps=2", "dataset.eval=" + Out("eval.jsonl"),
                                            "report_samples=1"}),
                 {}, ForbidSockets)
          .size(),
      64u);
}

// --- the configurations that come with the program ---

std::string Wav(int64_t samples) {
  std::string wav = "RIFF....WAVEfmt ";
  const auto add = [&](uint32_t value, int bytes) {
    for (int i = 0; i < bytes; ++i) wav += static_cast<char>(value >> (8 * i));
  };
  add(16, 4), add(1, 2), add(1, 2), add(16000, 4), add(32000, 4), add(2, 2), add(16, 2);
  wav += "data";
  add(static_cast<uint32_t>(2 * samples), 4);
  for (int64_t i = 0; i < samples; ++i) {
    add(static_cast<uint16_t>(static_cast<int16_t>(8000 * std::sin(0.05 * static_cast<double>(i)))),
        2);
  }
  const uint32_t size = static_cast<uint32_t>(wav.size() - 8);
  for (int i = 0; i < 4; ++i) wav[4 + i] = static_cast<char>(size >> (8 * i));
  return wav;
}

// Data of the kind that a recipe wants.
std::string DataFor(const std::string& recipe) {
  const std::string path = Out("data-" + recipe + ".jsonl");
  const auto repeat = [&](const Json& record, int times) {
    std::string text;
    for (int i = 0; i < times; ++i) text += record.dump() + "\n";
    WriteFile(path, text);
    return path;
  };
  const Json answer = {{"role", "assistant"}, {"content", "garnet"}};
  const auto ask = [&](const Json& content) {
    return Json{{"messages", {{{"role", "user"}, {"content", content}}, answer}}};
  };
  if (recipe == "preference") {
    WritePairs(path, 24);
    return path;
  }
  if (recipe == "image_sft" || recipe == "lora_multimodal") {
    Image image = {.height = 96, .width = 96, .pixels = {}};
    for (int64_t i = 0; i < 96 * 96 * 3; ++i)
      image.pixels.push_back(static_cast<uint8_t>(i * i / 7));
    WriteFile(Out("a.png"), EncodePng(image));
    return repeat(ask({{{"type", "image"}, {"path", "a.png"}}, {{"type", "text"}, {"text", "?"}}}),
                  20);
  }
  if (recipe == "audio_transcription") {
    WriteFile(Out("a.wav"), Wav(8000));
    return repeat({{"audio", "a.wav"}, {"text", "garnet"}}, 20);
  }
  if (recipe == "function_calling") {
    const Json call = {{"role", "assistant"},
                       {"content", ""},
                       {"tool_calls",
                        {{{"type", "function"},
                          {"function", {{"name", "weigh"}, {"arguments", {{"stone", "opal"}}}}}}}}};
    const Json tool = {
        {"type", "function"},
        {"function",
         {{"name", "weigh"},
          {"description", "weighs"},
          {"parameters",
           {{"type", "object"}, {"properties", {{"stone", {{"type", "string"}}}}}}}}}};
    return repeat(
        {{"messages", {{{"role", "user"}, {"content", "how heavy?"}}, call}}, {"tools", {tool}}},
        20);
  }
  if (recipe == "reasoning") {
    return repeat({{"messages",
                    {{{"role", "user"}, {"content", "heavier?"}},
                     {{"role", "assistant"}, {"reasoning", "opal is light"}, {"content", "no"}}}}},
                  20);
  }
  if (recipe == "continued_pretraining") return repeat({{"text", "opal and jade and flint"}}, 20);
  return repeat(ask("stone?"), 20);
}

TEST(Recipes, RunOnTheTinyModel) {
  int count = 0;
  for (const auto& entry :
       std::filesystem::directory_iterator(LAPIDARY_SOURCE_DIR "/recipes/configs")) {
    const std::string recipe = entry.path().stem().string();
    if (entry.path().extension() != ".json") continue;
    std::vector<std::string> set = {"model_name_or_path=" + Out("base"),
                                    "output_dir=" + Out("recipe-" + recipe),
                                    "dataset.train=" + DataFor(recipe),
                                    "dataset.eval_split=0.2",
                                    "max_steps=2",
                                    "max_length=256",
                                    "memory_limit=",
                                    "report_samples=0",
                                    "gradient_accumulation_steps=1"};
    TrainConfig config = LoadTrainConfig(entry.path().string(), {});
    if (!config.eval_files.empty()) set.push_back("dataset.eval=" + DataFor(recipe));
    if (!config.replay_files.empty()) set.push_back("dataset.replay=" + Out("train.jsonl"));
    if (config.block_coordinate) {
      set.insert(set.end(),
                 {"block_coordinate.layers_per_block=1", "block_coordinate.switch_every=1"});
    }
    if (recipe == "audio_transcription") {
      set[2] = Json{{"path", DataFor(recipe)}, {"prompt", "Transcribe."}}.dump();
      set[2] = "dataset.train=" + set[2];
    }
    if (config.image_seq_length > 0) set.push_back("image_seq_length=70");
    config = LoadTrainConfig(entry.path().string(), set);
    const std::string hash = RunInChild(config);
    EXPECT_EQ(hash.size(), 64u) << recipe << ": " << hash;
    ++count;
  }
  EXPECT_GE(count, 16);
}

// The whole 12B as a file of holes: what the recipes that promise a size take.
TEST(Recipes, FitWhatTheyPromise) {
  const std::string base = Out("hollow");
  ASSERT_TRUE(tiny::ExitedWell(tiny::Fork([&] {
    MakeModelOptions options;
    options.hollow = true;
    MakeModel(MakeModelConfig("12b", 48), base, options, [](int64_t, int64_t) {});
  })));
  for (const char* recipe : {"full_blocks", "preference"}) {
    const int status = tiny::Fork([&] {
      const TrainConfig config = LoadTrainConfig(
          StrCat(LAPIDARY_SOURCE_DIR "/recipes/configs/", recipe, ".json"),
          {"model_name_or_path=" + base, "dataset.train=" + DataFor(recipe), "memory_limit=16GB"});
      const MemoryPlan plan = PlanMemory(config);
      std::printf("%s: %s\n", recipe, PlanLine(plan, config).c_str());
      LAPIDARY_CHECK(plan.parts.total <= 16'000'000'000, "must fit; got ", plan.parts.total);
    });
    EXPECT_TRUE(tiny::ExitedWell(status)) << recipe;
  }
}

}  // namespace
}  // namespace lapidary
