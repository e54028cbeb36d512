// The writers beside GGUF and safetensors: shards and parts, adapters alone, MLX; several adapters
// at once; what a merge reports.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "autograd/base/error.h"
#include "autograd/base/file.h"
#include "autograd/base/float16.h"
#include "model/gguf_names.h"
#include "model/load.h"
#include "model/qat.h"
#include "quant/fake_quant.h"
#include "quant/gguf.h"
#include "quant/mlx_affine.h"
#include "quant/safetensors.h"
#include "tests/golden.h"
#include "tests/quant/temp_folder.h"
#include "tests/train/golden_export.h"
#include "train/export/export.h"
#include "train/export/gguf_metadata.h"
#include "train/export/verify.h"

namespace lapidary {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

class ExportTargetsTest : public GoldenExport {
 protected:
  ExportReport Run(std::vector<ExportOutput> outputs, std::vector<AdapterChoice> adapters = {},
                   ExportOptions options = {}) {
    ExportRequest request;
    request.model = model_;
    request.adapters = std::move(adapters);
    request.outputs = std::move(outputs);
    request.options = std::move(options);
    return Export(request);
  }
  std::string Refusal(std::vector<ExportOutput> outputs, std::vector<AdapterChoice> adapters = {},
                      ExportOptions options = {}) {
    try {
      Run(std::move(outputs), std::move(adapters), std::move(options));
      return "";
    } catch (const Error& e) {
      return e.what();
    }
  }
};

void ExpectSameTensors(const CheckpointFiles& a, const CheckpointFiles& b) {
  ASSERT_EQ(a.tensors.size(), b.tensors.size());
  for (const auto& [name, tensor] : a.tensors) {
    ASSERT_TRUE(b.tensors.count(name)) << name;
    EXPECT_EQ(tensor.dtype, b.tensors.at(name).dtype) << name;
    EXPECT_EQ(tensor.ReadAll(), b.tensors.at(name).ReadAll()) << name;
  }
}

TEST_F(ExportTargetsTest, ShardsAndPartsHoldTheSameTensors) {
  Run({{"safetensors", out_ / "one"}, {"gguf:q8_0", out_ / "one.gguf"}});
  ExportOptions options;
  options.max_shard_bytes = 300000;
  const ExportReport report =
      Run({{"safetensors", out_ / "many"}, {"gguf:q8_0", out_ / "many.gguf"}}, {}, options);
  ExpectSameTensors(OpenCheckpointFiles(out_ / "one"), OpenCheckpointFiles(out_ / "many"));
  const json index = json::parse(ReadFile(out_ / "many/model.safetensors.index.json"));
  EXPECT_FALSE(fs::exists(out_ / "many/model.safetensors"));
  uint64_t total = 0;
  const CheckpointFiles many = OpenCheckpointFiles(out_ / "many");
  for (const auto& [name, tensor] : many.tensors) total += tensor.bytes;
  EXPECT_EQ(index["metadata"]["total_size"], total);
  int shards = 0;
  std::string first;
  for (const ExportedFile& file : report.files) {
    if (file.format == "safetensors") shards += file.tensors > 0;
    if (file.path.find("many-00001-of-") != std::string::npos) first = file.path;
  }
  EXPECT_GT(shards, 5);
  ASSERT_FALSE(first.empty());
  const CheckpointFiles gguf = OpenCheckpointFiles(first);
  EXPECT_TRUE(gguf.warnings.empty()) << gguf.warnings[0];
  ExpectSameTensors(OpenCheckpointFiles(out_ / "one.gguf"), gguf);

  // A part that is not the first, a part that is missing.
  const GgufPartName name = ParseGgufPartName(first);
  EXPECT_EQ(GgufPartPath(name.stem, 1, name.count), first);
  EXPECT_THROW(OpenCheckpointFiles(GgufPartPath(name.stem, 2, name.count)), Error);
  fs::remove(GgufPartPath(name.stem, name.count, name.count));
  EXPECT_THROW(OpenCheckpointFiles(first), Error);
  EXPECT_EQ(ParseGgufPartName("m-0001-of-00002.gguf").count, 0);
  EXPECT_EQ(ParseGgufPartName(".gguf").count, 0);
}

// What llama.cpp does with an adapter: W + (alpha / r) B A, against the merged file.
double LoraAgainstMerged(const std::string& lora, const CheckpointFiles& base,
                         const CheckpointFiles& merged) {
  const GgufFile file = GgufFile::Open(lora);
  EXPECT_EQ(file.GetString("general.type"), "adapter");
  EXPECT_EQ(file.GetString("adapter.type"), "lora");
  EXPECT_EQ(file.GetString("general.architecture"), "gemma4");
  const double alpha = file.GetFloat("adapter.lora.alpha");
  double worst = 0;
  size_t used = 0;
  for (const auto& [name, tensor] : base.tensors) {
    const std::string place = FindGgufPlace(name)->name;
    const StoredTensor* a = file.tensors().Find(place + ".lora_a");
    const StoredTensor* b = file.tensors().Find(place + ".lora_b");
    EXPECT_EQ(a == nullptr, b == nullptr);
    std::vector<float> w = tensor.ReadAll();
    const std::vector<float> want = merged.tensors.at(name).ReadAll();
    if (a) {
      used += 2;
      const int64_t r = b->cols(), in = tensor.cols();
      EXPECT_EQ(a->rows(), r);
      const std::vector<float> av = a->ReadAll(), bv = b->ReadAll();
      for (int64_t o = 0; o < tensor.rows(); ++o) {
        for (int64_t i = 0; i < in; ++i) {
          double sum = 0;
          for (int64_t k = 0; k < r; ++k)
            sum += double{bv[static_cast<size_t>(o * r + k)]} *
                   double{av[static_cast<size_t>(k * in + i)]};
          w[static_cast<size_t>(o * in + i)] +=
              static_cast<float>(alpha / static_cast<double>(r) * sum);
        }
      }
    }
    for (size_t i = 0; i < w.size(); ++i)
      worst = std::max(worst, std::fabs(double{w[i]} - double{want[i]}));
  }
  EXPECT_EQ(used, file.tensors().tensors().size());
  return worst;
}

TEST_F(ExportTargetsTest, GgufLoraEqualsTheMergedModel) {
  const CheckpointFiles base = OpenCheckpointFiles(model_);
  const std::string mixed = Changed([](AdapterConfig& config, std::vector<NamedTensor>& tensors) {
    config.use_rslora = true;
    config.alpha_pattern = {{"q_proj", 3.0}, {"mlp.down_proj", 11.0}};
    config.rank_pattern = {{"o_proj", 2}};
    for (NamedTensor& t : tensors) {
      if (t.name.find("o_proj") == std::string::npos) continue;
      const bool is_a = t.name.find("lora_A") != std::string::npos;
      const int64_t rows = is_a ? 2 : t.shape[0], cols = is_a ? t.shape[1] : 2;
      std::vector<float> cut;
      for (int64_t i = 0; i < rows; ++i) {
        for (int64_t k = 0; k < cols; ++k)
          cut.push_back(t.values[static_cast<size_t>(i * t.shape[1] + k)]);
      }
      t.shape = {rows, cols};
      t.values = cut;
    }
  });
  const std::vector<std::vector<AdapterChoice>> cases = {
      {{adapter_, 1}}, {{mixed, 1}}, {{adapter_, -0.5}}, {{adapter_, 0.75}, {mixed, 0.25}}};
  int i = 0;
  for (const std::vector<AdapterChoice>& adapters : cases) {
    const std::string lora = out_ / StrCat("lora-", i, ".gguf"),
                      merged = out_ / StrCat("merged-", i, ".gguf");
    ++i;
    Run({{"gguf-lora", lora}, {"gguf:f32", merged}}, adapters);
    const double worst = LoraAgainstMerged(lora, base, OpenCheckpointFiles(merged));
    std::printf("case %d: largest difference %.2e\n", i, worst);
    EXPECT_LT(worst, 2e-6);
  }
  // The planted mistake: another alpha is seen.
  Run({{"gguf:f32", out_ / "other.gguf"}}, {{adapter_, 1.01}});
  EXPECT_GT(LoraAgainstMerged(out_ / "lora-0.gguf", base, OpenCheckpointFiles(out_ / "other.gguf")),
            1e-4);
}

TEST_F(ExportTargetsTest, SeveralAdaptersAreMergedInTurn) {
  Run({{"gguf:f32", out_ / "one.gguf"}}, {{adapter_, 0.5}, {adapter_, 0.5}});
  Run({{"gguf:f32", out_ / "two.gguf"}}, {{adapter_, 1}});
  const CheckpointFiles one = OpenCheckpointFiles(out_ / "one.gguf"),
                        two = OpenCheckpointFiles(out_ / "two.gguf");
  for (const auto& [name, tensor] : one.tensors) {
    const std::vector<float> a = tensor.ReadAll(), b = two.tensors.at(name).ReadAll();
    for (size_t i = 0; i < a.size(); ++i) ASSERT_NEAR(a[i], b[i], 1e-6) << name;
  }
  EXPECT_NE(Refusal({{"peft", out_ / "p"}}, {{adapter_, 0.5}}).find("one adapter as it is"),
            std::string::npos);
  const std::string saving = Changed([&](AdapterConfig& config, std::vector<NamedTensor>& tensors) {
    config.modules_to_save = {"embed_audio"};
    const StoredTensor projection =
        OpenCheckpointFiles(model_).tensors.at("model.embed_audio.embedding_projection.weight");
    tensors.push_back({"base_model.model." + projection.name, projection.shape,
                       std::vector<float>(static_cast<size_t>(projection.elements()), 0.5f)});
  });
  EXPECT_NE(Refusal({{"gguf:f32", out_ / "x.gguf"}}, {{saving, 1}, {saving, 1}})
                .find("must be saved by one adapter"),
            std::string::npos);
  // Embedders of media cannot be adapted at run time: their mmproj is written, merged.
  Run({{"gguf-lora", out_ / "s.gguf"}, {"gguf:bf16", out_ / "m.gguf"}}, {{saving, 1}});
  EXPECT_EQ(ReadFile(out_ / "mmproj-s.gguf"), ReadFile(out_ / "mmproj-m.gguf"));
  EXPECT_NE(Refusal({{"mlx-lora", out_ / "y"}}, {{saving, 1}}).find("modules_to_save"),
            std::string::npos);
}

TEST(AdapterChoices, Spelling) {
  EXPECT_EQ(ParseAdapterChoice("out").weight, 1);
  EXPECT_EQ(ParseAdapterChoice("a=b=0.25").folder, "a=b");
  EXPECT_EQ(ParseAdapterChoice("a=-2").weight, -2);
  for (const char* bad : {"a=", "a=x", "a=0", "a=nan", "a=1e999", "a=1x"})
    EXPECT_THROW(ParseAdapterChoice(bad), Error) << bad;
}

TEST_F(ExportTargetsTest, MlxLoraEqualsTheMergedModel) {
  Run({{"mlx-lora", out_ / "lora"}, {"gguf:f32", out_ / "merged.gguf"}}, {{adapter_, 1}});
  const json config = json::parse(ReadFile(out_ / "lora/adapter_config.json"));
  const double scale = config["lora_parameters"]["scale"];
  const TensorSet lora = OpenCheckpoint(out_ / "lora/adapters.safetensors");
  const CheckpointFiles base = OpenCheckpointFiles(model_),
                        merged = OpenCheckpointFiles(out_ / "merged.gguf");
  EXPECT_EQ(config["fine_tune_type"], "lora");
  EXPECT_EQ(config["num_layers"], base.config.num_layers());
  int used = 0;
  for (const auto& [name, tensor] : base.tensors) {
    const std::string prefix = "model.language_model.";
    if (name.rfind(prefix, 0) != 0) continue;
    const std::string module = "language_model.model." + name.substr(prefix.size());
    const std::string stem = module.substr(0, module.rfind('.'));
    const StoredTensor* a = lora.Find(stem + ".lora_a");
    if (!a) continue;
    const StoredTensor* b = lora.Find(stem + ".lora_b");
    const int64_t in = tensor.cols(), out = tensor.rows(), r = a->cols();
    ASSERT_EQ(a->shape, (TensorShape{in, r}));
    ASSERT_EQ(b->shape, (TensorShape{r, out}));
    EXPECT_EQ(config["lora_parameters"]["rank"], r);
    const std::vector<float> w = tensor.ReadAll(), want = merged.tensors.at(name).ReadAll(),
                             av = a->ReadAll(), bv = b->ReadAll();
    for (int64_t o = 0; o < out; o += 7) {
      for (int64_t i = 0; i < in; i += 5) {
        double sum = 0;
        for (int64_t k = 0; k < r; ++k)
          sum += double{av[static_cast<size_t>(i * r + k)]} *
                 double{bv[static_cast<size_t>(k * out + o)]};
        const size_t at = static_cast<size_t>(o * in + i);
        ASSERT_NEAR(double{w[at]} + scale * sum, double{want[at]}, 2e-6) << name;
      }
    }
    ++used;
  }
  EXPECT_EQ(2 * used, static_cast<int>(lora.tensors().size()));
}

// Words, scale and bias that mlx.core.quantize (0.32) makes of formats.md 3.4's values.
TEST(MlxAffine, EqualsMlx) {
  float x[64];
  for (int i = 0; i < 64; ++i) x[i] = static_cast<float>((i * 37 % 101) - 50) / 64;
  struct Case {
    MlxAffine mode;
    std::vector<uint32_t> words;
    float scale, bias;
  };
  const Case cases[] = {
      {{4, 64},
       {0x7d38e4afu, 0x8e4af5b1u, 0x9f5b06c2u, 0xa06c28d3u, 0xb17d39f4u, 0xc28e4af5u, 0xe39f5b17u,
        0xf4a06c28u},
       -0x1.9000000000000p-4f,
       0x1.9000000000000p-1f},
      {{4, 32},
       {0x7d38e4afu, 0x8e4af5b1u, 0x9f5b06c2u, 0xa06c28d3u},
       -0x1.9000000000000p-4f,
       0x1.9000000000000p-1f},
      {{8, 64},
       {0xe643a1ffu, 0x6ecd2988u, 0xf854b30fu, 0x80df3b9au, 0x0866c521u, 0x92f14dacu, 0x1a78d733u,
        0xa4005fbdu, 0x2c8ae945u, 0xb61271cfu, 0x3d9cfb57u, 0xc82483e1u, 0x4fae0a69u, 0xda3694f3u,
        0x61c01c7bu, 0xec48a603u},
       -0x1.9000000000000p-8f,
       0x1.9000000000000p-1f},
  };
  for (const Case& c : cases) {
    std::vector<uint8_t> codes(static_cast<size_t>(c.mode.group_size));
    const MlxGroup group = MlxQuantizeGroup(c.mode, x, codes.data());
    EXPECT_EQ(group.scale, c.scale);
    EXPECT_EQ(group.bias, c.bias);
    const int per_word = 32 / c.mode.bits;
    for (size_t w = 0; w < c.words.size(); ++w) {
      uint32_t word = 0;
      for (int k = 0; k < per_word; ++k)
        word |= uint32_t{codes[w * static_cast<size_t>(per_word) + static_cast<size_t>(k)]}
                << (c.mode.bits * k);
      EXPECT_EQ(word, c.words[w]) << c.mode.bits << " bits, word " << w;
    }
  }
}

TEST_F(ExportTargetsTest, MlxFolders) {
  Run({{"mlx:4bit", out_ / "q4"},
       {"mlx:8bit", out_ / "q8"},
       {"mlx:bf16", out_ / "plain"},
       {"safetensors:f32", out_ / "f32"}},
      {{adapter_, 1}});
  const TensorSet f32 = OpenCheckpoint(out_ / "f32"), plain = OpenCheckpoint(out_ / "plain");
  EXPECT_EQ(f32.tensors().size(), plain.tensors().size());
  for (const auto& [folder, bits] : {std::pair{"q4", 4}, {"q8", 8}}) {
    const TensorSet set = OpenCheckpoint(out_ / folder);
    const json config = json::parse(ReadFile(out_ / StrCat(folder, "/config.json")));
    EXPECT_EQ(config["quantization"]["bits"], bits);
    EXPECT_EQ(config["quantization"], config["quantization_config"]);
    int quantized = 0;
    for (const StoredTensor& scales : set.tensors()) {
      if (scales.name.size() < 7 || scales.name.substr(scales.name.size() - 7) != ".scales")
        continue;
      const std::string stem = scales.name.substr(0, scales.name.size() - 7);
      const StoredTensor& words = set.Get(stem + ".weight");
      const std::vector<float> s = scales.ReadAll(), b = set.Get(stem + ".biases").ReadAll();
      const std::string original =
          "model.language_model." + stem.substr(std::strlen("language_model.model."));
      const std::vector<float> want = f32.Get(original + ".weight").ReadAll();
      ASSERT_EQ(words.elements() * 32 / bits, static_cast<int64_t>(want.size()));
      for (size_t i = 0; i < want.size(); ++i) {
        uint32_t word;
        std::memcpy(&word, words.data + i * static_cast<size_t>(bits) / 32 * 4, 4);
        const uint32_t code = word >> (i * static_cast<size_t>(bits) % 32) & ((1u << bits) - 1);
        const float value = static_cast<float>(code) * s[i / 64] + b[i / 64];
        // A step (at a clamped end; half of one elsewhere), and the rounding of scale and bias to
        // bf16.
        const float bound =
            std::fabs(s[i / 64]) * 1.1f + 0.005f * (std::fabs(b[i / 64]) + std::fabs(want[i]));
        ASSERT_NEAR(value, want[i], bound) << stem << " " << i;
      }
      ++quantized;
    }
    EXPECT_GT(quantized, 10);
  }
  EXPECT_NE(Refusal({{"mlx:3bit", out_ / "x"}}).find("format must be known"), std::string::npos);
}

TEST_F(ExportTargetsTest, GgufAsASource) {
  Run({{"gguf:bf16", out_ / "base.gguf"}, {"gguf:q4_k_m", out_ / "direct.gguf"}});
  model_ = out_ / "base.gguf";
  Run({{"gguf:q4_k_m", out_ / "again.gguf"}});
  // The tiny checkpoint is bf16, so nothing was lost on the way; only the name stays the source's.
  ExpectSameTensors(OpenCheckpointFiles(out_ / "direct.gguf"),
                    OpenCheckpointFiles(out_ / "again.gguf"));
  const GgufFile direct = GgufFile::Open(out_ / "direct.gguf"),
                 again = GgufFile::Open(out_ / "again.gguf");
  EXPECT_EQ(direct.keys(), again.keys());
  EXPECT_EQ(GgufFile::Open(out_ / "mmproj-direct.gguf").keys(),
            GgufFile::Open(out_ / "mmproj-again.gguf").keys());
  EXPECT_NE(Refusal({{"safetensors", out_ / "x"}}).find("must be made from a Hugging Face folder"),
            std::string::npos);
  EXPECT_NE(Refusal({{"gguf:q8_0", model_}}).find("must not be the f"), std::string::npos);
}

TEST_F(ExportTargetsTest, TensorTypesMetadataAndModelfile) {
  ExportOptions options;
  options.tensor_types = {
      {"blk\\.0\\.ffn_down", "q8_0"}, {"ffn_down", "Q5_0"}, {"token_embd", "q4_0"}};
  options.metadata = {{"author", "someone"}, {"tags", "a, b,c"}};
  options.modelfile = true;
  Run({{"gguf:q4_0", out_ / "m.gguf"}}, {{adapter_, 1}}, options);
  const GgufFile file = GgufFile::Open(out_ / "m.gguf");
  EXPECT_EQ(file.tensors().Get("blk.0.ffn_down.weight").dtype, "Q8_0");
  EXPECT_EQ(file.tensors().Get("blk.1.ffn_down.weight").dtype, "Q5_0");
  EXPECT_EQ(file.tensors().Get("blk.1.ffn_up.weight").dtype, "Q4_0");
  EXPECT_EQ(file.tensors().Get("token_embd.weight").dtype, "Q4_0");
  EXPECT_EQ(file.GetString("general.author"), "someone");
  EXPECT_EQ(file.GetStrings("general.tags"), (std::vector<std::string>{"a", "b", "c"}));
  EXPECT_EQ(file.GetInt("general.base_model.count"), 1);
  const std::string modelfile = ReadFile(out_ / "m.Modelfile");
  EXPECT_EQ(modelfile.rfind("FROM ./m.gguf\nFROM ./mmproj-m.gguf\n", 0), 0u) << modelfile;
  EXPECT_NE(modelfile.find("RENDERER gemma4"), std::string::npos);

  options.metadata = {{"architecture", "x"}};
  EXPECT_NE(Refusal({{"gguf:q4_0", out_ / "x.gguf"}}, {}, options).find("describes the model"),
            std::string::npos);
  options.metadata = {};
  options.tensor_types = {{"nothing", "q8_0"}};
  EXPECT_NE(Refusal({{"gguf:q4_0", out_ / "x.gguf"}}, {}, options).find("must match a matrix"),
            std::string::npos);
  options.tensor_types = {{"(", "q8_0"}};
  EXPECT_NE(Refusal({{"gguf:q4_0", out_ / "x.gguf"}}, {}, options).find("regular expression"),
            std::string::npos);
  EXPECT_FALSE(fs::exists(out_ / "x.gguf"));
}

TEST_F(ExportTargetsTest, DraftersAreTakenAlong) {
  const std::string copy = out_ / "base";
  fs::copy(model_, copy);
  WriteFile(copy + "/mtp-small.gguf", "drafter");
  model_ = copy;
  Run({{"gguf:q8_0", out_ / "to/m.gguf"}});
  EXPECT_EQ(ReadFile(out_ / "to/mtp-small.gguf"), "drafter");
}

// The share of a change that bf16 loses, on a change that is below half a step of most weights.
TEST_F(ExportTargetsTest, RoundingThatSwallowsTheAdapterIsSaid) {
  const ExportReport plain = Run({{"safetensors", out_ / "a"}}, {{adapter_, 1}});
  EXPECT_TRUE(plain.warnings.empty()) << plain.warnings[0];
  EXPECT_EQ(plain.merge.kinds.size(), 7u);
  EXPECT_GT(plain.merge.all().relative(), 0.01);
  const ExportReport tiny = Run({{"safetensors", out_ / "b"}}, {{adapter_, 1e-3}});
  ASSERT_EQ(tiny.warnings.size(), 1u);
  EXPECT_NE(tiny.warnings[0].find("rounding to bf16 swallows"), std::string::npos);
  EXPECT_NEAR(tiny.merge.all().relative(), 1e-3 * plain.merge.all().relative(),
              2e-5 * plain.merge.all().relative());
  // Against the files themselves.
  const CheckpointFiles base = OpenCheckpointFiles(model_), b = OpenCheckpointFiles(out_ / "b");
  Run({{"gguf:f32", out_ / "b.gguf"}}, {{adapter_, 1e-3}});
  const CheckpointFiles exact = OpenCheckpointFiles(out_ / "b.gguf");
  double kept = 0, delta = 0;
  for (const auto& [name, tensor] : base.tensors) {
    const std::vector<float> w = tensor.ReadAll(), full = exact.tensors.at(name).ReadAll(),
                             rounded = b.tensors.at(name).ReadAll();
    for (size_t i = 0; i < w.size(); ++i) {
      const double d = double{full[i]} - double{w[i]};
      delta += d * d;
      kept += d * (double{rounded[i]} - double{w[i]});
    }
  }
  EXPECT_NEAR(tiny.merge.all().swallowed(), 1 - kept / delta, 1e-3);
  // A quantized file says nothing of bf16.
  EXPECT_TRUE(Run({{"gguf:q8_0", out_ / "c.gguf"}}, {{adapter_, 1e-3}}).warnings.empty());
}

// Every format is the source rounded once; a flipped bit, another adapter and a requantized file
// are not.
TEST_F(ExportTargetsTest, VerifySeesWhatTheFileHolds) {
  const std::vector<AdapterUse> uses = {{OpenAdapter(adapter_), 1}};
  const CheckpointFiles source = OpenCheckpointFiles(model_);
  const AdapterMerge merge(uses, source.tensors);
  Run({{"gguf:q4_0", out_ / "q4.gguf"},
       {"gguf:q4_k_m", out_ / "k.gguf"},
       {"gguf:f32", out_ / "f32.gguf"},
       {"safetensors", out_ / "st"}},
      {{adapter_, 1}});
  for (const char* name : {"q4.gguf", "k.gguf", "f32.gguf", "st"}) {
    const VerifyReport report = VerifyTensors(source, merge, {}, OpenCheckpointFiles(out_ / name));
    EXPECT_TRUE(report.whole()) << name;
    EXPECT_EQ(report.tensors.size(), source.tensors.size());
    for (const VerifiedTensor& t : report.tensors) {
      if (t.format == "F32") {
        EXPECT_EQ(t.differing, 0) << t.name;
      }
      if (t.format == "Q4_0") {
        EXPECT_GT(t.relative(), 0.01);
      }
    }
  }
  const VerifyReport other =
      VerifyTensors(source, AdapterMerge(), {}, OpenCheckpointFiles(out_ / "q4.gguf"));
  EXPECT_FALSE(other.whole());
  std::string bytes = ReadFile(out_ / "q4.gguf");
  const CheckpointFiles q4 = OpenCheckpointFiles(out_ / "q4.gguf");
  const StoredTensor& tensor = q4.tensors.at("model.language_model.layers.0.mlp.up_proj.weight");
  bytes[static_cast<size_t>(tensor.data - tensor.file->data()) + 5] ^= 1;
  WriteFile(out_ / "bad.gguf", bytes);
  fs::copy(out_ / "mmproj-q4.gguf", out_ / "mmproj-bad.gguf");
  const VerifyReport bad = VerifyTensors(source, merge, {}, OpenCheckpointFiles(out_ / "bad.gguf"));
  int off = 0;
  for (const VerifiedTensor& t : bad.tensors) off += !t.on_grid();
  EXPECT_EQ(off, 1);
  EXPECT_FALSE(bad.whole());
}

// The values of a compressed-tensors module, as the package unpacks them.
std::vector<float> Unpacked(const TensorSet& set, const std::string& module, int bits) {
  const StoredTensor& words = set.Get(module + ".weight_packed");
  const StoredTensor& shape = set.Get(module + ".weight_shape");
  int64_t rows = 0, cols = 0;
  std::memcpy(&rows, shape.data, 8);
  std::memcpy(&cols, shape.data + 8, 8);
  const std::vector<float> scales = set.Get(module + ".weight_scale").ReadAll();
  const int64_t groups = static_cast<int64_t>(scales.size()) / rows, group = cols / groups;
  EXPECT_EQ(words.dtype, "I32");
  EXPECT_EQ(words.shape, (TensorShape{rows, cols * bits / 32}));
  std::vector<float> values;
  for (int64_t i = 0; i < rows * cols; ++i) {
    uint32_t word;
    std::memcpy(&word, words.data + i * bits / 32 * 4, 4);
    const int code =
        static_cast<int>(word >> (i * bits % 32) & ((1u << bits) - 1)) - (1 << (bits - 1));
    values.push_back(static_cast<float>(code) *
                     scales[static_cast<size_t>(i / cols * groups + i % cols / group)]);
  }
  return values;
}

TEST_F(ExportTargetsTest, CompressedTensorsHoldTheGrid) {
  const CheckpointFiles source = OpenCheckpointFiles(model_);
  const std::vector<AdapterUse> uses = {{OpenAdapter(adapter_), 1}};
  const AdapterMerge merge(uses, source.tensors);
  struct Case {
    const char *target, *grid;
    int bits;
    bool trained;  // the run trained on this grid (q4_0: on llama.cpp's, kept value for value)
  };
  for (const Case& c : {Case{"compressed-tensors", "int4_g32", 4, false},
                        Case{"compressed-tensors:w4a16-g128", "int4_g128", 4, false},
                        Case{"compressed-tensors:w8a16", "int8_channel", 8, false},
                        Case{"compressed-tensors", "int4_g32", 4, true},
                        Case{"compressed-tensors", "q4_0", 4, true}}) {
    const Grid& grid = GetGrid(c.grid, "test");
    std::string adapter = adapter_;
    if (c.trained) {
      adapter = Changed([](AdapterConfig&, std::vector<NamedTensor>&) {});
      QatRecord record;
      for (const auto& [name, tensor] : source.tensors) {
        if (name.find(".layers.") != std::string::npos && tensor.shape.size() == 2)
          record.grids[name] = c.grid;
      }
      WriteQatRecord(adapter, record);
    }
    const std::string out = out_ / StrCat("ct-", c.grid, c.trained);
    const ExportReport report = Run({{c.target, out}}, {{adapter, 1}});
    EXPECT_EQ(report.warnings.size(), std::string(c.grid) == "q4_0" ? 1u : 0u);
    const json config = json::parse(ReadFile(out + "/config.json"))["quantization_config"];
    EXPECT_EQ(config["quant_method"], "compressed-tensors");
    EXPECT_EQ(config["config_groups"]["group_0"]["weights"]["num_bits"], c.bits);
    const TensorSet set = OpenCheckpoint(out);
    int packed = 0;
    for (const auto& [name, tensor] : source.tensors) {
      const std::string module = name.substr(0, name.rfind('.'));
      if (!set.Find(module + ".weight_packed")) continue;
      ++packed;
      const std::vector<float> got = Unpacked(set, module, c.bits);
      std::vector<float> want = tensor.ReadAll();
      const TensorMerge change = merge.ForTensor(name);
      for (int64_t row = 0; row < tensor.rows(); ++row) {
        change.Row(row, want.data() + row * tensor.cols());
        grid.Project(want.data() + row * tensor.cols(), tensor.cols());
      }
      EXPECT_EQ(got, want) << c.target << " " << name;
    }
    EXPECT_GT(packed, 5);
    EXPECT_TRUE(set.Find("model.language_model.embed_tokens.weight"));
  }
}

// What a run trained is what verify finds in its file; without the record it finds a difference.
TEST_F(ExportTargetsTest, VerifyKnowsTheTrainedGrid) {
  const CheckpointFiles source = OpenCheckpointFiles(model_);
  const std::string adapter = Changed([](AdapterConfig&, std::vector<NamedTensor>&) {});
  QatRecord record;
  for (const auto& [name, tensor] : source.tensors) {
    if (name.find(".layers.") != std::string::npos && tensor.shape.size() == 2)
      record.grids[name] = "q4_0";
  }
  WriteQatRecord(adapter, record);
  Run({{"gguf:q4_0", out_ / "q.gguf"}, {"safetensors", out_ / "st"}}, {{adapter, 1}});
  const std::vector<AdapterUse> uses = {{OpenAdapter(adapter), 1}};
  const AdapterMerge merge(uses, source.tensors);
  const TrainedGrids grids(uses, model_, source);
  for (const char* name : {"q.gguf", "st"}) {
    const VerifyReport report =
        VerifyTensors(source, merge, grids, OpenCheckpointFiles(out_ / name));
    EXPECT_TRUE(report.whole()) << name;
    for (const VerifiedTensor& t : report.tensors) {
      if (!record.grids.count(t.name)) continue;
      if (std::string(name) == "q.gguf") {
        EXPECT_EQ(t.rule, "trained");
        EXPECT_EQ(t.differing, 0) << t.name;
      }
    }
  }
  EXPECT_FALSE(VerifyTensors(source, merge, {}, OpenCheckpointFiles(out_ / "st")).whole());
  EXPECT_NE(Refusal({{"gguf:q4_0", out_ / "x.gguf"}}, {{adapter, 0.5}}).find("merged alone"),
            std::string::npos);
}

}  // namespace
}  // namespace lapidary
