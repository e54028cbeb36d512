// What a plan says is what a run takes: arena high-water of dry runs against real ones, the choice
// of policies under limits, refusals, and runs held to their plan by a hard cap.
#include "train/plan.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <nlohmann/json.hpp>

#include "autograd/arena.h"
#include "model/adapt.h"
#include "model/load.h"
#include "tests/train/tiny_run.h"
#include "train/optim/adamw.h"
#include "train/session.h"
#include "train/step.h"

namespace lapidary {
namespace {

// Processes are forked from this one, which must not have threads then.
[[maybe_unused]] const int one_thread = ::setenv("LAPIDARY_THREADS", "1", 1);

const tiny::RunPlace& Place() {
  static const tiny::RunPlace place;
  return place;
}

// A step from an unopened base: what is live before counts, so the peak is that of a process.
struct Case {
  const char* name;
  int64_t tokens;
  bool lora;
  bool image;
  Compute compute;
  OptimizerStates states;
  std::vector<LayerPolicy> layers;
  int64_t chunk;
};

MicroBatch Tokens(const Transformer& model, const Case& c) {
  MicroBatch batch;
  for (int64_t i = 0; i < c.tokens; ++i) {
    batch.input.ids.push_back(static_cast<int32_t>(10 + i * 37 % 1500));
    batch.targets.push_back(static_cast<int32_t>(10 + (i + 1) * 37 % 1500));
    batch.weights.push_back(1.0f);
  }
  if (c.image) {
    const int64_t patches = 16, features = model.config.vision.patch_features();
    batch.input.types.assign(static_cast<size_t>(c.tokens), 0);
    batch.input.patches = Tensor::Zeros({patches, features});
    for (int64_t i = 0; i < patches; ++i) {
      batch.input.ids[static_cast<size_t>(4 + i)] = model.config.image_token_id;
      batch.input.types[static_cast<size_t>(4 + i)] = 1;
      batch.weights[static_cast<size_t>(4 + i)] = 0;
      batch.input.patch_rows.push_back(4 + i);
      batch.input.patch_positions.push_back(static_cast<int32_t>(i % 4));
      batch.input.patch_positions.push_back(static_cast<int32_t>(i / 4));
    }
  }
  return batch;
}

// Two steps; the tensors' peak.
int64_t PeakOf(const Case& c) {
  const int64_t before = GetArenaStats().live_bytes;
  ResetHighWater();
  LoadedModel loaded = LoadModel(Place().path() + "/base");
  if (c.lora) {
    AdapterConfig config;
    config.r = 16;
    config.target_modules = {.is_regex = true, .names = {"all-linear"}};
    AttachLora(loaded.model, config, 1);
  } else {
    MakeAllTrainable(loaded.model);
  }
  AdamW optimizer(TrainableParams(loaded.model), {.states = c.states});
  const ActivationPolicy policy = {c.layers, false, c.chunk,
                                   false,    false, std::make_shared<StashFile>(Place().path(), 0)};
  StepOptions options;
  options.forward.compute = c.compute;
  options.forward.training = true;
  options.forward.gradient_checkpointing = true;
  options.forward.activations = &policy;
  for (int step = 0; step < 2; ++step) {
    OptimizerStep(loaded.model, optimizer, {Tokens(loaded.model, c)}, 1e-4, options);
  }
  return GetArenaStats().high_water_bytes - before;
}

TEST(Plan, ADryRunTakesWhatARunTakes) {
  const LayerPolicy input, disk = {.on_disk = true}, attention = {LayerKeep::kAttention, false},
                           whole = {LayerKeep::kEverything, false};
  const OptimizerStates f32 = OptimizerStates::kFloat32;
  const Compute bf16 = Compute::kBfloat16;
  const Case cases[] = {
      {"inputs", 700, true, false, bf16, f32, {input, input}, 64},
      {"disk", 700, true, false, bf16, OptimizerStates::k8Bit, {disk, disk}, 128},
      {"mixed", 500, true, false, bf16, OptimizerStates::kBf16, {disk, attention}, 256},
      {"whole", 300, true, false, bf16, f32, {whole, whole}, 512},
      {"short", 40, true, false, bf16, f32, {input, input}, 512},
      {"float32", 400, true, false, Compute::kFloat32, f32, {input, attention}, 64},
      {"full", 300, false, false, bf16, f32, {input, input}, 512},
      {"image", 200, true, true, bf16, f32, {input, input}, 512},
  };
  for (const Case& c : cases) {
    int64_t planned = 0;
    CountMemory([&] { planned = PeakOf(c); });
    const int64_t measured = PeakOf(c);
    EXPECT_GT(planned, 1 << 20) << c.name;
    EXPECT_NEAR(static_cast<double>(planned) / static_cast<double>(measured), 1.0, 0.05) << c.name;
  }
  // Another policy is another figure, or the comparison says nothing.
  int64_t inputs = 0, kept = 0;
  CountMemory([&] { inputs = PeakOf(cases[0]); });
  Case more = cases[0];
  more.layers = {whole, whole};
  CountMemory([&] { kept = PeakOf(more); });
  EXPECT_GT(static_cast<double>(kept), 1.1 * static_cast<double>(inputs));
}

TEST(Plan, SizesInUnits) {
  EXPECT_EQ(ParseBytes("9GB", "here"), 9'000'000'000);
  EXPECT_EQ(ParseBytes("9.5 GB", "here"), 9'500'000'000);
  EXPECT_EQ(ParseBytes("800MB", "here"), 800'000'000);
  EXPECT_EQ(ParseBytes("2GiB", "here"), int64_t{2} << 30);
  EXPECT_EQ(ParseBytes("12345", "here"), 12345);
  for (const char* bad : {"", "GB", "-1GB", "9 G", "9GBx", "1e40GB", "nan"}) {
    EXPECT_THROW(ParseBytes(bad, "here"), Error) << bad;
  }
}

std::string Refusal(const TrainConfig& config) {
  try {
    PlanMemory(config);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(Plan, TheLimitChoosesThePolicy) {
  const auto plan = [&](const std::string& limit, std::vector<std::string> set = {}) {
    set.push_back("max_length=2048");
    set.push_back("memory_limit=" + limit);
    return PlanMemory(Place().Config("limits", set));
  };
  const MemoryPlan roomy = plan("20GB");
  for (const LayerPolicy& layer : roomy.policy.layers) {
    EXPECT_EQ(layer.keep, LayerKeep::kEverything);
  }
  const std::string refusal =
      Refusal(Place().Config("limits", {"max_length=2048", "memory_limit=1MB"}));
  ASSERT_NE(refusal.find("memory_limit: must be at least "), std::string::npos) << refusal;
  const size_t at = refusal.find("try memory_limit: \"");
  ASSERT_NE(at, std::string::npos) << refusal;
  const std::string least = refusal.substr(at + 19, refusal.find('"', at + 19) - at - 19);
  const MemoryPlan tight = plan(least);
  EXPECT_LE(tight.parts.total, tight.limit);
  EXPECT_LT(tight.parts.total, roomy.parts.total);
  // Every plan between is within its limit, and slower choices come only with tighter limits.
  int64_t whole_before = static_cast<int64_t>(roomy.policy.layers.size());
  for (int64_t limit = roomy.parts.total; limit > tight.parts.total;
       limit -= (roomy.parts.total - tight.parts.total) / 4) {
    const MemoryPlan between = plan(StrCat(limit, "B"));
    EXPECT_LE(between.parts.total, limit);
    int64_t whole = 0;
    for (const LayerPolicy& layer : between.policy.layers) {
      whole += layer.keep == LayerKeep::kEverything;
    }
    EXPECT_LE(whole, whole_before);
    whole_before = whole;
  }
  const MemoryPlan disk = plan("20GB", {"activation_offload=disk"});
  EXPECT_EQ(disk.disk, 0);  // kept whole: nothing needs to wait
  EXPECT_LT(plan("20GB", {"lora.r=64", "optim=adamw_8bit"}).parts.optimizer,
            plan("20GB", {"lora.r=64"}).parts.optimizer / 3);
}

TEST(Plan, ARefusedRunLeavesNothing) {
  const TrainConfig config = Place().Config("refused", {"memory_limit=1MB"});
  EXPECT_NE(tiny::RunInChild(config).find("memory_limit: must be at least"), std::string::npos);
  EXPECT_FALSE(std::filesystem::exists(config.output_dir));
}

// A run in a process that cannot have more: it fits by its plan, and the same run with everything
// kept does not.
TEST(Plan, AHardCapHoldsARunToItsPlan) {
  ASSERT_TRUE(tiny::ExitedWell(tiny::Fork([] {
    MakeModel(MakeModelConfig("tiny", 8), Place().path() + "/deep", {}, [](int64_t, int64_t) {});
  })));
  std::string text;
  for (int i = 0; i < 8000; ++i) text += i % 7 == 0 ? "amber basalt " : "coral flint ";
  WriteFile(Place().path() + "/long.jsonl", nlohmann::json{{"text", text}}.dump() + "\n");
  const std::vector<std::string> set = {StrCat("dataset.train=", Place().path(), "/long.jsonl"),
                                        "max_length=8192",
                                        "on_too_long=truncate",
                                        "max_steps=1",
                                        "gradient_accumulation_steps=1",
                                        "per_device_train_batch_size=1",
                                        StrCat("model_name_or_path=", Place().path(), "/deep")};
  const auto with = [&](std::vector<std::string> more) {
    more.insert(more.begin(), set.begin(), set.end());
    return more;
  };
  const std::string least = [&] {
    const std::string refusal = Refusal(Place().Config("cap", with({"memory_limit=1MB"})));
    const size_t at = refusal.find("try memory_limit: \"") + 19;
    return refusal.substr(at, refusal.find('"', at) - at);
  }();
  const TrainConfig squeezed = Place().Config("cap", with({"memory_limit=" + least}));
  const MemoryPlan plan = PlanMemory(squeezed);
  const MemoryPlan all = PlanMemory(Place().Config("cap", with({"memory_limit=20GB"})));
  // The cap is on what a process may write to, stacks of threads included, resident or not.
  const int64_t cap = plan.arena + plan.parts.workspace + (int64_t{160} << 20);
  ASSERT_GT(all.arena, cap + (int64_t{64} << 20)) << "the cap would not catch it";
  const auto capped = [cap] {
    const rlimit limit = {static_cast<rlim_t>(cap), static_cast<rlim_t>(cap)};
    ::setrlimit(RLIMIT_DATA, &limit);
  };
  const std::string result = tiny::RunInChild(squeezed, {}, capped);
  EXPECT_EQ(result.size(), 64u) << result;
  const TrainConfig kept =
      Place().Config("cap-all", with({"memory_limit=20GB", "gradient_checkpointing=false"}));
  const std::string message = tiny::RunInChild(kept, {}, capped);
  EXPECT_NE(message.find("memory: must have"), std::string::npos) << message;
}

}  // namespace
}  // namespace lapidary
