// What layers keep for the backward pass changes memory and time, never a bit: every policy, chunk
// and place against a pass that keeps everything; int8, which is lossy, within a bound.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "autograd/arena.h"
#include "autograd/stash.h"
#include "model/adapt.h"
#include "model/load.h"
#include "tests/quant/temp_folder.h"
#include "train/make_model.h"
#include "train/step.h"

namespace lapidary {
namespace {

constexpr int64_t kTokens = 150;  // several chunks, the last one short

const std::string& BaseFolder() {
  static const TempFolder folder;
  static const std::string path = [] {
    MakeModel(MakeModelConfig("tiny", 3), folder / "base", {}, [](int64_t, int64_t) {});
    return folder / "base";
  }();
  return path;
}

enum class Kind { kLora, kDora, kDropout, kFull };

struct Trained {
  LoadedModel loaded;
  std::vector<Param*> params;
};

Trained Open(Kind kind) {
  Trained t = {LoadModel(BaseFolder()), {}};
  Transformer& model = t.loaded.model;
  if (kind == Kind::kFull) {
    MakeAllTrainable(model);
  } else {
    AdapterConfig config;
    config.r = 4;
    config.lora_alpha = 8;
    config.use_dora = kind == Kind::kDora;
    config.lora_dropout = kind == Kind::kDropout ? 0.2 : 0.0;
    config.target_modules = {.is_regex = true, .names = {"text-linear"}};
    AttachLora(model, config, 7);
    // B starts at zero, which would leave A without a gradient.
    ForEachLinear(model, [](Linear& l) {
      if (!l.lora) return;
      Tensor& b = l.lora->b.value;
      for (int64_t i = 0; i < b.size(); ++i)
        b.data()[i] = 0.05f * RandomNormal({3, 0, HashName(l.path)}, static_cast<uint64_t>(i));
    });
  }
  t.params = TrainableParams(model);
  return t;
}

MicroBatch Tokens() {
  MicroBatch batch;
  for (int64_t i = 0; i < kTokens; ++i) {
    batch.input.ids.push_back(static_cast<int32_t>(10 + i * 37 % 1500));
    batch.targets.push_back(static_cast<int32_t>(10 + (i + 1) * 37 % 1500));
    batch.weights.push_back(i % 5 == 0 ? 0.0f : 1.0f);
  }
  batch.input.document_starts = {0, 50, 107};
  return batch;
}

// Loss and gradients, in order.
std::vector<float> Gradients(Trained& t, Compute compute, const ActivationPolicy* policy) {
  StepOptions options;
  options.forward.compute = compute;
  options.forward.training = true;
  options.forward.seed = 5;
  options.forward.gradient_checkpointing = policy != nullptr;
  options.forward.activations = policy;
  const StepResult result = StepGradients(t.loaded.model, t.params, {Tokens()}, options);
  std::vector<float> all = {static_cast<float>(result.loss)};
  for (const Param* p : t.params) {
    if (!p->grad.defined()) continue;  // the embedders of media have nothing to do
    all.insert(all.end(), p->grad.data(), p->grad.data() + p->grad.size());
  }
  ZeroGrads(t.params);
  return all;
}

bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * 4) == 0;
}

double Distance(const std::vector<float>& a, const std::vector<float>& b) {
  double difference = 0, size = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference += std::pow(static_cast<double>(a[i]) - b[i], 2);
    size += std::pow(static_cast<double>(b[i]), 2);
  }
  return std::sqrt(difference / size);
}

class EveryPolicy : public testing::TestWithParam<std::pair<Kind, Compute>> {};

TEST_P(EveryPolicy, HasTheBitsOfKeepingEverything) {
  const auto [kind, compute] = GetParam();
  Trained t = Open(kind);
  const std::vector<float> kept = Gradients(t, compute, nullptr);
  ASSERT_GT(std::fabs(kept[0]), 0.1f);
  ASSERT_GT(kept.size(), 10000u);
  const LayerPolicy input = {}, disk = {.on_disk = true},
                    attention = {LayerKeep::kAttention, false},
                    all = {LayerKeep::kEverything, false};
  const std::map<std::string, std::vector<LayerPolicy>> choices = {
      {"by default", {}},
      {"disk", {disk, disk, disk}},
      {"mixed", {disk, attention, input}},
      {"mixed again", {attention, input, all}}};
  const auto file = std::make_shared<StashFile>(BaseFolder(), 1 << 20);
  for (const auto& [name, layers] : choices) {
    for (const int64_t chunk : {64, 4096}) {
      for (const bool split : {false, true}) {
        ActivationPolicy policy;
        policy.layers = layers;
        policy.chunk = chunk;
        policy.split_attention = split;
        policy.file = file;
        EXPECT_TRUE(SameBits(Gradients(t, compute, &policy), kept))
            << name << ", chunk " << chunk << (split ? ", split" : "");
      }
    }
  }
}

std::string NameOf(const testing::TestParamInfo<std::pair<Kind, Compute>>& info) {
  const char* kinds[] = {"Lora", "Dora", "Dropout", "Full"};
  return std::string(kinds[static_cast<int>(info.param.first)]) +
         (info.param.second == Compute::kFloat32 ? "Float32" : "Bfloat16");
}

INSTANTIATE_TEST_SUITE_P(All, EveryPolicy,
                         testing::Values(std::pair{Kind::kLora, Compute::kBfloat16},
                                         std::pair{Kind::kLora, Compute::kFloat32},
                                         std::pair{Kind::kDora, Compute::kBfloat16},
                                         std::pair{Kind::kDropout, Compute::kBfloat16},
                                         std::pair{Kind::kFull, Compute::kBfloat16},
                                         std::pair{Kind::kFull, Compute::kFloat32}),
                         NameOf);

// Int8 is lossy: it must differ (or the comparison above could not fail), and by little. Measured
// 1.3e-2 on this model; an input that were garbage would be off by 1.
TEST(Int8Inputs, AreNear) {
  Trained t = Open(Kind::kLora);
  const std::vector<float> kept = Gradients(t, Compute::kBfloat16, nullptr);
  const auto file = std::make_shared<StashFile>(BaseFolder(), 0);
  for (const bool on_disk : {false, true}) {
    ActivationPolicy policy = {{{}, {}, {}}, true, 128, false, false, file};
    for (LayerPolicy& layer : policy.layers) layer.on_disk = on_disk;
    const std::vector<float> lossy = Gradients(t, Compute::kBfloat16, &policy);
    EXPECT_FALSE(SameBits(lossy, kept));
    EXPECT_EQ(lossy[0], kept[0]);  // the forward pass is exact
    EXPECT_LT(Distance(lossy, kept), 0.03);
  }
}

TEST(Policies, TheComparisonSeesOneBit) {
  Trained t = Open(Kind::kLora);
  std::vector<float> kept = Gradients(t, Compute::kBfloat16, nullptr);
  const std::vector<float> same = kept;
  kept.back() = std::nextafter(kept.back(), 1e9f);
  EXPECT_FALSE(SameBits(kept, same));
}

// Less is held the less is kept.
TEST(Policies, HoldLessMemory) {
  Trained t = Open(Kind::kLora);
  const auto file = std::make_shared<StashFile>(BaseFolder(), 0);
  const auto peak = [&](const ActivationPolicy* policy) {
    ResetHighWater();
    const int64_t before = GetArenaStats().live_bytes;
    Gradients(t, Compute::kBfloat16, policy);
    return GetArenaStats().high_water_bytes - before;
  };
  const ActivationPolicy inputs = {{}, false, 64, false, false, nullptr};
  ActivationPolicy attention = {{}, false, 64, false, false, nullptr};
  attention.layers.assign(3, {LayerKeep::kAttention, false});
  EXPECT_LT(peak(&inputs), peak(&attention));
  EXPECT_LT(peak(&attention), peak(nullptr));
}

}  // namespace
}  // namespace lapidary
