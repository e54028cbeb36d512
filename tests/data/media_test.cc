// Media from files made on the spot: round trips, orientation, configurations, and the refusals
// with their messages.
#include "data/media.h"

#include <gtest/gtest.h>
#include <sndfile.h>
#include <tiffio.h>
#include <webp/encode.h>

#include <cmath>

#include "data/audio.h"
#include "data/demo/encode.h"
#include "data/image.h"
#include "data/image_codecs.h"
#include "data/resize.h"
#include "data/video.h"
#include "tests/data/media_golden.h"
#include "tests/data/media_samples.h"

namespace lapidary {
namespace {

using samples::Picture;

// The text of the Error that `body` throws; fails the test if it throws none.
template <class Body>
std::string ErrorOf(const Body& body) {
  try {
    body();
  } catch (const Error& e) {
    return e.what();
  }
  ADD_FAILURE() << "no Error";
  return "";
}

int Distance(const Image& a, const Image& b) {
  if (a.height != b.height || a.width != b.width) return 256;
  int worst = 0;
  for (size_t i = 0; i < a.pixels.size(); ++i) {
    worst = std::max(worst, std::abs(a.pixels[i] - b.pixels[i]));
  }
  return worst;
}

TEST(ImageTest, LosslessRoundTrips) {
  const Image image = Picture(37, 53);
  EXPECT_EQ(Distance(DecodeImage(EncodePng(image), "a.png"), image), 0);
  EXPECT_EQ(Distance(DecodeImage(samples::Webp(image), "a.webp"), image), 0);
  EXPECT_EQ(Distance(DecodeImage(samples::Bmp(image), "a.bmp"), image), 0);
  for (const int compression :
       {COMPRESSION_NONE, COMPRESSION_LZW, COMPRESSION_PACKBITS, COMPRESSION_ADOBE_DEFLATE}) {
    for (const bool tiled : {false, true}) {
      const std::string tiff = samples::Tiff(image, compression, tiled);
      EXPECT_EQ(Distance(DecodeImage(tiff, "a.tif"), image), 0) << compression << tiled;
    }
  }
  EXPECT_LE(Distance(DecodeImage(EncodeJpeg(image), "a.jpg"), image), 24);
  EXPECT_LE(Distance(DecodeImage(EncodeJpeg(image, {.progressive = true}), "a.jpg"), image), 24);
}

// Each orientation says where the stored first row and column belong: (row 0, column 0) is
// top-left, top-right, bottom-right, bottom-left, left-top, right-top, right-bottom, left-bottom
// (EXIF 2.3, tag 0x112).
TEST(ImageTest, OrientationsPutTheFirstPixelWhereExifSays) {
  Image image = {.height = 2, .width = 3, .pixels = std::vector<uint8_t>(18, 0)};
  image.pixels[0] = 200;  // stored row 0, column 0
  image.pixels[3] = 100;  // row 0, column 1
  struct Where {
    int64_t h, w, y0, x0, y1, x1;
  };
  const Where expected[9] = {{},
                             {2, 3, 0, 0, 0, 1},
                             {2, 3, 0, 2, 0, 1},
                             {2, 3, 1, 2, 1, 1},
                             {2, 3, 1, 0, 1, 1},
                             {3, 2, 0, 0, 1, 0},
                             {3, 2, 0, 1, 1, 1},
                             {3, 2, 2, 1, 1, 1},
                             {3, 2, 2, 0, 1, 0}};
  for (int orientation = 1; orientation <= 8; ++orientation) {
    const Where& e = expected[orientation];
    const std::string jpeg = samples::WithExif(EncodeJpeg(image), orientation);
    EXPECT_EQ(ExifOrientation(jpeg), orientation);
    const ImageSize probed = ProbeImage(jpeg, "a.jpg");
    const Image out = ApplyOrientation(image, orientation);
    EXPECT_EQ(out.height, e.h) << orientation;
    EXPECT_EQ(out.width, e.w) << orientation;
    EXPECT_EQ(probed.height, e.h);
    EXPECT_EQ(probed.width, e.w);
    EXPECT_EQ(out.pixels[(e.y0 * e.w + e.x0) * 3], 200) << orientation;
    EXPECT_EQ(out.pixels[(e.y1 * e.w + e.x1) * 3], 100) << orientation;
    EXPECT_EQ(DecodeImage(jpeg, "a.jpg").height, e.h);
    EXPECT_EQ(DecodeImage(jpeg, "a.jpg", ImageRules::kPil).height, 2);
    const std::string tiff = samples::Tiff(image, COMPRESSION_NONE, false, orientation);
    EXPECT_EQ(Distance(DecodeImage(tiff, "a.tif"), out), 0) << orientation;
    EXPECT_EQ(ProbeImage(tiff, "a.tif").height, e.h);
  }
  EXPECT_EQ(ExifOrientation(samples::WithExif(EncodeJpeg(image), 9)), 1);
}

TEST(ImageTest, Refusals) {
  const auto error = [](const std::string& bytes) {
    return ErrorOf([&] { DecodeImage(bytes, "x.png"); });
  };
  EXPECT_EQ(error(""), "x.png: a picture must have bytes; got an empty file");
  EXPECT_EQ(
      error("hello world"),
      "x.png: a picture must be PNG, JPEG, WebP, GIF, BMP or TIFF; got 11 bytes of something else; "
      "try converting it to PNG");
  EXPECT_EQ(error(samples::PngHeader(100'000, 100'000)),
            "x.png: a picture may have at most 100 megapixels and sides of 1000000; got 100000 x "
            "100000; try scaling it down");
  EXPECT_NE(error(samples::PngHeader(0, 5)).find("x.png: "), std::string::npos);
  EXPECT_EQ(ErrorOf([] { LoadImageFeatures(MediaSource::File("/nowhere/a.png"), {}); }),
            "/nowhere/a.png: a media file must exist; got none; try a path relative to the data "
            "file");
  EXPECT_EQ(ErrorOf([] {
              LoadImageFeatures(MediaSource::Memory(EncodePng(Picture(4, 4)), "a.png"), {}, 100);
            }),
            "a.png: media budget: must be 70, 140, 280, 560, 1120 or the checkpoint's own 280 soft "
            "tokens; got 100");
}

// Cut anywhere, every kind of file is refused, and never read beyond its end.
TEST(ImageTest, TruncationsAreErrors) {
  for (const auto& [name, bytes] : samples::Images()) {
    SCOPED_TRACE(name);
    EXPECT_NO_THROW(DecodeImage(bytes, name));
    // The last two bytes may be padding (GIF's trailer, a WebP's odd chunk).
    for (size_t length = 0; length + 2 < bytes.size(); length += 1 + length / 40) {
      if (name == "a.gif" && length + 2 >= samples::GifFrameEnd(bytes)) break;
      EXPECT_THROW(DecodeImage(std::string_view(bytes).substr(0, length), name), Error) << length;
    }
  }
}

TEST(ImageTest, PatchesAreRowsOfSquares) {
  const ImageProcessorConfig config = {
      .patch_size = 2, .pooling_kernel_size = 2, .max_soft_tokens = 6};
  const Image image = Picture(8, 12);
  const ImageFeatures out = Patches(image, config);
  ASSERT_EQ(out.tokens, 6);
  ASSERT_EQ(out.features, 48);
  for (int64_t t = 0; t < 6; ++t) {
    EXPECT_EQ(out.positions[2 * t], t % 3);
    EXPECT_EQ(out.positions[2 * t + 1], t / 3);
    for (int64_t i = 0; i < 48; ++i) {
      const int64_t y = t / 3 * 4 + i / 12, x = t % 3 * 4 + i % 12 / 3;
      const float expected = static_cast<float>(image.pixels[(y * 12 + x) * 3 + i % 3]) *
                             static_cast<float>(0.00392156862745098);
      EXPECT_EQ(out.rows[t * 48 + i], expected);
    }
  }
  EXPECT_THROW(Patches(Picture(8, 13), config), Error);
  // Budget 6 of 4 x 4 pixels: 8 x 12 fits exactly, twice the size comes back down to it.
  EXPECT_EQ(TargetSize({.height = 16, .width = 24}, config, 6).height, 8);
  EXPECT_EQ(ImageTokens({.height = 16, .width = 24}, config, 6), 6);
}

TEST(ImageTest, ResizeIsTheSameInAnyBlock) {
  // Rows are handled 64 at a time: a picture of 130 rows equals its rows one by one.
  const Image image = Picture(130, 45);
  const Image whole = Resize(image, 130, 31);
  for (int64_t y = 0; y < 130; ++y) {
    const Image row = {
        .height = 1,
        .width = 45,
        .pixels = {image.pixels.begin() + y * 135, image.pixels.begin() + (y + 1) * 135}};
    const Image one = Resize(row, 1, 31);
    EXPECT_TRUE(std::equal(one.pixels.begin(), one.pixels.end(), whole.pixels.begin() + y * 93));
  }
}

TEST(AudioTest, WavRoundTripIsExact) {
  std::vector<float> wave(1000);
  for (size_t i = 0; i < wave.size(); ++i) {
    wave[i] = static_cast<float>(static_cast<int>(i * 65 % 65536) - 32768) / 32768.0f;
  }
  const std::vector<float> back = DecodeAudio(EncodeWav(wave), "a.wav");
  ASSERT_EQ(back.size(), wave.size());
  for (size_t i = 0; i < wave.size(); ++i) EXPECT_NEAR(back[i], wave[i], 1.0 / 16384);
  const AudioProcessorConfig config = {.audio_samples_per_token = 64};
  const AudioFeatures frames =
      LoadAudioFeatures(MediaSource::Memory(EncodeWav(wave), "a.wav"), config);
  EXPECT_EQ(frames.tokens, 16);
  EXPECT_EQ(frames.samples, 1000);
  EXPECT_EQ(frames.rows.size(), 1024u);
  EXPECT_EQ(frames.rows[1023], 0.0f);
}

TEST(AudioTest, MonoIsTheMean) {
  const std::string stereo = samples::Sound(SF_FORMAT_WAV | SF_FORMAT_FLOAT, 16000, 2, 50);
  const std::string left = samples::Sound(SF_FORMAT_WAV | SF_FORMAT_FLOAT, 16000, 1, 50);
  const std::vector<float> a = DecodeAudio(stereo, "a"), b = DecodeAudio(left, "b");
  ASSERT_EQ(a.size(), b.size());
  // The second channel is half as loud as the first.
  for (size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], 0.75 * b[i], 1e-7);
}

TEST(AudioTest, ResampledLengthAndPitch) {
  for (const int64_t rate : {8000, 11025, 22050, 44100, 48000, 96000}) {
    std::vector<float> wave(rate / 4);
    for (size_t i = 0; i < wave.size(); ++i) {
      wave[i] = static_cast<float>(std::sin(2 * M_PI * 440.0 * i / static_cast<double>(rate)));
    }
    const std::vector<float> out = Resample(wave, rate, 16000);
    EXPECT_EQ(static_cast<int64_t>(out.size()),
              (static_cast<int64_t>(wave.size()) * 16000 + rate - 1) / rate);
    for (size_t i = 800; i + 800 < out.size(); ++i) {
      EXPECT_NEAR(out[i], std::sin(2 * M_PI * 440.0 * i / 16000.0), 1e-3) << rate;
    }
  }
}

TEST(AudioTest, LimitsAndRefusals) {
  const std::string wav = EncodeWav(std::vector<float>(1000, 0.1f));
  AudioProcessorConfig config = {.audio_samples_per_token = 100, .audio_seq_length = 9};
  const MediaSource source = MediaSource::Memory(wav, "a.wav");
  EXPECT_EQ(LoadAudioFeatures(source, config).tokens, 10);
  const AudioFeatures cut = LoadAudioFeatures(source, config, AudioLimit::kTruncate);
  EXPECT_EQ(cut.tokens, 9);
  EXPECT_TRUE(cut.truncated);
  EXPECT_EQ(CountAudioTokens(source, config, AudioLimit::kTruncate), 9);
  EXPECT_EQ(ErrorOf([&] { LoadAudioFeatures(source, config, AudioLimit::kError); }),
            "a.wav: a sound may have at most 9 tokens of 100 samples; got 1000 samples; try "
            "audio_limit \"truncate\" or \"allow\"");
  EXPECT_EQ(ErrorOf([&] { DecodeAudio(wav.substr(0, 1000), "a.wav"); }),
            "a.wav: must be a whole WAV; got 956 of 2000 bytes of sound");
  EXPECT_EQ(ErrorOf([&] { DecodeAudio("", "a.wav"); }),
            "a.wav: a sound must have bytes; got an empty file");
  EXPECT_NE(ErrorOf([&] { DecodeAudio("RIFFnonsense", "a.wav"); }).find("a.wav: a sound must be"),
            std::string::npos);
  EXPECT_EQ(ErrorOf([&] { DecodeAudio(EncodeWav({}), "a.wav"); }),
            "a.wav: a sound must have samples; got none");
}

TEST(AudioTest, TruncationsOfFlacAreErrors) {
  const std::string flac = samples::Sound(SF_FORMAT_FLAC | SF_FORMAT_PCM_16, 16000, 1, 9000);
  EXPECT_EQ(DecodeAudio(flac, "a.flac").size(), 9000u);
  for (size_t length = 0; length < flac.size(); length += 37) {
    EXPECT_THROW(DecodeAudio(std::string_view(flac).substr(0, length), "a.flac"), Error) << length;
  }
}

TEST(VideoTest, AviRoundTrip) {
  std::vector<Image> frames;
  for (int i = 0; i < 10; ++i) frames.push_back(Picture(24, 40, i));
  const std::string avi = EncodeAvi(frames, 5);
  const VideoInfo info = ProbeVideo(avi, "a.avi");
  EXPECT_EQ(info.total_frames, 10);
  EXPECT_EQ(info.fps, 5);
  EXPECT_EQ(info.height, 24);
  EXPECT_EQ(info.width, 40);
  const Video video = DecodeVideo(avi, "a.avi", 4);
  EXPECT_EQ(video.indices, (std::vector<int64_t>{0, 2, 5, 7}));
  for (size_t i = 0; i < 4; ++i) {
    const Image expected = DecodeImage(EncodeJpeg(frames[video.indices[i]]), "a.jpg");
    EXPECT_LE(Distance(video.frames[i], expected), 4) << i;
  }
  VideoProcessorConfig config;
  config.frame.patch_size = 4;
  config.frame.pooling_kernel_size = 2;
  config.num_frames = 4;
  const VideoFeatures features = LoadVideoFeatures(MediaSource::Memory(avi, "a.avi"), config);
  EXPECT_EQ(features.frames, 4);
  EXPECT_EQ(features.features, 192);
  EXPECT_EQ(features.timestamps, (std::vector<std::string>{"00:00", "00:00", "00:01", "00:01"}));
  EXPECT_EQ(features.rows.size(), static_cast<size_t>(4 * features.tokens_per_frame * 192));
  EXPECT_EQ(ErrorOf([&] { DecodeVideo(avi, "a.avi", 11); }),
            "a.avi: num_frames must be 1 to the number of frames of the clip, 10; got 11; try a "
            "smaller num_frames");
}

TEST(VideoTest, RefusalsAndTruncations) {
  EXPECT_EQ(ErrorOf([] { ProbeVideo("", "a.avi"); }),
            "a.avi: a clip must have bytes; got an empty file");
  EXPECT_NE(ErrorOf([] {
              ProbeVideo("nothing of the kind", "a.avi");
            }).find("a.avi: a clip must be a container"),
            std::string::npos);
  // A playlist must not make the library open other files.
  EXPECT_THROW(ProbeVideo("#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n", "a.m3u8"), Error);
  EXPECT_THROW(ProbeVideo("ffconcat version 1.0\nfile /etc/hostname\n", "a.txt"), Error);
  // A sound is no clip.
  EXPECT_THROW(ProbeVideo(EncodeWav(std::vector<float>(100, 0.1f)), "a.wav"), Error);
  const std::string avi = EncodeAvi(std::vector<Image>(6, Picture(16, 16)), 5);
  for (size_t length = 0; length < avi.size(); length += 97) {
    try {
      const Video video = DecodeVideo(std::string_view(avi).substr(0, length), "a.avi", 6);
      EXPECT_EQ(video.frames.size(), 6u);  // only the index at the end was cut
    } catch (const Error&) {
    }
  }
}

TEST(VideoTest, Timestamps) {
  EXPECT_EQ(VideoTimestamp(0, 25), "00:00");
  EXPECT_EQ(VideoTimestamp(67, 1), "01:07");
  EXPECT_EQ(VideoTimestamp(6000, 1), "100:00");
  EXPECT_EQ(VideoTimestamp(89, 30000.0 / 1001), "00:02");
  EXPECT_EQ(VideoTimestamp(90, 30000.0 / 1001), "00:03");
}

TEST(MediaConfigTest, DefaultsAndFiles) {
  const MediaConfig defaults = ParseMediaConfig("", "", "m");
  EXPECT_EQ(defaults.image.features(), 6912);
  EXPECT_EQ(defaults.image.max_soft_tokens, 280);
  EXPECT_FALSE(defaults.image.divide);
  EXPECT_EQ(defaults.video.frame.max_soft_tokens, 70);
  EXPECT_TRUE(defaults.video.frame.divide);
  EXPECT_EQ(defaults.video.num_frames, 32);
  EXPECT_EQ(defaults.audio.audio_samples_per_token, 640);
  const MediaConfig tiny = ParseMediaConfig(
      "",
      R"({"vision_config":{"patch_size":4,"pooling_kernel_size":2},"audio_config":{"audio_embed_dim":64}})",
      "m");
  EXPECT_EQ(tiny.image.model_patch(), 8);
  EXPECT_EQ(tiny.video.frame.model_patch(), 8);
  EXPECT_EQ(tiny.audio.audio_samples_per_token, 64);
  const MediaConfig own = ParseMediaConfig(
      R"({"image_processor":{"max_soft_tokens":16},"video_processor":{"max_soft_tokens":9,"num_frames":4,"do_normalize":true}})",
      R"({"vision_config":{"patch_size":4,"pooling_kernel_size":2}})", "m");
  EXPECT_EQ(own.image.max_soft_tokens, 16);
  EXPECT_EQ(own.video.num_frames, 4);
  EXPECT_NO_THROW(CheckBudget(own.image, 16));
  EXPECT_THROW(CheckBudget(own.image, 17), Error);
}

TEST(MediaConfigTest, Refusals) {
  const auto error = [](const char* processor, const char* model) {
    return ErrorOf([&] { ParseMediaConfig(processor, model, "m"); });
  };
  EXPECT_EQ(error("{", ""), "m: processor: must be a JSON object; got broken JSON or another type");
  EXPECT_EQ(
      error(R"({"image_processor":{"patch_size":14}})", R"({"vision_config":{"patch_size":16}})"),
      "m: 'patch_size' must be as in config.json (16); got 14; try the processor file saved "
      "with this model");
  EXPECT_EQ(error(R"({"image_processor":{"image_mean":[0.5,0.5,0.5]}})", ""),
            "m: 'image_mean' must be 0 in every channel; got [0.5,0.5,0.5]");
  EXPECT_EQ(error(R"({"image_processor":{"resample":2}})", ""),
            "m: 'resample' must be 3 in every channel; got 2");
  EXPECT_EQ(error(R"({"image_processor":{"patch_size":0}})", ""),
            "m: 'patch_size' must be 1 to 256; got 0");
  EXPECT_EQ(error(R"({"image_processor":{"do_resize":false}})", ""),
            "m: 'do_resize' must be true; got false");
}

}  // namespace
}  // namespace lapidary
