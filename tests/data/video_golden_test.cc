// golden/media/video.json: sampled frames, time stamps, patch rows and refusals of the real
// Transformers with torchcodec.
#include <gtest/gtest.h>

#include <cstdio>

#include "data/image.h"
#include "data/media.h"
#include "data/resize.h"
#include "data/video.h"
#include "tests/data/media_golden.h"
#include "tests/golden.h"

namespace lapidary {
namespace {

using nlohmann::json;

int64_t FramesOf(const json& options) {
  return options.contains("num_frames") && !options.at("num_frames").is_null()
             ? options.at("num_frames").get<int64_t>()
             : 32;
}

// Options that Lapidary does not have are not asked for (`fps` contradicts num_frames in Hugging
// Face, too).
bool IsContradiction(const json& options) {
  return options.contains("fps") && !options.contains("num_frames");
}

// Everything after decoding, from the frames stored in the golden set: exact.
void CheckStoredFrames(const std::string& folder, const json& c, const VideoProcessorConfig& config,
                       int64_t budget) {
  const std::string strip = c.at("frames_png");
  const Image stacked = DecodeImage(ReadFile(folder + "/video/" + strip), strip);
  EXPECT_EQ(golden::Hash(stacked.pixels), c.at("decoded_sha256"));
  const int64_t frames = c.at("indices").size(), bytes = stacked.pixels.size() / frames;
  std::vector<float> rows;
  for (int64_t i = 0; i < frames; ++i) {
    const Image frame = {
        .height = stacked.height / frames,
        .width = stacked.width,
        .pixels = {stacked.pixels.begin() + i * bytes, stacked.pixels.begin() + (i + 1) * bytes}};
    const Image fitted = FitImage(frame, config.frame, budget);
    EXPECT_EQ(fitted.height, c.at("h"));
    EXPECT_EQ(fitted.width, c.at("w"));
    const ImageFeatures cut = Patches(fitted, config.frame);
    rows.insert(rows.end(), cut.rows.begin(), cut.rows.end());
  }
  EXPECT_EQ(golden::Hash(rows), c.at("pixel_values_sha256"));
}

void CheckCase(const std::string& folder, const std::string& file, const json& c) {
  const json& options = c.at("options");
  const std::string path = folder + "/video/" + file, bytes = ReadFile(path);
  VideoProcessorConfig config;
  if (options.contains("max_soft_tokens")) {
    config.frame.max_soft_tokens = options.at("max_soft_tokens");
  }
  const int64_t budget = config.frame.max_soft_tokens, frames = FramesOf(options);
  if (c.contains("error")) {
    EXPECT_THROW(LoadVideoFeatures(MediaSource::File(path), config, 0, frames), Error) << file;
    std::printf("video %-10s %s: refused\n", file.c_str(), options.dump().c_str());
    return;
  }
  const Video video = DecodeVideo(bytes, file, frames);
  EXPECT_EQ(video.indices, c.at("indices").get<std::vector<int64_t>>()) << file;
  EXPECT_EQ(video.info.total_frames, c.at("total_frames")) << file;
  EXPECT_DOUBLE_EQ(video.info.fps, c.at("fps")) << file;
  EXPECT_EQ(video.info.height, c.at("height")) << file;
  EXPECT_EQ(video.info.width, c.at("width")) << file;
  const VideoInfo probed = ProbeVideo(bytes, file);
  EXPECT_EQ(probed.total_frames, video.info.total_frames);
  EXPECT_EQ(probed.height, video.info.height);

  const std::string strip = c.at("frames_png");
  const Image stored = DecodeImage(ReadFile(folder + "/video/" + strip), strip);
  std::vector<uint8_t> pixels;
  for (const Image& frame : video.frames) {
    pixels.insert(pixels.end(), frame.pixels.begin(), frame.pixels.end());
  }
  ASSERT_EQ(pixels.size(), stored.pixels.size()) << file;
  int worst = 0;
  int64_t off = 0;
  for (size_t i = 0; i < pixels.size(); ++i) {
    const int difference = std::abs(pixels[i] - stored.pixels[i]);
    worst = std::max(worst, difference);
    off += difference > 0;
  }
  EXPECT_LE(worst, 2) << file;

  const VideoFeatures features = LoadVideoFeatures(MediaSource::File(path), config, 0, frames);
  EXPECT_EQ(features.frames, frames);
  EXPECT_EQ(features.tokens_per_frame, c.at("n_per_frame")) << file;
  EXPECT_EQ(features.timestamps, c.at("timestamps").get<std::vector<std::string>>()) << file;
  std::vector<int64_t> positions;
  for (int64_t f = 0; f < features.frames; ++f) {
    const auto begin = features.positions.begin() + f * features.tokens_per_frame * 2;
    positions.insert(positions.end(), begin, begin + features.tokens_per_frame * 2);
    positions.resize((f + 1) * budget * 2, -1);
  }
  EXPECT_EQ(golden::Hash(positions), c.at("position_ids_sha256")) << file;
  if (worst == 0) {
    EXPECT_EQ(golden::Hash(features.rows), c.at("pixel_values_sha256")) << file;
  }
  CheckStoredFrames(folder, c, config, budget);
  // The rows that are stored as bytes, for a look at how far off a decoder is.
  const golden::Tensors tensors(folder + "/video.safetensors");
  const std::vector<uint8_t> rows = tensors.Get<uint8_t>(c.at("tokens").get<std::string>());
  for (size_t k = 0; k < c.at("token_rows").size(); ++k) {
    const int64_t row = c.at("token_rows")[k][0].get<int64_t>() * features.tokens_per_frame +
                        c.at("token_rows")[k][1].get<int64_t>();
    for (int64_t i = 0; i < features.features; ++i) {
      EXPECT_NEAR(features.rows[row * features.features + i] * 255.0f,
                  rows[k * features.features + i], 2.5);
    }
  }
  std::printf("video %-10s %s: %lld frames, max error %d levels, %.3f %% of values differ\n",
              file.c_str(), options.dump().c_str(), static_cast<long long>(frames), worst,
              100.0 * off / pixels.size());
}

TEST(VideoGolden, FramesAndRows) {
  const auto files = golden::Find("media/video.json");
  ASSERT_FALSE(files.empty()) << "no root has media/video.json";
  for (const std::string& path : files) {
    const std::string folder = path.substr(0, path.rfind('/'));
    const json root = json::parse(ReadFile(path));
    ASSERT_FALSE(root.at("videos").empty());
    for (const json& record : root.at("videos")) {
      const std::string clip = folder + "/video/" + record.at("file").get<std::string>();
      EXPECT_EQ(static_cast<int64_t>(ReadFile(clip).size()), record.at("bytes")) << clip;
      for (const json& c : record.at("cases")) {
        if (c.contains("error") && IsContradiction(c.at("options"))) continue;
        CheckCase(folder, record.at("file"), c);
      }
    }
    for (const json& row : root.at("indices")) {
      EXPECT_EQ(SampleFrameIndices(row[0], row[1]), row[2].get<std::vector<int64_t>>());
    }
    std::printf("%s: %zu clips, %zu rows of frame indices\n", folder.c_str(),
                root.at("videos").size(), root.at("indices").size());
  }
}

// An MP4 whose track header says "turn clockwise by 90 degrees" gives the frames of the same file
// without it, turned.
TEST(VideoGolden, RotationIsApplied) {
  int64_t mp4_files = 0, turned_files = 0;
  for (const std::string& path : golden::Find("media/video.json")) {
    const std::string folder = path.substr(0, path.rfind('/'));
    const json root = json::parse(ReadFile(path));
    for (const json& record : root.at("videos")) {
      const std::string file = record.at("file");
      std::string bytes = ReadFile(folder + "/video/" + file);
      const size_t header = bytes.find("tkhd");
      if (!file.ends_with(".mp4")) continue;
      ++mp4_files;
      ASSERT_NE(header, std::string::npos) << file;
      const Video plain = DecodeVideo(bytes, file, 2);
      // ISO 14496-12, 8.3.2: the matrix {a b u, c d v, x y w} stands 44 bytes behind the tag; a = d
      // = 0, b = 1, c = -1.
      const std::string matrix("\0\0\0\0\0\1\0\0\0\0\0\0\xff\xff\0\0\0\0\0\0\0\0\0\0", 24);
      bytes.replace(header + 44, matrix.size(), matrix);
      const Video turned = DecodeVideo(bytes, file, 2);
      ASSERT_EQ(turned.info.height, plain.info.width) << file;
      ASSERT_EQ(turned.info.width, plain.info.height) << file;
      EXPECT_EQ(ProbeVideo(bytes, file).height, plain.info.width);
      const Image &from = plain.frames[1], &to = turned.frames[1];
      for (int64_t y = 0; y < to.height; ++y) {
        for (int64_t x = 0; x < to.width; ++x) {
          ASSERT_EQ(to.pixels[(y * to.width + x) * 3],
                    from.pixels[((from.height - 1 - x) * from.width + y) * 3]);
        }
      }
      ++turned_files;
    }
  }
  std::printf("%lld MP4 files turned\n", static_cast<long long>(turned_files));
  EXPECT_EQ(turned_files, mp4_files);
}

}  // namespace
}  // namespace lapidary
