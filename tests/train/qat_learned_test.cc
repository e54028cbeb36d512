// Learned scales (LSQ) and scales that are measured rarely: gradients against their definition in
// double precision, checkpoints that go on with the same bits, files that hold the very scales; and
// that plans count what they take.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>

#include "autograd/base/parallel.h"
#include "model/load.h"
#include "model/qat.h"
#include "quant/fake_quant.h"
#include "quant/safetensors.h"
#include "tests/check.h"
#include "tests/train/scale_export.h"
#include "tests/train/tiny_run.h"
#include "train/bundle.h"
#include "train/export/export.h"
#include "train/plan.h"
#include "train/run_card.h"
#include "train/step.h"

namespace lapidary {
namespace {

const tiny::RunPlace& Place() {
  static const tiny::RunPlace place;
  return place;
}
std::string At(const std::string& name) { return Place().path() + "/" + name; }

TrainConfig Config(const std::string& out, const std::vector<std::string>& more) {
  std::vector<std::string> set = {"lora.lora_dropout=0", "max_steps=4", "save_steps=0"};
  set.insert(set.end(), more.begin(), more.end());
  return Place().Config(out, set);
}
TrainConfig Learned(const std::string& out, const std::string& grid,
                    const std::vector<std::string>& more = {}) {
  std::vector<std::string> set = {
      StrCat("qat={\"format\": \"", grid, "\", \"scales\": \"learned\"}"), "lora=null",
      "save_dtype=\"F32\"", "learning_rate=1e-3"};
  set.insert(set.end(), more.begin(), more.end());
  return Config(out, set);
}

MicroBatch Words() {
  MicroBatch batch;
  for (int i = 0; i < 40; ++i) {
    batch.input.ids.push_back(5 + i * 7 % 200);
    batch.targets.push_back(5 + (i + 1) * 7 % 200);
  }
  batch.weights.assign(40, 1.0f);
  batch.input.document_starts = {0};
  batch.names = {"words"};
  return batch;
}

std::vector<float> Copy(const Tensor& t) { return {t.data(), t.data() + t.size()}; }

// A fully trainable model on a grid; steps a little away from where they begin, so that some codes
// are clipped.
LoadedModel OnGrid(const std::string& grid, const std::string& scales) {
  LoadedModel loaded = LoadModel(At("base"));
  MakeAllTrainable(loaded.model);
  QatConfig config;
  config.format = grid;
  config.scales = scales;
  AttachQat(loaded.model, ResolveQat(loaded.model, config));
  return loaded;
}

StepOptions Plain() {
  StepOptions options;
  options.forward.training = true;
  return options;
}

// The gradients of a step against eqs. 3 and 5 of Esser et al. in double precision, from the
// straight-through gradients of a model with the same scales that does not learn them.
TEST(QatLearned, GradientsAreThoseOfTheDefinition) {
  for (const char* name : {"int4_g32", "int3_g32", "q4_0", "int8_channel"}) {
    const Grid& grid = GetGrid(name, "test");
    const double low = grid.format() ? -8 : -std::pow(2, grid.bits() - 1), high = -low - 1;
    LoadedModel learns = OnGrid(name, "learned"), keeps = OnGrid(name, "base");
    const std::vector<Param*> steps = LearnedSteps(learns.model);
    ASSERT_FALSE(steps.empty());
    UpdateLearnedScales(learns.model);
    ForEachQatWeight(learns.model, [&](Weight& w, Linear*) {
      if (!w.fake) return;
      Tensor& logs = w.fake->log_steps->value;
      for (int64_t i = 0; i < logs.size(); ++i)
        logs.data()[i] = (-0.3f + 0.01f * static_cast<float>(i % 50)) / w.fake->log_gain;
    });
    UpdateLearnedScales(learns.model);
    std::map<std::string, Weight*> twins;
    ForEachQatWeight(keeps.model, [&](Weight& w, Linear*) { twins[w.name] = &w; });
    ForEachQatWeight(learns.model, [&](Weight& w, Linear*) {
      if (w.fake) twins.at(w.name)->fake->scales = w.fake->scales;
    });
    std::vector<Param*> all = TrainableParams(learns.model);
    all.insert(all.end(), steps.begin(), steps.end());
    StepGradients(learns.model, all, {Words()}, Plain());
    StepGradients(keeps.model, TrainableParams(keeps.model), {Words()}, Plain());
    int64_t clipped = 0, weights = 0;
    ForEachQatWeight(learns.model, [&](Weight& w, Linear*) {
      if (!w.fake) return;
      const Param& twin = *twins.at(w.name)->param;
      const int64_t block = grid.block() > 0 ? grid.block() : w.cols();
      std::vector<float> dw, dsteps, got = Copy(w.fake->log_steps->grad);
      for (int64_t at = 0; at < w.rows() * w.cols(); at += block) {
        const double s = grid.Step(w.fake->scale_row(0) + at / block * grid.scale_bytes());
        double sum = 0;
        for (int64_t k = at; k < at + block; ++k) {
          const double v = w.param->value.data()[k] / s, d = twin.grad.data()[k];
          const bool inside = v >= low && v <= high;
          sum += d * (inside ? std::nearbyint(v) - v : v < low ? low : high);
          dw.push_back(inside ? static_cast<float>(d) : 0.0f);
          clipped += !inside;
          ++weights;
        }
        dsteps.push_back(static_cast<float>(sum * s * w.fake->log_gain));
      }
      EXPECT_TRUE(check::CloseInNorm(Copy(w.param->grad), dw, 1e-6)) << name << " " << w.name;
      EXPECT_TRUE(check::CloseInNorm(got, dsteps, 1e-4)) << name << " " << w.name;
      // A wrong sign, or codes for their errors, would be noticed.
      for (float& d : dsteps) d = -d;
      EXPECT_FALSE(check::CloseInNorm(got, dsteps, 1e-4));
    });
    EXPECT_GT(clipped, weights / 10000) << name;
    EXPECT_LT(clipped, weights / 2);
  }
}

// The surrogate whose derivative the estimator is, s clamp(v) + s c with the error of rounding c
// held: finite differences of one block.
TEST(QatLearned, StepGradIsTheDerivativeOfTheSurrogate) {
  const Grid& grid = GetGrid("int4_g32", "test");
  std::vector<float> w(32), d(32);
  for (int i = 0; i < 32; ++i) {
    w[static_cast<size_t>(i)] = std::sin(1.7f * static_cast<float>(i)) * 0.9f;
    d[static_cast<size_t>(i)] = std::cos(0.3f * static_cast<float>(i));
  }
  uint8_t scales[2];
  grid.StoreStep(0.1f, scales);  // clips what is above 0.7
  const double s = grid.Step(scales);
  const auto loss = [&](double step) {
    double sum = 0;
    for (size_t i = 0; i < 32; ++i) {
      const double held = std::fmin(std::fmax(w[i] / s, -8.0), 7.0);
      const double v = std::fmin(std::fmax(w[i] / step, -8.0), 7.0);
      sum += d[i] * step * (v + std::nearbyint(held) - held);
    }
    return sum;
  };
  const double expected = s * (loss(s + 1e-6) - loss(s - 1e-6)) / 2e-6;  // of log s
  float got = 0;
  std::vector<float> dw = d;
  grid.StepGrad(scales, w.data(), 32, dw.data(), &got);
  EXPECT_NEAR(got, expected, 1e-5 * std::fabs(expected));
  for (size_t i = 0; i < 32; ++i)
    EXPECT_EQ(dw[i], w[i] / s > 7 || w[i] / s < -8 ? 0.0f : d[i]) << i;
}

// Where learning begins: no worse than what Measure takes, and better on most blocks.
TEST(QatLearned, FitHasTheLeastError) {
  for (const char* name : {"int3_g32", "int4_g128", "q4_0"}) {
    const Grid& grid = GetGrid(name, "test");
    double fitted = 0, measured = 0;
    for (uint64_t seed = 0; seed < 50; ++seed) {
      std::vector<float> w(128);
      for (size_t i = 0; i < w.size(); ++i) w[i] = 0.02f * RandomNormal({seed, 0, 0}, i);
      std::vector<uint8_t> a(8), b(8);
      grid.Measure(w.data(), 128, a.data());
      grid.Fit(w.data(), 128, b.data());
      const auto error = [&](const std::vector<uint8_t>& scales) {
        std::vector<float> on = w;
        grid.ProjectOn(scales.data(), on.data(), 128);
        double sum = 0;
        for (size_t i = 0; i < w.size(); ++i) sum += std::pow(double{on[i]} - w[i], 2);
        return sum;
      };
      measured += error(a);
      fitted += error(b);
    }
    EXPECT_LT(fitted, 0.97 * measured) << name;
  }
}

// Begun again, they are those of the weights as they are then.
TEST(QatLearned, BeginWhereTheWeightsAre) {
  LoadedModel loaded = OnGrid("int4_g32", "learned");
  int moved = 0;
  ForEachQatWeight(loaded.model, [&](Weight& w, Linear*) {
    if (!w.fake) return;
    for (int64_t i = 0; i < w.param->value.size(); ++i) w.param->value.data()[i] *= 1.7f;
  });
  const auto fitted = [&](const Weight& w) {
    std::vector<uint8_t> scales(static_cast<size_t>(w.fake->scales.byte_size()));
    w.fake->grid->Fit(w.param->value.data(), w.param->value.size(), scales.data());
    return std::memcmp(scales.data(), w.fake->scale_row(0), scales.size()) == 0;
  };
  ForEachQatWeight(loaded.model, [&](Weight& w, Linear*) { moved += w.fake && !fitted(w); });
  EXPECT_GT(moved, 5);
  BeginLearnedScales(loaded.model);
  UpdateLearnedScales(loaded.model);
  ForEachQatWeight(loaded.model, [&](Weight& w, Linear*) {
    if (!w.fake) return;
    EXPECT_TRUE(fitted(w)) << w.name;
  });
}

TEST(QatLearned, OnlyWhereItCanBe) {
  EXPECT_THROW(Learned("x", "int4_g32", {"save_dtype=\"BF16\""}), Error);
  LoadedModel frozen = LoadModel(At("base"));
  QatConfig config;
  config.scales = "learned";
  EXPECT_NO_THROW(AttachQat(frozen.model, ResolveQat(frozen.model, config)));
  config.embedding_format = "q8_0";
  try {
    AttachQat(frozen.model, ResolveQat(frozen.model, config));
    FAIL() << "must be refused";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("must not be of an embedding"), std::string::npos)
        << error.what();
  }
  config.embedding_format.clear();
  for (const char* grid : {"q4_k", "mxfp4", "q6_k"}) {
    config.format = grid;
    EXPECT_THROW(ResolveQat(frozen.model, config), Error) << grid;
  }
}

// Scales move; stopped and gone on, the run ends with the same files.
TEST(QatLearned, ResumedRunsEndAlike) {
  const std::map<std::string, std::vector<std::string>> runs = {
      {"learned",
       {"qat={\"format\": \"int3_g32\", \"scales\": \"learned\"}", "lora=null",
        "save_dtype=\"F32\"", "learning_rate=1e-3"}},
      {"adapted",
       {"qat={\"format\": \"int3_g32\", \"scales\": \"learned\"}", "learning_rate=1e-2"}},
      // Stopped where fake quantization begins.
      {"late",
       {"qat={\"format\": \"int3_g32\", \"scales\": \"learned\", \"start_step\": 2}", "lora=null",
        "save_dtype=\"F32\"", "learning_rate=1e-3"}},
      // Stopped in the middle between two measures.
      {"rare", {"qat={\"format\": \"int4_g32\", \"scale_refresh_steps\": 3}"}},
  };
  for (auto [tag, set] : runs) {
    set.push_back("save_steps=2");
    Train(Config("whole-" + tag, set), {});
    int steps = 0;
    volatile std::sig_atomic_t stop = 0;
    TrainHooks hooks;
    hooks.stop = &stop;
    hooks.on_step = [&](int64_t, double) { stop = ++steps == 2; };
    Train(Config("parts-" + tag, set), hooks);
    std::vector<std::string> again = set;
    again.push_back("resume_from_checkpoint=\"latest\"");
    Train(Config("parts-" + tag, again), {});
    const bool whole = tag == "learned" || tag == "late";
    for (const char* file :
         {whole ? "model.safetensors" : "adapter_model.safetensors", "qat_scales.safetensors"}) {
      if (tag == "rare" && std::string(file) == "qat_scales.safetensors") continue;
      EXPECT_EQ(HashFile(At("whole-" + tag + "/" + file)),
                HashFile(At("parts-" + tag + "/" + file)))
          << tag << " " << file;
    }
  }
  // They are not where they began.
  LoadedModel begun = OnGrid("int3_g32", "learned");
  for (const char* tag : {"learned", "adapted"}) {
    const TensorSet ended = OpenCheckpoint(At(StrCat("whole-", tag, "/qat_scales.safetensors")));
    int moved = 0;
    ForEachQatWeight(begun.model, [&](Weight& w, Linear*) {
      if (!w.fake) return;
      const StoredTensor& t = ended.Get(w.name);
      moved += std::memcmp(t.data, w.fake->scale_row(0), t.bytes) != 0;
    });
    EXPECT_GT(moved, 5) << tag;
  }
}

// What an export holds is what training multiplied with, scales and codes.
TEST(QatLearned, ExportHoldsTheLearnedScales) {
  for (const auto& [grid, target] : {std::pair{"q4_0", "gguf:q4_0"}, {"q8_0", "gguf:q8_0"}}) {
    const std::string out = StrCat("ship-", grid);
    Train(Learned(out, grid), {});
    Bundle bundle = OpenBundle(At(out));
    ExportRequest request;
    request.model = At(out);
    request.outputs = {{target, At(out) + ".gguf"}};
    Export(request);
    LoadedModel shipped = LoadModel(At(out) + ".gguf");
    std::map<std::string, Weight*> files;
    ForEachQatWeight(shipped.model, [&](Weight& w, Linear*) { files[w.name] = &w; });
    int compared = 0;
    ForEachQatWeight(bundle.model, [&](Weight& w, Linear*) {
      if (!w.fake) return;
      std::vector<float> trained(static_cast<size_t>(w.rows() * w.cols())), held = trained;
      DequantizeRows(w.Current(), 0, w.rows(), trained.data());
      DequantizeRows(files.at(w.name)->view, 0, w.rows(), held.data());
      EXPECT_TRUE(check::CloseEach(held, trained, 0)) << grid << " " << w.name;
      ++compared;
    });
    EXPECT_GT(compared, 5);
  }
  // Without the scales there is no telling what was trained.
  std::filesystem::copy(At("ship-q4_0"), At("no-scales"), std::filesystem::copy_options::recursive);
  std::filesystem::remove(At("no-scales/qat_scales.safetensors"));
  EXPECT_THROW(OpenBundle(At("no-scales")), Error);
  // compressed-tensors has the scales as they are.
  Train(Learned("ship-int4", "int4_g32"), {});
  ExportRequest request;
  request.model = At("ship-int4");
  ExpectScalesShip(request, At("ship-int4"), At("ship-int4-ct"));
}

TEST(QatLearned, SameBitsForAnyNumberOfThreads) {
  std::vector<std::vector<float>> grads[2];
  int run = 0;
  const int before = Threads();
  for (const int threads : {1, 3}) {
    SetThreads(threads);
    LoadedModel loaded = OnGrid("int4_g32", "learned");
    const std::vector<Param*> steps = LearnedSteps(loaded.model);
    std::vector<Param*> all = TrainableParams(loaded.model);
    all.insert(all.end(), steps.begin(), steps.end());
    StepGradients(loaded.model, all, {Words()}, Plain());
    for (const Param* p : steps) grads[run].push_back(Copy(p->grad));
    ++run;
  }
  SetThreads(before);
  EXPECT_EQ(grads[0], grads[1]);
}

// Plans count kept and learned scales with their moments, and a second base.
TEST(QatPlan, CountsScalesAndTeachers) {
  const auto parts = [](const TrainConfig& config) { return PlanMemory(config).parts; };
  const auto learned = Learned("plan-1", "int4_g32");
  const auto adapted =
      Config("plan-7", {"qat={\"format\": \"int4_g32\", \"scales\": \"learned\"}"});
  int64_t blocks = 0;
  LoadedModel model = OnGrid("int4_g32", "base");
  ForEachQatWeight(model.model, [&](Weight& w, Linear*) {
    if (w.fake) blocks += w.rows() * w.cols() / 32;
  });
  const MemoryParts follow = parts(
      Config("plan-2", {"qat={\"format\": \"int4_g32\"}", "lora=null", "save_dtype=\"F32\""}));
  EXPECT_EQ(follow.scales, 0);
  const MemoryParts with = parts(learned);
  const double slack = 64.0 * 100;  // what allocations are rounded to
  EXPECT_NEAR(static_cast<double>(with.scales), 8.0 * blocks, slack);  // 2 + 2 + float32
  EXPECT_NEAR(static_cast<double>(with.gradients - follow.gradients), 4.0 * blocks, slack);
  EXPECT_NEAR(static_cast<double>(with.optimizer - follow.optimizer), 8.0 * blocks, slack);
  const MemoryParts low = parts(Config("plan-8", {"qat={\"format\": \"int4_g32\"}"}));
  const MemoryParts low_with = parts(adapted);
  EXPECT_NEAR(static_cast<double>(low_with.scales), 8.0 * blocks, slack);
  EXPECT_NEAR(static_cast<double>(low_with.gradients - low.gradients), 4.0 * blocks, slack);
  EXPECT_NEAR(static_cast<double>(low_with.optimizer - low.optimizer), 8.0 * blocks, slack);
  const MemoryParts rare =
      parts(Config("plan-3", {"qat={\"format\": \"int4_g32\", \"scale_refresh_steps\": 4}"}));
  EXPECT_NEAR(static_cast<double>(rare.scales), 2.0 * blocks, slack);

  const std::string distill = "distillation={\"teacher\": \"base\"}";
  const std::vector<std::string> qat = {"qat={}"};
  const MemoryParts alone = parts(Config("plan-4", qat));
  const MemoryParts taught = parts(Config("plan-5", {"qat={}", distill}));
  EXPECT_EQ(taught.teacher, 0);  // the same model without its adapter
  EXPECT_GT(taught.activations, alone.activations);
  const MemoryParts moving = parts(Config("plan-6", {"lora=null", distill}));
  EXPECT_GT(moving.teacher, 0);
  EXPECT_GE(moving.total, moving.base + moving.teacher + moving.adapter + moving.optimizer);
}

}  // namespace
}  // namespace lapidary
