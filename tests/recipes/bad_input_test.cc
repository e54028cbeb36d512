// Bad input to every command: one line `error: where: rule; got ...` on stderr, exit code 2, and
// nothing left behind or changed.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <regex>

#include "autograd/base/error.h"
#include "autograd/base/file.h"
#include "data/image.h"
#include "quant/adapter.h"
#include "quant/safetensors.h"
#include "tests/recipes/program.h"

namespace lapidary {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using Words = std::vector<std::string>;

class BadInput : public testing::Test {
 protected:
  static void SetUpTestSuite() { shop_ = new Workshop(); }
  static void TearDownTestSuite() {
    delete shop_;
    shop_ = nullptr;
  }
  void TearDown() override {
    for (const char* name : {"out", "x", "x.gguf", "mmproj-x.gguf", "bad", "bad.jsonl"}) {
      fs::remove_all(*shop_ / name);
    }
  }

  // The command must be refused with a line that holds `text`, and leave every file as it was.
  void Refused(const std::string& text, const Words& words, const HowToRun& how = {}) {
    const std::vector<std::string> before = shop_->Listing();
    const Finished run = shop_->Run(words, how);
    std::string line;
    int errors = 0;
    std::istringstream lines(run.err);
    for (std::string l; std::getline(lines, l);) {
      errors += l.rfind("error: ", 0) == 0;
      line = l;
    }
    std::string command;
    for (const std::string& word : words) command += " " + word;
    EXPECT_EQ(run.code, 2) << command << "\n" << run.err;
    EXPECT_EQ(errors, 1) << command << "\n" << run.err;
    static const std::regex form("error: .+: .+; got:? .+");
    EXPECT_TRUE(std::regex_match(line, form)) << command << "\n" << run.err;
    EXPECT_NE(line.find(text), std::string::npos) << command << "\n" << line << "\nnot: " << text;
    EXPECT_EQ(shop_->Listing(), before) << command;
    std::printf("%s\n    %s\n", command.c_str(), line.c_str());
  }
  Finished Works(const Words& words) {
    const Finished run = shop_->Run(words);
    EXPECT_EQ(run.code, 0) << run.err;
    return run;
  }
  static Words Train(const Words& set) {
    Words words = {"train", "lora.json"};
    for (const std::string& item : set) words.insert(words.end(), {"--set", item});
    return words;
  }

  // The folder `bad`: a copy of base whose tensors `change` has altered.
  void BadModel(const std::function<void(std::vector<NamedTensor>&)>& change) {
    fs::remove_all(*shop_ / "bad");
    fs::copy(*shop_ / "base", *shop_ / "bad");
    std::vector<NamedTensor> tensors;
    const TensorSet set = OpenCheckpoint(*shop_ / "base");
    for (const StoredTensor& t : set.tensors()) tensors.push_back({t.name, t.shape, t.ReadAll()});
    change(tensors);
    WriteSafetensors(*shop_ / "bad/model.safetensors", tensors, "BF16");
  }
  // The same with altered bytes of model.safetensors.
  void BadBytes(const std::function<void(std::string&)>& change) {
    fs::remove_all(*shop_ / "bad");
    fs::copy(*shop_ / "base", *shop_ / "bad");
    std::string bytes = ReadFile(*shop_ / "base/model.safetensors");
    change(bytes);
    fs::remove(*shop_ / "bad/model.safetensors");
    WriteFile(*shop_ / "bad/model.safetensors", bytes);
  }
  // Every command that opens a model refuses `bad`.
  void NobodyTakes(const std::string& text) {
    Refused(text, {"eval", "--model", "bad", "--data", "eval.jsonl", "--quiet"});
    Refused(text, Train({"model_name_or_path=bad"}));
    Refused(text, {"generate", "--model", "bad", "--prompt", "hi"});
    Refused(text,
            {"export", "--model", "bad", "--out", "safetensors=x", "--out", "gguf:q8_0=x.gguf"});
  }
  void Data(const std::string& line) { WriteFile(*shop_ / "bad.jsonl", line + "\n"); }
  void RefusedData(const std::string& text, const std::string& line, Words set = {}) {
    Data(line);
    set.push_back("dataset.train=bad.jsonl");
    Refused(text, Train(set));
  }
  void RefusedMedium(const std::string& text, const std::string& kind, const std::string& file) {
    RefusedData(text, json{{"messages",
                            {{{"role", "user"}, {"content", {{{"type", kind}, {kind, file}}}}},
                             {{"role", "assistant"}, {"content", "b"}}}}}
                          .dump());
  }

  static Workshop* shop_;
};

Workshop* BadInput::shop_ = nullptr;

HowToRun Input(const std::string& text) {
  HowToRun how;
  how.in = text;
  return how;
}

const char kGood[] =
    R"({"messages": [{"role": "user", "content": "a?"}, {"role": "assistant", "content": "b"}]})";

TEST_F(BadInput, CommandLines) {
  Refused("got 'trian'; try 'train'", {"trian"});
  Refused("A subcommand is required", {});
  Refused("--model must be given", {"eval"});
  Refused("x --modle", {"eval", "--model", "base", "--modle", "x"});
  Refused("fp8 not in", {"eval", "--model", "base", "--data", "eval.jsonl", "--compute", "fp8"});
  Refused("one of --data, --text and --tokens", {"eval", "--model", "base"});
  Refused("a configuration must be given", {"train"});
  Refused("none.json: cannot open", {"train", "none.json"});
  Refused("multiple of 64",
          {"eval", "--model", "base", "--data", "eval.jsonl", "--loss-chunk", "5"});
  Refused("*.safetensors",
          {"eval", "--model", "base", "--data", "eval.jsonl", "--save-logits", "eval.jsonl"});
  Refused("nowhere: a model must be", {"inspect", "nowhere"});
  Refused("none.txt", {"tokenize", "--model", "base", "none.txt"});
  Refused("an id must be a number", {"tokenize", "--model", "base", "--decode"}, Input("1 x\n"));
  Refused("an id must be in", {"tokenize", "--model", "base", "--decode"}, Input("99999\n"));
  Refused("must be a JSON string", {"tokenize", "--model", "base", "--json"}, Input("3\n"));
  Refused("shape must be tiny or 12b", {"make-model", "--out", "x", "--shape", "13b"});
  Refused("new or empty folder", {"make-model", "--out", "base"});
  Refused("size must be", {"make-data", "--out", "x", "--size", "-1"});
  Refused("must be new or empty", {"make-data", "--out", "base"});
  Refused("--answers", {"compare", "a=lora.json"});
  Refused("one of --prompt, --messages, --record and --data must be given; got none",
          {"generate", "--model", "base"});
  Refused("eval.jsonl:99", {"generate", "--model", "base", "--record", "eval.jsonl:99"});
}

TEST_F(BadInput, Configurations) {
  Refused("got 'max_lenght'; try 'max_length'", Train({"max_lenght=4"}));
  Refused("got 'lora.lora_alhpa'; try 'lora.lora_alpha'", Train({"lora.lora_alhpa=4"}));
  Refused("--set: must be key=value", Train({"max_steps"}));
  Refused("'lora.r' must be an integer", Train({"lora.r=0"}));
  Refused("'lora.r' must be an integer", Train({"lora.r=two"}));
  Refused("'learning_rate' must be a number", Train({"learning_rate=-1"}));
  Refused("'on_too_long' must be one of", Train({"on_too_long=perhaps"}));
  Refused("lr_scheduler_type", Train({"lr_scheduler_type=cosin"}));
  Refused("got 'nothing', which matches none", Train({"lora.target_modules=[\"nothing\"]"}));
  Refused("a text is a regular expression", Train({"lora.target_modules=q_proj"}));
  Refused("must be a regular expression", Train({"lora.target_modules=(("}));
  Refused("modules_to_save must match", Train({"lora.modules_to_save=[\"nothing\"]"}));
  Refused("must be a checkpoint-N folder", Train({"resume_from_checkpoint=nowhere"}));
  Refused("nowhere: a model must be", Train({"model_name_or_path=nowhere"}));
  WriteFile(*shop_ / "bad", "{\"output_dir\": \"x\",");
  Refused("bad: must be JSON", {"train", "bad"});
  WriteFile(*shop_ / "bad", "{\"output_dir\": \"x\", \"learning_rat\": 1}");
  Refused("got 'learning_rat'; try 'learning_rate'", {"train", "bad"});
}

TEST_F(BadInput, BrokenSafetensors) {
  const auto header = [](uint64_t length) {
    return [length](std::string& bytes) { std::memcpy(bytes.data(), &length, 8); };
  };
  BadBytes([](std::string& b) { b.resize(b.size() / 2); });
  NobodyTakes("must lie inside the data");
  Refused("must lie inside the data", {"inspect", "bad"});
  for (const size_t size : {0, 7, 8, 100}) {
    BadBytes([&](std::string& b) { b.resize(size); });
    Refused("bad/model.safetensors: ", {"inspect", "bad"});
  }
  BadBytes([](std::string& b) { b += "more"; });
  NobodyTakes("bad/model.safetensors: ");
  BadBytes(header(0x7fffffffffffffff));
  NobodyTakes("the header must be at most");
  BadBytes(header(3));
  Refused("bad/model.safetensors: ", {"inspect", "bad"});
  BadBytes([](std::string& b) {
    const size_t at = b.find("\"data_offsets\":[") + 16;
    b[at] = '9';
  });
  NobodyTakes("bad/model.safetensors: ");
  BadBytes([](std::string& b) { b.replace(b.find("BF16"), 4, "BF61"); });
  NobodyTakes("bad/model.safetensors: ");
}

TEST_F(BadInput, WrongTensors) {
  BadModel([](std::vector<NamedTensor>& t) { t.erase(t.begin() + 3); });
  NobodyTakes("missing");
  Refused("1 missing", {"inspect", "bad"});
  BadModel([](std::vector<NamedTensor>& t) {
    t[0].shape = {t[0].shape[0] / 2, t[0].shape.at(1) * 2};
  });
  NobodyTakes("must be [");
  Refused("1 misshapen", {"inspect", "bad"});
  for (const float value : {NAN, INFINITY, -INFINITY}) {
    BadModel([&](std::vector<NamedTensor>& t) { t[1].values[5] = value; });
    NobodyTakes("must be finite");
    Refused("1 not finite", {"inspect", "bad"});
  }
}

TEST_F(BadInput, ModelFolders) {
  const auto copy = [&] {
    fs::remove_all(*shop_ / "bad");
    fs::copy(*shop_ / "base", *shop_ / "bad");
  };
  copy();
  fs::remove(*shop_ / "bad/tokenizer.json");
  Refused("bad/tokenizer.json: must exist", {"generate", "--model", "bad", "--prompt", "hi"});
  Refused("bad/tokenizer.json: must exist", Train({"model_name_or_path=bad"}));
  Refused("bad/tokenizer.json: must exist", {"tokenize", "--model", "bad"});
  Refused("bad/tokenizer.json: must exist", {"eval", "--model", "bad", "--data", "eval.jsonl"});
  Refused("bad/tokenizer.json: must exist", {"data", "inspect", "eval.jsonl", "--model", "bad"});
  Refused("bad/tokenizer.json: must exist",
          {"export", "--model", "bad", "--out", "gguf:bf16=x.gguf"});
  copy();
  fs::remove(*shop_ / "bad/tokenizer.json");
  WriteFile(*shop_ / "bad/tokenizer.json",
            "{\"version\": \"1.0\", \"model\": {\"type\": \"WordPiece\"}}");
  Refused("bad/tokenizer.json", {"tokenize", "--model", "bad"});
  copy();
  fs::remove(*shop_ / "bad/config.json");
  NobodyTakes("bad/config.json: must exist");
  WriteFile(*shop_ / "bad/config.json", "{");
  NobodyTakes("bad/config.json: must be");
  json config = json::parse(ReadFile(*shop_ / "base/config.json"));
  config["text_config"]["hidden_size"] = -8;
  WriteFile(*shop_ / "bad/config.json", config.dump());
  NobodyTakes("bad/config.json: ");
  fs::remove(*shop_ / "bad/model.safetensors");
  WriteFile(*shop_ / "bad/config.json", ReadFile(*shop_ / "base/config.json"));
  NobodyTakes("must hold model.safetensors");
}

TEST_F(BadInput, Gguf) {
  Works({"export", "--model", "base", "--out", "gguf:bf16=x.gguf"});
  const std::string good = ReadFile(*shop_ / "x.gguf");
  const auto refused = [&](const std::string& bytes, const std::string& text) {
    fs::remove(*shop_ / "x.gguf");
    WriteFile(*shop_ / "x.gguf", bytes);
    Refused(text, {"inspect", "x.gguf"});
    Refused(text, {"generate", "--model", "x.gguf", "--prompt", "hi"});
    Refused(text, {"eval", "--model", "x.gguf", "--data", "eval.jsonl"});
    Refused(text, {"tokenize", "--model", "x.gguf"});
  };
  refused(good.substr(0, good.size() / 2), "x.gguf: ");
  refused("", "x.gguf: ");
  refused("GGUF", "x.gguf: ");
  refused("GGML" + good.substr(4), "must be a GGUF file");
  std::string version = good;
  version[4] = 9;
  refused(version, "version must be 2 or 3");
  std::string count = good;
  count[15] = 0x7f;  // of the tensors
  refused(count, "x.gguf: ");
  std::string key = good;
  key.replace(key.find("gemma4"), 6, "llama3");
  refused(key, "x.gguf: ");
}

TEST_F(BadInput, Records) {
  RefusedData("bad.jsonl: must have at least one record", "");
  RefusedData("bad.jsonl:1: must be JSON", "{");
  RefusedData("bad.jsonl:1: must be a JSON object", "[]");
  RefusedData("bad.jsonl:1: a record must be one of", "{}");
  RefusedData("bad.jsonl:2: must be JSON", std::string(kGood) + "\n{\"messages\": [}");
  RefusedData("at least one message", R"({"messages": []})");
  RefusedData("must have tokens to train", R"({"messages": [{"role": "user", "content": "a"}]})");
  RefusedData("a record must be one of", R"({"text": 3})");
  RefusedData("as many <|image|>", R"({"text": "<|image|>"})");
  RefusedData("must have tokens to train", R"({"text": ""})", {"add_eos=false"});
  Refused("nowhere.jsonl: cannot open", Train({"dataset.train=nowhere.jsonl"}));
  Data("{");
  Refused("bad.jsonl:1: must be JSON", {"eval", "--model", "base", "--data", "bad.jsonl"});
  WriteFile(*shop_ / "bad", "[[1, 99999999]]");
  Refused("ids must be integers", {"eval", "--model", "base", "--tokens", "bad"});
  WriteFile(*shop_ / "bad", "{}");
  Refused("list of lists of token ids", {"eval", "--model", "base", "--tokens", "bad"});
}

// A record that breaks a run that has begun: no result, nothing half-made, and the mended data run
// into the same folder.
TEST_F(BadInput, BrokenRecordLater) {
  Data("{");
  const Words words = Train({"dataset.train=[\"train.jsonl\",\"bad.jsonl\"]"});
  const Finished run = shop_->Run(words);
  EXPECT_EQ(run.code, 2);
  EXPECT_NE(run.err.find("error: bad.jsonl:1: must be JSON; got"), std::string::npos) << run.err;
  for (const auto& entry : fs::recursive_directory_iterator(*shop_ / "out")) {
    EXPECT_EQ(entry.path().string().find("safetensors"), std::string::npos) << entry.path();
    EXPECT_EQ(entry.path().string().find("tmp-"), std::string::npos) << entry.path();
  }
  Data(kGood);
  Works(words);
}

// on_too_long: an error by default; drop leaves a warning and goes on without the record; truncate
// needs something to train before the cut.
TEST_F(BadInput, TooLong) {
  const std::string words(400, 'x');
  const std::string record =
      json{{"messages",
            {{{"role", "user"}, {"content", "a?"}}, {{"role", "assistant"}, {"content", words}}}}}
          .dump();
  RefusedData("at most 64 tokens (max_length)", record, {"max_length=64"});
  RefusedData("must stand before max_length 8", record, {"max_length=8", "on_too_long=truncate"});
  Data(std::string(kGood) + "\n" + record);
  Finished run = Works(Train({"dataset.train=bad.jsonl", "max_length=64", "on_too_long=truncate"}));
  fs::remove_all(*shop_ / "out");
  run = Works(Train({"dataset.train=bad.jsonl", "max_length=64", "on_too_long=drop"}));
  EXPECT_NE(run.err.find("bad.jsonl:2"), std::string::npos) << run.err;
  fs::remove_all(*shop_ / "out");
  RefusedData("bad.jsonl", record, {"max_length=64", "on_too_long=drop"});  // nothing is left
}

TEST_F(BadInput, Media) {
  for (const char* kind : {"image", "audio", "video"}) {
    const std::string k = kind;
    RefusedMedium(k + " file must exist", k, "none." + k);
    WriteFile(*shop_ / "bad", "");
    RefusedMedium("must have bytes", k, "bad");
    WriteFile(*shop_ / "bad", std::string(1000, 'x'));
    RefusedMedium("bad: ", k, "bad");
  }
  const std::string png =
      EncodePng({.height = 40, .width = 30, .pixels = std::vector<uint8_t>(3600, 9)});
  WriteFile(*shop_ / "bad", png.substr(0, png.size() / 2));
  RefusedMedium("bad: ", "image", "bad");
  for (const auto& [width, height] :
       {std::pair{0u, 40u}, {40u, 0u}, {0x7fffffffu, 0x7fffffffu}, {200000u, 200000u}}) {
    std::string sized = png;
    for (int i = 0; i < 4; ++i) {
      sized[16 + i] = static_cast<char>(width >> (24 - 8 * i));
      sized[20 + i] = static_cast<char>(height >> (24 - 8 * i));
    }
    WriteFile(*shop_ / "bad", sized);
    RefusedMedium("bad: ", "image", "bad");
  }
  std::string gif("GIF89a\0\0\0\0\0\0\0;", 14);
  WriteFile(*shop_ / "bad", gif);
  RefusedMedium("bad: ", "image", "bad");
  Refused("none.png", {"generate", "--model", "base", "--prompt", "a", "--image", "none.png"});
  Refused("none.wav", {"generate", "--model", "base", "--prompt", "a", "--audio", "none.wav"});
  Refused("none.mp4", {"generate", "--model", "base", "--prompt", "a", "--video", "none.mp4"});
}

TEST_F(BadInput, OutputsThatExist) {
  fs::create_directory(*shop_ / "out");
  const int lock = ::open((*shop_ / "out/.lock").c_str(), O_RDWR | O_CREAT, 0600);
  ASSERT_EQ(::flock(lock, LOCK_EX), 0);
  Refused("must belong to one run at a time", Train({"max_steps=1"}));
  ::close(lock);
  Works(Train({"max_steps=1"}));
  const std::string hash = ReadFile(*shop_ / "out/adapter_model.safetensors");
  Refused("must be without an earlier run", Train({"max_steps=1"}));
  EXPECT_EQ(ReadFile(*shop_ / "out/adapter_model.safetensors"), hash);
  WriteFile(*shop_ / "x.gguf", "mine");
  fs::create_directory(*shop_ / "x");
  WriteFile(*shop_ / "x/note.txt", "mine");
  Refused("x.gguf: must not exist", {"export", "--model", "base", "--out", "gguf:bf16=x.gguf"});
  Refused("x: must be an empty or new folder",
          {"export", "--model", "base", "--out", "safetensors=x"});
  Refused("must not be the folder that it is made from",
          {"export", "--model", "base", "--overwrite", "--out", "safetensors=base"});
  EXPECT_EQ(ReadFile(*shop_ / "x.gguf"), "mine");
  WriteFile(*shop_ / "bad", "a file");
  Refused("bad", Train({"output_dir=bad"}));
  Refused("bad", {"make-model", "--out", "bad"});
}

TEST_F(BadInput, Exports) {
  Refused("the format must be known; got 'gguf:q9_9'",
          {"export", "--model", "base", "--out", "gguf:q9_9=x.gguf"});
  Refused("must be FORMAT=PATH", {"export", "--model", "base", "--out", "safetensors"});
  Refused("peft needs an adapter", {"export", "--model", "base", "--out", "peft=x"});
  Refused("--out is required", {"export", "--model", "base"});
  Refused("none", {"export", "--model", "base", "--adapter", "none", "--out", "peft=x"});
  // An adapter of another model, and one that changes nothing (B is zero before training).
  Works(Train({"max_steps=1"}));
  const Adapter adapter = OpenAdapter(*shop_ / "out");
  const auto write = [&](const std::function<void(NamedTensor&)>& change) {
    std::vector<NamedTensor> tensors;
    for (const StoredTensor& t : adapter.tensors.tensors()) {
      tensors.push_back({t.name, t.shape, t.ReadAll()});
      change(tensors.back());
    }
    fs::remove_all(*shop_ / "bad");
    WriteAdapter(*shop_ / "bad", adapter.config, tensors);
  };
  const auto refused = [&](const std::string& text, bool eval_too) {
    Refused(text, {"export", "--model", "base", "--adapter", "bad", "--out", "safetensors=x"});
    Refused(text, {"export", "--model", "base", "--adapter", "bad", "--out", "gguf:q4_0=x.gguf"});
    if (!eval_too) return;
    Refused(text, {"eval", "--model", "base", "--adapter", "bad", "--data", "eval.jsonl"});
    Refused(text, {"generate", "--model", "base", "--adapter", "bad", "--prompt", "hi"});
  };
  write([](NamedTensor& t) {
    if (t.name.find("lora_B") != std::string::npos) t.values.assign(t.values.size(), 0.0f);
  });
  refused("must change the model; got only zero deltas", false);
  write([](NamedTensor& t) {
    const size_t at = t.name.find("layers.1.");
    if (at != std::string::npos) t.name.replace(at, 9, "layers.7.");
  });
  refused("layers.7.", true);
  write([](NamedTensor& t) {
    if (t.name.find("lora_A") == std::string::npos) return;
    t.shape = {2, 3};
    t.values.assign(6, 0.5f);
  });
  refused("must be", true);
  write([](NamedTensor& t) { t.values[0] = NAN; });
  refused("finite", true);
}

// Every file of a checkpoint, cut: the resumed run names it, and the checkpoint stays as it is.
TEST_F(BadInput, BrokenCheckpoints) {
  Works(Train({}));
  Words again = Train({});
  again.push_back("--resume");
  int files = 0;
  for (const auto& entry : fs::directory_iterator(*shop_ / "out/checkpoint-6")) {
    const std::string path = entry.path().string(), name = entry.path().filename().string();
    if (name == "adapter_config.json") continue;  // read by others; resuming needs only the tensors
    const std::string bytes = ReadFile(path);
    fs::remove(path);  // the final result may share the file
    WriteFile(path, bytes.substr(0, bytes.size() / 2));
    Refused(name, again);
    fs::remove(path);
    WriteFile(path, bytes);
    ++files;
  }
  EXPECT_GE(files, 3);
  Works(again);
}

TEST_F(BadInput, AdapterFolders) {
  Works(Train({"max_steps=1"}));
  const auto refused = [&](const std::string& text) {
    Refused(text, {"eval", "--model", "base", "--adapter", "bad", "--data", "eval.jsonl"});
    Refused(text, {"export", "--model", "base", "--adapter", "bad", "--out", "safetensors=x"});
  };
  fs::create_directory(*shop_ / "bad");
  refused("bad/adapter_config.json");
  WriteFile(*shop_ / "bad/adapter_config.json", "{");
  refused("bad/adapter_config.json: must be JSON");
  WriteFile(*shop_ / "bad/adapter_config.json", "{\"r\": 0}");
  refused("bad/adapter_config.json: ");
  WriteFile(*shop_ / "bad/adapter_config.json", ReadFile(*shop_ / "out/adapter_config.json"));
  refused("bad");
  const std::string bytes = ReadFile(*shop_ / "out/adapter_model.safetensors");
  WriteFile(*shop_ / "bad/adapter_model.safetensors", bytes.substr(0, bytes.size() / 2));
  refused("bad/adapter_model.safetensors: ");
}

TEST_F(BadInput, MediaWithoutMmproj) {
  Works({"export", "--model", "base", "--out", "gguf:bf16=x.gguf"});
  fs::remove(*shop_ / "mmproj-x.gguf");
  WriteFile(*shop_ / "bad",
            EncodePng({.height = 48, .width = 48, .pixels = std::vector<uint8_t>(6912, 9)}));
  Refused("", {"generate", "--model", "x.gguf", "--prompt", "a", "--image", "bad"});
}

// A full disk: files may not grow beyond a size.
TEST_F(BadInput, DiskFull) {
  HowToRun full;
  full.file_limit = 20000;
  Refused("got File too large", {"export", "--model", "base", "--out", "safetensors=x"}, full);
  Refused("got File too large",
          {"export", "--model", "base", "--out", "gguf:q8_0=x.gguf", "--out", "safetensors=x"},
          full);
  Refused("got File too large", {"make-model", "--out", "x"}, full);
  Refused("got File too large",
          {"eval", "--model", "base", "--data", "eval.jsonl", "--save-logits", "x.safetensors"},
          full);
  HowToRun output;
  output.out = "/dev/full";
  for (const Words& words :
       {Words{"inspect", "base"}, {"inspect", "base", "--json"}, {"train", "--keys"}}) {
    Refused("standard output: must take all", words, output);
  }
  const Finished run = shop_->Run(Train({}), full);
  EXPECT_EQ(run.code, 2);
  EXPECT_NE(run.err.find("got File too large"), std::string::npos) << run.err;
  EXPECT_FALSE(fs::exists(*shop_ / "out/adapter_model.safetensors"));
  for (const auto& entry : fs::recursive_directory_iterator(*shop_ / "out")) {
    EXPECT_EQ(entry.path().string().find("tmp-"), std::string::npos) << entry.path();
  }
}

// The disk is full in the middle of a run's second checkpoint: the first stays whole, and the run
// goes on from it once there is room.
TEST_F(BadInput, DiskFullInTheMiddleOfACheckpoint) {
  const auto lines = [](const std::string& text) {
    return std::count(text.begin(), text.end(), '\n');
  };
  const Words half = Train({"max_steps=4", "save_steps=2", "lr_scheduler_type=constant"});
  ASSERT_EQ(shop_->Run(half).code, 0);
  const std::string want = ReadFile(*shop_ / "out/adapter_model.safetensors");
  fs::remove_all(*shop_ / "out");

  Words two = Train({"max_steps=2", "save_steps=2", "lr_scheduler_type=constant"});
  ASSERT_EQ(shop_->Run(two).code, 0);
  const auto contents = [&] {
    std::map<std::string, std::string> all;
    for (const auto& entry : fs::directory_iterator(*shop_ / "out/checkpoint-2")) {
      all[entry.path().filename().string()] = ReadFile(entry.path().string());
    }
    return all;
  };
  const auto before = contents();
  ASSERT_GE(before.size(), 5u);
  Words on = half;
  on.push_back("--resume");
  for (const uint64_t limit : {uint64_t{3000}, uint64_t{20000}}) {
    HowToRun full;
    full.file_limit = limit;
    const Finished run = shop_->Run(on, full);
    EXPECT_EQ(run.code, 2);
    const size_t error = run.err.find("error: ");
    ASSERT_NE(error, std::string::npos) << run.err;
    const std::string said = run.err.substr(error);
    EXPECT_EQ(lines(said), 1) << said;
    EXPECT_NE(said.find("got File too large"), std::string::npos) << said;
    EXPECT_TRUE(contents() == before);
    EXPECT_FALSE(fs::exists(*shop_ / "out/checkpoint-4"));
    for (const auto& entry : fs::recursive_directory_iterator(*shop_ / "out")) {
      EXPECT_EQ(entry.path().string().find("tmp-"), std::string::npos) << entry.path();
    }
  }
  const Finished run = shop_->Run(on);
  EXPECT_EQ(run.code, 0) << run.err;
  EXPECT_EQ(ReadFile(*shop_ / "out/adapter_model.safetensors"), want);
}

}  // namespace
}  // namespace lapidary
