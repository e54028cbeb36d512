// Media in samples: pieces of long sounds, frames by rate, segments with their sound, soundtracks,
// TIFF, augmentation; masks and cutting of long samples.
#include <cmath>
#include <nlohmann/json.hpp>

#include "data/augment.h"
#include "data/dataset.h"
#include "data/image.h"
#include "data/inspect.h"
#include "data/loader.h"
#include "data/sample.h"
#include "data/video.h"
#include "tests/data/sample_media_base.h"

namespace lapidary {
namespace {

using Json = nlohmann::ordered_json;

TEST_F(SampleMediaTest, CutsAreAtSilence) {
  const std::vector<float> talk = Talk(70, {12, 25.5, 47});
  const auto ends = CutAtSilence(talk, 480000);
  ASSERT_EQ(ends.size(), 3u);
  EXPECT_NEAR(static_cast<double>(ends[0]) / 16000, 25.5, 0.26);
  EXPECT_NEAR(static_cast<double>(ends[1]) / 16000, 47, 0.26);
  EXPECT_EQ(ends[2], 70 * 16000);
  // Every piece fits whatever the sound is, and short ones are whole.
  for (const std::vector<float>& sound : {std::vector<float>(2'000'000, 0.0f), Talk(100, {})}) {
    int64_t begin = 0;
    for (const int64_t end : CutAtSilence(sound, 480000)) {
      EXPECT_GT(end, begin);
      EXPECT_LE(end - begin, 480000);
      begin = end;
    }
    EXPECT_EQ(begin, static_cast<int64_t>(sound.size()));
  }
  EXPECT_EQ(CutAtSilence(Talk(30, {}), 480000), (std::vector<int64_t>{480000}));
}

TEST_F(SampleMediaTest, LongSoundsFollowThePolicy) {
  Put("s.wav", EncodeWav(Talk(40, {25})));
  const std::string line = R"({"audio":"s.wav","text":"hello","prompt":"p"})";
  EXPECT_EQ(Build(line).sample->audio.count(), 1000);
  options_.audio_limit = AudioLimit::kTruncate;
  EXPECT_EQ(Build(line).sample->audio.count(), 750);
  options_.audio_limit = AudioLimit::kError;
  EXPECT_NE(ErrorOf([&] {
              SampleBuilder(*tokenizer_, options_).Build(Only(line));
            }).find("s.wav: a sound may have at most"),
            std::string::npos);
  options_.audio_limit = AudioLimit::kPieces;
  const Sample sample = *Build(line).sample;
  EXPECT_EQ(sample.sounds, 1);
  const std::string shown = Shown(sample);
  size_t marks = 0;
  for (size_t at = shown.find("<|audio>"); at != std::string::npos;
       at = shown.find("<|audio>", at + 1)) {
    ++marks;
  }
  EXPECT_EQ(marks, 2u) << shown;
  EXPECT_NEAR(static_cast<double>(sample.audio.count()), 1000, 2);
  EXPECT_EQ(sample.audio.rows.size(), static_cast<size_t>(sample.audio.count() * 640));
}

TEST_F(SampleMediaTest, FramesByRate) {
  const VideoInfo info = {.total_frames = 100, .fps = 25, .height = 48, .width = 48};
  EXPECT_EQ(SampleFramesByRate(info, 1), (std::vector<int64_t>{0, 25, 50, 75}));
  EXPECT_EQ(SampleFramesByRate(info, 2).size(), 8u);
  EXPECT_EQ(SampleFramesByRate(info, 1000).size(), 100u) << "a frame once";
  const VideoInfo ntsc = {.total_frames = 300, .fps = 30000.0 / 1001, .height = 48, .width = 48};
  EXPECT_EQ(SampleFramesByRate(ntsc, 1).size(), 11u);
  EXPECT_EQ(SampleFramesByRate(ntsc, 1)[10], 299);
}

TEST_F(SampleMediaTest, TiffPictures) {
  // 2 x 1 pixels, uncompressed RGB, little-endian: red and green.
  std::string tiff("II*\0\x08\0\0\0\x09\0", 10);
  const auto field = [&](int tag, int type, uint32_t count, uint32_t value) {
    for (const uint32_t half : {static_cast<uint32_t>(tag), static_cast<uint32_t>(type)}) {
      tiff += static_cast<char>(half & 255);
      tiff += static_cast<char>(half >> 8);
    }
    for (const uint32_t word : {count, value}) {
      for (int b = 0; b < 4; ++b) tiff += static_cast<char>(word >> (8 * b) & 255);
    }
  };
  const uint32_t after = 10 + 9 * 12 + 4;
  field(256, 3, 1, 2);
  field(257, 3, 1, 1);
  field(258, 3, 3, after);
  field(259, 3, 1, 1);
  field(262, 3, 1, 2);
  field(273, 4, 1, after + 6);
  field(277, 3, 1, 3);
  field(278, 3, 1, 1);
  field(279, 4, 1, 6);
  tiff += std::string("\0\0\0\0\x08\0\x08\0\x08\0\xff\0\0\0\xff\0", 16);
  const Image image = DecodeImage(tiff, "a.tif");
  EXPECT_EQ(image.width, 2);
  EXPECT_EQ(image.pixels, (std::vector<uint8_t>{255, 0, 0, 0, 255, 0}));
  EXPECT_EQ(ProbeImage(tiff, "a.tif").width, 2);
  EXPECT_NE(ErrorOf([&] { DecodeImage(tiff.substr(0, 130), "a.tif"); }).find("a.tif: "),
            std::string::npos);
  std::string bomb = tiff;  // 65,535 x 65,535 pixels
  bomb[18] = bomb[19] = bomb[30] = bomb[31] = '\xff';
  EXPECT_NE(ErrorOf([&] { DecodeImage(bomb, "a.tif"); }).find("at most 100 megapixels"),
            std::string::npos);
}

TEST_F(SampleMediaTest, AugmentationIsAFunctionOfTheKey) {
  AugmentOptions o;
  o.flip = 0.5, o.crop = 0.3, o.color = 0.4, o.speed = 0.1, o.gain = 6, o.noise = 0.1;
  Image photo = {.height = 60, .width = 80, .pixels = {}};
  for (int i = 0; i < 60 * 80 * 3; ++i) photo.pixels.push_back(static_cast<uint8_t>(i * 7 % 251));
  const auto changed = [&](const AugmentKey& key) {
    Image image = photo;
    AugmentImage(o, key, image);
    return image;
  };
  EXPECT_EQ(changed({1, 2, 0}).pixels, changed({1, 2, 0}).pixels);
  EXPECT_NE(changed({1, 2, 0}).pixels, changed({2, 2, 0}).pixels);
  EXPECT_NE(changed({1, 2, 0}).pixels, changed({1, 3, 0}).pixels);
  std::vector<float> a = Talk(1, {}), b = a, c = a;
  AugmentSound(o, {1, 2, 0}, 16000, a);
  AugmentSound(o, {1, 2, 0}, 16000, b);
  AugmentSound(o, {1, 4, 0}, 16000, c);
  EXPECT_EQ(a, b);
  EXPECT_NE(a, c);
  o.crop = 2;
  EXPECT_NE(ErrorOf([&] { CheckAugment(o); }).find("augment.crop"), std::string::npos);

  // In a sample: the token count stays, the rows change with the epoch.
  Put("a.png", EncodePng(photo));
  options_.augment.crop = 0.3;
  options_.augment.flip = 0.5;
  const std::string line = R"({"image":"a.png","text":"t"})";
  const Sample first = *Build(line, {0, 0}).sample, second = *Build(line, {0, 1}).sample;
  EXPECT_EQ(first.ids, second.ids);
  EXPECT_NE(first.vision.rows, second.vision.rows);
  EXPECT_EQ(first.vision.rows, Build(line, {0, 0}).sample->vision.rows);
}

const char* const kChat =
    R"({"messages":[{"role":"system","content":"S"},{"role":"user","content":"a"},)"
    R"({"role":"assistant","reasoning":"r","content":"b"},{"role":"user","content":"c"},)"
    R"({"role":"assistant","content":"dd"}]})";

TEST_F(SampleMediaTest, WhatIsTrained) {
  EXPECT_EQ(Shown(*Build(kChat).sample),
            "<bos><|turn>system\nS<turn|>\n<|turn>user\na<turn|>\n<|turn>model\n[b<turn|>]\n"
            "<|turn>user\nc<turn|>\n<|turn>model\n[dd<turn|>]\n");
  options_.train_on = TrainOn::kLast;
  EXPECT_EQ(Shown(*Build(kChat).sample),
            "<bos><|turn>system\nS<turn|>\n<|turn>user\na<turn|>\n<|turn>model\nb<turn|>\n"
            "<|turn>user\nc<turn|>\n<|turn>model\n[dd<turn|>]\n");
  options_.train_on = TrainOn::kAll;
  EXPECT_EQ(Shown(*Build(kChat).sample),
            "<bos>[<|turn>system\nS<turn|>\n<|turn>user\na<turn|>\n<|turn>model\nb<turn|>\n"
            "<|turn>user\nc<turn|>\n<|turn>model\ndd<turn|>\n]");
  EXPECT_EQ(Shown(*Build(R"({"prompt":"q","completion":"a"})").sample), "<bos>[qa<eos>]");
}

TEST_F(SampleMediaTest, ThoughtsFollowThePolicy) {
  const auto first_answer = [&](Thoughts thoughts, EmptyThought empty) {
    options_.chat.thoughts = thoughts;
    options_.chat.empty_thought = empty;
    const std::string shown = Shown(*Build(kChat).sample);
    const size_t at = shown.find("<|turn>model\n") + 13;
    return shown.substr(at, shown.find("<turn|>", at) - at);
  };
  const char* empty = "<|channel>thought\n<channel|>[b";
  EXPECT_EQ(first_answer(Thoughts::kTemplate, EmptyThought::kOmit), "[b");
  EXPECT_EQ(first_answer(Thoughts::kTemplate, EmptyThought::kInsert), empty);
  EXPECT_EQ(first_answer(Thoughts::kKeep, EmptyThought::kInsert),
            "[<|channel>thought\nr\n<channel|>b");
  EXPECT_EQ(first_answer(Thoughts::kDrop, EmptyThought::kOmit), "[b");
  EXPECT_EQ(first_answer(Thoughts::kEmpty, EmptyThought::kOmit), empty);
}

TEST_F(SampleMediaTest, LongConversationsAreCutOrSplitAtTurns) {
  const int64_t whole = Build(kChat).sample->size();
  options_.max_length = whole - 2;
  options_.on_too_long = OnTooLong::kCut;
  BuiltSample cut = Build(kChat);
  EXPECT_EQ(Shown(*cut.sample),
            "<bos><|turn>system\nS<turn|>\n<|turn>user\na<turn|>\n<|turn>model\n[b<turn|>]\n"
            "<|turn>user\nc<turn|>\n");
  EXPECT_NE(cut.note.find("; cut to "), std::string::npos);
  options_.on_too_long = OnTooLong::kSplit;
  BuiltSample split = Build(kChat);
  ASSERT_EQ(split.more.size(), 1u);
  EXPECT_EQ(Shown(*split.sample),
            "<bos><|turn>system\nS<turn|>\n<|turn>user\na<turn|>\n<|turn>model\n[b<turn|>]\n");
  EXPECT_EQ(Shown(split.more[0]),
            "<bos><|turn>system\nS<turn|>\n<|turn>user\nc<turn|>\n<|turn>model\n[dd<turn|>]\n");
  EXPECT_NE(split.note.find("; split into 2 samples"), std::string::npos);
}

TEST_F(SampleMediaTest, RawTextSplitsAroundMedia) {
  Put("a.png", EncodePng({48, 48, std::vector<uint8_t>(48 * 48 * 3, 9)}));
  options_.image_budget = 70;
  options_.max_length = 80;
  options_.on_too_long = OnTooLong::kSplit;
  const std::string line = Json{
      {"text", std::string(40, 'a') + "<|image|>" + std::string(90, 'b')},
      {"image", "a.png"}}.dump();
  const BuiltSample built = Build(line);
  std::vector<Sample> parts = {*built.sample};
  parts.insert(parts.end(), built.more.begin(), built.more.end());
  int64_t tokens = 0, images = 0, rows = 0;
  for (const Sample& part : parts) {
    EXPECT_LE(part.size(), 80);
    tokens += part.size();
    images += part.images;
    rows += part.vision.count();
    EXPECT_EQ(part.images > 0, part.vision.count() > 0);
    for (const int64_t place : part.vision.places) EXPECT_EQ(part.types[place], kImageToken);
  }
  EXPECT_EQ(images, 1);
  EXPECT_EQ(rows, 64);
  EXPECT_EQ(tokens, 1 + 40 + 66 + 90 + 1);
  // The loader takes all parts, also after resuming between them.
  const SampleBuilder builder(*tokenizer_, options_);
  Loader whole(data_, builder, {.epochs = 1});
  EXPECT_EQ(whole.BatchesInEpoch(0), static_cast<int64_t>(parts.size()));
  for (size_t i = 0; i < parts.size(); ++i) {
    const Json cursor = whole.Cursor();
    Loader resumed(data_, builder, {.epochs = 1}, &cursor);
    const Batch batch = *whole.Next();
    EXPECT_EQ(batch.ids, parts[i].ids);
    EXPECT_EQ(resumed.Next()->ids, parts[i].ids);
  }
  EXPECT_FALSE(whole.Next());
}

}  // namespace
}  // namespace lapidary
