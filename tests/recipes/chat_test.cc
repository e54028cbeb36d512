// `lapidary chat` from a pipe, and `generate` over a data set: broken off, gone on with,
// constrained.
#include <gtest/gtest.h>

#include <csignal>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>

#include "autograd/base/error.h"
#include "autograd/base/file.h"
#include "tests/recipes/program.h"

namespace lapidary {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using Words = std::vector<std::string>;

const std::string kModel = LAPIDARY_SOURCE_DIR "/tests/golden/gguf/hf";
const std::string kAdapter = LAPIDARY_SOURCE_DIR "/tests/golden/gguf/lora";
const std::string kPicture = LAPIDARY_SOURCE_DIR "/tests/golden/gguf/media/image.png";

class Folder {
 public:
  Folder() {
    char name[] = "/tmp/lapidary-chat-XXXXXX";
    if (::mkdtemp(name) == nullptr) throw Error("no folder in /tmp");
    path_ = name;
  }
  ~Folder() { fs::remove_all(path_); }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  Finished Run(Words words, const std::string& in = "", int signal = 0) const {
    HowToRun how;
    how.in = in;
    how.signal = signal;
    how.milliseconds = 1500;
    return RunLapidary(path_, words, how);
  }

 private:
  std::string path_;
};

Finished Chat(const Folder& folder, const std::string& in, Words more = {}, int signal = 0) {
  Words words = {"chat", "--model", kModel, "--greedy", "--max-new-tokens", "8"};
  words.insert(words.end(), more.begin(), more.end());
  return folder.Run(words, in, signal);
}

TEST(Chat, AnswersLinesOfAPipe) {
  const Folder folder;
  const Finished once = Chat(folder, "hello there\n");
  EXPECT_EQ(once.code, 0) << once.err;
  const Finished generated = folder.Run({"generate", "--model", kModel, "--greedy",
                                         "--max-new-tokens", "8", "--prompt", "hello there"});
  EXPECT_EQ(once.out, generated.out);
  // Commands, a mistake in between, and the same answer after a reset.
  const Finished all = Chat(
      folder,
      "hello there\nand again\n/nothing\n/think maybe\n/reset\nhello there\n/save talk.jsonl\n");
  EXPECT_EQ(all.code, 0) << all.err;
  EXPECT_TRUE(all.out.starts_with(once.out)) << all.out;
  EXPECT_TRUE(all.out.ends_with(once.out)) << all.out;
  EXPECT_NE(all.err.find("error: /nothing: must be one of the commands of /help"),
            std::string::npos)
      << all.err;
  EXPECT_NE(all.err.find("error: /think: must be on or off"), std::string::npos);
  const json saved = json::parse(ReadFile(folder / "talk.jsonl"));
  EXPECT_EQ(saved["messages"].size(), 2u);
  EXPECT_EQ(saved["messages"][0]["content"], "hello there");
  EXPECT_NE(Chat(folder, "/help\n").out.find("/adapter FOLDER|off"), std::string::npos);
}

TEST(Chat, AdaptersPicturesAndSystem) {
  const Folder folder;
  const Finished run =
      Chat(folder, "/system Be brief.\n/image " + kPicture + "\nwhat is it?\n/adapter " + kAdapter +
                       "\n/reset\nhello\n/adapter off\n/reset\nhello\n/image "
                       "none.png\n/save talk.jsonl\n/quit\nnever read\n");
  EXPECT_EQ(run.code, 0) << run.err;
  EXPECT_NE(run.err.find(kAdapter + " answers"), std::string::npos) << run.err;
  EXPECT_NE(run.err.find("/image: must name a file; got 'none.png'"), std::string::npos);
  const json saved = json::parse(ReadFile(folder / "talk.jsonl"));
  ASSERT_EQ(saved["messages"].size(), 3u);
  EXPECT_EQ(saved["messages"][0]["content"], "Be brief.");
  EXPECT_EQ(run.out.find("never"), std::string::npos);
  EXPECT_EQ(run.out.find('\x1b'), std::string::npos);  // colours are for terminals
  EXPECT_EQ(Chat(folder, "hello\n", {"--adapter", "none"}).code, 2);
}

TEST(Chat, CtrlCEndsTheAnswerOnly) {
  const Folder folder;
  const Finished run = folder.Run({"chat", "--model", kModel, "--greedy", "--max-new-tokens",
                                   "4000", "--repetition-penalty", "1.5"},
                                  "hello\n/save talk.jsonl\n", SIGINT);
  EXPECT_EQ(run.code, 0) << run.err;
  EXPECT_EQ(json::parse(ReadFile(folder / "talk.jsonl"))["messages"].size(), 2u);
}

// While a long question is read: it is forgotten, and the next line is taken.
TEST(Chat, CtrlCEndsTheQuestion) {
  const Folder folder;
  std::string question;
  for (int i = 0; i < 60000; ++i) question += "stone ";
  const Finished run = folder.Run({"chat", "--model", kModel, "--greedy", "--max-new-tokens", "4"},
                                  question + "\n/save talk.jsonl\n", SIGINT);
  EXPECT_EQ(run.code, 0) << run.err;
  EXPECT_NE(run.err.find("the question is forgotten"), std::string::npos) << run.err;
  EXPECT_EQ(json::parse(ReadFile(folder / "talk.jsonl"))["messages"].size(), 0u);
}

std::vector<json> Lines(const std::string& path) {
  std::istringstream in(ReadFile(path));
  std::vector<json> lines;
  for (std::string line; std::getline(in, line);) lines.push_back(json::parse(line));
  return lines;
}

TEST(GenerateBatch, GoesOnWhereItEnded) {
  const Folder folder;
  std::string data;
  for (int i = 0; i < 4; ++i) {
    data += json{{"messages",
                  {{{"role", "user"}, {"content", "stone " + std::to_string(i)}},
                   {{"role", "assistant"}, {"content", "never shown"}}}}}
                .dump() +
            "\n";
  }
  WriteFile(folder / "data.jsonl", data);
  const Words words = {
      "generate",  "--model",       kModel, "--data",        "data.jsonl", "--out",
      "out.jsonl", "--num-samples", "3",    "--temperature", "80",         "--max-new-tokens",
      "6",         "--seed",        "4",    "--limit",       "3",          "--quiet"};
  const Finished first = folder.Run(words);
  ASSERT_EQ(first.code, 0) << first.err;
  EXPECT_EQ(first.out, "9 answers written to out.jsonl\n");
  const std::string whole = ReadFile(folder / "out.jsonl");
  const std::vector<json> lines = Lines(folder / "out.jsonl");
  ASSERT_EQ(lines.size(), 9u);
  EXPECT_EQ(lines[4]["record"], "data.jsonl:2");
  EXPECT_EQ(lines[4]["sample"], 1);
  EXPECT_NE(lines[0]["ids"], lines[1]["ids"]);
  // The first sample is what `generate` says by itself.
  const Finished one =
      folder.Run({"generate", "--model", kModel, "--record", "data.jsonl:1", "--temperature", "80",
                  "--max-new-tokens", "6", "--seed", "4", "--json"});
  EXPECT_EQ(json::parse(one.out)["ids"], lines[0]["ids"]) << one.err;
  EXPECT_EQ(folder.Run(words).out, "0 answers written to out.jsonl\n");
  EXPECT_EQ(ReadFile(folder / "out.jsonl"), whole);
  // As if it had been killed inside the sixth line.
  size_t cut = 0;
  for (int i = 0; i < 5; ++i) cut = whole.find('\n', cut) + 1;
  WriteFile(folder / "out.jsonl", whole.substr(0, cut + 12));
  EXPECT_EQ(folder.Run(words).out, "4 answers written to out.jsonl\n");
  EXPECT_EQ(ReadFile(folder / "out.jsonl"), whole);
  Words other = words;
  other[10] = "0.5";
  const Finished refused = folder.Run(other);
  EXPECT_EQ(refused.code, 2);
  EXPECT_NE(refused.err.find("try another --out"), std::string::npos) << refused.err;
}

TEST(Generate, JsonBySchema) {
  const Folder folder;
  WriteFile(folder / "schema.json",
            R"({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]})");
  int whole = 0;
  for (const char* seed : {"1", "2", "3", "4"}) {
    const Finished run =
        folder.Run({"generate", "--model", kModel, "--prompt", "count", "--json-schema",
                    "schema.json", "--max-new-tokens", "120", "--seed", seed, "--json"});
    ASSERT_EQ(run.code, 0) << run.err;
    const json reply = json::parse(run.out);
    if (!reply["stopped"]) continue;
    ++whole;
    const json value = json::parse(reply["text"].get<std::string>(), nullptr, false);
    ASSERT_TRUE(value.is_object()) << reply;
    EXPECT_TRUE(value["n"].is_number_integer());
  }
  EXPECT_GT(whole, 0);
  EXPECT_EQ(
      folder.Run({"generate", "--model", kModel, "--prompt", "x", "--json-output", "--think"}).code,
      2);
}

}  // namespace
}  // namespace lapidary
