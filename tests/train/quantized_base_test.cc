// Quantized bases: GGUF files of every mix, and Hugging Face folders quantized while loading. Both
// hold the same bytes; logits and gradients are those of the same numbers in float32; training on
// them gives the same adapter.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>

#include "autograd/base/float16.h"
#include "autograd/base/parallel.h"
#include "autograd/base/random.h"
#include "autograd/kernels/isa.h"
#include "model/adapt.h"
#include "model/load.h"
#include "model/quant_mix.h"
#include "quant/adapter.h"
#include "quant/format.h"
#include "quant/gguf.h"
#include "quant/units.h"
#include "tests/check.h"
#include "tests/model/golden_batch.h"
#include "tests/train/tiny_run.h"
#include "train/bundle.h"
#include "train/export/export.h"
#include "train/random_rows.h"

namespace lapidary {
namespace {

const tiny::RunPlace& Place() {
  static const tiny::RunPlace place;
  return place;
}

// The tiny model, and its GGUF files of all mixes.
std::string GgufPath(const std::string& mix) {
  static const std::string folder = [] {
    const std::string out = Place().path() + "/gguf";
    ExportRequest request;
    request.model = Place().path() + "/base";
    for (const QuantMix& m : QuantMixes())
      request.outputs.push_back({StrCat("gguf:", m.name), StrCat(out, "/", m.name, ".gguf")});
    Export(request);
    return out;
  }();
  return StrCat(folder, "/", mix, ".gguf");
}

std::map<std::string, const Weight*> Matrices(Transformer& model) {
  std::map<std::string, const Weight*> all = {{model.embed_tokens.name, &model.embed_tokens}};
  ForEachLinear(model, [&](Linear& linear) { all[linear.w.name] = &linear.w; });
  return all;
}

bool IsText(const std::string& name) { return name.rfind("model.language_model.", 0) == 0; }

// Replaces every matrix by its values in float32.
void Expand(Transformer& model) {
  const auto expand = [](Weight& w) {
    auto values = std::make_shared<std::vector<float>>(static_cast<size_t>(w.rows() * w.cols()));
    DequantizeRows(w.view, 0, w.rows(), values->data());
    w.view = {kFormatF32, w.rows(), w.cols(), values->data(), w.cols() * 4};
    w.owner = values;
  };
  expand(model.embed_tokens);
  ForEachLinear(model, [&](Linear& linear) { expand(linear.w); });
}

struct Outcome {
  std::vector<float> logits;
  double loss = 0;
  std::vector<std::vector<float>> gradients;  // of the adapters
};

// Logits of 70 tokens, and loss and adapter gradients for them.
Outcome OutcomeOf(Transformer& model) {
  AdapterConfig adapter;
  adapter.r = 2;
  adapter.lora_alpha = 4;
  adapter.target_modules.names = {"text-linear"};
  AttachLora(model, adapter, 3);
  uint64_t counter = 0;
  const std::vector<Param*> params = TrainableParams(model);
  for (Param* p : params) {  // B starts at zero, which would hide A's gradient
    for (int64_t i = 0; i < p->value.size(); ++i)
      p->value.data()[i] = 0.05f * RandomNormal({5, 0, 0}, counter++);
  }
  ModelInput input;
  const int64_t n = 70;
  std::vector<int32_t> targets;
  for (int64_t i = 0; i < n; ++i) {
    input.ids.push_back(
        static_cast<int32_t>(RandomBelow({9, 0, 0}, static_cast<uint64_t>(i), 2000)));
    targets.push_back(static_cast<int32_t>(RandomBelow({8, 0, 0}, static_cast<uint64_t>(i), 2000)));
  }
  input.types.assign(static_cast<size_t>(n), 0);
  Tape tape;
  ForwardOptions options;
  const Var hidden = Forward(model, tape, input, options);
  Outcome out;
  const Tensor logits =
      Logits(hidden.value(), model.head().Current(),
             static_cast<float>(model.config.text.final_logit_softcapping), Compute::kFloat32);
  out.logits.assign(logits.data(), logits.data() + logits.size());
  TokenStats stats;
  const Var loss = LossSum(model, hidden, targets, std::vector<float>(static_cast<size_t>(n), 1.0f),
                           Compute::kFloat32, 64, &stats);
  tape.Backward(loss);
  out.loss = loss.value().data()[0];
  for (const Param* p : params) {
    out.gradients.emplace_back(p->grad.data(), p->grad.data() + p->grad.size());
  }
  return out;
}

// Limits of the golden set for float32: logits 2e-4, gradients 1e-4.
void ExpectSame(const Outcome& got, const Outcome& want, const std::string& what) {
  ASSERT_EQ(got.logits.size(), want.logits.size()) << what;
  EXPECT_LE(golden::MaxAbs(got.logits.data(), want.logits.data(),
                           static_cast<int64_t>(want.logits.size())),
            2e-4)
      << what;
  EXPECT_NEAR(got.loss, want.loss, 1e-5 * std::fabs(want.loss)) << what;
  ASSERT_EQ(got.gradients.size(), want.gradients.size()) << what;
  for (size_t i = 0; i < want.gradients.size(); ++i) {
    EXPECT_LE(golden::RelativeL2(got.gradients[i].data(), want.gradients[i].data(),
                                 want.gradients[i].size()),
              1e-4)
        << what << ", adapter " << i;
  }
}

TEST(QuantizedBase, FilesAndFoldersHoldTheSameBytes) {
  for (const QuantMix& mix : QuantMixes()) {
    LoadedModel file = LoadModel(GgufPath(mix.name));
    LoadedModel folder = LoadModel(Place().path() + "/base", {mix.name, ""});
    const auto want = Matrices(file.model), got = Matrices(folder.model);
    ASSERT_EQ(got.size(), want.size());
    for (const auto& [name, weight] : want) {
      if (!IsText(name)) continue;
      const Weight& other = *got.at(name);
      ASSERT_EQ(other.view.format, weight->view.format) << mix.name << " " << name;
      ASSERT_EQ(other.view.row_bytes, weight->view.row_bytes);
      EXPECT_EQ(std::memcmp(other.view.data, weight->view.data,
                            static_cast<size_t>(weight->rows() * weight->view.row_bytes)),
                0)
          << mix.name << " " << name;
    }
  }
}

TEST(QuantizedBase, LogitsAndGradientsOfEveryMix) {
  for (const QuantMix& mix : QuantMixes()) {
    LoadedModel blocks = LoadModel(GgufPath(mix.name));
    LoadedModel values = LoadModel(GgufPath(mix.name));
    Expand(values.model);
    ExpectSame(OutcomeOf(blocks.model), OutcomeOf(values.model), mix.name);
  }
}

// What is laid out for decoding has the bits of what is mapped.
TEST(QuantizedBase, SameBitsInUnits) {
  for (const char* mix : {"q4_0", "q4_k_m", "q8_0"}) {
    for (const bool file : {true, false}) {
      BaseFormat base;
      if (!file) base.mix = mix;
      const std::string path = file ? GgufPath(mix) : Place().path() + "/base";
      LoadedModel rows = LoadModel(path, base);
      base.units = true;
      LoadedModel units = LoadModel(path, base);
      const auto want = Matrices(rows.model), got = Matrices(units.model);
      for (const auto& [name, weight] : want) {
        ASSERT_EQ(weight->view.layout, WeightLayout::kRows);
        EXPECT_EQ(got.at(name)->view.layout == WeightLayout::kUnits, WantsUnits(weight->view))
            << mix << " " << name;
      }
      const Outcome a = OutcomeOf(rows.model), b = OutcomeOf(units.model);
      EXPECT_TRUE(check::SameBits(a.logits, b.logits)) << mix;
      for (size_t i = 0; i < a.gradients.size(); ++i)
        EXPECT_TRUE(check::SameBits(a.gradients[i], b.gradients[i])) << mix << ", adapter " << i;
    }
  }
}

TEST(QuantizedBase, EmbeddingsOfEveryFormat) {
  for (const Format* format : AllFormats()) {
    if (format->id == FindFormat("F64")->id) continue;
    const BaseFormat base = {"q4_0", format->name};
    LoadedModel blocks = LoadModel(Place().path() + "/base", base);
    EXPECT_EQ(blocks.model.embed_tokens.view.format, format->id);
    EXPECT_EQ(blocks.model.layers[0].up_proj.w.view.format, FindFormat("Q4_0")->id);
    LoadedModel values = LoadModel(Place().path() + "/base", base);
    Expand(values.model);
    ExpectSame(OutcomeOf(blocks.model), OutcomeOf(values.model), format->name);
  }
}

TEST(QuantizedBase, SameBytesForAnyThreadCount) {
  const int before = Threads();
  const CheckpointFiles files = OpenCheckpointFiles(Place().path() + "/base");
  const StoredTensor& tensor =
      files.tensors.at("model.language_model.layers.0.mlp.gate_proj.weight");
  std::vector<uint8_t> reference;
  for (const int threads : {1, 2, 3}) {
    SetThreads(threads);
    const Weight w = QuantizeWeight("gate", tensor, GetFormat("q5_k"));
    const auto* bytes = static_cast<const uint8_t*>(w.view.data);
    const std::vector<uint8_t> got(bytes, bytes + w.rows() * w.view.row_bytes);
    if (reference.empty()) reference = got;
    EXPECT_EQ(got, reference) << threads;
  }
  SetThreads(before);
}

// The same data, the same adapter: from a GGUF base, and from a folder quantized while loading.
TEST(QuantizedBase, TrainingGivesTheSameAdapter) {
  for (const char* mix : {"q4_0", "q4_k_m"}) {
    const auto run = [&](const std::string& out, std::vector<std::string> set) {
      set.insert(set.end(), {"num_train_epochs=4", "lora.lora_dropout=0", "save_steps=0"});
      const TrainSummary summary = Train(Place().Config(out, set), {});
      std::vector<double> losses;
      for (const auto& line : summary.log)
        if (line.contains("loss")) losses.push_back(line["loss"]);
      EXPECT_GE(losses.size(), 10u);
      for (const double loss : losses) EXPECT_TRUE(std::isfinite(loss));
      EXPECT_LT(losses.back(), 0.85 * losses.front()) << mix;
      EXPECT_TRUE(std::filesystem::exists(Place().path() + "/" + out + "/adapter_config.json"));
      // The tensors alone: the file also names its base, which is another one.
      std::map<std::string, std::vector<float>> tensors;
      const Adapter adapter = OpenAdapter(Place().path() + "/" + out);
      for (const StoredTensor& t : adapter.tensors.tensors()) tensors[t.name] = t.ReadAll();
      EXPECT_FALSE(tensors.empty());
      return tensors;
    };
    const auto file = run(StrCat("from-gguf-", mix), {"model_name_or_path=" + GgufPath(mix)});
    const auto folder =
        run(StrCat("from-folder-", mix), {StrCat("base_format=", mix), "embedding_format=null"});
    EXPECT_EQ(file, folder) << mix;
  }
}

// make-model's values against their definition (random_rows.h), on both paths and with a tail.
TEST(MakeModelRows, AreTheFormula) {
  const RandomKey key{7, 0, HashName(std::string("a.weight"))};
  const Isa before = ActiveIsa();
  for (const Isa isa : {Isa::kScalar, SupportedIsas().front()}) {
    SetIsa(isa);
    for (const int64_t cols : {1, 2, 37, 64, 255}) {
      std::vector<float> row(static_cast<size_t>(cols + 1), 123.0f);
      RandomRow(key, 5, cols, 0.03f, row.data());
      EXPECT_EQ(row.back(), 123.0f) << "wrote beyond the row";
      for (int64_t c = 0; c < cols; ++c) {
        const auto bits = RandomBits(key, static_cast<uint64_t>(5 * ((cols + 1) / 2) + c / 2));
        double sum = -2;
        for (const uint32_t word :
             {bits[static_cast<size_t>(c % 2 * 2)], bits[static_cast<size_t>(c % 2 * 2 + 1)]}) {
          sum +=
              static_cast<double>(word & 0xffff) / 65536 + static_cast<double>(word >> 16) / 65536;
        }
        const float want = RoundToBf16((0.03f * 1.7320508f) * static_cast<float>(sum));
        EXPECT_EQ(row[static_cast<size_t>(c)], want) << cols << " " << c;
      }
    }
  }
  SetIsa(before);
}

// A random GGUF is what export makes of the random folder of the same seed.
TEST(MakeModel, GgufEqualsTheExportOfTheFolder) {
  const std::string out = Place().path() + "/made";
  for (const char* mix : {"q4_0", "q4_k_m"}) {
    MakeModelOptions options;
    options.format = StrCat("gguf:", mix);
    options.overwrite = true;
    int64_t last = 0;
    MakeModel(MakeModelConfig("tiny", 2), out, options,
              [&](int64_t done, int64_t) { last = done; });
    EXPECT_GT(last, 0);
    EXPECT_EQ(std::distance(std::filesystem::directory_iterator(out),
                            std::filesystem::directory_iterator()),
              2);  // nothing but the two files
    for (const char* prefix : {"", "mmproj-"}) {
      const GgufFile made = GgufFile::Open(StrCat(out, "/", prefix, "model.gguf"));
      GgufPath(mix);
      const GgufFile exported =
          GgufFile::Open(StrCat(Place().path(), "/gguf/", prefix, mix, ".gguf"));
      const auto keys = [](const GgufFile& file) {
        GgufKeys all = file.keys();
        std::erase_if(all, [](const auto& k) { return k.first == "general.name"; });
        return all;
      };
      EXPECT_EQ(keys(made), keys(exported)) << mix;
      ASSERT_EQ(made.tensors().tensors().size(), exported.tensors().tensors().size());
      for (const StoredTensor& t : made.tensors().tensors()) {
        const StoredTensor& other = exported.tensors().Get(t.name);
        ASSERT_EQ(t.dtype, other.dtype) << t.name;
        ASSERT_EQ(t.bytes, other.bytes) << t.name;
        EXPECT_EQ(std::memcmp(t.data, other.data, t.bytes), 0) << t.name;
      }
    }
  }
  // llama.cpp refuses rope_freqs.weight where no layer uses it: two layers are both sliding.
  const auto has_divisors = [&](int64_t layers) {
    MakeModelOptions made;
    made.format = "gguf:bf16";
    made.overwrite = true;
    MakeModel(MakeModelConfig("tiny", layers), out, made, {});
    return GgufFile::Open(out + "/model.gguf").tensors().Find("rope_freqs.weight") != nullptr;
  };
  EXPECT_FALSE(has_divisors(2));
  EXPECT_TRUE(has_divisors(6));
  MakeModelOptions options;
  options.format = "gguf:q9";
  EXPECT_THROW(MakeModel(MakeModelConfig("tiny", 2), out + "2", options, {}), Error);
  options.format = "peft";
  EXPECT_THROW(MakeModel(MakeModelConfig("tiny", 2), out + "2", options, {}), Error);
  EXPECT_FALSE(std::filesystem::exists(out + "2"));
}

TEST(QuantizedBase, Refusals) {
  const auto message = [](const auto& f) -> std::string {
    try {
      f();
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  };
  const std::string base = Place().path() + "/base";
  EXPECT_NE(message([&] {
              LoadModel(base, {"q9_9", ""});
            }).find("'base_format': must be a known quantization; got 'q9_9'; try one of f32"),
            std::string::npos);
  EXPECT_NE(message([&] {
              LoadModel(base, {"", "q9_9"});
            }).find("'embedding_format' must be"),
            std::string::npos);
  EXPECT_NE(message([&] {
              LoadModel(GgufPath("q4_0"), {"q8_0", ""});
            }).find("must be taken in the formats it has"),
            std::string::npos);
  EXPECT_NE(message([&] {
              Place().Config("x", {"base_format=q4_0", "lora=null"});
            }).find("'base_format' must be null in full fine-tuning"),
            std::string::npos);
  // Not finite, and too large for the format.
  std::vector<float> values(2 * 256, 0.5f);
  StoredTensor tensor;
  tensor.name = "w";
  tensor.dtype = "F32";
  tensor.format = FindFormat("F32");
  tensor.shape = {2, 256};
  tensor.data = reinterpret_cast<const uint8_t*>(values.data());
  tensor.bytes = values.size() * 4;
  values[300] = std::nanf("");
  EXPECT_NE(message([&] {
              QuantizeWeight("w", tensor, GetFormat("q4_k"));
            }).find("w: values must be finite; got inf in row 1"),
            std::string::npos);
  values[300] = 1e9f;
  EXPECT_NE(message([&] {
              QuantizeWeight("w", tensor, GetFormat("q4_k"));
            }).find("w: values must fit Q4_K"),
            std::string::npos);
}

}  // namespace
}  // namespace lapidary
