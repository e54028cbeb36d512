// Clips with sound, made here: soundtracks, clips followed by their sound, long clips laid out in
// stretches of frames and the sound of the same time, and what becomes of all this when it is too
// long or broken.
#include <algorithm>
#include <cmath>
#include <utility>

#include "data/audio.h"
#include "data/demo/encode.h"
#include "data/video.h"
#include "tests/data/sample_media_base.h"
#include "tests/fuzz/mutate.h"

namespace lapidary {
namespace {

constexpr int kRate = 16000;

class VideoSoundTest : public SampleMediaTest {
 protected:
  void SetUp() override {
    SampleMediaTest::SetUp();
    // Small frames with few, short rows: there are many.
    options_.media.video.frame.patch_size = 4;
    options_.media.image.patch_size = 4;
    options_.video_budget = 70;
    options_.video.fps = 1;
  }
  // `seconds` at 2 frames a second; the brightness of a frame says which it is.
  static std::vector<Image> Frames(int seconds) {
    std::vector<Image> frames;
    for (int i = 0; i < 2 * seconds; ++i) {
      frames.push_back({16, 16, std::vector<uint8_t>(16 * 16 * 3, static_cast<uint8_t>(i + 20))});
    }
    return frames;
  }
  // Sound whose level in every second is the number of the second, in 200ths.
  static std::vector<float> Steps(int seconds) {
    std::vector<float> sound(static_cast<size_t>(seconds) * kRate);
    for (size_t i = 0; i < sound.size(); ++i) sound[i] = static_cast<float>(i / kRate + 1) / 200;
    return sound;
  }
  BuiltSample Clip(const std::string& avi) {
    Put("v.avi", avi);
    return Build(R"({"prompt":"p<|video|>","completion":"c","video":"v.avi"})");
  }
  // "v v a": which kinds of media follow each other, runs of a kind of one item counted.
  static std::string Order(const Sample& sample) {
    std::string order;
    uint8_t last = kTextToken;
    int64_t run = 0;
    const auto flush = [&] {
      if (last != kTextToken) {
        order += (order.empty() ? "" : " ") + std::string(last == kVideoToken ? "v" : "a") +
                 std::to_string(run);
      }
      run = 0;
    };
    for (const uint8_t type : sample.types) {
      if (type != last) {
        flush();
        last = type;
      }
      ++run;
    }
    flush();
    return order;
  }
  static std::string Repeat(const std::string& word, int count) {
    std::string out;
    for (int i = 0; i < count; ++i) out += (i > 0 ? " " : "") + word;
    return out;
  }
};

TEST_F(VideoSoundTest, SoundtracksAreTheSamplesOfTheFile) {
  const std::vector<float> sound = Talk(3, {1});
  const std::vector<float> same = DecodeSoundtrack(EncodeAvi(Frames(3), 2, sound, kRate), "a.avi");
  ASSERT_EQ(same.size(), sound.size());
  for (size_t i = 0; i < sound.size(); ++i) ASSERT_NEAR(same[i], sound[i], 1.0f / 32767) << i;
  // As the same sound in a file of its own would be resampled.
  const auto low = DecodeSoundtrack(EncodeAvi(Frames(3), 2, sound, 22050), "a.avi");
  const auto wav = DecodeAudio(EncodeWav(sound, 22050), "a.wav");
  ASSERT_NEAR(static_cast<double>(low.size()), static_cast<double>(wav.size()), 1);
  for (size_t i = 0; i < std::min(low.size(), wav.size()); ++i) ASSERT_NEAR(low[i], wav[i], 1e-4);
  EXPECT_TRUE(DecodeSoundtrack(EncodeAvi(Frames(1), 2), "a.avi").empty());
  EXPECT_EQ(ProbeVideo(EncodeAvi(Frames(3), 2, sound, kRate), "a.avi").total_frames, 6);
}

TEST_F(VideoSoundTest, TheSoundFollowsTheFramesIfAskedFor) {
  const std::string avi = EncodeAvi(Frames(4), 2, Steps(4), kRate);
  EXPECT_EQ(Order(*Clip(avi).sample), Repeat("v64", 4));
  options_.video.sound = true;
  const Sample sample = *Clip(avi).sample;
  EXPECT_EQ(Order(sample), Repeat("v64", 4) + " a100");
  EXPECT_EQ(sample.videos, 1);
  EXPECT_EQ(sample.audio.features, 640);
  for (int64_t row = 0; row < 100; ++row) {
    ASSERT_NEAR(sample.audio.rows[row * 640], static_cast<float>(row / 25 + 1) / 200, 1e-4);
  }
  EXPECT_EQ(Order(*Clip(EncodeAvi(Frames(4), 2)).sample), Repeat("v64", 4)) << "a silent clip";
  // A long soundtrack follows the policy of sounds.
  const std::string talk = EncodeAvi(Frames(40), 2, Talk(40, {25}), kRate);
  options_.audio_limit = AudioLimit::kTruncate;
  EXPECT_EQ(Order(*Clip(talk).sample), Repeat("v64", 40) + " a750");
  options_.audio_limit = AudioLimit::kPieces;
  const Sample cut = *Clip(talk).sample;
  const std::string order = Order(cut).substr(Repeat("v64", 40).size() + 1);
  ASSERT_EQ(order.find(' '), order.rfind(' ')) << order;  // two pieces, cut in the pause at 25 s
  EXPECT_NEAR(std::stod(order.substr(1)), 625, 8);
}

TEST_F(VideoSoundTest, LongClipsAreStretchesWithTheirSound) {
  const std::string avi = EncodeAvi(Frames(70), 2, Steps(70), kRate);
  EXPECT_NE(ErrorOf([&] { Clip(avi); }).find("v.avi: a clip may have at most 60 frames"),
            std::string::npos);
  options_.video.on_long = OnLongVideo::kThin;
  EXPECT_EQ(Order(*Clip(avi).sample), Repeat("v64", 60));
  options_.video.on_long = OnLongVideo::kSegments;
  const Sample sample = *Clip(avi).sample;
  EXPECT_EQ(Order(sample), Repeat("v64", 30) + " a750 " + Repeat("v64", 30) + " a750 " +
                               Repeat("v64", 10) + " a250");
  // Frame 2 t and the level of second t belong together: both stand for the time.
  for (int64_t second = 0; second < 70; ++second) {
    const float pixel = sample.vision.rows[second * 64 * sample.vision.features];
    EXPECT_NEAR(pixel * 255, static_cast<float>(2 * second + 20), 3);
    const float level = sample.audio.rows[second * 25 * 640];
    EXPECT_NEAR(level, static_cast<float>(second + 1) / 200, 1e-4);
    const bool after = sample.audio.places[second * 25] > sample.vision.places[second * 64 + 63];
    EXPECT_TRUE(after) << "the sound of a stretch stands behind its frames";
  }
  EXPECT_NE(Shown(sample).find("00:30 <|image>"), std::string::npos);
  // Sound that ends early, or none.
  EXPECT_EQ(Order(*Clip(EncodeAvi(Frames(70), 2, Steps(40), kRate)).sample),
            Repeat("v64", 30) + " a750 " + Repeat("v64", 30) + " a250 " + Repeat("v64", 10));
  EXPECT_EQ(Order(*Clip(EncodeAvi(Frames(70), 2)).sample), Repeat("v64", 70));
  // A clip that is not long stays as it is, without sound unless that is asked for.
  EXPECT_EQ(Order(*Clip(EncodeAvi(Frames(20), 2, Steps(20), kRate)).sample), Repeat("v64", 20));
}

// Nothing may cut inside a clip: what does not fit is left out whole, and if nothing to train is
// left, that is said.
TEST_F(VideoSoundTest, ClipsAreNeverCut) {
  options_.video.sound = true;
  options_.max_length = 200;
  options_.on_too_long = OnTooLong::kTruncate;
  EXPECT_NE(ErrorOf([&] {
              Clip(EncodeAvi(Frames(4), 2, Steps(4), kRate));
            }).find("got all of them cut away"),
            std::string::npos);
  Put("v.avi", EncodeAvi(Frames(4), 2, Steps(4), kRate));
  const Sample sample = *Build(R"({"text":"before <|video|> after","video":"v.avi"})").sample;
  EXPECT_EQ(Order(sample), "");
  EXPECT_EQ(sample.videos, 0);
  EXPECT_EQ(sample.vision.count() + sample.audio.count(), 0);
}

TEST_F(VideoSoundTest, FuzzSoundtracks) {
  const std::string avi = EncodeAvi(Frames(2), 2, Steps(2), 22050);
  const int64_t rounds = std::max<int64_t>(50, fuzz::Iterations() / 40);
  int64_t decoded = 0;
  for (int64_t i = 0; i < rounds; ++i) {
    fuzz::Mutator mutate(120, static_cast<uint64_t>(i));
    try {
      for (const float v : DecodeSoundtrack(mutate(avi, 600), "a.avi"))
        ASSERT_TRUE(std::isfinite(v));
      ++decoded;
    } catch (const Error& e) {
      ASSERT_TRUE(std::string(e.what()).starts_with("a.avi: ")) << e.what();
    }
  }
  EXPECT_GT(decoded, 0);
}

}  // namespace
}  // namespace lapidary
