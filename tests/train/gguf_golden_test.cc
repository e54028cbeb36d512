// golden/gguf beyond the exported weights: a prompt with a picture and a sound through the whole
// model, and PEFT adapters as llama.cpp's converter writes them.
#include <gtest/gtest.h>

#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "autograd/base/float16.h"
#include "data/image.h"
#include "data/media.h"
#include "model/gguf_names.h"
#include "model/tensor_names.h"
#include "quant/adapter.h"
#include "quant/gguf.h"
#include "tests/golden.h"
#include "tests/model/golden_batch.h"
#include "tests/quant/temp_folder.h"
#include "tests/train/inventory.h"
#include "train/bundle.h"
#include "train/export/export.h"

namespace lapidary {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

// Sets may lack what these tests compare: an absent part is printed. What is there must be
// compared.
void ExpectCompared(int cases, bool there, const char* what) {
  std::printf("%d cases of %s%s\n", cases, what, there ? "" : ": absent");
  EXPECT_TRUE(cases > 0 || !there) << what;
}

// What media/prompt.json and its files become: soft tokens in place of the marks, the picture at
// its own size (the golden run did not resize it).
struct Prompt {
  ModelInput input;
  std::vector<int64_t> soft;  // rows of soft tokens, pictures before sounds
};

Prompt ReadPrompt(const std::string& folder, const Bundle& bundle) {
  const json spec = json::parse(ReadFile(folder + "/prompt.json"));
  std::string text = spec["prompt"];
  Prompt prompt;
  std::vector<float> patches, frames;
  for (const std::string file : spec["files"]) {
    const std::string path = folder + "/" + file;
    std::string kind = "audio";
    int64_t tokens = 0;
    if (file.ends_with(".png")) {
      kind = "image";
      const ImageFeatures image = Patches(DecodeImage(ReadFile(path), file), bundle.media.image);
      tokens = image.tokens;
      patches.insert(patches.end(), image.rows.begin(), image.rows.end());
      prompt.input.patch_positions.insert(prompt.input.patch_positions.end(),
                                          image.positions.begin(), image.positions.end());
    } else {
      const AudioFeatures sound = LoadAudioFeatures(MediaSource::File(path), bundle.media.audio);
      tokens = sound.tokens;
      frames.insert(frames.end(), sound.rows.begin(), sound.rows.end());
    }
    std::string run = "<|" + kind + ">";
    for (int64_t i = 0; i < tokens; ++i) run += "<|" + kind + "|>";
    const std::string mark = "<__media__>";
    text.replace(text.find(mark), mark.size(), run + "<" + kind + "|>");
  }
  ModelInput& input = prompt.input;
  input.ids = bundle.RequireTokenizer().Encode("<bos>" + text);
  const ModelConfig& config = bundle.model.config;
  for (size_t i = 0; i < input.ids.size(); ++i) {
    const bool image = input.ids[i] == config.image_token_id;
    const bool sound = input.ids[i] == config.audio_token_id;
    input.types.push_back(image ? 1 : sound ? 3 : 0);
    if (image) input.patch_rows.push_back(static_cast<int64_t>(i));
    if (sound) input.audio_rows.push_back(static_cast<int64_t>(i));
  }
  const auto rows = [](const std::vector<float>& values, size_t count) {
    const auto n = static_cast<int64_t>(count);
    return Tensor::FromFloats({n, static_cast<int64_t>(values.size()) / n}, values.data());
  };
  input.patches = rows(patches, input.patch_rows.size());
  input.audio_frames = rows(frames, input.audio_rows.size());
  prompt.soft = input.patch_rows;
  prompt.soft.insert(prompt.soft.end(), input.audio_rows.begin(), input.audio_rows.end());
  return prompt;
}

TEST(GgufGolden, PromptWithMedia) {
  int cases = 0;
  bool there = false;
  for (const std::string& root : golden::Find("gguf")) {
    const std::string folder = root + "/media";
    if (!fs::exists(folder + "/expected.safetensors")) {
      std::printf("absent: %s/expected.safetensors\n", folder.c_str());
      continue;
    }
    there = true;
    Bundle bundle = OpenBundle(root + "/hf");
    const Prompt prompt = ReadPrompt(folder, bundle);
    const SafetensorsFile want = SafetensorsFile::Open(folder + "/expected.safetensors");
    EXPECT_EQ(prompt.input.ids, golden::Ints(want, "ids"));
    EXPECT_EQ(std::vector<int32_t>(prompt.input.types.begin(), prompt.input.types.end()),
              golden::Ints(want, "types"));
    const auto check = [&](const char* name, ImageMask mask) {
      const std::vector<float> expected = golden::Floats(want, name);
      std::vector<Tensor> hidden;
      Tape tape(Tape::Mode::kNoGrad);
      ForwardOptions options;
      options.image_mask = mask;
      options.hidden_states = &hidden;
      const Var h = Forward(bundle.model, tape, prompt.input, options);
      const Tensor logits = Logits(
          h.value(), bundle.model.head().Current(),
          static_cast<float>(bundle.model.config.text.final_logit_softcapping), Compute::kFloat32);
      ASSERT_EQ(static_cast<int64_t>(expected.size()), logits.size()) << name;
      const double worst = golden::MaxAbs(logits.data(), expected.data(), logits.size());
      std::printf("%s %s: largest difference %.3g (limit 2e-4)\n", folder.c_str(), name, worst);
      EXPECT_LE(worst, 2e-4) << name;
      const std::vector<float> embeddings = golden::Floats(want, "embeddings");
      const int64_t width = hidden.at(0).size() / prompt.input.size();
      std::vector<float> soft;
      for (const int64_t row : prompt.soft) {
        const float* from = hidden[0].data() + row * width;
        soft.insert(soft.end(), from, from + width);
      }
      ASSERT_EQ(soft.size(), embeddings.size());
      const double relative = golden::RelativeL2(soft.data(), embeddings.data(), soft.size());
      std::printf("%s soft tokens: relative L2 %.3g (limit 1e-5)\n", folder.c_str(), relative);
      EXPECT_LE(relative, 1e-5);
    };
    check("logits", ImageMask::kSlidingOnly);
    check("logits_bare_forward", ImageMask::kHfForward);
    ++cases;
  }
  ExpectCompared(cases, there, "golden/gguf/media");
}

// Bytes of a PEFT tensor in a type of the converter.
std::vector<uint8_t> Converted(const StoredTensor& tensor, const std::string& type) {
  const Format* format = FindFormat(type);
  LAPIDARY_CHECK(format != nullptr, type, ": must be a known format");
  const std::vector<float> values = tensor.ReadAll();
  std::vector<uint8_t> bytes(
      static_cast<size_t>(tensor.rows() * FormatBytes(*format, tensor.cols())));
  QuantizeRows(*format, GetScaleRule(*format), values.data(), tensor.rows(), tensor.cols(),
               bytes.data());
  return bytes;
}

// inventory/lora-TYPE.json and official/lora-*.gguf hold the tensors of the PEFT folder under
// GGUF's names, and its alpha.
TEST(GgufGolden, AdaptersOfTheConverter) {
  int cases = 0;
  bool there = false;
  for (const std::string& root : golden::Find("gguf")) {
    if (!fs::exists(root + "/lora")) {
      std::printf("absent: %s/lora\n", root.c_str());
      continue;
    }
    const Adapter adapter = OpenAdapter(root + "/lora");
    std::map<std::string, const StoredTensor*> tensors;
    for (const StoredTensor& tensor : adapter.tensors.tensors()) {
      const std::string prefix = "base_model.model.";
      const size_t lora = tensor.name.find(".lora_");
      ASSERT_NE(lora, std::string::npos) << tensor.name;
      const auto place = FindGgufPlace(
          CanonicalTensorName(tensor.name.substr(prefix.size(), lora - prefix.size()) + ".weight"));
      ASSERT_TRUE(place) << tensor.name;
      tensors[place->name + (tensor.name[lora + 6] == 'A' ? ".lora_a" : ".lora_b")] = &tensor;
    }
    for (const char* type : {"f32", "f16", "bf16"}) {
      const std::string path = StrCat(root, "/inventory/lora-", type, ".json");
      if (!fs::exists(path)) {
        std::printf("absent: %s\n", path.c_str());
        continue;
      }
      there = true;
      const json inventory = json::parse(ReadFile(path));
      EXPECT_EQ(inventory["keys"]["adapter.type"]["value"], "lora") << path;
      EXPECT_EQ(inventory["keys"]["adapter.lora.alpha"]["value"].get<double>(),
                adapter.config.lora_alpha)
          << path;
      EXPECT_EQ(inventory["tensors"].size(), tensors.size()) << path;
      for (const auto& [name, expected] : inventory["tensors"].items()) {
        ASSERT_TRUE(tensors.contains(name)) << path << ": " << name;
        const StoredTensor& tensor = *tensors.at(name);
        const std::vector<uint8_t> bytes = Converted(tensor, expected["type"]);
        EXPECT_EQ(expected["ne"],
                  json(std::vector<int64_t>(tensor.shape.rbegin(), tensor.shape.rend())));
        EXPECT_EQ(Hash(bytes.data(), bytes.size()), expected["sha256"]) << path << ": " << name;
      }
      std::printf("%s: %zu tensors equal\n", path.c_str(), tensors.size());
      ++cases;
    }
    for (const char* type : {"f32", "f16", "bf16"}) {
      const std::string path = StrCat(root, "/official/lora-", type, ".gguf");
      if (!fs::exists(path)) continue;
      const GgufFile file = GgufFile::Open(path);
      EXPECT_EQ(file.GetString("general.type"), "adapter");
      EXPECT_EQ(file.GetFloat("adapter.lora.alpha"), adapter.config.lora_alpha) << path;
      EXPECT_EQ(file.tensors().tensors().size(), tensors.size()) << path;
      for (const StoredTensor& got : file.tensors().tensors()) {
        ASSERT_TRUE(tensors.contains(got.name)) << path << ": " << got.name;
        const std::vector<uint8_t> bytes = Converted(*tensors.at(got.name), got.dtype);
        EXPECT_EQ(got.shape, tensors.at(got.name)->shape) << got.name;
        EXPECT_EQ(Hash(got.data, got.bytes), Hash(bytes.data(), bytes.size()))
            << path << ": " << got.name;
      }
      std::printf("%s: %zu tensors equal\n", path.c_str(), tensors.size());
      ++cases;
    }
  }
  ExpectCompared(cases, there, "adapters in golden/gguf");
}

// llama.cpp's own files as our reader sees them, of any type.
TEST(GgufGolden, OfficialFilesAreRead) {
  int cases = 0;
  bool there = false;
  for (const std::string& root : golden::Find("gguf")) {
    if (!fs::exists(root + "/official")) {
      std::printf("absent: %s/official\n", root.c_str());
      continue;
    }
    for (const auto& entry : fs::directory_iterator(root + "/official")) {
      const std::string inventory = root + "/inventory/" + entry.path().stem().string() + ".json";
      if (entry.path().extension() != ".gguf" || !fs::exists(inventory)) continue;
      there = true;
      EXPECT_GT(CompareWithInventory(entry.path().string(), inventory, {}), 0);
      ++cases;
    }
  }
  ExpectCompared(cases, there, "golden/gguf/official");
}

}  // namespace
}  // namespace lapidary
