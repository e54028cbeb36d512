// golden/media/images.json: pixels, target sizes, resized pixels and patch rows of the real
// Transformers, all to the last bit.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>

#include "data/image.h"
#include "data/media.h"
#include "data/resize.h"
#include "tests/data/media_golden.h"
#include "tests/golden.h"

namespace lapidary {
namespace {

using nlohmann::json;

constexpr int64_t kBudgets[] = {70, 140, 280, 560, 1120};

// Largest difference of two byte strings; 256 if the sizes differ.
int Distance(const std::vector<uint8_t>& a, const std::vector<uint8_t>& b) {
  if (a.size() != b.size()) return 256;
  int worst = 0;
  for (size_t i = 0; i < a.size(); ++i) worst = std::max(worst, std::abs(a[i] - b[i]));
  return worst;
}

class ImageGolden : public ::testing::Test {
 protected:
  void SetUp() override {
    for (const std::string& path : golden::Find("media/images.json")) {
      files_.emplace_back(path.substr(0, path.rfind('/')), json::parse(ReadFile(path)));
    }
    ASSERT_FALSE(files_.empty()) << "no root has media/images.json";
  }
  std::vector<std::pair<std::string, json>> files_;  // folder, contents
};

TEST_F(ImageGolden, DecodedPixelsAreEqual) {
  for (const auto& [folder, root] : files_) {
    const golden::Tensors tensors(folder + "/images.safetensors");
    for (const json& record : root.at("images")) {
      const std::string file = record.at("file");
      const std::string bytes = ReadFile(folder + "/images/" + file);
      EXPECT_EQ(static_cast<int64_t>(bytes.size()), record.at("bytes")) << file;
      EXPECT_EQ(
          DecodeImage(bytes, file).pixels == DecodeImage(bytes, file, ImageRules::kPil).pixels,
          record.at("variants").at("pil").at("same_as_path").get<bool>())
          << file;
      for (const auto& [variant, rules] :
           {std::pair{"path", ImageRules::kPath}, std::pair{"pil", ImageRules::kPil}}) {
        const json& expected = record.at("variants").at(variant);
        const Image image = DecodeImage(bytes, file, rules);
        EXPECT_EQ(image.height, expected.at("h")) << file;
        EXPECT_EQ(image.width, expected.at("w")) << file;
        const ImageSize probed = ProbeImage(bytes, file, rules);
        EXPECT_EQ(probed.height, image.height) << file;
        EXPECT_EQ(probed.width, image.width) << file;
        const bool equal = golden::Hash(image.pixels) == expected.at("sha256");
        const std::string key = "decoded/" + file + "/" + variant;
        const int error = equal              ? 0
                          : tensors.Has(key) ? Distance(image.pixels, tensors.Get<uint8_t>(key))
                                             : 256;
        std::printf("decode %-24s %-5s %lldx%lld  max error %d\n", file.c_str(), variant,
                    static_cast<long long>(image.width), static_cast<long long>(image.height),
                    error);
        EXPECT_TRUE(equal) << file << " " << variant << ", levels off: " << error;
        if (tensors.Has(key)) {
          EXPECT_EQ(Distance(image.pixels, tensors.Get<uint8_t>(key)), 0);
        }
      }
    }
  }
}

TEST_F(ImageGolden, ResizedPixelsAndRowsAreEqual) {
  for (const auto& [folder, root] : files_) {
    const golden::Tensors tensors(folder + "/images.safetensors");
    int64_t cases = 0;
    for (const json& record : root.at("images")) {
      const std::string file = record.at("file");
      const std::string path = folder + "/images/" + file;
      for (const json& c : record.at("cases")) {
        const int64_t budget = c.at("budget");
        const ImageProcessorConfig config = {.max_soft_tokens = budget};
        const ImageRules rules = c.at("variant") == "pil" ? ImageRules::kPil : ImageRules::kPath;
        const std::string label =
            file + " " + c.at("variant").get<std::string>() + " " + std::to_string(budget);
        const Image image = DecodeImage(ReadFile(path), file, rules);
        const ImageSize size =
            TargetSize({.height = image.height, .width = image.width}, config, budget);
        EXPECT_EQ(size.height, c.at("h")) << label;
        EXPECT_EQ(size.width, c.at("w")) << label;
        EXPECT_EQ(size.height != image.height || size.width != image.width, c.at("resized"));
        const Image fitted = FitImage(image, config, budget);
        EXPECT_EQ(golden::Hash(fitted.pixels), c.at("resized_sha256")) << label;
        if (c.contains("resized_tensor")) {
          EXPECT_EQ(Distance(fitted.pixels,
                             tensors.Get<uint8_t>(c.at("resized_tensor").get<std::string>())),
                    0)
              << label;
        }
        const ImageFeatures features =
            LoadImageFeatures(MediaSource::File(path), config, budget, rules);
        EXPECT_EQ(features.tokens, c.at("n")) << label;
        EXPECT_EQ(features.features, 6912);
        EXPECT_EQ(golden::Hash(features.rows), c.at("pixel_values_sha256")) << label;
        if (rules == ImageRules::kPath) {
          EXPECT_EQ(CountImageTokens(MediaSource::File(path), config, budget), features.tokens);
        }
        std::vector<int64_t> positions(features.positions.begin(), features.positions.end());
        positions.resize(budget * 2, -1);
        EXPECT_EQ(golden::Hash(positions), c.at("position_ids_sha256")) << label;
        const std::vector<uint8_t> rows = tensors.Get<uint8_t>(c.at("tokens").get<std::string>());
        int worst = 0;
        for (size_t k = 0; k < c.at("token_rows").size(); ++k) {
          const int64_t row = c.at("token_rows")[k];
          for (int64_t i = 0; i < features.features; ++i) {
            const float got = features.rows[row * features.features + i] * 255.0f;
            worst = std::max(worst, std::abs(static_cast<int>(std::lround(got)) -
                                             rows[k * features.features + i]));
          }
        }
        EXPECT_EQ(worst, 0) << label;
        std::printf("resize %-36s %lldx%lld, %lld tokens, max error %d\n", label.c_str(),
                    static_cast<long long>(size.width), static_cast<long long>(size.height),
                    static_cast<long long>(features.tokens), worst);
        ++cases;
      }
    }
    std::printf("%s: %lld processor cases\n", folder.c_str(), static_cast<long long>(cases));
    EXPECT_GT(cases, 0);
  }
}

TEST_F(ImageGolden, TargetSizesAreEqual) {
  for (const auto& [folder, root] : files_) {
    int64_t wrong = 0;
    for (const json& row : root.at("sizes")) {
      for (size_t b = 0; b < 5; ++b) {
        const ImageSize size =
            TargetSize({.height = row[0], .width = row[1]}, ImageProcessorConfig{}, kBudgets[b]);
        if (size.height != row[2 + 2 * b] || size.width != row[3 + 2 * b]) {
          ++wrong;
          ADD_FAILURE() << row[0] << " x " << row[1] << ", budget " << kBudgets[b] << ": got "
                        << size.height << " x " << size.width;
        }
      }
    }
    std::printf("%s: %zu rows of target sizes, %lld wrong\n", folder.c_str(),
                root.at("sizes").size(), static_cast<long long>(wrong));
    EXPECT_FALSE(root.at("sizes").empty());
  }
}

TEST_F(ImageGolden, ResizeVectorsAreEqual) {
  for (const auto& [folder, root] : files_) {
    for (const json& v : root.at("resize_rows")) {
      const std::vector<uint8_t> in = v.at("in"), expected = v.at("out");
      const int64_t n = in.size(), m = expected.size();
      const ResizeWeights weights = MakeResizeWeights(n, m);
      EXPECT_EQ(weights.shift, v.at("shift"));
      EXPECT_EQ(weights.start, v.at("start").get<std::vector<int32_t>>());
      for (int64_t i = 0; i < m; ++i) {
        const std::vector<int16_t> row = v.at("weights")[i];
        ASSERT_EQ(static_cast<int64_t>(row.size()), weights.taps);
        for (int64_t j = 0; j < weights.taps; ++j) {
          EXPECT_EQ(weights.weights[i * weights.taps + j], row[j]);
        }
      }
      // Along both axes, the same values in every channel.
      Image wide = {.height = 1, .width = n, .pixels = {}};
      for (const uint8_t value : in) wide.pixels.insert(wide.pixels.end(), 3, value);
      const Image tall = {.height = n, .width = 1, .pixels = wide.pixels};
      const Image across = Resize(wide, 1, m), down = Resize(tall, m, 1);
      for (int64_t i = 0; i < m * 3; ++i) {
        EXPECT_EQ(across.pixels[i], expected[i / 3]);
        EXPECT_EQ(down.pixels[i], expected[i / 3]);
      }
    }
    for (const json& g : root.at("resize_grids")) {
      const std::vector<std::vector<uint8_t>> in = g.at("in"), expected = g.at("out");
      Image image = {.height = static_cast<int64_t>(in.size()),
                     .width = static_cast<int64_t>(in[0].size()),
                     .pixels = {}};
      for (const auto& row : in) {
        for (const uint8_t value : row) image.pixels.insert(image.pixels.end(), 3, value);
      }
      const Image out = Resize(image, expected.size(), expected[0].size());
      for (size_t y = 0; y < expected.size(); ++y) {
        for (size_t x = 0; x < expected[0].size(); ++x) {
          EXPECT_EQ(out.pixels[(y * expected[0].size() + x) * 3 + 1], expected[y][x]);
        }
      }
    }
    std::printf("%s: %zu rows and %zu grids of the resize rule\n", folder.c_str(),
                root.at("resize_rows").size(), root.at("resize_grids").size());
  }
}

}  // namespace
}  // namespace lapidary
