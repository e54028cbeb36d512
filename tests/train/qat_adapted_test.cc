// Learned scales of weights that are frozen under an adapter: their gradients, and those of A and
// B, against their definition in double precision; bits for any number of threads and any cut of
// the tokens; files that hold the very scales.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <map>

#include "autograd/base/parallel.h"
#include "autograd/base/random.h"
#include "model/adapt.h"
#include "model/load.h"
#include "model/qat.h"
#include "quant/fake_quant.h"
#include "quant/safetensors.h"
#include "tests/check.h"
#include "tests/train/scale_export.h"
#include "tests/train/tiny_run.h"
#include "train/bundle.h"
#include "train/export/export.h"
#include "train/step.h"

namespace lapidary {
namespace {

const tiny::RunPlace& Place() {
  static const tiny::RunPlace place;
  return place;
}
std::string At(const std::string& name) { return Place().path() + "/" + name; }

std::vector<float> Copy(const Tensor& t) { return {t.data(), t.data() + t.size()}; }

MicroBatch Words(int count) {
  MicroBatch batch;
  for (int i = 0; i < count; ++i) {
    batch.input.ids.push_back(5 + i * 7 % 200);
    batch.targets.push_back(5 + (i + 1) * 7 % 200);
  }
  batch.weights.assign(static_cast<size_t>(count), 1.0f);
  batch.input.document_starts = {0};
  batch.names = {"words"};
  return batch;
}

// An adapter that is not zero, on a grid with steps a little away from where they begin, so that
// some codes are clipped.
LoadedModel Adapted(const std::string& grid) {
  LoadedModel loaded = LoadModel(At("base"));
  AdapterConfig lora;
  lora.r = 4;
  lora.target_modules = {true, {"text-linear"}};
  AttachLora(loaded.model, lora, 3);
  uint64_t seed = 0;
  ForEachLinear(loaded.model, [&](Linear& linear) {
    if (!linear.lora) return;
    ++seed;
    Tensor& b = linear.lora->b.value;
    for (int64_t i = 0; i < b.size(); ++i)
      b.data()[i] = 0.01f * RandomNormal({seed, 0, 0}, static_cast<uint64_t>(i));
  });
  QatConfig config;
  config.format = grid;
  config.scales = "learned";
  AttachQat(loaded.model, ResolveQat(loaded.model, config));
  for (Param* p : LearnedSteps(loaded.model)) {
    for (int64_t i = 0; i < p->value.size(); ++i)
      p->value.data()[i] = -0.3f + 0.01f * static_cast<float>(i % 50);
  }
  UpdateLearnedScales(loaded.model);
  return loaded;
}

std::vector<Param*> Trained(Transformer& model) {
  std::vector<Param*> all = TrainableParams(model);
  for (Param* steps : LearnedSteps(model)) all.push_back(steps);
  return all;
}

// What a step's gradients are made of: dW = dy^T x, from a model whose matrices are W + s B A
// themselves and train whole, on the same scales, kept.
struct Twin {
  LoadedModel loaded = LoadModel(At("base"));
  std::map<std::string, Param*> weights;

  Twin(const std::string& grid, Transformer& of) {
    MakeAllTrainable(loaded.model);
    QatConfig config;
    config.format = grid;
    config.scales = "base";
    AttachQat(loaded.model, ResolveQat(loaded.model, config));
    std::map<std::string, Weight*> mine;
    ForEachQatWeight(loaded.model, [&](Weight& w, Linear*) { mine[w.name] = &w; });
    ForEachQatWeight(of, [&](Weight& w, Linear* linear) {
      if (!w.fake) return;
      BindAdapter(*linear);
      Weight& to = *mine.at(w.name);
      to.fake->scales = w.fake->scales;
      WeightMap unrounded = w.fake->map;
      unrounded.apply = nullptr;
      WeightView view = w.view;
      view.map = &unrounded;
      DequantizeRows(view, 0, w.rows(), to.param->value.data());
      weights[w.name] = to.param.get();
    });
  }
};

TEST(QatAdapted, GradientsAreThoseOfTheDefinition) {
  StepOptions options;
  options.forward.training = true;
  for (const char* name : {"int3_g32", "q4_0", "int8_channel"}) {
    const Grid& grid = GetGrid(name, "test");
    const double low = grid.format() ? -8 : -std::pow(2, grid.bits() - 1), high = -low - 1;
    LoadedModel learns = Adapted(name);
    Twin twin(name, learns.model);
    StepGradients(learns.model, Trained(learns.model), {Words(40)}, options);
    StepGradients(twin.loaded.model, TrainableParams(twin.loaded.model), {Words(40)}, options);
    int64_t clipped = 0, compared = 0;
    ForEachQatWeight(learns.model, [&](Weight& w, Linear* linear) {
      if (!w.fake) return;
      const Param& whole = *twin.weights.at(w.name);
      const int64_t block = grid.block() > 0 ? grid.block() : w.cols();
      std::vector<float> base(static_cast<size_t>(w.rows() * w.cols())), wanted, without;
      DequantizeRows(w.view, 0, w.rows(), base.data());
      for (int64_t at = 0; at < w.rows() * w.cols(); at += block) {
        const double s = grid.Step(w.fake->scale_row(0) + at / block * grid.scale_bytes());
        const auto slope = [&](double value) {
          const double v = value / s;
          const bool inside = v >= low && v <= high;
          clipped += !inside;
          return s * (inside ? std::nearbyint(v) - v : v < low ? low : high);
        };
        double sum = 0, unadapted = 0;
        for (int64_t k = at; k < at + block; ++k) {
          const double d = whole.grad.data()[k];
          sum += d * slope(whole.value.data()[k]);
          unadapted += d * slope(base[static_cast<size_t>(k)]);
        }
        wanted.push_back(static_cast<float>(sum));
        without.push_back(static_cast<float>(unadapted));
      }
      const std::vector<float> got = Copy(w.fake->log_steps->grad);
      EXPECT_TRUE(check::CloseInNorm(got, wanted, 1e-3)) << name << " " << w.name;
      // Of the weight without its adapter, it would be noticed.
      EXPECT_FALSE(check::CloseInNorm(got, without, 1e-2)) << name << " " << w.name;

      // Straight through to B: dB = s dW A^T, of clipped weights, too.
      const Lora& lora = *linear->lora;
      std::vector<float> db;
      for (int64_t o = 0; o < w.rows(); ++o) {
        for (int64_t r = 0; r < lora.rank(); ++r) {
          double sum = 0;
          for (int64_t i = 0; i < w.cols(); ++i)
            sum +=
                double{whole.grad.data()[o * w.cols() + i]} * lora.a.value.data()[r * w.cols() + i];
          db.push_back(static_cast<float>(sum * lora.scale));
        }
      }
      EXPECT_TRUE(check::CloseInNorm(Copy(lora.b.grad), db, 1e-4)) << name << " " << w.name;
      ++compared;
    });
    EXPECT_GT(compared, 10) << name;
    EXPECT_GT(clipped, 100) << name;
  }
}

TEST(QatAdapted, SameBitsForThreadsAndCuts) {
  const int before = Threads();
  std::vector<std::vector<std::vector<float>>> all;
  struct Case {
    int threads;
    int64_t chunk;
    bool again;
  };
  for (const Case c :
       {Case{1, 512, false}, Case{3, 512, false}, Case{2, 64, false}, Case{2, 128, true}}) {
    SetThreads(c.threads);
    LoadedModel loaded = Adapted("int4_g32");
    StepOptions options;
    options.forward.training = true;
    options.forward.compute = Compute::kBfloat16;
    ActivationPolicy policy;
    policy.chunk = c.chunk;
    options.forward.activations = &policy;
    options.forward.gradient_checkpointing = c.again;
    StepGradients(loaded.model, Trained(loaded.model), {Words(150), Words(70)}, options);
    all.emplace_back();
    for (const Param* p : Trained(loaded.model)) all.back().push_back(Copy(p->grad));
  }
  SetThreads(before);
  for (size_t i = 1; i < all.size(); ++i) EXPECT_EQ(all[0], all[i]) << i;
}

// No gradient where fake quantization is off, and the scales are left alone.
TEST(QatAdapted, NothingBeforeItsStart) {
  LoadedModel loaded = Adapted("q4_0");
  SetQatActive(loaded.model, false);
  StepGradients(loaded.model, Trained(loaded.model), {Words(20)}, {});
  for (const Param* p : LearnedSteps(loaded.model)) EXPECT_FALSE(p->grad.defined()) << p->name;
}

TEST(QatAdapted, ExportHoldsTheLearnedScales) {
  const auto train = [](const std::string& out, const std::string& grid) {
    Train(Place().Config(
              out, {"lora.lora_dropout=0", "max_steps=4", "save_steps=0", "learning_rate=1e-2",
                    StrCat("qat={\"format\": \"", grid, "\", \"scales\": \"learned\"}")}),
          {});
  };
  for (const auto& [grid, target] : {std::pair{"q4_0", "gguf:q4_0"}, {"q8_0", "gguf:q8_0"}}) {
    const std::string out = StrCat("adapted-", grid);
    train(out, grid);
    ExportRequest request;
    request.model = At("base");
    request.adapters = {{At(out), 1}};
    request.outputs = {{target, At(out) + ".gguf"}};
    Export(request);
    Bundle bundle = OpenBundle(At("base"), At(out));
    LoadedModel shipped = LoadModel(At(out) + ".gguf");
    std::map<std::string, Weight*> files;
    ForEachQatWeight(shipped.model, [&](Weight& w, Linear*) { files[w.name] = &w; });
    int compared = 0;
    ForEachQatWeight(bundle.model, [&](Weight& w, Linear* linear) {
      if (!w.fake) return;
      BindAdapter(*linear);
      std::vector<float> trained(static_cast<size_t>(w.rows() * w.cols())), held = trained;
      DequantizeRows(w.Current(), 0, w.rows(), trained.data());
      DequantizeRows(files.at(w.name)->view, 0, w.rows(), held.data());
      EXPECT_TRUE(check::CloseEach(held, trained, 0)) << grid << " " << w.name;
      ++compared;
    });
    EXPECT_GT(compared, 5);
  }
  train("adapted-int4", "int4_g32");
  ExportRequest request;
  request.model = At("base");
  request.adapters = {{At("adapted-int4"), 1}};
  ExpectScalesShip(request, At("adapted-int4"), At("adapted-int4-ct"));
}

}  // namespace
}  // namespace lapidary
