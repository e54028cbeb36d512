// Quantization-aware training from a configuration to a file: what was trained is what is exported,
// the record runs the adapter again as it was trained, runs go on with the same bits.
#include "model/qat.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>

#include "autograd/base/float16.h"
#include "model/adapt.h"
#include "model/load.h"
#include "quant/fake_quant.h"
#include "quant/gguf.h"
#include "quant/safetensors.h"
#include "tests/check.h"
#include "tests/train/tiny_run.h"
#include "train/bundle.h"
#include "train/distill.h"
#include "train/evaluate.h"
#include "train/export/export.h"
#include "train/session.h"

namespace lapidary {
namespace {

const tiny::RunPlace& Place() {
  static const tiny::RunPlace place;
  return place;
}

TrainConfig Config(const std::string& out, const std::vector<std::string>& more) {
  std::vector<std::string> set = {"lora.lora_dropout=0", "max_steps=4", "save_steps=0"};
  set.insert(set.end(), more.begin(), more.end());
  return Place().Config(out, set);
}

// The fake-quantized matrices of a model, as products see them.
std::map<std::string, std::vector<float>> Trained(Transformer& model) {
  std::map<std::string, std::vector<float>> all;
  ForEachQatWeight(model, [&](Weight& weight, Linear* linear) {
    if (!weight.fake) return;
    if (linear) BindAdapter(*linear);
    std::vector<float>& values = all[weight.name];
    values.resize(static_cast<size_t>(weight.rows() * weight.cols()));
    DequantizeRows(weight.Current(), 0, weight.rows(), values.data());
  });
  return all;
}

std::map<std::string, std::vector<float>> Stored(
    const std::string& path, const std::map<std::string, std::vector<float>>& of) {
  LoadedModel loaded = LoadModel(path);
  std::map<std::string, std::vector<float>> all;
  ForEachQatWeight(loaded.model, [&](Weight& weight, Linear*) {
    if (!of.contains(weight.name)) return;
    std::vector<float>& values = all[weight.name];
    values.resize(static_cast<size_t>(weight.rows() * weight.cols()));
    DequantizeRows(weight.view, 0, weight.rows(), values.data());
  });
  return all;
}

std::string Text(const std::vector<std::string>& set) { return TrainConfigText(Config("x", set)); }

TEST(QatConfig, KeysAreKnownAndChecked) {
  EXPECT_NE(Text({"qat={\"format\": \"mxfp4\"}"}).find("\"format\": \"mxfp4\""), std::string::npos);
  EXPECT_NE(Text({}).find("\"qat\": null"), std::string::npos);
  const std::map<std::string, std::string> wrong = {
      {"qat={\"format\": \"q4_7\"}", "must be a grid"},
      {"qat={\"fromat\": \"q4_0\"}", "try 'qat.format'"},
      {"qat={\"scales\": \"often\"}", "one of follow, base"},
      {"qat={\"format_pattern\": {\"q_proj\": \"q9\"}}", "must be a grid"},
      {"qat={\"scale_refresh_steps\": 0}", "an integer >= 1"},
      {"qat={\"scales\": \"base\", \"scale_refresh_steps\": 2}", "scale_refresh_steps"},
  };
  for (const auto& [set, message] : wrong) {
    try {
      Config("x", {set});
      FAIL() << set;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(message), std::string::npos) << error.what();
    }
  }
  EXPECT_THROW(Config("x", {"qat={}", "lora.lora_dropout=0.1"}), Error);
  EXPECT_THROW(Config("x", {"qat={}", "lora.use_dora=true"}), Error);
  EXPECT_THROW(Config("x", {"qat={\"format\": \"q8_0\"}", "lora=null"}), Error);
  EXPECT_NO_THROW(Config("x", {"qat={\"format\": \"q8_0\"}", "lora=null", "save_dtype=\"F32\""}));
}

TEST(QatResolve, PatternsAndEmbedding) {
  LoadedModel loaded = LoadModel(Place().path() + "/base");
  QatConfig config;
  config.format_pattern = {{"down_proj", "q8_0"}, {".*layers\\.1\\..*", "none"}};
  config.embedding_format = "q6_k";
  const QatRecord record = ResolveQat(loaded.model, config);
  const std::string layers = "model.language_model.layers.";
  EXPECT_EQ(record.grids.at(layers + "0.self_attn.q_proj.weight"), "q4_0");
  EXPECT_EQ(record.grids.at(layers + "1.mlp.down_proj.weight"), "q8_0");
  EXPECT_FALSE(record.grids.contains(layers + "1.self_attn.q_proj.weight"));
  EXPECT_EQ(record.grids.at("model.language_model.embed_tokens.weight"), "q6_k");
  config.target_modules = {false, {"no_such_proj"}};
  EXPECT_THROW(ResolveQat(loaded.model, config), Error);
}

struct ShipCase {
  const char* grid;
  const char* target;
  const char* extra;  // more of qat
  bool lora;
};

// The matrices of the export, read back, are the matrices that training multiplied with, bit for
// bit: adapters and full fine-tuning, scales that follow or are kept, codes of every kind.
TEST(QatShip, ExportHoldsWhatWasTrained) {
  const ShipCase cases[] = {
      {"q4_0", "gguf:q4_0", "", true},
      {"q4_0", "gguf:q4_0", ", \"scales\": \"base\"", true},
      {"q4_0", "gguf:q4_0", ", \"embedding_format\": \"q4_0\"", true},
      {"q4_0", "gguf:q4_0", "", false},
      {"q8_0", "gguf:q8_0", "", true},
      {"mxfp4", "gguf:mxfp4", "", true},
      {"q4_k", "gguf:q4_k_m", "", true},
      {"q4_k", "gguf:q4_k_m", ", \"scale_refresh_steps\": 3", true},
      {"q8_0", "gguf:q8_0", "", false},
  };
  int number = 0;
  for (const ShipCase& c : cases) {
    const std::string out = StrCat("ship-", ++number);
    std::vector<std::string> set = {StrCat("qat={\"format\": \"", c.grid, "\"", c.extra, "}")};
    if (!c.lora) set.insert(set.end(), {"lora=null", "learning_rate=1e-3", "save_dtype=\"F32\""});
    if (!c.lora && std::string(c.grid) == "q4_0") set.back() = "save_dtype=\"BF16\"";
    const TrainConfig config = Config(out, set);
    Train(config, {});
    const std::string folder = Place().path() + "/" + out;
    ASSERT_TRUE(std::filesystem::exists(folder + "/" + kQatRecordFile));
    // As evaluation opens it.
    Bundle bundle = c.lora ? OpenBundle(Place().path() + "/base", folder) : OpenBundle(folder);
    std::map<std::string, std::vector<float>> trained = Trained(bundle.model);
    if (!c.lora && std::string(c.grid) == "q4_0") {
      EXPECT_TRUE(trained.empty());  // the model's values are on the grid already
      AttachQat(bundle.model, *ReadQatRecord(folder));
      trained = Trained(bundle.model);
    }
    ASSERT_FALSE(trained.empty());
    ExportRequest request;
    request.model = c.lora ? Place().path() + "/base" : folder;
    if (c.lora) request.adapters = {{folder, 1}};
    const std::string gguf = StrCat(Place().path(), "/", out, ".gguf");
    const std::string plain = StrCat(Place().path(), "/", out, "-hf");
    request.outputs = {{c.target, gguf}, {"safetensors", plain}};
    Export(request);
    const std::map<std::string, std::vector<float>> shipped = Stored(gguf, trained);
    ASSERT_EQ(shipped.size(), trained.size());
    const std::string mix_grid = c.grid;
    for (const auto& [name, values] : trained)
      EXPECT_TRUE(check::CloseEach(shipped.at(name), values, 0)) << c.target << " " << name;
    // In bf16 the same values, rounded once.
    for (auto& [name, values] : trained) {
      for (float& v : values) v = RoundToBf16(v);
      EXPECT_TRUE(check::CloseEach(Stored(plain, trained).at(name), values, 0)) << name;
    }
  }
}

// Without the record the export is a plain quantization, which is something else.
TEST(QatShip, TheRecordMatters) {
  Train(Config("record", {"qat={}"}), {});
  const std::string folder = Place().path() + "/record";
  const auto bytes = [&](const std::string& name) {
    ExportRequest request;
    request.model = Place().path() + "/base";
    request.adapters = {{folder, 1}};
    request.outputs = {{"gguf:q4_0", StrCat(Place().path(), "/", name, ".gguf")}};
    Export(request);
    return ReadFile(request.outputs[0].path, uint64_t{1} << 30);
  };
  const std::string with = bytes("with");
  std::filesystem::remove(folder + "/" + kQatRecordFile);
  EXPECT_NE(with, bytes("without"));
}

// The loss of the last evaluation is that of the bundle opened again.
TEST(QatTrain, EvaluationRunsTheAdapterAsTrained) {
  const TrainConfig config =
      Config("eval", {"qat={\"activations\": \"int8\", \"kv_cache\": \"int8\"}",
                      StrCat("dataset.eval=\"", Place().path(), "/eval.jsonl\"")});
  const TrainSummary summary = Train(config, {});
  double last = 0;
  for (const auto& line : summary.log) {
    if (line.contains("eval_loss")) last = line["eval_loss"].get<double>();
  }
  const auto loss = [&](const std::string& adapter, bool record) {
    Bundle bundle = OpenBundle(Place().path() + "/base", adapter);
    if (!record) DetachQat(bundle.model);
    EvalOptions options;
    SampleBuilder builder(*bundle.tokenizer, MakeSampleOptions(config, bundle.media));
    LoaderOptions loading;
    loading.shuffle = false;
    loading.epochs = 1;
    Loader loader(Dataset::Open(config.eval_files), builder, loading);
    return Evaluate(bundle.model, loader, options).all.Loss();
  };
  const std::string folder = Place().path() + "/eval";
  EXPECT_EQ(loss(folder, true), last);
  EXPECT_NE(loss(folder, false), last);
}

TEST(QatTrain, StartsAfterTheGivenStep) {
  std::vector<double> plain, late;
  const auto losses = [](std::vector<double>* to) {
    TrainHooks hooks;
    hooks.on_step = [to](int64_t, double loss) { to->push_back(loss); };
    return hooks;
  };
  Train(Config("plain", {}), losses(&plain));
  Train(Config("late", {"qat={\"start_step\": 2}"}), losses(&late));
  ASSERT_EQ(late.size(), 4u);
  EXPECT_EQ(late[0], plain[0]);
  EXPECT_EQ(late[1], plain[1]);
  EXPECT_NE(late[2], plain[2]);
}

TEST(QatTrain, ResumedRunsEndAlike) {
  for (const char* extra : {"", ", \"scales\": \"base\""}) {
    const std::vector<std::string> set = {StrCat("qat={\"format\": \"q4_0\"", extra, "}"),
                                          "save_steps=2"};
    const std::string tag = *extra ? "base" : "follow";
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
    const auto hash = [&](const std::string& run) {
      return HashFile(Place().path() + "/" + run + tag + "/adapter_model.safetensors");
    };
    EXPECT_EQ(hash("whole-"), hash("parts-")) << tag;
  }
}

TEST(QatRecordFile, BrokenOnesAreErrors) {
  const std::string folder = Place().path() + "/broken";
  std::filesystem::create_directory(folder);
  EXPECT_FALSE(ReadQatRecord(folder));
  for (const char* text :
       {"{", "[]", "{\"format_version\": 2}",
        "{\"format_version\": 1, \"scales\": \"follow\", \"scale_refresh_steps\": 1, "
        "\"activations\": \"none\", \"kv_cache\": \"none\", \"projected\": false, \"tensors\": "
        "{\"x\": \"q9\"}}"}) {
    WriteFile(folder + "/" + kQatRecordFile, text);
    EXPECT_THROW(ReadQatRecord(folder), Error) << text;
  }
}

// ---- scales of the base

std::vector<float> Rows(const WeightView& view) {
  std::vector<float> values(static_cast<size_t>(view.rows * view.cols));
  DequantizeRows(view, 0, view.rows, values.data());
  return values;
}

// A base that is stored in the grid's format keeps its very scales, rows or units: an adapter that
// is zero changes nothing.
TEST(QatScales, OfAQuantizedBase) {
  for (const char* format : {"q4_0", "q8_0", "q6_k", "q4_k"}) {
    LoadedModel loaded = LoadModel(Place().path() + "/base", {"q8_0", ""});
    if (std::string(format) != "q8_0") {
      loaded = LoadModel(Place().path() + "/base",
                         {std::string(format) == "q4_k" ? "q4_k_m" : format, ""});
    }
    QatConfig config;
    config.format = format;
    config.scales = "base";
    AttachQat(loaded.model, ResolveQat(loaded.model, config));
    int exact = 0;
    ForEachLinear(loaded.model, [&](Linear& linear) {
      if (!linear.w.fake || linear.w.view.format != FindFormat(format)->id) return;
      ++exact;
      EXPECT_TRUE(check::CloseEach(Rows(linear.w.Current()), Rows(linear.w.Plain()), 0))
          << format << " " << linear.path;
    });
    EXPECT_GT(exact, 4) << format;
  }
}

// bf16 values on a 4-bit grid with scales of another rule than ggml's, as QAT checkpoints are: the
// solver's scales keep every one of them, ggml's rule does not.
TEST(QatScales, OfACheckpointOnAGrid) {
  LoadedModel loaded = LoadModel(Place().path() + "/base");
  Linear& linear = loaded.model.layers[0].up_proj;
  std::vector<float> w = Rows(linear.w.Plain());
  std::vector<uint16_t> bits(w.size());
  for (size_t b = 0; b < w.size(); b += 32) {
    float largest = 0;
    for (size_t i = 0; i < 32; ++i) largest = std::max(largest, std::fabs(w[b + i]));
    const float d = RoundToBf16(largest / 7.5f);
    for (size_t i = 0; i < 32; ++i) {
      const float q = std::fmin(std::fmax(std::nearbyint(w[b + i] / d), -8.0f), 7.0f);
      bits[b + i] = Bf16FromF32(q * d);
    }
  }
  linear.w.view = Bf16View(bits.data(), linear.w.rows(), linear.w.cols());
  const std::vector<float> plain = Rows(linear.w.Plain());
  for (const bool kept : {true, false}) {
    QatConfig config;
    config.scales = kept ? "base" : "follow";
    AttachQat(loaded.model, ResolveQat(loaded.model, config));
    std::vector<float> on_grid = Rows(linear.w.Current());
    for (float& x : on_grid) x = RoundToBf16(x);
    EXPECT_EQ(check::CloseEach(on_grid, plain, 0), kept);
  }
}

// ---- distillation

double LastLoss(const TrainConfig& config, double* first, double* divergence = nullptr) {
  double last = 0;
  bool begun = false;
  TrainHooks hooks;
  hooks.on_step = [&](int64_t, double loss) {
    if (!begun && first) *first = loss;
    begun = true;
    last = loss;
  };
  const TrainSummary summary = Train(config, hooks);
  for (const auto& line : summary.log) {
    if (divergence && line.contains("teacher_kl")) *divergence = line["teacher_kl"].get<double>();
  }
  return last;
}

// An untrained adapter is the base: without fake quantization the divergence from it is nothing,
// with it something, and training makes it less. Full fine-tuning has a copy of the base as
// teacher.
TEST(Distill, FromTheBase) {
  const std::string distill = "distillation={\"teacher\": \"base\"}";
  double first = 1;
  LastLoss(Config("distill-plain", {distill, "max_steps=1", "compute=\"float32\""}), &first);
  EXPECT_LE(std::fabs(first), 1e-6);
  for (const char* lora : {"{\"r\": 4, \"lora_alpha\": 8}", "null"}) {
    const std::string out = StrCat("distill-", lora[0]);
    double divergence = 0;
    const double last =
        LastLoss(Config(out, {distill, StrCat("lora=", lora), "qat={\"format\": \"int3_g32\"}",
                              "save_dtype=\"F32\"", "max_steps=30", "num_train_epochs=30",
                              StrCat("learning_rate=", lora[0] == 'n' ? "1e-4" : "1e-2")}),
                 &first, &divergence);
    EXPECT_GT(first, 1e-3);
    EXPECT_LT(last, 0.8 * first) << lora;
    EXPECT_GT(divergence, 0);
  }
}

// Every token stored is the teacher itself; a few give nearly its loss; a cache of other records is
// refused.
TEST(Distill, FromStoredTokens) {
  const TrainConfig config = Config(
      "stored", {"compute=\"float32\"", "qat={\"format\": \"int3_g32\"}", "max_steps=1", "seed=7"});
  const std::string cache = Place().path() + "/cache.safetensors";
  const auto write = [&](const std::vector<SourceSpec>& files, int64_t k) {
    Bundle bundle = OpenBundle(config.model_name_or_path);
    const SampleBuilder builder(*bundle.tokenizer, MakeSampleOptions(config, bundle.media));
    LoaderOptions options;
    options.shuffle = false;
    options.epochs = 1;
    Loader loader(Dataset::Open(files), builder, options);
    ForwardOptions forward;
    const auto next = [&] {
      const std::optional<Batch> batch = loader.Next();
      return batch ? MakeMicroBatch(*batch) : MicroBatch();
    };
    return WriteDistillCache(bundle.model, forward, k, next, cache);
  };
  const auto first_loss = [&](const std::string& teacher, int64_t number) {
    TrainConfig run = config;
    run.output_dir = StrCat(Place().path(), "/stored-", number);
    run.distillation = DistillConfig{teacher, 0.5, 1};
    double first = 0;
    LastLoss(run, &first);
    return first;
  };
  const double whole = first_loss("base", 0);
  EXPECT_EQ(write(config.train_files, 200), 10);
  EXPECT_NEAR(first_loss(cache, 1), whole, 0.02 * whole);
  write(config.train_files, 4);
  EXPECT_LT(first_loss(cache, 2), whole);  // events put together cannot diverge more
  SourceSpec other = config.train_files[0];
  other.path = Place().path() + "/eval.jsonl";
  write({other}, 4);
  EXPECT_THROW(first_loss(cache, 3), Error);
}

}  // namespace
}  // namespace lapidary
