// Mutated pictures, sounds and clips: each is decoded or refused with an Error; nothing else may
// happen. Run it under the sanitizers with LAPIDARY_FUZZ_ITERATIONS=100000 for a long search; a
// mutation is a function of its number.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>

#include "data/audio.h"
#include "data/demo/encode.h"
#include "data/image.h"
#include "data/media.h"
#include "data/video.h"
#include "tests/data/media_golden.h"
#include "tests/data/media_samples.h"

// libsndfile 1.2.0 does not free what libvorbis holds when it refuses a broken Ogg file (6 kB
// each).
extern "C" const char* __lsan_default_suppressions() { return "leak:vorbis_info_init"; }

namespace lapidary {
namespace {

// Runs `body` on mutations of the seeds in turn; prints how many were accepted.
template <class Body>
void Fuzz(const char* what, const std::vector<std::pair<std::string, std::string>>& seeds,
          int64_t iterations, const Body& body) {
  int64_t accepted = 0;
  for (int64_t i = 0; i < iterations; ++i) {
    const auto& [name, bytes] = seeds[i % seeds.size()];
    SCOPED_TRACE(name + ", mutation " + std::to_string(i));
    try {
      body(golden::Mutate(bytes, i), name);
      ++accepted;
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find("; got "), std::string::npos) << e.what();
    }
  }
  std::printf("%s: %lld mutations, %lld accepted\n", what, static_cast<long long>(iterations),
              static_cast<long long>(accepted));
  EXPECT_LT(accepted, iterations);  // the mutations must do something
}

TEST(MediaFuzz, Images) {
  Fuzz("images", samples::Images(), golden::FuzzIterations(2000),
       [](const std::string& bytes, const std::string& name) {
         const Image image = DecodeImage(bytes, name);
         ASSERT_EQ(static_cast<int64_t>(image.pixels.size()), image.height * image.width * 3);
         DecodeImage(bytes, name, ImageRules::kPil);
         const ImageSize size = ProbeImage(bytes, name);
         ASSERT_EQ(size.height, image.height);
         ASSERT_EQ(size.width, image.width);
       });
}

TEST(MediaFuzz, Sounds) {
  Fuzz("sounds", samples::Sounds(), golden::FuzzIterations(2000),
       [](const std::string& bytes, const std::string& name) {
         for (const float sample : DecodeAudio(bytes, name)) ASSERT_TRUE(std::isfinite(sample));
         ProbeAudio(bytes, name);
       });
}

TEST(MediaFuzz, Clips) {
  std::vector<Image> frames;
  for (int i = 0; i < 6; ++i) frames.push_back(samples::Picture(16, 24, i));
  Fuzz("clips", {{"a.avi", EncodeAvi(frames, 5)}, {"a.gif", samples::Gif(9, 14, 6)}},
       golden::FuzzIterations(2000) / 10, [](const std::string& bytes, const std::string& name) {
         const Video video = DecodeVideo(bytes, name, 3);
         ASSERT_EQ(video.frames.size(), 3u);
       });
}

TEST(MediaFuzz, Configurations) {
  const std::string processor =
      R"({"audio_seq_length":750,"image_processor":{"patch_size":16,"max_soft_tokens":280,"rescale_factor":0.00392156862745098,)"
      R"("image_mean":[0,0,0],"resample":3},"video_processor":{"num_frames":32,"do_normalize":true}})";
  Fuzz("configurations", {{"processor", processor}}, golden::FuzzIterations(2000),
       [](const std::string& text, const std::string& name) { ParseMediaConfig(text, "", name); });
}

// The same bytes give the same bits.
TEST(MediaFuzz, Deterministic) {
  for (const auto& [name, bytes] : samples::Images()) {
    const MediaSource source = MediaSource::Memory(bytes, name);
    EXPECT_EQ(LoadImageFeatures(source, {}, 70).rows, LoadImageFeatures(source, {}, 70).rows);
  }
  for (const auto& [name, bytes] : samples::Sounds()) {
    EXPECT_EQ(DecodeAudio(bytes, name), DecodeAudio(bytes, name)) << name;
  }
}

}  // namespace
}  // namespace lapidary
