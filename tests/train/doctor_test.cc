// Every check of doctor's table on a file planted for it, the mended copies, and clean files.
#include "train/doctor/doctor.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>

#include "autograd/base/error.h"
#include "autograd/base/file.h"
#include "model/base_fingerprint.h"
#include "model/tensor_names.h"
#include "quant/adapter.h"
#include "quant/gguf.h"
#include "quant/safetensors.h"
#include "tests/fuzz/mutate.h"
#include "tests/quant/temp_folder.h"
#include "train/doctor/checks.h"
#include "train/export/export.h"
#include "train/make_model.h"

namespace lapidary {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;
using Alter = std::function<void(const std::string&)>;

// A tensor in memory, bytes as they are in a file.
struct RawTensor {
  std::string name, dtype;
  TensorShape shape;
  std::string bytes;
};
using RawTensors = std::vector<RawTensor>;

RawTensors ReadRaw(const std::vector<StoredTensor>& tensors) {
  RawTensors raw;
  for (const StoredTensor& t : tensors) {
    raw.push_back(
        {t.name, t.dtype, t.shape, std::string(reinterpret_cast<const char*>(t.data), t.bytes)});
  }
  return raw;
}

void WriteRaw(const std::string& path, const RawTensors& tensors) {
  std::vector<TensorSpec> specs;
  std::map<std::string, const RawTensor*> by_name;
  for (const RawTensor& t : tensors) {
    specs.push_back({t.name, t.dtype, t.shape});
    by_name[t.name] = &t;
  }
  SafetensorsWriter writer(path, specs);
  for (const TensorSpec& spec : writer.order()) {
    writer.Append(by_name.at(spec.name)->bytes.data(), by_name.at(spec.name)->bytes.size());
  }
  writer.Commit();
}

// Alters the tensors of FOLDER/`file`.
Alter Tensors(const std::function<void(RawTensors&)>& change,
              const std::string& file = "model.safetensors") {
  return [=](const std::string& folder) {
    const std::string path = folder + "/" + file;
    RawTensors raw;
    {
      const SafetensorsFile opened = SafetensorsFile::Open(path);
      raw = ReadRaw(opened.tensors());
    }
    change(raw);
    WriteRaw(path, raw);
  };
}

Alter Rename(const std::function<std::string(std::string)>& name) {
  return Tensors([=](RawTensors& raw) {
    for (RawTensor& t : raw) t.name = name(t.name);
  });
}

std::string Replace(std::string text, const std::string& from, const std::string& to) {
  if (const size_t at = text.find(from); at != std::string::npos) text.replace(at, from.size(), to);
  return text;
}

RawTensor& Named(RawTensors& raw, const std::string& tail) {
  for (RawTensor& t : raw) {
    if (t.name.size() >= tail.size() &&
        t.name.compare(t.name.size() - tail.size(), tail.size(), tail) == 0) {
      return t;
    }
  }
  throw Error("no tensor " + tail);
}

Alter Drop(const std::string& part, const std::string& file = "model.safetensors") {
  return Tensors(
      [=](RawTensors& raw) {
        std::erase_if(raw,
                      [&](const RawTensor& t) { return t.name.find(part) != std::string::npos; });
      },
      file);
}

// Alters a small JSON file.
Alter Side(const std::string& file, const std::function<void(Json&)>& change) {
  return [=](const std::string& folder) {
    Json json = Json::parse(ReadFile(folder + "/" + file));
    change(json);
    WriteFile(folder + "/" + file, json.dump(1));
  };
}

// Values on the grid bf16(d * q), q in -8..7, as a QAT checkpoint has them.
void PutOnGrid(RawTensor& t) {
  for (size_t i = 0; i + 1 < t.bytes.size(); i += 2) {
    const int q = static_cast<int>((i / 2) % 16) - 8;
    const float value = 0.015625f * static_cast<float>(q);
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    const uint16_t half = static_cast<uint16_t>(bits >> 16);
    std::memcpy(t.bytes.data() + i, &half, 2);
  }
}

// The things to alter, made once.
struct Originals {
  Originals() {
    ModelConfig config = MakeModelConfig("tiny", 6);
    MakeModel(config, folder / "base", {}, [](int64_t, int64_t) {});
    ExportRequest request;
    request.model = folder / "base";
    request.outputs = {{"gguf:q8_0", folder / "gguf/model.gguf"},
                       {"mlx:4bit", folder / "mlx"},
                       {"compressed-tensors", folder / "packed"}};
    fs::create_directories(folder / "gguf");
    Export(request);
    request.outputs = {{"safetensors", folder / "shards"}};
    request.options.max_shard_bytes = 2 << 20;
    Export(request);
    AdapterConfig lora;
    lora.r = 2;
    lora.base_model_name_or_path = folder / "base";
    lora.target_modules = {false, {"q_proj", "v_proj"}};
    std::vector<NamedTensor> tensors;
    std::map<std::string, std::vector<int64_t>> shapes;
    for (const CatalogTensor& t : ExpectedTensors(config)) shapes[t.name] = t.shape;
    for (int i = 0; i < 6; ++i) {
      for (const char* module : {"q_proj", "v_proj"}) {
        if (i == 5 && std::string_view(module) == "v_proj") continue;  // a full layer has none
        const std::string at = StrCat("model.language_model.layers.", i, ".self_attn.", module);
        const int64_t in = shapes.at(at + ".weight")[1], out = shapes.at(at + ".weight")[0];
        tensors.push_back({"base_model.model." + at + ".lora_A.weight",
                           {2, in},
                           std::vector<float>(static_cast<size_t>(2 * in), 0.5f)});
        tensors.push_back({"base_model.model." + at + ".lora_B.weight",
                           {out, 2},
                           std::vector<float>(static_cast<size_t>(2 * out), 0.25f)});
      }
    }
    lora.base_fingerprint = BaseFingerprint(OpenCheckpointFiles(folder / "base"));
    WriteAdapter(folder / "adapter", lora, tensors);
    request = {};
    request.model = folder / "base";
    request.adapters = {{folder / "adapter"}};
    fs::create_directories(folder / "gguf-lora");
    request.outputs = {{"gguf-lora", folder / "gguf-lora/model.gguf"},
                       {"mlx-lora", folder / "mlx-lora"}};
    Export(request);
  }
  const TempFolder folder;
};

const Originals& Made() {
  static const Originals made;
  return made;
}

std::vector<std::string> Ids(const DoctorReport& report) {
  std::vector<std::string> ids;
  for (const DoctorFinding& f : report.findings) ids.push_back(f.check->id);
  return ids;
}

std::string Texts(const DoctorReport& report) { return DoctorJson(report).dump(1); }

struct Plant {
  const char* id;
  const char* original;  // folder of Originals
  Alter alter;
  bool mends;
};

// A GGUF folder with other keys or tensors.
Alter Gguf(const std::function<void(GgufKeys&, RawTensors&)>& change) {
  return [=](const std::string& folder) {
    const std::string path = folder + "/model.gguf";
    GgufKeys keys;
    RawTensors raw;
    {
      const GgufFile file = GgufFile::Open(path);
      keys = file.keys();
      raw = ReadRaw(file.tensors().tensors());
    }
    change(keys, raw);
    std::vector<TensorSpec> specs;
    for (const RawTensor& t : raw) specs.push_back({t.name, t.dtype, t.shape});
    GgufWriter writer(path, keys, specs);
    for (const RawTensor& t : raw) writer.Append(t.bytes.data(), t.bytes.size());
    writer.Commit();
  };
}
Alter Key(const std::string& key, const std::function<void(GgufValue&)>& change) {
  return Gguf([=](GgufKeys& keys, RawTensors&) {
    for (auto& [name, value] : keys) {
      if (name == key) return change(value);
    }
    throw Error("no key " + key);
  });
}

// The first tensor whose name ends so loses half of an axis, with its bytes.
std::function<void(RawTensors&)> Halve(const std::string& tail, size_t axis) {
  return [=](RawTensors& raw) {
    for (RawTensor& t : raw) {
      if (!t.name.ends_with(tail)) continue;
      t.shape[axis] /= 2;
      t.bytes.resize(t.bytes.size() / 2);
      return;
    }
    throw Error("no tensor " + tail);
  };
}

std::vector<Plant> Plants() {
  const auto remove = [](const char* file) {
    return [=](const std::string& folder) { fs::remove(folder + "/" + file); };
  };
  const auto cut = [](const char* file) {
    return [=](const std::string& folder) {
      fs::resize_file(folder + "/" + file, fs::file_size(folder + "/" + file) - 1000);
    };
  };
  const std::string language = "model.language_model.";
  const auto bare = [=](std::string n) {
    return n.rfind(language, 0) == 0 ? "language_model.model." + n.substr(language.size())
                                     : n.substr(6);
  };
  const auto memory = [](std::string n) {
    n = Replace(n, "model.vision_embedder.", "model.embed_vision.");
    return Replace(n, "model.embed_vision.embedding_projection",
                   "model.embed_vision.multimodal_embedder.embedding_projection");
  };
  const auto nan = [](RawTensors& raw) {
    RawTensor& t = Named(raw, "layers.2.mlp.up_proj.weight");
    t.bytes[6] = static_cast<char>(0xc0), t.bytes[7] = 0x7f;
  };
  const auto head = [](int change) {
    return Tensors([=](RawTensors& raw) {
      RawTensor t = Named(raw, "embed_tokens.weight");
      t.name = "lm_head.weight";
      t.bytes[8] = static_cast<char>(t.bytes[8] ^ change);
      raw.push_back(t);
    });
  };
  const auto spell_adapter = [](const std::function<std::string(std::string)>& name) {
    return Tensors(
        [=](RawTensors& raw) {
          for (RawTensor& t : raw) t.name = name(t.name);
        },
        "adapter_model.safetensors");
  };
  const char* adapter_file = "adapter_model.safetensors";
  return {
      {"broken-file", "base", cut("model.safetensors"), false},
      {"broken-file", "adapter", cut(adapter_file), false},
      {"broken-file", "gguf", cut("model.gguf"), false},
      {"config", "base",
       Side("config.json", [](Json& c) { c["text_config"]["num_attention_heads"] = -1; }), false},
      {"shard-index", "shards", remove("model.safetensors.index.json"), true},
      {"shard-index", "shards",
       Side("model.safetensors.index.json",
            [](Json& c) { c["weight_map"].erase(c["weight_map"].begin()); }),
       true},
      {"names-memory", "base", Rename(memory), true},
      {"names-mlx", "base", Rename(bare), true},
      {"names-text", "base", Rename([=](std::string n) { return Replace(n, language, "model."); }),
       true},
      {"names-doubled", "base",
       Rename([=](std::string n) { return Replace(n, language, language + "model."); }), true},
      {"names-memory", "packed", Rename(memory), true},
      {"missing-tensors", "base", Drop("layers.3.mlp.up_proj"), false},
      {"missing-tensors", "packed", Drop("layers.3.mlp.up_proj.weight_scale"), false},
      {"missing-tensors", "mlx", Drop("layers.3.mlp.up_proj.biases"), false},
      {"missing-tensors", "gguf", Gguf([](GgufKeys&, RawTensors& raw) {
         std::erase_if(raw, [](const RawTensor& t) { return t.name == "blk.1.attn_v.weight"; });
       }),
       false},
      {"missing-media", "base", Drop("vision_embedder.pos_norm"), false},
      {"mmproj", "gguf", remove("mmproj-model.gguf"), false},
      {"gguf-keys", "gguf", Gguf([](GgufKeys& keys, RawTensors&) {
         std::erase_if(keys, [](const auto& k) { return k.first == "gemma4.rope.freq_base"; });
       }),
       false},
      {"shape", "base",
       Side("config.json", [](Json& c) { c["vision_config"]["mm_posemb_size"] = 64; }), false},
      {"extra-tensors", "base", Tensors([](RawTensors& raw) {
         RawTensor t = Named(raw, "layers.4.self_attn.v_proj.weight");
         t.name = Replace(t.name, "layers.4", "layers.5");  // a full layer has none
         raw.push_back(t);
       }),
       true},
      {"stored-head", "base", head(0), true},
      {"stored-head", "gguf", Gguf([](GgufKeys&, RawTensors& raw) {
         RawTensor t = Named(raw, "token_embd.weight");
         t.name = "output.weight";
         raw.push_back(t);
       }),
       true},
      {"untied-head", "base", head(1), false},
      {"not-finite", "base", Tensors(nan), false},
      {"not-finite", "adapter",
       Tensors(
           [](RawTensors& raw) {
             const float inf = std::numeric_limits<float>::infinity();
             std::memcpy(raw[0].bytes.data() + 8, &inf, 4);
           },
           adapter_file),
       false},
      {"dtype", "base", Tensors([](RawTensors& raw) {
         RawTensor& t = Named(raw, "layers.1.mlp.up_proj.weight");
         t.dtype = "F16";
         std::fill(t.bytes.begin(), t.bytes.end(), char{0x31});
       }),
       false},
      {"dtype", "base", Side("config.json", [](Json& c) { c["dtype"] = "float32"; }), true},
      {"off-grid", "base", Tensors([](RawTensors& raw) {
         for (RawTensor& t : raw) {
           if (t.name.find("mlp.") != std::string::npos) PutOnGrid(t);
         }
       }),
       false},
      {"template", "base",
       [](const std::string& f) { WriteFile(f + "/chat_template.jinja", "{{ bos_token }}old"); },
       true},
      {"template", "base", remove("chat_template.jinja"), true},
      {"template", "gguf",
       Key("tokenizer.chat_template", [](GgufValue& v) { v.strings[0] += " "; }), true},
      {"template-twice", "base",
       Side("tokenizer_config.json", [](Json& c) { c["chat_template"] = "other"; }), true},
      {"stop-ids", "base", Side("generation_config.json", [](Json& c) { c["eos_token_id"] = 1; }),
       true},
      {"stop-ids", "gguf", Key("tokenizer.ggml.eos_token_id", [](GgufValue& v) { v.ints[0] = 7; }),
       true},
      {"suppress-ids", "base",
       Side("generation_config.json", [](Json& c) { c.erase("suppress_tokens"); }), true},
      {"suppress-ids", "gguf",
       Key("tokenizer.ggml.suppress_tokens", [](GgufValue& v) { v.type = GgufType::kU32; }), true},
      {"double-bos", "base",
       Side("tokenizer.json",
            [](Json& c) {
              Json& p = c["post_processor"];
              p["special_tokens"]["<bos>"] = {{"id", "<bos>"}, {"ids", {2}}, {"tokens", {"<bos>"}}};
              Json piece = Json::object();
              p["single"].insert(p["single"].begin(), piece);
              p["single"][0]["SpecialToken"] = Json({{"id", "<bos>"}, {"type_id", 0}});
            }),
       true},
      {"tokenizer", "base", remove("tokenizer.json"), false},
      {"tokenizer", "base", Side("config.json", [](Json& c) { c["image_token_id"] = 7; }), false},
      {"token-types", "gguf", Gguf([](GgufKeys& keys, RawTensors&) {
         size_t id = 0;
         for (auto& [name, value] : keys) {
           if (name != "tokenizer.ggml.tokens") continue;
           while (value.strings[id] != "<|channel>") ++id;
         }
         for (auto& [name, value] : keys) {
           if (name == "tokenizer.ggml.token_type") value.ints[id] = 3;
         }
       }),
       true},
      {"processor", "base", remove("processor_config.json"), true},
      {"flat-keys", "base",
       Side("config.json",
            [](Json& c) {
              Json& t = c["text_config"];
              t["per_layer_config"]["5"] = {
                  {"head_dim", t["global_head_dim"]},
                  {"num_key_value_heads", t["num_global_key_value_heads"]}};
              t.erase("global_head_dim"), t.erase("num_global_key_value_heads");
            }),
       true},
      {"adapter-config", "adapter",
       Side("adapter_config.json", [](Json& c) { c["peft_type"] = "IA3"; }), false},
      {"adapter-names", "adapter",
       spell_adapter([](std::string n) { return Replace(n, ".weight", ".default.weight"); }), true},
      {"adapter-names", "adapter",
       spell_adapter([](std::string n) { return Replace(n, "base_model.model.", ""); }), true},
      {"adapter-pair", "adapter", Drop("layers.2.self_attn.q_proj.lora_B", adapter_file), false},
      {"adapter-layers", "adapter", Drop("layers.2.self_attn.q_proj", adapter_file), false},
      {"adapter-zero", "adapter",
       Tensors(
           [](RawTensors& raw) {
             for (RawTensor& t : raw) {
               if (t.name.find("lora_B") != std::string::npos) {
                 std::fill(t.bytes.begin(), t.bytes.end(), '\0');
               }
             }
           },
           adapter_file),
       false},
      {"adapter-head", "adapter",
       Tensors(
           [](RawTensors& raw) {
             RawTensor t = raw[0];
             t.name = "base_model.model.lm_head.weight";
             raw.push_back(t);
           },
           adapter_file),
       false},
      {"adapter-targets", "adapter",
       Side("adapter_config.json", [](Json& c) { c["target_modules"] = nullptr; }), true},
      {"adapter-rank", "adapter", Side("adapter_config.json", [](Json& c) { c["r"] = 4; }), false},
      {"adapter-shape", "adapter", Tensors(Halve("lora_A.weight", 0), adapter_file), false},
      {"adapter-shape", "adapter", Tensors(Halve("lora_B.weight", 0), adapter_file), false},
      {"adapter-base", "adapter",
       [=](const std::string& folder) {
         AdapterConfig lora = OpenAdapter(folder).config;
         lora.base_fingerprint = std::string(32, '0');
         std::vector<NamedTensor> tensors;
         {
           const Adapter adapter = OpenAdapter(folder);
           for (const StoredTensor& t : adapter.tensors.tensors())
             tensors.push_back({t.name, t.shape, t.ReadAll()});
         }
         WriteAdapter(folder, lora, tensors);
       },
       false},
  };
}

// Faults of adapters in the forms of llama.cpp and MLX.
std::vector<Plant> LoraPlants() {
  const char* mlx_file = "adapters.safetensors";
  const auto config = [](const std::function<void(Json&)>& change) {
    return Side("adapter_config.json", change);
  };
  const auto gguf = [](const std::function<void(RawTensors&)>& change) {
    return Gguf([=](GgufKeys&, RawTensors& raw) { change(raw); });
  };
  const auto drop_key = [](const char* key) {
    return Gguf([=](GgufKeys& keys, RawTensors&) {
      EXPECT_EQ(std::erase_if(keys, [&](const auto& k) { return k.first == key; }), 1u);
    });
  };
  const auto drop = [](const char* part) {
    return [=](RawTensors& raw) {
      std::erase_if(raw,
                    [&](const RawTensor& t) { return t.name.find(part) != std::string::npos; });
    };
  };
  const auto zero = [](RawTensors& raw) {
    for (RawTensor& t : raw) {
      if (t.name.ends_with("lora_b")) std::fill(t.bytes.begin(), t.bytes.end(), '\0');
    }
  };
  const auto nan = [](RawTensors& raw) {
    raw[0].bytes[2] = static_cast<char>(0xc0), raw[0].bytes[3] = 0x7f;
  };
  const auto extra = [](RawTensors& raw) {
    RawTensor t = raw[0];
    t.name = "blk.0.attn_q.bias";
    raw.push_back(t);
  };
  return {
      {"lora-config", "gguf-lora", drop_key("general.type"), true},
      {"lora-config", "gguf-lora", drop_key("adapter.type"), true},
      {"lora-config", "gguf-lora",
       Key("general.architecture", [](GgufValue& v) { v.strings[0] = "gemma4_unified"; }), true},
      {"lora-scale", "gguf-lora", drop_key("adapter.lora.alpha"), false},
      {"lora-scale", "gguf-lora", Key("adapter.lora.alpha", [](GgufValue& v) { v.floats[0] = 0; }),
       false},
      {"lora-names", "gguf-lora", gguf(extra), false},
      {"adapter-pair", "gguf-lora", gguf(drop("blk.2.attn_q.weight.lora_b")), false},
      {"adapter-layers", "gguf-lora", gguf(drop("blk.2.attn_q")), false},
      {"adapter-shape", "gguf-lora", gguf(Halve("lora_a", 0)), false},
      {"adapter-zero", "gguf-lora", gguf(zero), false},
      {"not-finite", "gguf-lora", gguf(nan), false},
      {"broken-file", "mlx-lora",
       [=](const std::string& folder) {
         fs::resize_file(folder + "/" + mlx_file, fs::file_size(folder + "/" + mlx_file) - 100);
       },
       false},
      {"lora-config", "mlx-lora", config([](Json& c) { c["num_layers"] = 2; }), true},
      {"lora-config", "mlx-lora", config([](Json& c) { c.erase("num_layers"); }), true},
      {"lora-config", "mlx-lora",
       config([](Json& c) { c["lora_parameters"]["keys"] = {"self_attn.q_proj"}; }), true},
      {"lora-config", "mlx-lora", config([](Json& c) { c["fine_tune_type"] = "full"; }), false},
      {"lora-config", "mlx-lora", config([](Json& c) { c.erase("lora_parameters"); }), false},
      {"lora-scale", "mlx-lora", config([](Json& c) { c["lora_parameters"].erase("scale"); }),
       false},
      {"adapter-rank", "mlx-lora", config([](Json& c) { c["lora_parameters"]["rank"] = 4; }), true},
      {"lora-names", "mlx-lora",
       Tensors(
           [](RawTensors& raw) {
             for (RawTensor& t : raw) t.name = t.name.substr(std::string("language_model.").size());
           },
           mlx_file),
       true},
      {"adapter-pair", "mlx-lora", Drop("layers.2.self_attn.q_proj.lora_b", mlx_file), false},
      {"adapter-layers", "mlx-lora", Drop("layers.2.self_attn.q_proj", mlx_file), false},
      {"adapter-shape", "mlx-lora", Tensors(Halve("lora_b", 0), mlx_file), false},
      {"adapter-zero", "mlx-lora", Tensors(zero, mlx_file), false},
  };
}

std::string Subject(const std::string& original, const std::string& at) {
  return original.starts_with("gguf") ? at + "/model.gguf" : at;
}

TEST(Doctor, FindsEveryPlantedFault) {
  std::set<std::string> planted;
  int number = 0;
  std::vector<Plant> plants = Plants();
  for (const Plant& plant : LoraPlants()) plants.push_back(plant);
  for (const Plant& plant : plants) {
    SCOPED_TRACE(StrCat(plant.id, " in ", plant.original, ", plant ", number++));
    const TempFolder temp;
    const std::string at = temp / "it";
    fs::copy(Made().folder / plant.original, at, fs::copy_options::recursive);
    plant.alter(at);
    const std::string path = Subject(plant.original, at);
    const DoctorReport report = Examine(path);
    EXPECT_EQ(Ids(report), std::vector<std::string>{plant.id}) << Texts(report);
    planted.insert(plant.id);
    if (report.findings.size() != 1) continue;
    EXPECT_EQ(report.findings[0].repairable, plant.mends);
    const std::string out = Subject(plant.original, temp / "mended");
    if (std::string(plant.original).starts_with("gguf")) fs::create_directories(temp / "mended");
    if (!plant.mends) {
      EXPECT_THROW(Repair(path, out), Error);
      EXPECT_FALSE(fs::exists(out));
      continue;
    }
    const DoctorRepair result = Repair(path, out);
    EXPECT_EQ(result.repaired, std::vector<std::string>{plant.id});
    EXPECT_TRUE(result.after.findings.empty()) << Texts(result.after);
    EXPECT_EQ(Ids(Examine(path)), std::vector<std::string>{plant.id}) << "the original is changed";
    EXPECT_THROW(Repair(path, out), Error) << "it wrote over a folder";
  }
  for (const DoctorCheck& check : DoctorChecks()) {
    EXPECT_TRUE(planted.count(check.id)) << check.id << " has no planted fault";
  }
}

TEST(Doctor, CleanFilesHaveNoFindings) {
  for (const char* original :
       {"base", "mlx", "packed", "shards", "adapter", "gguf", "gguf-lora", "mlx-lora"}) {
    const DoctorReport report = Examine(Subject(original, Made().folder / original));
    EXPECT_TRUE(report.findings.empty()) << original << "\n" << Texts(report);
    EXPECT_GT(report.tensors, 0) << original;
  }
}

// With --base: other shapes, layers that the base has and the adapter has not, another base.
TEST(Doctor, AdaptersAgainstTheirBase) {
  const TempFolder temp;
  const std::string base = Made().folder / "base";
  for (const char* change : {"num_attention_heads", "num_hidden_layers"}) {
    fs::create_directories(temp / change);
    Json config = Json::parse(ReadFile(base + "/config.json"));
    Json& text = config["text_config"];
    text[change] = text[change].get<int64_t>() * 2;
    if (std::string_view(change) == "num_hidden_layers") {
      const Json types = text["layer_types"];
      for (const Json& type : types) text["layer_types"].push_back(type);
    }
    WriteFile(temp / change + "/config.json", config.dump());
  }
  for (const char* original : {"adapter", "gguf-lora", "mlx-lora"}) {
    const std::string path = Subject(original, Made().folder / original);
    EXPECT_TRUE(Examine(path, {.base = base}).findings.empty()) << original;
    for (const auto& [change, id] : {std::pair{"num_attention_heads", "adapter-shape"},
                                     std::pair{"num_hidden_layers", "adapter-layers"}}) {
      const std::vector<std::string> ids = Ids(Examine(path, {.base = temp / change}));
      EXPECT_EQ(std::count(ids.begin(), ids.end(), id), 1) << original << " " << change;
    }
    EXPECT_EQ(Ids(Examine(path, {.base = "/absent"})), std::vector<std::string>{"config"});
  }
}

// A mended copy holds the bytes of the file it was altered from.
TEST(Doctor, MendedNamesGiveTheSameFile) {
  const TempFolder temp;
  const std::string at = temp / "it";
  fs::copy(Made().folder / "base", at, fs::copy_options::recursive);
  Rename([](std::string n) { return Replace(n, "model.language_model.", "model."); })(at);
  Repair(at, temp / "mended");
  EXPECT_EQ(ReadFile(temp / "mended/model.safetensors"),
            ReadFile(Made().folder / "base/model.safetensors"));
  EXPECT_EQ(ReadFile(temp / "mended/tokenizer.json"),
            ReadFile(Made().folder / "base/tokenizer.json"));
}

TEST(Doctor, SeveralFaultsAtOnce) {
  const TempFolder temp;
  const std::string at = temp / "it";
  fs::copy(Made().folder / "base", at, fs::copy_options::recursive);
  Rename([](std::string n) { return Replace(n, "model.language_model.", "model."); })(at);
  Drop("vision_embedder.pos_norm")(at);
  Side("generation_config.json", [](Json& c) { c.clear(); })(at);
  fs::remove(at + "/chat_template.jinja");
  const std::vector<std::string> want = {"names-text", "missing-media", "stop-ids", "suppress-ids"};
  EXPECT_EQ(Ids(Examine(at)), want);
  const DoctorRepair result = Repair(at, temp / "mended");
  EXPECT_EQ(Ids(result.after), std::vector<std::string>{"missing-media"});
}

// Small files with bytes flipped, cut and repeated: findings or an Error, nothing else; and a copy
// is whole or absent.
TEST(Doctor, SurvivesMutatedFiles) {
  const TempFolder temp;
  int64_t copies = 0;
  for (const char* original : {"base", "adapter", "shards", "mlx-lora"}) {
    const std::string from = Made().folder / original, at = temp / original;
    fs::create_directories(at);
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(from)) {
      if (entry.path().extension() == ".safetensors") continue;
      fs::copy(entry.path(), at);
      names.push_back(entry.path().filename().string());
    }
    std::sort(names.begin(), names.end());
    for (uint64_t i = 0; i < 60; ++i) {
      const std::string& name = names[i % names.size()];
      const std::string whole = ReadFile(from + "/" + name);
      WriteFile(at + "/" + name, fuzz::Mutator(7, i)(whole, 400));
      const std::string out = temp / "out";
      try {
        Examine(at);
        Repair(at, out);
        ++copies;
      } catch (const Error&) {
        EXPECT_FALSE(fs::exists(out));
      }
      fs::remove_all(out);
      WriteFile(at + "/" + name, whole);
    }
  }
  EXPECT_GT(copies, 0);
}

TEST(Doctor, RefusesWhatIsNothing) {
  EXPECT_THROW(Examine(Made().folder / "absent"), Error);
  EXPECT_THROW(Examine(Made().folder.path()), Error);
  EXPECT_THROW(Examine(Made().folder / "base/config.json"), Error);
  EXPECT_THROW(Examine(Made().folder / "gguf/mmproj-model.gguf"), Error);
  const DoctorReport absent = Examine(Made().folder / "adapter", {.base = "/absent"});
  EXPECT_EQ(Ids(absent), std::vector<std::string>{"config"});
}

}  // namespace
}  // namespace lapidary
