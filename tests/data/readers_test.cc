// Record formats: what each shape becomes, how formats are told apart, and what is wrong in one
// line.
#include "data/readers.h"

#include <nlohmann/json.hpp>

#include "autograd/base/random.h"
#include "data/dataset.h"
#include "data/image.h"
#include "data/inspect.h"
#include "data/json.h"
#include "data/sample.h"
#include "tests/data/folder_test_base.h"
#include "tests/data/tiny_tokenizer.h"

namespace lapidary {
namespace {

using Json = nlohmann::ordered_json;

class ReadersTest : public FolderTest {
 protected:
  void SetUp() override {
    FolderTest::SetUp();
    Put("a.png", EncodePng({48, 96, std::vector<uint8_t>(48 * 96 * 3, 200)}));
    Put("s.wav", EncodeWav(std::vector<float>(1300, 0.25f)));
  }
  std::shared_ptr<const Dataset> Write(const std::string& lines, const SourceSpec& spec = {}) {
    SourceSpec source = spec;
    source.path = Put("d.jsonl", lines);
    return Dataset::Open(std::vector<SourceSpec>{source});
  }
  std::string Shown(const Record& record, SampleOptions options = {}) {
    options.chat.empty_thought = EmptyThought::kOmit;
    const SampleBuilder builder(*tokenizer_, options);
    return ShowSample(*builder.Build(record).sample, *tokenizer_, SampleStyle::kPlain);
  }
  // Format and rendering of the first record.
  std::string Read(const std::string& line, const std::string& format,
                   const SampleOptions& options = {}) {
    const auto data = Write(line + "\n");
    EXPECT_EQ(data->format(), format);
    return Shown(data->Read(0), options);
  }

  std::unique_ptr<Tokenizer> tokenizer_ = MakeTinyTokenizer();
};

TEST_F(ReadersTest, ShareGpt) {
  EXPECT_EQ(Read(R"({"conversations":[{"from":"system","value":"S"},{"from":"human","value":"q"},)"
                 R"({"from":"gpt","value":"a"}]})",
                 "sharegpt"),
            "<bos><|turn>system\nS<turn|>\n<|turn>user\nq<turn|>\n<|turn>model\n[a<turn|>]\n");
  // LLaMA-Factory: tags take the files of their column in order.
  EXPECT_EQ(
      Read(R"({"conversations":[{"from":"human","value":"<image>one <audio>two"},)"
           R"({"from":"gpt","value":"a"}],"images":["a.png"],"audios":["s.wav"],"system":"S"})",
           "sharegpt"),
      "<bos><|turn>system\nS<turn|>\n<|turn>user\n<|image><|image|> x 253<image|>one<|audio>"
      "<|audio|> x 3<audio|>two<turn|>\n<|turn>model\n[a<turn|>]\n");
  // LLaVA; and tags are text where there is no column.
  EXPECT_EQ(Read(R"({"id":1,"image":"a.png","conversations":[{"from":"human","value":)"
                 R"("<image>\nWhat?"},{"from":"gpt","value":"a <video> tag"}]})",
                 "sharegpt"),
            "<bos><|turn>user\n<|image><|image|> x 253<image|>What?<turn|>\n<|turn>model\n"
            "[a <video> tag<turn|>]\n");
}

TEST_F(ReadersTest, ShareGptTools) {
  const std::string shown =
      Read(R"({"conversations":[{"from":"human","value":"w?"},{"from":"function_call","value":)"
           R"("{\"name\":\"f\",\"arguments\":{\"a\":1}}"},{"from":"observation","value":"sun"},)"
           R"({"from":"gpt","value":"ok"}],"tools":"[{\"name\":\"f\",\"description\":\"d\"}]"})",
           "sharegpt");
  EXPECT_EQ(shown,
            "<bos><|turn>system\n<|tool>declaration:f{description:<|\"|>d<|\"|>}<tool|><turn|>\n"
            "<|turn>user\nw?<turn|>\n<|turn>model\n[<|tool_call>call:f{a:1}<tool_call|>"
            "<|tool_response>]response:f{value:<|\"|>sun<|\"|>}<tool_response|>[ok<turn|>]\n");
}

TEST_F(ReadersTest, ShareGptErrorsNameTheTurn) {
  const auto data = Write(
      R"({"conversations":[{"from":"human","value":"q"},{"from":"wizard","value":"a"}]})"
      "\n"
      R"({"conversations":[{"from":"human","value":"<image><image>"},{"from":"gpt","value":"a"}],)"
      R"("images":["a.png"]})");
  EXPECT_EQ(ErrorOf([&] { data->Read(0); }).substr(folder_.size()),
            "/d.jsonl:1: conversations[1]: from must be one of human, gpt, system, function_call, "
            "observation, tool; got 'wizard'");
  EXPECT_NE(ErrorOf([&] { data->Read(1); }).find("d.jsonl:2: messages[0]: a bare image part"),
            std::string::npos);
}

TEST_F(ReadersTest, Alpaca) {
  EXPECT_EQ(Read(R"({"instruction":"i","input":"","output":"o"})", "alpaca"),
            "<bos><|turn>user\ni<turn|>\n<|turn>model\n[o<turn|>]\n");
  EXPECT_EQ(Read(R"({"instruction":"i","input":"n","output":"o","system":"S",)"
                 R"("history":[["q","a"]]})",
                 "alpaca"),
            "<bos><|turn>system\nS<turn|>\n<|turn>user\nq<turn|>\n<|turn>model\n[a<turn|>]\n"
            "<|turn>user\ni\nn<turn|>\n<|turn>model\n[o<turn|>]\n");
}

TEST_F(ReadersTest, Pairs) {
  EXPECT_EQ(Read(R"({"audio":"s.wav","text":"hello","prompt":"Hear:"})", "audio_text"),
            "<bos><|turn>user\nHear:<|audio><|audio|> x 3<audio|><turn|>\n<|turn>model\n"
            "[hello<turn|>]\n");
  EXPECT_EQ(Read(R"({"image":"a.png","caption":"gray"})", "image_text"),
            "<bos><|turn>user\n<|image><|image|> x 253<image|>Describe this image.<turn|>\n"
            "<|turn>model\n[gray<turn|>]\n");
  SourceSpec spec;
  spec.prompt = "What is said?";
  const auto data = Write(R"({"audio":"s.wav","transcription":"hello"})", spec);
  EXPECT_NE(Shown(data->Read(0)).find("What is said?<|audio>"), std::string::npos);
  // A text with the mark is raw text.
  EXPECT_EQ(Read(R"({"audio":"s.wav","text":"say <|audio|>"})", "text"),
            "<bos>[say ]<|audio><|audio|> x 3<audio|>[<eos>]");
}

TEST_F(ReadersTest, ColumnsAreRenamed) {
  SourceSpec spec;
  spec.columns = {{"prompt", "frage"}, {"completion", "antwort"}};
  const auto data = Write(R"({"frage":"q","antwort":"a"})", spec);
  EXPECT_EQ(data->format(), "prompt_completion");
  EXPECT_EQ(Shown(data->Read(0)), "<bos>q[a<eos>]");
  EXPECT_NE(
      ErrorOf([&] { Write(R"({"question":"q"})", spec); }).find("must have the column 'frage'"),
      std::string::npos);
}

TEST_F(ReadersTest, PreferencePairs) {
  SampleOptions options;
  options.chat.empty_thought = EmptyThought::kOmit;
  const SampleBuilder builder(*tokenizer_, options);
  // Explicit and implicit prompts, as messages and as strings.
  const std::vector<std::string> lines = {
      R"({"prompt":[{"role":"user","content":"q"}],"chosen":[{"role":"assistant","content":"yes"}],)"
      R"("rejected":[{"role":"assistant","content":"no"}]})",
      R"({"chosen":[{"role":"user","content":"q"},{"role":"assistant","content":"yes"}],)"
      R"("rejected":[{"role":"user","content":"q"},{"role":"assistant","content":"no"}]})",
      R"({"prompt":"q","chosen":[{"role":"user","content":"q"},{"role":"assistant","content":"yes"}],)"
      R"("rejected":[{"role":"user","content":"q"},{"role":"assistant","content":"no"}]})"};
  for (const std::string& line : lines) {
    const auto data = Write(line);
    EXPECT_EQ(data->format(), "preference");
    std::string note;
    const auto pair = builder.BuildPair(data->Read(0), &note);
    ASSERT_TRUE(pair);
    EXPECT_EQ(ShowSample(pair->chosen, *tokenizer_, SampleStyle::kPlain),
              "<bos><|turn>user\nq<turn|>\n<|turn>model\n[yes<turn|>]\n");
    EXPECT_EQ(ShowSample(pair->rejected, *tokenizer_, SampleStyle::kPlain),
              "<bos><|turn>user\nq<turn|>\n<|turn>model\n[no<turn|>]\n");
  }
  const auto text = Write(R"({"chosen":"say it: yes","rejected":"say it: no"})");
  std::string note;
  const auto pair = builder.BuildPair(text->Read(0), &note);
  EXPECT_EQ(ShowSample(pair->chosen, *tokenizer_, SampleStyle::kPlain), "<bos>say it:[ yes<eos>]");
  EXPECT_EQ(ShowSample(pair->rejected, *tokenizer_, SampleStyle::kPlain), "<bos>say it:[ no<eos>]");
  // Plain fine-tuning takes the chosen answer when asked, and refuses otherwise.
  EXPECT_NE(ErrorOf([&] { builder.Build(text->Read(0)); }).find("needs a preference trainer"),
            std::string::npos);
  options.preference = PreferencePolicy::kChosen;
  EXPECT_EQ(Shown(text->Read(0), options), "<bos>say it:[ yes<eos>]");
}

TEST_F(ReadersTest, AnswersWithALabel) {
  SampleOptions options;
  options.chat.empty_thought = EmptyThought::kOmit;
  const auto data = Write(
      R"({"prompt":"say it:","completion":" yes","label":true})"
      "\n"
      R"({"prompt":[{"role":"user","content":"q"}],"completion":[{"role":"assistant","content":"no"}],"label":false})"
      "\n"
      R"({"prompt":"say it:","completion":" what","label":1})");
  EXPECT_EQ(data->format(), "unpaired");
  const Record yes = data->Read(0), no = data->Read(1);
  EXPECT_EQ(yes.label, std::optional<bool>(true));
  EXPECT_EQ(no.label, std::optional<bool>(false));
  EXPECT_NE(ErrorOf([&] { data->Read(2); }).find("label must be true"), std::string::npos);
  EXPECT_EQ(Shown(WithoutLabel(yes), options), "<bos>say it:[ yes<eos>]");
  EXPECT_EQ(Shown(WithoutLabel(no), options),
            "<bos><|turn>user\nq<turn|>\n<|turn>model\n[no<turn|>]\n");
  // Plain fine-tuning refuses it, or takes those to be desired.
  const SampleBuilder plain(*tokenizer_, options);
  EXPECT_NE(ErrorOf([&] { plain.Build(yes); }).find("needs a preference trainer"),
            std::string::npos);
  options.preference = PreferencePolicy::kChosen;
  EXPECT_EQ(Shown(yes, options), "<bos>say it:[ yes<eos>]");
  const BuiltSample left_out = SampleBuilder(*tokenizer_, options).Build(no);
  EXPECT_FALSE(left_out.sample);
  EXPECT_NE(left_out.note.find("labelled false"), std::string::npos);
  // Figures of a data set count both kinds, and both are sound.
  const DataReport report = InspectDataset(*data, plain);
  EXPECT_EQ(report.desirable, 1);
  EXPECT_EQ(report.undesirable, 1);
  EXPECT_EQ(report.usable, 2);
  EXPECT_EQ(report.problems.size(), 1u);
  EXPECT_NE(ReportText(report).find("labels    1 true, 1 false"), std::string::npos);
}

TEST_F(ReadersTest, TrainFalseAndWeights) {
  EXPECT_EQ(
      Read(R"({"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b",)"
           R"("train":false},{"role":"user","content":"c"},{"role":"assistant","content":"d"}]})",
           "messages"),
      "<bos><|turn>user\na<turn|>\n<|turn>model\nb<turn|>\n<|turn>user\nc<turn|>\n"
      "<|turn>model\n[d<turn|>]\n");
}

TEST_F(ReadersTest, PathsStayBelowTheFolder) {
  std::filesystem::create_directories(folder_ + "/in");
  for (const char* path : {"../a.png", "/etc/passwd", "x/../../a.png", "file:///etc/passwd"}) {
    const Json row = {{"image", path}, {"text", "t"}};
    SourceSpec spec;
    spec.path = Put("in/d.jsonl", row.dump());
    const auto data = Dataset::Open(std::vector<SourceSpec>{spec});
    EXPECT_NE(ErrorOf([&] { data->Read(0); }).find("must lie below the folder of the data"),
              std::string::npos)
        << path;
    DatasetOptions options;
    options.allow_outside_paths = true;
    const auto open = Dataset::Open(std::vector<SourceSpec>{spec}, options);
    EXPECT_EQ(ErrorOf([&] { open->Read(0); }).find("must lie below"), std::string::npos);
  }
}

TEST_F(ReadersTest, LinksOutOfTheFolderAreRefused) {
  namespace fs = std::filesystem;
  Put("in/b.png", EncodePng({48, 48, std::vector<uint8_t>(48 * 48 * 3, 7)}));
  fs::create_symlink(folder_ + "/a.png", folder_ + "/in/out.png");
  fs::create_symlink("b.png", folder_ + "/in/own.png");
  fs::create_directory_symlink(folder_, folder_ + "/in/up");
  fs::create_directory_symlink(folder_ + "/in", folder_ + "/linked");
  const auto error = [&](const std::string& folder, const char* path, bool outside) {
    DatasetOptions options;
    options.allow_outside_paths = outside;
    Put("in/d.jsonl", Json{{"image", path}, {"text", "t"}}.dump());
    const auto data = Dataset::Open({folder_ + folder + "/d.jsonl"}, options);
    return ErrorOf([&] { data->Read(0); });
  };
  for (const char* path : {"out.png", "up/a.png", "up/in/../a.png"}) {
    EXPECT_NE(error("/in", path, false).find("must lie below the folder"), std::string::npos)
        << path;
    EXPECT_EQ(error("/in", path, true), "no error") << path;
  }
  EXPECT_EQ(error("/in", "own.png", false), "no error");
  EXPECT_EQ(error("/linked", "b.png", false), "no error") << "the folder itself may be a link";
  EXPECT_NE(error("/linked", "out.png", false).find("must lie below"), std::string::npos);
  // A caption beside a picture.
  Put("c/b.png", "x");
  fs::create_symlink("/etc/hostname", folder_ + "/c/b.txt");
  EXPECT_NE(ErrorOf([&] { Dataset::Open({folder_ + "/c"}); }).find("got a link out of it"),
            std::string::npos);
}

// One conversation in every shape that can say it: the same ids, weights and types.
TEST_F(ReadersTest, TheSameConversationInEveryFormat) {
  const char* const words[] = {"ten", " the ", "caf\u00e9", "<b>", "a\nb", "7 + 8", "{}", "\u4e2d"};
  for (uint64_t round = 0; round < 100; ++round) {
    uint64_t index = 0;
    const auto pick = [&](uint64_t bound) { return RandomBelow({round, 5, 0}, index++, bound); };
    const auto text = [&] {
      std::string out = "x";
      for (uint64_t n = pick(5); n > 0; --n) out += words[pick(std::size(words))];
      return out;
    };
    const bool system = pick(2) == 1, media = pick(2) == 1;
    Json messages = Json::array(), turns = Json::array(), history = Json::array();
    const auto add = [&](const char* role, const char* from, const std::string& said) {
      messages.push_back({{"role", role}, {"content", said}});
      turns.push_back({{"from", from}, {"value", said}});
    };
    const std::string rule = text();
    if (system) add("system", "system", rule);
    const uint64_t exchanges = 1 + pick(3);
    std::string question, answer;
    for (uint64_t i = 0; i < exchanges; ++i) {
      question = (i == 0 && media ? "<image>" : "") + text();
      answer = text();
      add("user", "human", question);
      add("assistant", "gpt", answer);
      if (i + 1 < exchanges) history.push_back({question, answer});
    }
    Json alpaca = {{"instruction", question}, {"output", answer}, {"history", history}};
    Json share = {{"conversations", turns}}, chat = {{"messages", messages}};
    if (system) alpaca["system"] = rule;
    const Json last = Json::array({messages.back()});
    Json prompt = messages;
    prompt.erase(prompt.size() - 1);
    Json pair = {{"prompt", prompt}, {"completion", last}};
    Json preference = {{"chosen", messages}, {"rejected", messages}};
    preference["rejected"].back()["content"] = "other";
    for (Json* row : {&alpaca, &share, &chat}) {
      if (media) (*row)["images"] = {"a.png"};
    }
    SampleOptions options;
    options.preference = PreferencePolicy::kChosen;
    // History is trained by alpaca as by the others; completions and answers are the last turn.
    const auto build = [&](const Json& row, TrainOn train_on) {
      options.train_on = train_on;
      const SampleBuilder builder(*tokenizer_, options);
      return *builder.Build(Write(row.dump())->Read(0)).sample;
    };
    const auto expect_same = [&](const Sample& a, const Sample& b, const Json& row) {
      EXPECT_EQ(a.ids, b.ids) << row.dump();
      EXPECT_EQ(a.weights, b.weights) << row.dump();
      EXPECT_EQ(a.types, b.types);
      EXPECT_EQ(a.vision.rows, b.vision.rows);
    };
    const Sample whole = build(chat, TrainOn::kAssistant);
    expect_same(whole, build(share, TrainOn::kAssistant), share);
    expect_same(whole, build(alpaca, TrainOn::kAssistant), alpaca);
    if (media) continue;  // tags of the prompt are not split off there
    const Sample final = build(chat, TrainOn::kLast);
    expect_same(final, build(pair, TrainOn::kAssistant), pair);
    expect_same(final, build(preference, TrainOn::kAssistant), preference);
  }
}

}  // namespace
}  // namespace lapidary
