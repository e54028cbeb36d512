// A decoder layer as one op against the same layer composed of ops (decoder_layer.h): the same
// values, and gradients within what rounding heads' outputs to bf16 costs.
#include "model/layer_op.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <string>
#include <tuple>
#include <vector>

#include "autograd/base/float16.h"
#include "autograd/base/parallel.h"
#include "model/adapt.h"
#include "model/load.h"
#include "tests/quant/temp_folder.h"
#include "train/make_model.h"

namespace lapidary {
namespace {

constexpr int64_t kTokens = 200;

const std::string& BaseFolder() {
  static const TempFolder folder;
  static const std::string path = [] {
    MakeModel(MakeModelConfig("tiny", 3), folder / "base", {}, [](int64_t, int64_t) {});
    return folder / "base";
  }();
  return path;
}

std::shared_ptr<const LayerContext> Context(const Transformer& model, Compute compute) {
  const TextConfig& text = model.config.text;
  ModelInput input;
  input.ids.assign(kTokens, 5);
  input.document_starts = {0, 70};
  auto c = std::make_shared<LayerContext>();
  for (int64_t i = 0; i < kTokens; ++i) {
    c->step_positions.push_back(i);
    c->positions.push_back(static_cast<int32_t>(i < 70 ? i : i - 70));
  }
  c->linear = {compute, true, {1, 2, 0}, &c->step_positions};
  c->rms_norm_eps = static_cast<float>(text.rms_norm_eps);
  c->num_attention_heads = text.num_attention_heads;
  c->window = text.sliding_window;
  c->sliding = std::make_shared<AttentionSpans>(MakeSpans(input, text.sliding_window, true, false));
  c->full = std::make_shared<AttentionSpans>(MakeSpans(input, 0, false, false));
  return c;
}

Tensor Values(const Shape& shape, uint64_t seed, bool bf16) {
  Tensor x(shape);
  for (int64_t i = 0; i < x.size(); ++i) {
    const float value = RandomNormal({seed, 0, 0}, static_cast<uint64_t>(i));
    x.data()[i] = bf16 ? RoundToBf16(value) : value;
  }
  return x;
}

using Floats = std::vector<float>;
Floats FloatsOf(const Tensor& t) {
  return t.defined() ? Floats(t.data(), t.data() + t.size()) : Floats();
}

struct Result {
  Floats y;
  std::vector<Floats> grads;  // of the input, then of the parameters
};

double Distance(const Floats& a, const Floats& b) {
  double difference = 0, size = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference += std::pow(static_cast<double>(a[i]) - b[i], 2);
    size += std::pow(static_cast<double>(b[i]), 2);
  }
  return a.size() == b.size() && size > 0 ? std::sqrt(difference / size) : a != b;
}

bool SameBits(const Floats& a, const Floats& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * 4) == 0;
}

class LayerOpTest : public testing::TestWithParam<std::tuple<Compute, bool>> {
 protected:
  LayerOpTest() : loaded_(LoadModel(BaseFolder())) {
    if (Full()) {
      MakeAllTrainable(loaded_.model);
      return;
    }
    AdapterConfig config;
    config.r = 4;
    config.lora_alpha = 8;
    config.target_modules = {.is_regex = true, .names = {"text-linear"}};
    AttachLora(loaded_.model, config, 7);
    ForEachLinear(loaded_.model, [](Linear& l) {
      if (l.lora) l.lora->b.value = Values(l.lora->b.value.shape(), HashName(l.path), false);
      if (l.lora) l.lora->scale *= 0.05f;
    });
  }
  Compute compute() const { return std::get<0>(GetParam()); }
  bool Full() const { return std::get<1>(GetParam()); }

  template <class Run>
  Result RunWith(Layer& layer, const Run& run) {
    const int64_t width = loaded_.model.config.text.hidden_size;
    Tape tape;
    const Var h = tape.Input(Values({kTokens, width}, 11, compute() == Compute::kBfloat16));
    const Var y = run(h);
    Result result = {FloatsOf(y.value()), {}};
    tape.Backward(y, Values({kTokens, width}, 12, false));
    result.grads.push_back(FloatsOf(tape.Grad(h)));
    ForEachParam(layer, [&](Param& p) {
      if (p.trainable) result.grads.push_back(FloatsOf(p.grad));
      p.grad = Tensor();
    });
    return result;
  }

  LoadedModel loaded_;
};

TEST_P(LayerOpTest, IsTheComposedLayer) {
  const std::shared_ptr<const LayerContext> context = Context(loaded_.model, compute());
  const bool bf16 = compute() == Compute::kBfloat16;
  for (Layer& layer : loaded_.model.layers) {
    const Result want = RunWith(layer, [&](const Var& h) { return Forward(layer, h, *context); });
    ASSERT_GE(want.grads.size(), Full() ? 12u : 13u);
    for (const LayerKeep keep :
         {LayerKeep::kInput, LayerKeep::kAttention, LayerKeep::kEverything}) {
      LayerPass pass;
      pass.layer = &layer;
      pass.context = context;
      pass.keep = keep;
      pass.chunk = 64;
      pass.split = true;
      if (bf16) pass.stash.form = StashForm::kBf16;
      const Result got = RunWith(layer, [&](const Var& h) { return RunLayer(pass, h); });
      EXPECT_TRUE(SameBits(got.y, want.y));
      ASSERT_EQ(got.grads.size(), want.grads.size());
      for (size_t i = 0; i < got.grads.size(); ++i) {
        EXPECT_LT(Distance(got.grads[i], want.grads[i]), bf16 ? 1e-2 : 2e-5) << "gradient " << i;
      }
    }
  }
}

TEST_P(LayerOpTest, NeitherSplitNorThreadsShow) {
  const std::shared_ptr<const LayerContext> context = Context(loaded_.model, compute());
  const int before = Threads();
  for (Layer& layer : loaded_.model.layers) {
    Result first;
    for (const int threads : {1, 3}) {
      SetThreads(threads);
      for (const bool split : {false, true}) {
        for (const int64_t chunk : {64, 128, 512}) {
          LayerPass pass;
          pass.layer = &layer;
          pass.context = context;
          pass.chunk = chunk;
          pass.split = split;
          const Result got = RunWith(layer, [&](const Var& h) { return RunLayer(pass, h); });
          if (first.y.empty()) first = got;
          EXPECT_TRUE(SameBits(got.y, first.y));
          for (size_t i = 0; i < got.grads.size(); ++i) {
            EXPECT_TRUE(SameBits(got.grads[i], first.grads[i]))
                << "gradient " << i << ", " << threads << " threads, chunk " << chunk
                << (split ? ", split" : "");
          }
        }
      }
    }
  }
  SetThreads(before);
}

// What needs no gradient gets none, and the rest keeps its bits.
TEST_P(LayerOpTest, AFrozenInputChangesNothingElse) {
  const std::shared_ptr<const LayerContext> context = Context(loaded_.model, compute());
  Layer& layer = loaded_.model.layers[0];
  LayerPass pass;
  pass.layer = &layer;
  pass.context = context;
  pass.chunk = 64;
  const Result all = RunWith(layer, [&](const Var& h) { return RunLayer(pass, h); });
  const Result frozen =
      RunWith(layer, [&](const Var& h) { return RunLayer(pass, h.tape().Constant(h.value())); });
  EXPECT_TRUE(frozen.grads[0].empty());
  ASSERT_EQ(all.grads.size(), frozen.grads.size());
  for (size_t i = 1; i < all.grads.size(); ++i) {
    EXPECT_TRUE(SameBits(frozen.grads[i], all.grads[i])) << i;
  }
}

INSTANTIATE_TEST_SUITE_P(All, LayerOpTest,
                         testing::Combine(testing::Values(Compute::kFloat32, Compute::kBfloat16),
                                          testing::Bool()),
                         [](const auto& info) {
                           return std::string(ComputeName(std::get<0>(info.param))) +
                                  (std::get<1>(info.param) ? "Full" : "Lora");
                         });

}  // namespace
}  // namespace lapidary
