// What the built program says that a run will take (`lapidary plan`) beside what the kernel says
// that it took: the peak of resident memory of `lapidary train` as a process of its own.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "autograd/base/error.h"
#include "autograd/base/file.h"
#include "data/image.h"
#include "tests/recipes/program.h"

namespace lapidary {
namespace {

using Json = nlohmann::json;

// The runs take 115 to 750 MB, of which code, libraries and the C library's heaps, which the plan
// knows only as a constant, are about 50; a record's pictures, 14 MB, are there a moment longer or
// shorter as threads happen to run. On larger models bench/plan_check.sh asks for 5 %.
constexpr double kTolerance = 0.09;

bool Agree(int64_t planned, int64_t peak) {
  return std::abs(static_cast<double>(peak) / static_cast<double>(planned) - 1) <= kTolerance;
}

// Mono, 16-bit, 16 kHz.
std::string Wav(int64_t samples) {
  const auto word = [](int64_t value, int bytes) {
    std::string out;
    for (int i = 0; i < bytes; ++i) out += static_cast<char>(value >> (8 * i) & 0xff);
    return out;
  };
  std::string data;
  for (int64_t i = 0; i < samples; ++i) data += word(i * 37 % 2000 - 1000, 2);
  const std::string format =
      word(1, 2) + word(1, 2) + word(16000, 4) + word(32000, 4) + word(2, 2) + word(16, 2);
  return "RIFF" + word(36 + 2 * samples, 4) + "WAVEfmt " + word(16, 4) + format + "data" +
         word(2 * samples, 4) + data;
}

class PeakMemory : public ::testing::Test {
 protected:
  static constexpr int64_t kTokens = 768;

  // A model whose matrices and activations outweigh the program.
  static void SetUpTestSuite() {
    shop_ = new Workshop;
    Json config = Json::parse(ReadFile(*shop_ / "base/config.json"));
    Json& text = config["text_config"];
    text["hidden_size"] = 768;
    text["intermediate_size"] = 6144;
    text["num_hidden_layers"] = 4;
    text["layer_types"] = {"sliding_attention", "sliding_attention", "sliding_attention",
                           "full_attention"};
    config["vision_config"]["output_proj_dims"] = 768;
    config["vision_config"]["mm_embed_dim"] = 768;
    config["vision_config"]["patch_size"] = 16;
    WriteFile(*shop_ / "shape.json", config.dump());
    const Finished made = shop_->Run({"make-model", "--shape", "shape.json", "--out", "large"});
    ASSERT_EQ(made.code, 0) << made.err;
    std::string words;
    for (int i = 0; i < 1500; ++i) words += i % 7 == 0 ? "amber basalt " : "coral flint ";
    WriteFile(*shop_ / "long.jsonl", Json{{"text", words}}.dump() + "\n");
    // Two pictures, a sound, and text behind them, more than there is room for.
    Image image = {.height = 816, .width = 816, .pixels = {}};
    for (int64_t i = 0; i < image.height * image.width * 3; ++i) {
      image.pixels.push_back(static_cast<uint8_t>(i * i / 7));
    }
    WriteFile(*shop_ / "a.png", EncodePng(image));
    WriteFile(*shop_ / "a.wav", Wav(48000));
    const Json user = {{{"type", "image"}, {"path", "a.png"}},
                       {{"type", "image"}, {"path", "a.png"}},
                       {{"type", "audio"}, {"path", "a.wav"}}};
    const Json record = {
        {"messages",
         {{{"role", "user"}, {"content", user}}, {{"role", "assistant"}, {"content", words}}}}};
    std::string lines;
    for (int i = 0; i < 12; ++i) lines += record.dump() + "\n";
    WriteFile(*shop_ / "media.jsonl", lines);
  }
  static void TearDownTestSuite() { delete shop_; }

  static std::vector<std::string> Words(const char* command, const std::string& data,
                                        const std::vector<std::string>& set) {
    WriteFile(*shop_ / "run.json", Json{{"model_name_or_path", "large"},
                                        {"dataset", {{"train", data}}},
                                        {"output_dir", "out"},
                                        {"lora", {{"r", 8}, {"lora_alpha", 8}}},
                                        {"max_length", kTokens},
                                        {"on_too_long", "truncate"},
                                        {"image_seq_length", 280},
                                        {"max_steps", 1},
                                        {"report_samples", 0},
                                        {"overwrite_output_dir", true}}
                                       .dump());
    std::vector<std::string> words = {command, "run.json"};
    for (const std::string& one : set) {
      words.push_back("--set");
      words.push_back(one);
    }
    return words;
  }

  static Json Plan(const std::string& data, const std::vector<std::string>& set = {}) {
    std::vector<std::string> words = Words("plan", data, set);
    words.push_back("--json");
    words.push_back("--no-speed");
    const Finished planned = shop_->Run(words);
    EXPECT_EQ(planned.code, 0) << planned.err;
    return Json::parse(planned.out);
  }
  static int64_t Total(const Json& plan) { return plan["memory"]["total"]; }

  static int64_t Peak(const std::string& data, const std::vector<std::string>& set = {}) {
    std::vector<std::string> words = Words("train", data, set);
    words.push_back("--quiet");
    const Finished trained = shop_->Run(words);
    EXPECT_EQ(trained.code, 0) << trained.err;
    return trained.peak_bytes;
  }

  // The least limit that a refusal names.
  static std::string Least(const std::string& data, std::vector<std::string> set = {}) {
    set.push_back("memory_limit=1MB");
    std::vector<std::string> words = Words("plan", data, set);
    words.push_back("--no-speed");
    const std::string said = shop_->Run(words).err, sign = "try memory_limit: \"";
    const size_t at = said.find(sign);
    if (at == std::string::npos) return said;
    const size_t begin = at + sign.size();
    return said.substr(begin, said.find('"', begin) - begin);
  }

  static void ExpectAgree(const Json& plan, int64_t peak) {
    std::printf("plan %lld, peak %lld\n", static_cast<long long>(Total(plan)),
                static_cast<long long>(peak));
    EXPECT_TRUE(Agree(Total(plan), peak)) << "peak " << peak << " of " << plan.dump(1);
  }

  static Workshop* shop_;
};
Workshop* PeakMemory::shop_ = nullptr;

TEST_F(PeakMemory, IsAsPlannedPlainAndSqueezed) {
  const Json plain = Plan("long.jsonl");
  const int64_t all = Peak("long.jsonl");
  ExpectAgree(plain, all);
  const std::string least = Least("long.jsonl");
  const Json squeezed = Plan("long.jsonl", {"memory_limit=" + least});
  const int64_t little = Peak("long.jsonl", {"memory_limit=" + least});
  ExpectAgree(squeezed, little);
  EXPECT_LE(Total(squeezed), squeezed["limit"].get<int64_t>());
  // Plans of the other policy would be noticed.
  EXPECT_FALSE(Agree(Total(squeezed), all));
  EXPECT_FALSE(Agree(Total(plain), little));
}

TEST_F(PeakMemory, IsAsPlannedWithPicturesAndSounds) {
  const std::vector<std::string> set = {"max_steps=2"};
  const Json plan = Plan("media.jsonl", set);
  EXPECT_EQ(plan["media"]["counted"], true);
  EXPECT_EQ(plan["media"]["patches"], 2 * 256);  // 816 pixels give 16 x 16 patches of 48
  EXPECT_EQ(plan["media"]["audio_frames"], 75);
  const int64_t peak = Peak("media.jsonl", set);
  ExpectAgree(plan, peak);
  // A plan that leaves them out, as where the data are not at hand, would be noticed.
  const Json blind = Plan("nowhere.jsonl", set);
  EXPECT_EQ(blind["media"]["counted"], false);
  EXPECT_NE(blind["media"]["note"].get<std::string>().find("not counted"), std::string::npos);
  EXPECT_FALSE(Agree(Total(blind), peak)) << blind.dump(1);
}

TEST_F(PeakMemory, PlansForAShapeThatIsNotThere) {
  for (const char* format : {"safetensors", "gguf:q4_0"}) {
    std::vector<std::string> made = {"make-model", "--shape",  "tiny", "--out",
                                     format,       "--format", format};
    ASSERT_EQ(shop_->Run(made).code, 0);
    const std::string path =
        std::string(format) + (made.back() == "safetensors" ? "" : "/model.gguf");
    const Json there = Plan("long.jsonl", {"model_name_or_path=" + path});
    std::vector<std::string> words = Words("plan", "long.jsonl", {"model_name_or_path=nowhere"});
    words.insert(words.end(), {"--json", "--no-speed", "--shape", "tiny", "--format", format});
    const Finished planned = shop_->Run(words);
    ASSERT_EQ(planned.code, 0) << planned.err;
    EXPECT_EQ(Json::parse(planned.out)["memory"], there["memory"]) << format;
  }
}

TEST_F(PeakMemory, IsAsPlannedFromAPreparedFile) {
  // Decoded before the run: nothing is decoded in it.
  std::vector<std::string> words = Words("data", "media.jsonl", {});
  words.insert(words.begin() + 1, "prepare");
  words.insert(words.end(), {"--out", "media.h5"});
  const Finished prepared = shop_->Run(words);
  ASSERT_EQ(prepared.code, 0) << prepared.err;
  const std::vector<std::string> set = {"max_steps=2"};
  const Json plan = Plan("media.h5", set);
  EXPECT_EQ(plan["media"]["counted"], true);
  EXPECT_EQ(plan["media"]["patches"], 2 * 256);
  ExpectAgree(plan, Peak("media.h5", set));
}

TEST_F(PeakMemory, IsAsPlannedWhenPacked) {
  std::string lines;
  for (int i = 0; i < 40; ++i) {
    std::string words;
    for (int j = 0; j < 20 + i * 17 % 60; ++j) words += "garnet jade ";
    lines += Json{{"text", words}}.dump() + "\n";
  }
  WriteFile(*shop_ / "short.jsonl", lines);
  const std::vector<std::string> set = {"packing=true", "max_steps=2"};
  ExpectAgree(Plan("short.jsonl", set), Peak("short.jsonl", set));
}

TEST_F(PeakMemory, IsAsPlannedWithClips) {
  const Finished made = shop_->Run({"make-data", "--out", "drawn", "--video-frames", "8"});
  ASSERT_EQ(made.code, 0) << made.err;
  const Json user = {{{"type", "video"}, {"path", "drawn/video/eval-00000.avi"}}};
  std::string words;
  for (int i = 0; i < 1500; ++i) words += "opal quartz ";
  const Json record = {
      {"messages",
       {{{"role", "user"}, {"content", user}}, {{"role", "assistant"}, {"content", words}}}}};
  std::string lines;
  for (int i = 0; i < 12; ++i) lines += record.dump() + "\n";
  WriteFile(*shop_ / "clips.jsonl", lines);
  const std::vector<std::string> set = {"max_steps=2", "video_frames=8", "video_seq_length=70"};
  const Json plan = Plan("clips.jsonl", set);
  EXPECT_EQ(plan["media"]["counted"], true);
  EXPECT_GE(plan["media"]["patches"].get<int64_t>(), 8 * 49);
  ExpectAgree(plan, Peak("clips.jsonl", set));
}

TEST_F(PeakMemory, IsAsPlannedOnAGridWithATeacher) {
  // The weights of the embedder move, so that the teacher is the base once more.
  const std::vector<std::string> set = {
      "qat={\"format\": \"int4_g32\", \"scale_refresh_steps\": 4}",
      "distillation={\"teacher\": \"base\"}", "lora.modules_to_save=[\"embed_vision\"]"};
  const Json plan = Plan("long.jsonl", set);
  EXPECT_GT(plan["memory"]["scales"].get<int64_t>(), 1 << 20);
  const int64_t teacher = plan["memory"]["teacher"];
  EXPECT_GT(teacher, 100 << 20);
  const int64_t peak = Peak("long.jsonl", set);
  ExpectAgree(plan, peak);
  EXPECT_FALSE(Agree(Total(plan) - teacher, peak));
}

// One of the four layers at a time as float32, one after the other; the checkpoint included.
TEST_F(PeakMemory, IsAsPlannedBlockByBlock) {
  std::string lines;
  for (int i = 0; i < 8; ++i) lines += ReadFile(*shop_ / "long.jsonl");
  WriteFile(*shop_ / "eight.jsonl", lines);
  std::vector<std::string> set = {"lora=null", "max_steps=8",
                                  "block_coordinate={\"switch_every\": 2}"};
  set.push_back("memory_limit=" + Least("eight.jsonl", set));
  const Json plan = Plan("eight.jsonl", set);
  EXPECT_EQ(plan["base_streamed"], true);
  EXPECT_GT(plan["blocks_on_disk"].get<int64_t>(), 100 << 20);
  const int64_t peak = Peak("eight.jsonl", set);
  ExpectAgree(plan, peak);
  EXPECT_LE(Total(plan), plan["limit"].get<int64_t>());
  // Without the states, or with another layer's, it would be noticed.
  EXPECT_FALSE(Agree(Total(plan) - plan["memory"]["optimizer"].get<int64_t>(), peak));
  EXPECT_FALSE(Agree(Total(plan) + plan["memory"]["optimizer"].get<int64_t>(), peak));
}

TEST_F(PeakMemory, IsAsPlannedWhereEvaluationTakesMore) {
  // Eight held-out records at once against one in training, whose layers keep little.
  std::string lines;
  for (int i = 0; i < 8; ++i) lines += ReadFile(*shop_ / "long.jsonl");
  WriteFile(*shop_ / "held-out.jsonl", lines);
  std::vector<std::string> without = {"per_device_eval_batch_size=8", "max_length=512"};
  std::vector<std::string> with = without;
  with.push_back("dataset.eval=held-out.jsonl");
  for (auto* set : {&with, &without}) set->push_back("memory_limit=" + Least("long.jsonl", *set));
  const Json plan = Plan("long.jsonl", with), blind = Plan("long.jsonl", without);
  EXPECT_GT(plan["memory"]["evaluation"].get<int64_t>(), 0);
  EXPECT_EQ(plan["media"]["eval_tokens"], 8 * 512);
  const int64_t peak = Peak("long.jsonl", with);
  ExpectAgree(plan, peak);
  EXPECT_FALSE(Agree(Total(blind), peak)) << blind.dump(1);
}

}  // namespace
}  // namespace lapidary
