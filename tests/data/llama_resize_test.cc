// golden/media/llama_resize.json: pictures as llama.cpp's own code resizes them for this model
// (tests/oracle/llama_resize.cc), sizes and every pixel; and the whole way to tokens.
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "autograd/base/file.h"
#include "data/json.h"
#include "data/media.h"
#include "data/prepared.h"
#include "data/resize.h"
#include "tests/data/sample_media_base.h"
#include "tests/golden.h"

namespace lapidary {
namespace {

using nlohmann::json;

// The picture of the oracle.
Image Picture(int64_t width, int64_t height) {
  Image image = {.height = height, .width = width, .pixels = {}};
  for (int64_t y = 0; y < height; ++y) {
    for (int64_t x = 0; x < width; ++x) {
      for (int c = 0; c < 3; ++c) {
        const uint32_t noise = (static_cast<uint32_t>(image.pixels.size()) * 2654435761u) >> 24;
        const auto ramp = static_cast<uint32_t>((x * 5 + y * 3) & 255);
        image.pixels.push_back(static_cast<uint8_t>((noise + 3 * ramp) / 4));
      }
    }
  }
  return image;
}

std::string Fnv(const std::vector<uint8_t>& bytes) {
  uint64_t hash = 1469598103934665603u;
  for (const uint8_t b : bytes) hash = (hash ^ b) * 1099511628211u;
  char text[17];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(hash));
  return text;
}

ImageProcessorConfig Llama() {
  MediaConfig media;
  UseImageResize("llama.cpp", &media);
  return media.image;
}

void CheckGolden(const std::string& path) {
  const json root = json::parse(ReadFile(path));
  const ImageProcessorConfig config = Llama();
  int cases = 0, padded = 0, resized = 0;
  for (const json& one : root.at("cases")) {
    const int64_t width = one["size"][0], height = one["size"][1], budget = one["budget"];
    const std::string name = StrCat(width, " x ", height, ", budget ", budget);
    const ImageSize target = TargetSize({.height = height, .width = width}, config, budget);
    ASSERT_EQ(target.width, one["target"][0].get<int64_t>()) << name;
    ASSERT_EQ(target.height, one["target"][1].get<int64_t>()) << name;
    EXPECT_EQ(ImageTokens({.height = height, .width = width}, config, budget),
              one["tokens"].get<int64_t>());
    const Image source = Picture(width, height);
    const Image fitted = FitImage(source, config, budget);
    const uint8_t* row = &fitted.pixels[target.height / 2 * target.width * 3];
    for (int i = 0; i < 24; ++i) EXPECT_EQ(row[i], one["first"][i].get<int>()) << name << " " << i;
    EXPECT_EQ(Fnv(fitted.pixels), one["fnv1a"].get<std::string>()) << name;
    ++cases;
    // Another resize of the same size is told apart (rarely it comes out the same).
    const Image other = Resize(source, target.height, target.width);
    if (width == target.width && height == target.height) continue;
    ++resized;
    padded += Fnv(other.pixels) != one["fnv1a"].get<std::string>();
  }
  EXPECT_GE(cases, 1) << path;
  EXPECT_GE(2 * padded, resized) << path;
}

TEST(LlamaResize, SizesAndPixelsAreEqual) {
  const std::vector<std::string> paths = golden::Find("media/llama_resize.json");
  ASSERT_FALSE(paths.empty()) << "golden/media/llama_resize.json is needed";
  for (const std::string& path : paths) CheckGolden(path);
}

TEST(LlamaResize, BudgetsAndErrors) {
  const ImageProcessorConfig config = Llama();
  EXPECT_EQ(ImageBudget(config, 0), 1120);
  EXPECT_EQ(ImageBudget(config, 280), 280);
  EXPECT_EQ(ImageBudget({}, 0), 280);
  EXPECT_THROW(ImageBudget(config, 100), Error);
  EXPECT_THROW(TargetSize({.height = 100, .width = 1'000'000}, config, 1120), Error);
  EXPECT_THROW(TargetSize({.height = 0, .width = 5}, config, 1120), Error);
  MediaConfig media;
  EXPECT_THROW(UseImageResize("torch", &media), Error);
  UseImageResize("hf", &media);
  EXPECT_EQ(media.image.resize, ImageResize::kHuggingFace);
  EXPECT_FALSE(media.image.divide);
}

// Every size: whole patches, at least 70 tokens, at most the budget unless lopsided.
TEST(LlamaResize, EverySizeGivesWholePatches) {
  const ImageProcessorConfig config = Llama();
  uint32_t state = 1;
  for (int i = 0; i < 20000; ++i) {
    state = state * 1664525u + 1013904223u;
    const int64_t h = 1 + (state >> 8) % 4000;
    state = state * 1664525u + 1013904223u;
    const int64_t w = 1 + (state >> 8) % 4000;
    const bool lopsided = h > 20 * w || w > 20 * h;
    if (lopsided) continue;
    for (const int64_t budget : {280, 1120}) {
      const ImageSize size = TargetSize({.height = h, .width = w}, config, budget);
      ASSERT_TRUE(size.height % 48 == 0 && size.width % 48 == 0) << w << " x " << h;
      const int64_t tokens = size.height / 48 * (size.width / 48);
      ASSERT_TRUE(tokens >= 50 && tokens <= budget) << w << " x " << h << ": " << tokens;
    }
  }
}

using LlamaSample = SampleMediaTest;

// From a record: 130 tokens where Hugging Face has 266, the same from the headers alone, values of
// bytes divided by 255, and augmented pictures of the same size.
TEST_F(LlamaSample, RecordsTakeTheTokensOfLlamaCpp) {
  Put("p.png", EncodePng(Picture(640, 480)));
  const std::string line =
      R"({"messages": [{"role": "user", "content": [{"type": "image", "path": "p.png"}]}, )"
      R"({"role": "assistant", "content": "a"}]})";
  EXPECT_EQ(Build(line).sample->vision.count(), 266);
  const SampleBuilder before(*tokenizer_, options_);
  UseImageResize("llama.cpp", &options_.media);
  const BuiltSample built = Build(line);  // measures, too
  ASSERT_EQ(built.sample->vision.count(), 130);
  const Image fitted = FitImage(Picture(640, 480), options_.media.image, 1120);
  EXPECT_EQ(built.sample->vision.rows[0], static_cast<float>(fitted.pixels[0]) / 255.0f);
  const SampleBuilder after(*tokenizer_, options_);
  EXPECT_NE(DumpJson(BuilderFingerprint(before)), DumpJson(BuilderFingerprint(after)));
  options_.augment.crop = 0.4;
  options_.augment.flip = 0.5;
  EXPECT_EQ(Build(line).sample->vision.count(), 130);
}

}  // namespace
}  // namespace lapidary
