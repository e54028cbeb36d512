// Export: equal to what llama.cpp's converter and PEFT make, read back, refused when it cannot be
// right.
#include "train/export/export.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "autograd/base/error.h"
#include "autograd/base/file.h"
#include "autograd/base/float16.h"
#include "autograd/base/parallel.h"
#include "model/gguf_source.h"
#include "model/quant_mix.h"
#include "model/tensor_names.h"
#include "quant/gguf.h"
#include "quant/safetensors.h"
#include "quant/strict_json.h"
#include "tests/golden.h"
#include "tests/quant/temp_folder.h"
#include "tests/train/golden_export.h"
#include "tests/train/inventory.h"
#include "train/export/gguf_metadata.h"
#include "train/export/merge.h"
#include "train/export/targets.h"

namespace lapidary {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

// The differences from llama.cpp's converter that we want; reasons in train/export/gguf_metadata.h.
const std::set<std::string> kAllowed = {"general.name", "tokenizer.ggml.eot_token_id"};

ExportRequest Request(const std::string& model, std::vector<ExportOutput> outputs,
                      const std::string& adapter = "") {
  ExportRequest request;
  request.model = model;
  if (!adapter.empty()) request.adapters = {{adapter, 1}};
  request.outputs = std::move(outputs);
  return request;
}

std::string Refusal(const ExportRequest& request) {
  try {
    Export(request);
    return "";
  } catch (const Error& e) {
    return e.what();
  }
}

// One pass writes all types; every one equals the inventory of llama.cpp's files.
TEST(ExportGolden, GgufEqualsTheInventories) {
  int compared = 0;
  for (const std::string& root : golden::Find("gguf")) {
    const TempFolder out;
    std::vector<ExportOutput> outputs;
    for (const QuantMix& mix : QuantMixes())
      outputs.push_back({StrCat("gguf:", mix.name), out / StrCat(mix.name, ".gguf")});
    Export(Request(root + "/hf", outputs));
    for (const QuantMix& mix : QuantMixes()) {
      const std::string type = mix.name;
      for (const auto& [kind, file] : {std::pair{"text", out / StrCat(type, ".gguf")},
                                       {"mmproj", out / StrCat("mmproj-", type, ".gguf")}}) {
        // llama-quantize makes no mmproj of its own: ours beside other types is the bf16 one.
        const bool own = type == "f32" || type == "f16" || type == "q8_0";
        const std::string name = kind == std::string("mmproj") && !own ? "bf16" : type;
        const std::string inventory = StrCat(root, "/inventory/", kind, "-", name, ".json");
        if (!fs::exists(inventory)) {
          std::printf("absent: %s\n", inventory.c_str());
          continue;
        }
        compared += CompareWithInventory(file, inventory, kAllowed);
      }
    }
  }
  EXPECT_GT(compared, 0) << "no inventory of golden/gguf was compared";
}

// Rows merged by us against PEFT's merge_and_unload of the same adapter.
TEST(ExportGolden, MergedWeightsEqualPeft) {
  int cases = 0;
  for (const std::string& model : golden::FindFolders("model")) {
    for (const auto& entry : fs::directory_iterator(model)) {
      const fs::path merged_path = entry.path() / "merged-last-layer.safetensors";
      if (!fs::exists(merged_path)) continue;
      const CheckpointFiles base = OpenCheckpointFiles(model + "/model");
      const AdapterMerge merge({{OpenAdapter((entry.path() / "end").string()), 1}}, base.tensors);
      const TensorSet merged = OpenCheckpoint(merged_path.string());
      for (const StoredTensor& expected : merged.tensors()) {
        const std::string name = CanonicalTensorName(expected.name);
        const StoredTensor& tensor = base.tensors.at(name);
        std::vector<float> values = tensor.ReadAll();
        const TensorMerge change = merge.ForTensor(name);
        for (int64_t row = 0; row < tensor.rows(); ++row)
          change.Row(row, values.data() + row * tensor.cols());
        const std::vector<float> want = expected.ReadAll();
        double error = 0, norm = 0;
        for (size_t i = 0; i < want.size(); ++i) {
          error += std::pow(static_cast<double>(values[i]) - want[i], 2);
          norm += std::pow(static_cast<double>(want[i]), 2);
        }
        const double relative = std::sqrt(error / norm);
        std::printf("%s %s: relative L2 %.2e\n", entry.path().c_str(), name.c_str(), relative);
        EXPECT_TRUE(relative <= 1e-6) << merged_path << " " << name;
        ++cases;
      }
    }
  }
  EXPECT_GT(cases, 0) << "no merged weights in the golden roots";
}

// Every checkpoint of the goldens, whatever its spelling, comes out as safetensors with the same
// values under the names that Transformers loads; an adapter's folder is copied bit for bit.
TEST(ExportGolden, SafetensorsOfEveryModel) {
  int cases = 0;
  for (const std::string& model : golden::FindFolders("model")) {
    const TempFolder out;
    const std::string from = model + "/model";
    Export(Request(from, {{"safetensors", out / "merged"}}));
    EXPECT_EQ(ReadFile(from + "/config.json"), ReadFile(out / "merged/config.json"));
    const CheckpointFiles before = OpenCheckpointFiles(from),
                          after = OpenCheckpointFiles(out / "merged");
    EXPECT_EQ(before.tensors.size(), after.tensors.size()) << model;
    for (const auto& [name, tensor] : before.tensors) {
      std::vector<float> want = tensor.ReadAll();
      for (float& v : want) v = RoundToBf16(v);
      EXPECT_EQ(after.tensors.at(name).ReadAll(), want) << model << " " << name;
      EXPECT_EQ(after.tensors.at(name).dtype, "BF16");
    }
    ++cases;
  }
  std::printf("%d models\n", cases);
  EXPECT_GT(cases, 0) << "no model in the golden roots";
}

// A text GGUF and its mmproj read back as a checkpoint: same configuration, same tensors, same
// tokenizer.
TEST(ExportGolden, GgufReadsBackAsTheCheckpoint) {
  int cases = 0;
  for (const std::string& root : golden::Find("gguf")) {
    const TempFolder out;
    Export(Request(root + "/hf", {{"gguf:f32", out / "m.gguf"}}));
    std::vector<std::string> files = {out / "m.gguf"};
    if (fs::exists(root + "/official/text-bf16.gguf"))
      files.push_back(root + "/official/text-bf16.gguf");
    const CheckpointFiles hf = OpenCheckpointFiles(root + "/hf");
    for (const std::string& path : files) {
      const CheckpointFiles gguf = OpenCheckpointFiles(path);
      EXPECT_TRUE(gguf.warnings.empty()) << gguf.warnings[0];
      EXPECT_EQ(gguf.tensors.size(), hf.tensors.size());
      EXPECT_TRUE(gguf.missing.empty() && gguf.extra.empty() && gguf.misshapen.empty());
      for (const auto& [name, tensor] : hf.tensors) {
        ASSERT_TRUE(gguf.tensors.count(name)) << path << " " << name;
        EXPECT_EQ(gguf.tensors.at(name).ReadAll(), tensor.ReadAll()) << path << " " << name;
      }
      const TextConfig &a = hf.config.text, &b = gguf.config.text;
      EXPECT_EQ(a.vocab_size, b.vocab_size);
      EXPECT_EQ(a.hidden_size, b.hidden_size);
      EXPECT_EQ(a.intermediate_size, b.intermediate_size);
      EXPECT_EQ(a.num_attention_heads, b.num_attention_heads);
      EXPECT_EQ(a.sliding_window, b.sliding_window);
      EXPECT_EQ(a.max_position_embeddings, b.max_position_embeddings);
      EXPECT_EQ(a.rms_norm_eps, b.rms_norm_eps);
      EXPECT_EQ(a.final_logit_softcapping, b.final_logit_softcapping);
      EXPECT_EQ(a.sliding_rope_theta, b.sliding_rope_theta);
      EXPECT_EQ(a.full_rope_theta, b.full_rope_theta);
      EXPECT_EQ(a.full_partial_rotary_factor, b.full_partial_rotary_factor);
      EXPECT_EQ(a.tie_word_embeddings, b.tie_word_embeddings);
      ASSERT_EQ(a.layers.size(), b.layers.size());
      for (size_t i = 0; i < a.layers.size(); ++i) {
        EXPECT_EQ(a.layers[i].full_attention, b.layers[i].full_attention);
        EXPECT_EQ(a.layers[i].k_is_v, b.layers[i].k_is_v);
        EXPECT_EQ(a.layers[i].head_dim, b.layers[i].head_dim);
        EXPECT_EQ(a.layers[i].num_key_value_heads, b.layers[i].num_key_value_heads);
      }
      EXPECT_EQ(hf.config.has_vision, gguf.config.has_vision);
      EXPECT_EQ(hf.config.has_audio, gguf.config.has_audio);
      EXPECT_EQ(hf.config.vision.patch_size, gguf.config.vision.patch_size);
      EXPECT_EQ(hf.config.vision.pooling_kernel_size, gguf.config.vision.pooling_kernel_size);
      EXPECT_EQ(hf.config.vision.mm_posemb_size, gguf.config.vision.mm_posemb_size);
      EXPECT_EQ(hf.config.audio.audio_embed_dim, gguf.config.audio.audio_embed_dim);
      EXPECT_EQ(hf.config.image_token_id, gguf.config.image_token_id);
      EXPECT_EQ(hf.config.audio_token_id, gguf.config.audio_token_id);
      EXPECT_EQ(hf.config.video_token_id, gguf.config.video_token_id);
      const GgufSource source = OpenGgufSource(path);
      EXPECT_EQ(static_cast<int64_t>(source.tokenizer.tokens.size()), a.vocab_size);
      EXPECT_EQ(source.tokenizer.token_types.size(), source.tokenizer.tokens.size());
      EXPECT_EQ(source.tokenizer.chat_template, ReadFile(root + "/hf/chat_template.jinja"));
      EXPECT_EQ(source.tokenizer.tokens[2], "<bos>");
      EXPECT_EQ(source.tokenizer.suppress_tokens.size(), 2u);
      std::printf("%s: %zu tensors equal\n", path.c_str(), hf.tensors.size());
      ++cases;
    }
  }
  EXPECT_GT(cases, 0) << "no checkpoint in golden/gguf";
}

// ---- on the golden checkpoint, but about our own rules
// ------------------------------------------------------------------

using ExportRules = GoldenExport;

TEST_F(ExportRules, MergedOutputsAgreeWithEachOtherAndArePlacedAtomically) {
  uint64_t last = 0, total = 0;
  ExportRequest request = Request(model_,
                                  {{"safetensors", out_ / "deep/merged"},
                                   {"peft", out_ / "peft"},
                                   {"gguf:f32", out_ / "a.gguf"},
                                   {"gguf:q4_0", out_ / "b.gguf"}},
                                  adapter_);
  request.progress = [&](uint64_t done, uint64_t all) {
    EXPECT_GE(done, last);
    last = done;
    total = all;
  };
  const ExportReport report = Export(request);
  EXPECT_EQ(last, total);
  EXPECT_EQ(report.base_bytes, total);
  for (const ExportedFile& file : report.files) EXPECT_EQ(file.bytes, fs::file_size(file.path));
  const CheckpointFiles bf16 = OpenCheckpointFiles(out_ / "deep/merged"),
                        f32 = OpenCheckpointFiles(out_ / "a.gguf");
  const CheckpointFiles q4 = OpenCheckpointFiles(out_ / "b.gguf"),
                        base = OpenCheckpointFiles(model_);
  int changed = 0;
  for (const auto& [name, tensor] : f32.tensors) {
    const std::vector<float> exact = tensor.ReadAll();
    std::vector<float> rounded = exact;
    for (float& v : rounded) v = RoundToBf16(v);
    EXPECT_EQ(bf16.tensors.at(name).ReadAll(), rounded) << name;
    const StoredTensor& small = q4.tensors.at(name);
    std::vector<uint8_t> bytes(small.bytes);  // rounded once: from float32, not by way of bf16
    if (small.format->block_size > 1) {
      QuantizeRows(*small.format, GetScaleRule(*small.format), exact.data(), small.rows(),
                   small.cols(), bytes.data());
      EXPECT_EQ(std::memcmp(bytes.data(), small.data, small.bytes), 0) << name;
    }
    changed += exact != base.tensors.at(name).ReadAll();
  }
  EXPECT_EQ(changed, static_cast<int>(OpenAdapter(adapter_).tensors.tensors().size() / 2));
  EXPECT_EQ(q4.tensors.at("model.language_model.embed_tokens.weight").dtype, "Q6_K");
  EXPECT_EQ(ReadFile(out_ / "peft/adapter_model.safetensors"),
            ReadFile(adapter_ + "/adapter_model.safetensors"));
  EXPECT_EQ(ReadFile(out_ / "peft/adapter_config.json"),
            ReadFile(adapter_ + "/adapter_config.json"));
  for (const char* name :
       {"config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
        "generation_config.json", "processor_config.json"}) {
    EXPECT_EQ(ReadFile(out_ / StrCat("deep/merged/", name)), ReadFile(StrCat(model_, "/", name)))
        << name;
  }
  for (const auto& entry : fs::recursive_directory_iterator(out_.path())) {
    EXPECT_EQ(entry.path().string().find(".tmp-"), std::string::npos) << entry.path();
  }
}

TEST_F(ExportRules, SameBytesForAnyThreadCount) {
  const int before = Threads();
  std::vector<std::string> files = {"/m/model.safetensors", "/a.gguf", "/mmproj-a.gguf", "/b.gguf"};
  std::vector<std::string> reference;
  for (const int threads : {1, 2, 5}) {
    SetThreads(threads);
    const TempFolder out;
    Export(Request(
        model_,
        {{"safetensors", out / "m"}, {"gguf:q4_0", out / "a.gguf"}, {"gguf:q8_0", out / "b.gguf"}},
        adapter_));
    for (size_t i = 0; i < files.size(); ++i) {
      const std::string bytes = ReadFile(out.path() + files[i]);
      if (threads == 1) {
        reference.push_back(bytes);
      } else {
        EXPECT_TRUE(bytes == reference[i]) << files[i] << " with " << threads << " threads";
      }
    }
  }
  SetThreads(before);
}

TEST_F(ExportRules, RsLoraAndSavedModules) {
  const CheckpointFiles base = OpenCheckpointFiles(model_);
  const std::string projection = "model.embed_audio.embedding_projection.weight";
  const TensorShape shape = base.tensors.at(projection).shape;
  const std::string folder = Changed([&](AdapterConfig& config, std::vector<NamedTensor>& tensors) {
    config.modules_to_save = {"embed_audio"};
    config.use_rslora = true;
    tensors.push_back({"base_model.model." + projection, shape,
                       std::vector<float>(static_cast<size_t>(shape[0] * shape[1]), 0.25f)});
  });
  Export(Request(model_, {{"gguf:f32", out_ / "a.gguf"}}, folder));
  const CheckpointFiles merged = OpenCheckpointFiles(out_ / "a.gguf");
  for (const float v : merged.tensors.at(projection).ReadAll()) ASSERT_EQ(v, 0.25f);
  // One value by hand, in double: w + alpha / sqrt(r) * sum_k b[o, k] a[k, i].
  const Adapter adapter = OpenAdapter(folder);
  const std::string q = "model.language_model.layers.0.self_attn.q_proj";
  const std::vector<float> a =
      adapter.tensors.Get("base_model.model." + q + ".lora_A.weight").ReadAll();
  const std::vector<float> b =
      adapter.tensors.Get("base_model.model." + q + ".lora_B.weight").ReadAll();
  const int64_t r = adapter.config.r, in = static_cast<int64_t>(a.size()) / r;
  double sum = 0;
  for (int64_t k = 0; k < r; ++k)
    sum +=
        static_cast<double>(b[static_cast<size_t>(3 * r + k)]) * a[static_cast<size_t>(k * in + 5)];
  const size_t at = static_cast<size_t>(3 * in + 5);
  const double want = base.tensors.at(q + ".weight").ReadAll()[at] +
                      adapter.config.lora_alpha / std::sqrt(static_cast<double>(r)) * sum;
  EXPECT_NEAR(merged.tensors.at(q + ".weight").ReadAll()[at], want, 1e-6);
}

TEST_F(ExportRules, AdaptersThatChangeNothingAreErrors) {
  const auto zero = [](const char* part) {
    return [part](AdapterConfig&, std::vector<NamedTensor>& tensors) {
      for (NamedTensor& t : tensors) {
        if (t.name.find(part) != std::string::npos)
          std::fill(t.values.begin(), t.values.end(), 0.0f);
      }
    };
  };
  for (const char* part : {"lora_A", "lora_B"}) {
    const std::string message =
        Refusal(Request(model_, {{"gguf:f32", out_ / "a.gguf"}}, Changed(zero(part))));
    EXPECT_NE(message.find("the adapter must change the model; got only zero deltas"),
              std::string::npos)
        << message;
  }
  // A saved module equal to the base, and nothing else that moves: known only after the pass, and
  // nothing is left behind.
  const CheckpointFiles base = OpenCheckpointFiles(model_);
  const std::string name = "model.embed_audio.embedding_projection.weight";
  const std::string folder = Changed([&](AdapterConfig& config, std::vector<NamedTensor>& tensors) {
    zero("lora_B")(config, tensors);
    config.modules_to_save = {"embed_audio"};
    tensors.push_back(
        {"base_model.model." + name, base.tensors.at(name).shape, base.tensors.at(name).ReadAll()});
  });
  const std::string message = Refusal(Request(model_, {{"gguf:f32", out_ / "x/a.gguf"}}, folder));
  EXPECT_NE(message.find("got the base's own values"), std::string::npos) << message;
  EXPECT_FALSE(fs::exists(out_ / "x"));
}

TEST_F(ExportRules, AdaptersThatDoNotFitAreErrors) {
  using Tensors = std::vector<NamedTensor>;
  const auto refused = [&](const std::function<void(AdapterConfig&, Tensors&)>& change,
                           const std::string& part) {
    const std::string message =
        Refusal(Request(model_, {{"gguf:f32", out_ / "a.gguf"}}, Changed(change)));
    EXPECT_NE(message.find(part), std::string::npos) << message;
    EXPECT_FALSE(fs::exists(out_ / "a.gguf"));
  };
  refused([](AdapterConfig& c, Tensors&) { c.r += 1; }, "must be [");
  refused(
      [](AdapterConfig&, Tensors& t) {
        t[0].name = "base_model.model.model.language_model.layers.77.mlp.up_proj.lora_A.weight";
      },
      "must belong to a matrix of the base model");
  refused([](AdapterConfig&, Tensors& t) { t.erase(t.begin()); },
          "must have both lora_A and lora_B");
  refused([](AdapterConfig& c, Tensors&) { c.use_dora = true; },
          "magnitude vector exactly if use_dora");
  refused([](AdapterConfig& c, Tensors&) { c.modules_to_save = {"embed_vision"}; },
          "must have tensors; got none");
  refused(
      [](AdapterConfig&, Tensors& t) {
        t.push_back({"base_model.model.model.language_model.norm.weight", {1}, {1}});
      },
      "must be a LoRA matrix or a tensor of modules_to_save");
  refused([](AdapterConfig&, Tensors& t) { t[0].values[0] = NAN; }, "must be finite");
  refused(
      [](AdapterConfig&, Tensors& t) {
        for (float& v : t[0].values) v = 3e38f;
        for (float& v : t[1].values) v = 3e38f;
      },
      "values must be finite");
}

TEST_F(ExportRules, PathsAndFormats) {
  const auto refused = [&](const ExportRequest& request, const std::string& part) {
    const std::string message = Refusal(request);
    EXPECT_NE(message.find(part), std::string::npos) << message;
  };
  refused(Request(model_, {}), "at least one output");
  refused(Request(model_, {{"onnx", out_ / "x"}}), "try one of safetensors safetensors:f16");
  refused(Request(model_, {{"peft", out_ / "x"}}), "peft needs an adapter");
  refused(Request(model_, {{"gguf:f32", out_ / "x.bin"}}), "must be named *.gguf");
  refused(Request(model_, {{"gguf:f32", out_ / "x.gguf"}, {"gguf:bf16", out_ / "x.gguf"}}),
          "got it twice");
  refused(Request(model_, {{"safetensors", model_}}),
          "must not be the folder that it is made from");
  refused(Request(out_ / "absent", {{"safetensors", out_ / "x"}}),
          "must be a folder with config.json and safetensors, or a .gguf file; got nothing");
  refused(Request(out_.path(), {{"safetensors", out_ / "x"}}), "config.json");
  EXPECT_TRUE(fs::is_empty(out_.path()));

  WriteFile(out_ / "x.gguf", "mine");
  refused(Request(model_, {{"gguf:f32", out_ / "x.gguf"}}), "must not exist");
  fs::create_directory(out_ / "folder");
  WriteFile(out_ / "folder/note.txt", "mine");
  refused(Request(model_, {{"safetensors", out_ / "folder"}}), "empty or new folder");
  EXPECT_EQ(ReadFile(out_ / "x.gguf"), "mine");
  ExportRequest again =
      Request(model_, {{"gguf:f32", out_ / "x.gguf"}, {"safetensors", out_ / "folder"}});
  again.overwrite = true;
  Export(again);
  EXPECT_EQ(ReadFile(out_ / "folder/note.txt"), "mine");
  EXPECT_TRUE(OpenCheckpointFiles(out_ / "x.gguf").missing.empty());
}

TEST_F(ExportRules, RelativePaths) {
  const fs::path before = fs::current_path();
  model_ = fs::absolute(model_).string();
  fs::current_path(out_.path());
  const std::string message = Refusal(
      Request(model_, {{"gguf:bf16", "a.gguf"}, {"safetensors", "b/"}, {"gguf:f16", "c/d.gguf"}}));
  fs::current_path(before);
  EXPECT_EQ(message, "");
  for (const char* name :
       {"a.gguf", "mmproj-a.gguf", "b/model.safetensors", "b/config.json", "c/mmproj-d.gguf"}) {
    EXPECT_TRUE(fs::exists(out_ / name)) << name;
  }
}

TEST_F(ExportRules, DiskTooSmall) {
  ExportRequest request = Request(model_, {{"gguf:bf16", out_ / "x.gguf"}});
  uint64_t asked = 0;
  request.free_bytes = [&](const std::string&) {
    ++asked;
    return uint64_t{1000};
  };
  const std::string message = Refusal(request);
  EXPECT_NE(message.find("the disk must have"), std::string::npos) << message;
  EXPECT_EQ(asked, 1u);
  EXPECT_TRUE(fs::is_empty(out_.path()));
  request.free_bytes = [&](const std::string&) { return UINT64_MAX; };
  const ExportReport report = Export(request);
  // The plan's figure is exact: one byte less is refused.
  uint64_t need = 0;
  for (const ExportedFile& file : report.files) need += file.bytes;
  request.overwrite = true;
  request.free_bytes = [&](const std::string&) { return need - 1; };
  EXPECT_NE(Refusal(request), "");
  request.free_bytes = [&](const std::string&) { return need; };
  EXPECT_EQ(Refusal(request), "");
}

TEST_F(ExportRules, BasesThatAreWrong) {
  const std::string bad = out_ / "bad";
  fs::copy(model_, bad);
  fs::permissions(bad, fs::perms::owner_all);
  const TensorSet set = OpenCheckpoint(model_);
  const auto write = [&](const std::function<void(std::vector<NamedTensor>&)>& change) {
    std::vector<NamedTensor> tensors;
    for (const StoredTensor& t : set.tensors()) tensors.push_back({t.name, t.shape, t.ReadAll()});
    change(tensors);
    WriteSafetensors(bad + "/model.safetensors", tensors);
    return Refusal(Request(bad, {{"safetensors", out_ / "x"}, {"gguf:q8_0", out_ / "x.gguf"}}));
  };
  std::string message = write([](std::vector<NamedTensor>& t) { t.pop_back(); });
  EXPECT_NE(message.find("tensors are missing"), std::string::npos) << message;
  message = write([](std::vector<NamedTensor>& t) { t[2].values[7] = NAN; });
  EXPECT_NE(message.find("values must be finite"), std::string::npos) << message;
  message = write([](std::vector<NamedTensor>& t) { t[2].values[7] = -INFINITY; });
  EXPECT_NE(message.find("values must be finite"), std::string::npos) << message;
  message = write([](std::vector<NamedTensor>& t) {
    for (NamedTensor& tensor : t) {
      if (tensor.name.find("embed_tokens") != std::string::npos) tensor.values[7] = 1e30f;
    }
  });
  EXPECT_NE(message.find("values must fit Q8_0"), std::string::npos) << message;
  EXPECT_FALSE(fs::exists(out_ / "x"));
  EXPECT_FALSE(fs::exists(out_ / "x.gguf"));
  message = write([](std::vector<NamedTensor>&) {});
  EXPECT_EQ(message, "");
}

TEST(Export, HeadsOfAllLayersAreOneNumberWhereTheyAgree) {
  ModelConfig config = MakeModelConfig("tiny", 2);
  const auto heads = [&] {
    for (auto& [key, value] : TextKeys({}, config, 1, 0))
      if (key == "gemma4.attention.head_count_kv") return value;
    return GgufValue::String("absent");
  };
  config.text.layers[0].num_key_value_heads = 2;
  config.text.layers[1].num_key_value_heads = 1;
  EXPECT_EQ(heads(), GgufValue::I32s({2, 1}));
  config.text.layers[1].num_key_value_heads = 2;
  EXPECT_EQ(heads(), GgufValue::U32(2));
}

TEST(Export, SizeLabels) {
  EXPECT_EQ(SizeLabel(838114), "838K");
  EXPECT_EQ(SizeLabel(4037830), "4.0M");
  EXPECT_EQ(SizeLabel(11907350320), "12B");
  EXPECT_EQ(SizeLabel(52379904), "52M");
  EXPECT_EQ(SizeLabel(900), "0.9K");
}

TEST(Export, OutputSpelling) {
  EXPECT_EQ(ParseExportOutput("gguf:q4_0=a=b.gguf").path, "a=b.gguf");
  EXPECT_EQ(ParseExportOutput("gguf:q4_0=a=b.gguf").format, "gguf:q4_0");
  EXPECT_THROW(ParseExportOutput("safetensors"), Error);
  EXPECT_THROW(ParseExportOutput("safetensors="), Error);
  EXPECT_THROW(ParseExportOutput("gguf:q9=x"), Error);
  EXPECT_EQ(MmprojPath("dir/x.gguf"), "dir/mmproj-x.gguf");
  EXPECT_EQ(MmprojPath("x.gguf"), "mmproj-x.gguf");
}

}  // namespace
}  // namespace lapidary
