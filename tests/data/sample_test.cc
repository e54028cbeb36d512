// Readers, samples and reports: the shapes people have, masks, policies, and one clear line for
// what is wrong.
#include "data/sample.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "autograd/base/error.h"
#include "autograd/base/file.h"
#include "data/dataset.h"
#include "data/inspect.h"
#include "data/readers.h"
#include "tests/data/tiny_tokenizer.h"

namespace lapidary {
namespace {

using Json = nlohmann::ordered_json;

std::string Base64(const std::string& bytes) {
  static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  for (size_t i = 0; i < bytes.size(); i += 3) {
    uint32_t v = 0;
    for (size_t k = 0; k < 3; ++k) {
      v = v << 8 | (i + k < bytes.size() ? static_cast<uint8_t>(bytes[i + k]) : 0);
    }
    for (size_t k = 0; k < 4; ++k) {
      out += i + k <= bytes.size() ? digits[v >> (18 - 6 * k) & 63] : '=';
    }
  }
  return out;
}

class SampleTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() /
              StrCat("lapidary-sample-", getpid(), "-",
                     ::testing::UnitTest::GetInstance()->current_test_info()->name());
    std::filesystem::create_directories(folder_);
    Image image{48, 96, std::vector<uint8_t>(48 * 96 * 3, 200)};
    png_ = EncodePng(image);
    WriteFile(folder_ / "a.png", png_);
    WriteFile(folder_ / "b.png", EncodePng({96, 48, std::vector<uint8_t>(48 * 96 * 3, 10)}));
    wav_ = EncodeWav(std::vector<float>(1300, 0.25f));
    WriteFile(folder_ / "s.wav", wav_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::shared_ptr<const Dataset> Write(const std::vector<std::string>& lines) {
    std::ofstream file(folder_ / "d.jsonl");
    for (const std::string& line : lines) file << line << "\n";
    file.close();
    return Dataset::Open({folder_ / "d.jsonl"});
  }
  Sample Build(const std::string& line, SampleOptions options = {}) {
    options.chat.empty_thought = empty_thought_;
    const SampleBuilder builder(*tokenizer_, options);
    const Record record = Write({line})->Read(0);
    BuiltSample built = builder.Build(record);
    EXPECT_EQ(builder.Measure(record), built.sample ? built.sample->size() : 0);
    note_ = built.note;
    return built.sample ? std::move(*built.sample) : Sample();
  }
  std::string Shown(const std::string& line, const SampleOptions& options = {}) {
    return ShowSample(Build(line, options), *tokenizer_, SampleStyle::kPlain);
  }
  std::string ErrorOf(const std::string& line, const SampleOptions& options = {}) {
    try {
      Build(line, options);
    } catch (const Error& e) {
      const std::string text = e.what();
      const std::string prefix = (folder_ / "d.jsonl").string() + ":1: ";
      EXPECT_TRUE(text.starts_with(prefix)) << text;
      return text.substr(std::min(prefix.size(), text.size()));
    }
    return "no error";
  }

  std::filesystem::path folder_;
  std::string png_, wav_, note_;
  EmptyThought empty_thought_ = EmptyThought::kOmit;
  std::unique_ptr<Tokenizer> tokenizer_ = MakeTinyTokenizer();
};

TEST_F(SampleTest, MessagesTrainTheModelsTurns) {
  const char* line =
      R"({"messages":[{"role":"user","content":"Hi"},{"role":"assistant","content":"Yo"},)"
      R"({"role":"user","content":"?"},{"role":"assistant","content":"!"}]})";
  EXPECT_EQ(Shown(line),
            "<bos><|turn>user\nHi<turn|>\n<|turn>model\n[Yo<turn|>]\n"
            "<|turn>user\n?<turn|>\n<|turn>model\n[!<turn|>]\n");
  empty_thought_ = EmptyThought::kInsert;
  EXPECT_EQ(Shown(line),
            "<bos><|turn>user\nHi<turn|>\n<|turn>model\n<|channel>thought\n<channel|>[Yo<turn|>]\n"
            "<|turn>user\n?<turn|>\n<|turn>model\n<|channel>thought\n<channel|>[!<turn|>]\n");
}

TEST_F(SampleTest, EmptyThoughtKeepsRealThoughtsAndThinkingTurns) {
  empty_thought_ = EmptyThought::kInsert;
  const char* line =
      R"({"messages":[{"role":"user","content":"x"},{"role":"assistant","reasoning":"r","content":"y"}]})";
  EXPECT_EQ(
      Shown(line),
      "<bos><|turn>user\nx<turn|>\n<|turn>model\n[<|channel>thought\nr\n<channel|>y<turn|>]\n");
  SampleOptions thinking;
  thinking.chat.enable_thinking = true;
  const char* plain =
      R"({"messages":[{"role":"user","content":"x"},{"role":"assistant","content":"y"}]})";
  EXPECT_EQ(
      Shown(plain, thinking),
      "<bos><|turn>system\n<|think|>\n<turn|>\n<|turn>user\nx<turn|>\n<|turn>model\n[y<turn|>]\n");
}

TEST_F(SampleTest, WeightZeroLeavesAMessageUntrained) {
  EXPECT_EQ(
      Shown(R"({"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b",)"
            R"("weight":0},{"role":"user","content":"c"},{"role":"assistant","content":"d"}]})"),
      "<bos><|turn>user\na<turn|>\n<|turn>model\nb<turn|>\n<|turn>user\nc<turn|>\n"
      "<|turn>model\n[d<turn|>]\n");
}

TEST_F(SampleTest, ToolsAndStringArguments) {
  EXPECT_EQ(
      Shown(
          R"({"tools":"[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"description\":\"d\"}}]",)"
          R"("messages":[{"role":"user","content":"x"},{"role":"assistant","tool_calls":[{"id":"1",)"
          R"("type":"function","function":{"name":"f","arguments":"{\"a\": 12345678901234567890123}"}}]},)"
          R"({"role":"tool","tool_call_id":"1","content":"ok"},{"role":"assistant","content":"y"}]})"),
      "<bos><|turn>system\n<|tool>declaration:f{description:<|\"|>d<|\"|>}<tool|><turn|>\n"
      "<|turn>user\nx<turn|>\n<|turn>model\n[<|tool_call>call:f{a:12345678901234567890123}<tool_"
      "call|>"
      "<|tool_response>]response:f{value:<|\"|>ok<|\"|>}<tool_response|>[y<turn|>]\n");
}

TEST_F(SampleTest, MediaInEveryShape) {
  const std::string data = "data:image/png;base64," + Base64(png_);
  const std::string parts[] = {
      R"({"type":"image","image":"a.png"})",
      R"({"type":"image","url":"a.png"})",
      R"({"type":"image","path":"a.png"})",
      R"({"type":"image","image":{"path":"a.png","bytes":null}})",
      R"({"type":"image","image":{"bytes":")" + Base64(png_) + R"(","path":"x"}})",
      R"({"type":"image","image":")" + Base64(png_) + R"("})",
      R"({"type":"image_url","image_url":{"url":")" + data + R"("}})",
      R"({"type":"image_url","image_url":")" + data + R"("})",
      R"({"type":"image","image":"file://)" + (folder_ / "a.png").string() + R"("})",
  };
  SampleOptions options;
  options.image_budget = 70;
  for (const std::string& part : parts) {
    const std::string line =
        R"({"messages":[{"role":"user","content":[)" + part +
        R"(,{"type":"text","text":"What?"}]},{"role":"assistant","content":"A"}]})";
    EXPECT_EQ(
        Shown(line, options),
        "<bos><|turn>user\n<|image><|image|> x 55<image|>What?<turn|>\n<|turn>model\n[A<turn|>]\n")
        << part.substr(0, 80);
  }
  const Sample sound = Build(
      R"({"messages":[{"role":"user","content":[{"type":"input_audio","input_audio":{"data":")" +
      Base64(wav_) + R"(","format":"wav"}}]},{"role":"assistant","content":"A"}]})");
  EXPECT_EQ(sound.audio.count(), 3);
  EXPECT_EQ(sound.audio.rows.size(), 3u * 640);
  EXPECT_EQ(sound.sounds, 1);
}

TEST_F(SampleTest, SiblingColumns) {
  SampleOptions options;
  options.image_budget = 70;
  const Sample two = Build(
      R"({"images":["a.png","b.png"],"messages":[{"role":"user","content":[{"type":"text","text":"1"},)"
      R"({"type":"image"},{"type":"image"}]},{"role":"assistant","content":"A"}]})",
      options);
  ASSERT_EQ(two.images, 2);
  EXPECT_LT(two.vision.rows.back(), 0.1f) << "the second picture is the dark one";
  EXPECT_GT(two.vision.rows.front(), 0.7f);
  EXPECT_EQ(
      Shown(R"({"image":"a.png","audio":"s.wav","messages":[{"role":"user","content":"Q"},)"
            R"({"role":"assistant","content":"A"}]})",
            options),
      "<bos><|turn>user\n<|image><|image|> x 55<image|>Q<|audio><|audio|> x 3<audio|><turn|>\n"
      "<|turn>model\n[A<turn|>]\n")
      << "columns without parts stand with the first user text";
  EXPECT_EQ(
      Shown(R"({"image":"a.png","messages":[{"role":"user","content":"A: <|image|> B"},)"
            R"({"role":"assistant","content":"A"}]})",
            options),
      "<bos><|turn>user\nA: <|image><|image|> x 55<image|> B<turn|>\n<|turn>model\n[A<turn|>]\n");
}

TEST_F(SampleTest, PromptCompletionAndText) {
  EXPECT_EQ(Shown(R"({"prompt":"2+2=","completion":"4"})"), "<bos>2+2=[4<eos>]");
  EXPECT_EQ(Shown(R"({"prompt":"<bos>th","completion":"e<eos>"})"), "<bos>th[e<eos>]")
      << "tokens do not cross from the prompt into the completion";
  EXPECT_EQ(Shown(R"({"text":"the"})"), "<bos>[the<eos>]");
  SampleOptions options;
  options.add_eos = false;
  options.image_budget = 70;
  EXPECT_EQ(Shown(R"({"text":"the"})", options), "<bos>[the]");
  EXPECT_EQ(Shown(R"({"prompt":"<|image|>a<|image|>","completion":"b","images":["a.png","b.png"]})",
                  options),
            "<bos><|image><|image|> x 55<image|>a<|image><|image|> x 55<image|>[b]");
  EXPECT_EQ(
      Shown(R"({"prompt":[{"role":"user","content":"a"},{"role":"assistant","content":"b"},)"
            R"({"role":"user","content":"c"}],"completion":[{"role":"assistant","content":"d"}]})"),
      "<bos><|turn>user\na<turn|>\n<|turn>model\nb<turn|>\n<|turn>user\nc<turn|>\n"
      "<|turn>model\n[d<turn|>]\n");
}

TEST_F(SampleTest, WhatIsWrongIsNamed) {
  EXPECT_EQ(
      ErrorOf(R"({"messages":[{"role":"user","content":[{"type":"image","image":"no.png"}]}]})"),
      "messages[0]: image file must exist; got 'no.png' ('" + (folder_ / "no.png").string() + "')");
  EXPECT_NE(
      ErrorOf(
          R"({"messages":[{"role":"user","content":[{"type":"image","image":"https://x/y.png"}]}]})")
          .find("must be local files"),
      std::string::npos);
  EXPECT_NE(
      ErrorOf(R"({"messages":[{"role":"user","content":[{"type":"image"}]}]})").find("bare image"),
      std::string::npos);
  EXPECT_NE(ErrorOf(R"({"images":["a.png"],"messages":[{"role":"user","content":[{"type":"image"},)"
                    R"({"type":"image"}]}]})")
                .find("bare image"),
            std::string::npos);
  EXPECT_NE(
      ErrorOf(
          R"({"images":["a.png","b.png"],"messages":[{"role":"user","content":[{"type":"image"}]},)"
          R"({"role":"assistant","content":"A"}]})")
          .find("as many image parts as files; got 1 parts and 2 files"),
      std::string::npos);
  EXPECT_EQ(ErrorOf(R"({"text":"a <|image|> b"})"),
            "there must be as many <|image|> in the text as image files; got 1 and 0");
  EXPECT_EQ(ErrorOf(R"({"messages":[{"role":"user","content":"x"}]})"),
            "a sample must have tokens to train; got none; try an assistant message");
  EXPECT_NE(
      ErrorOf(R"({"messages":[{"role":"user","content":"x"},{"role":"assistant","tool_calls":[)"
              R"({"function":{"name":"f","arguments":"[1"}}]}]})")
          .find("function.arguments: must be JSON"),
      std::string::npos);
  EXPECT_NE(ErrorOf(R"({"messages":[{"role":"user","content":[{"type":"sculpture"}]}]})")
                .find("must be text, image"),
            std::string::npos);
  WriteFile(folder_ / "bad.png", "not a picture at all");
  EXPECT_NE(ErrorOf(R"({"image":"bad.png","messages":[{"role":"user","content":"x"},)"
                    R"({"role":"assistant","content":"A"}]})")
                .find("bad.png"),
            std::string::npos);
  SampleOptions no_eos;
  no_eos.add_eos = false;
  EXPECT_NE(ErrorOf(R"({"text":""})", no_eos).find("tokens to train"), std::string::npos);
}

TEST_F(SampleTest, TooLong) {
  SampleOptions options;
  options.max_length = 6;
  const char* line = R"({"text":"abcdefgh"})";
  EXPECT_EQ(ErrorOf(line, options),
            "a sample may have at most 6 tokens (max_length); got 10; try a larger max_length, or "
            "on_too_long drop, truncate, cut or split");
  options.on_too_long = OnTooLong::kDrop;
  EXPECT_EQ(Build(line, options).size(), 0);
  EXPECT_NE(note_.find("record dropped"), std::string::npos);
  options.on_too_long = OnTooLong::kTruncate;
  EXPECT_EQ(Shown(line, options), "<bos>[abcde]");
  EXPECT_NE(note_.find("cut to 6"), std::string::npos);
}

TEST_F(SampleTest, TruncationLeavesMediaWhole) {
  SampleOptions options;
  options.on_too_long = OnTooLong::kTruncate;
  options.image_budget = 70;
  const char* line = R"({"text":"ab<|image|>cd<|image|>ef","images":["a.png","b.png"]})";
  const int64_t whole = Build(line, options).size();
  ASSERT_EQ(whole, 1 + 6 + 2 * 57 + 1);
  for (int64_t limit = 1; limit <= whole; ++limit) {
    options.max_length = limit;
    if (limit == 1) {  // <bos> alone: nothing left to train
      EXPECT_NE(ErrorOf(line, options).find("cut away"), std::string::npos);
      continue;
    }
    const Sample sample = Build(line, options);
    EXPECT_LE(sample.size(), limit);
    EXPECT_EQ(sample.images, (sample.size() >= 60 ? 1 : 0) + (sample.size() >= 119 ? 1 : 0));
    EXPECT_EQ(sample.vision.count(), sample.images * 55);
    EXPECT_EQ(static_cast<int64_t>(sample.vision.rows.size()),
              sample.vision.count() * sample.vision.features * (sample.images > 0 ? 1 : 0));
    EXPECT_EQ(static_cast<int64_t>(sample.vision.positions.size()), sample.vision.count() * 2);
  }
}

TEST_F(SampleTest, ReportCountsAndListsProblems) {
  const auto data =
      Write({R"({"text":"one"})", "", R"({"text":)", R"({"text":"three"})", R"({"messages":[]})"});
  const SampleBuilder builder(*tokenizer_, {});
  const DataReport report = InspectDataset(*data, builder);
  EXPECT_EQ(report.records, 4);
  EXPECT_EQ(report.usable, 2);
  EXPECT_EQ(report.text_only, 2);
  ASSERT_EQ(report.problems.size(), 2u);
  EXPECT_TRUE(report.problems[0].where.ends_with("d.jsonl:3")) << report.problems[0].where;
  EXPECT_TRUE(report.problems[1].where.ends_with("d.jsonl:5"));
  EXPECT_NE(ReportText(report).find("2 usable"), std::string::npos);
  EXPECT_EQ(ReportJson(report)["problems"].size(), 2u);
}

TEST_F(SampleTest, FormatIsRecognizedOrNamed) {
  EXPECT_EQ(Write({R"({"prompt":"a","completion":"b"})"})->format(), "prompt_completion");
  EXPECT_EQ(Write({"{broken", R"({"messages":[]})"})->format(), "messages");
  EXPECT_THROW(Write({R"({"instruction":"a"})"}), Error);
  EXPECT_THROW(Write({"", " "}), Error);
  EXPECT_THROW(Dataset::Open({folder_ / "none.jsonl"}), Error);
  EXPECT_THROW(Dataset::Open({folder_ / "d.jsonl"}, {.format = "parquet"}), Error);
}

TEST_F(SampleTest, BigIntegersKeepTheirDigits) {
  const auto data = Write(
      {R"({"messages":[{"role":"user","content":"x"},{"role":"assistant",)"
       R"("tool_calls":[{"function":{"name":"f","arguments":{"n":98765432109876543210}}}]}]})"});
  const SampleBuilder builder(*tokenizer_, {});
  EXPECT_NE(ShowSample(*builder.Build(data->Read(0)).sample, *tokenizer_, SampleStyle::kPlain)
                .find("n:98765432109876543210"),
            std::string::npos);
}

TEST_F(SampleTest, ControlCharactersAreSpelledOut) {
  EXPECT_EQ(Shown(R"({"text":"a\u001b[31mb"})"), "<bos>[a<0x1B>[31mb<eos>]");
}

}  // namespace
}  // namespace lapidary
