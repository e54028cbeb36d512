// The commands from outside: help, JSON, round trips, equal results by different ways, and training
// that is interrupted.
#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <csignal>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <regex>
#include <set>

#include "autograd/base/error.h"
#include "autograd/base/file.h"
#include "autograd/base/random.h"
#include "autograd/base/sha256.h"
#include "quant/safetensors.h"
#include "tests/recipes/program.h"

namespace lapidary {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using Words = std::vector<std::string>;

const Workshop& Shop() {
  static const Workshop shop;
  return shop;
}

std::string Works(const Words& words, const HowToRun& how = {}) {
  const Finished run = Shop().Run(words, how);
  std::string command;
  for (const std::string& word : words) command += " " + word;
  EXPECT_EQ(run.code, 0) << command << "\n" << run.err;
  return run.out;
}

json Json(const Words& words) {
  const std::string out = Works(words);
  const json parsed = json::parse(out, nullptr, false);
  EXPECT_TRUE(parsed.is_object()) << words[0] << ": " << out;
  return parsed;
}

std::string HashOf(const std::string& file) {
  const std::string path = Shop() / file;
  return fs::exists(path) ? Sha256Hex(ReadFile(path)) : "no " + file;
}

// --- help ---

TEST(Commands, HelpNamesEveryOption) {
  const std::map<std::string, Words> options = {
      {"train", {"config", "--set", "--resume", "--print-config", "--keys", "--quiet", "--json"}},
      {"eval", {"--model",         "--adapter",     "--data",
                "--tokens",        "--save-logits", "--answers",
                "--swap-media",    "--compute",     "--max-length",
                "--on-too-long",   "--on-error",    "--image-mask",
                "--empty-thought", "--loss-chunk",  "--json",
                "--image-resize",  "--text",        "--ppl-window",
                "--ppl-stride",    "--reference",   "--reference-adapter",
                "--compare",       "--tolerance",   "--group",
                "--bootstrap",     "--seed",        "--out",
                "--html",          "--samples",     "--task",
                "exit code",       "example"}},
      {"generate", {"--model",       "--adapter",        "--prompt", "--system",
                    "--messages",    "--record",         "--image",  "--audio",
                    "--video",       "--max-new-tokens", "--greedy", "--temperature",
                    "--top-k",       "--top-p",          "--min-p",  "--repetition-penalty",
                    "--json-output", "--json-schema",    "--data",   "--out",
                    "--num-samples", "--limit",          "--seed",   "--think",
                    "--raw",         "--image-resize",   "--json"}},
      {"chat",
       {"--model",  "--adapter",     "--system", "--tools", "--think", "--max-new-tokens",
        "--greedy", "--temperature", "--top-k",  "--top-p", "--min-p", "--repetition-penalty",
        "--seed",   "--image-mask",  "/image",   "/audio",  "/video",  "/adapter",
        "/system",  "/think",        "/reset",   "/save",   "/help"}},
      {"serve",
       {"--model", "--name", "--adapter", "--host", "--port", "--api-key-file", "--add-bos",
        "--max-context", "--max-new-tokens", "--max-request-mb", "--max-waiting", "--quiet",
        "/v1/completions"}},
      {"export", {"--model",       "--adapter",   "--out",       "--overwrite",
                  "--json",        "safetensors", "peft",        "gguf:f32",
                  "gguf:bf16",     "gguf:q8_0",   "gguf:q4_0",   "compressed-tensors",
                  "mlx:4bit",      "gguf-lora",   "mlx-lora",    "--max-shard-size",
                  "--tensor-type", "--metadata",  "--modelfile", "--imatrix",
                  "Example"}},
      {"imatrix",
       {"--model", "--adapter", "--base-format", "--text", "--data", "--out", "--ctx-size",
        "--chunks", "--parse-special", "--max-length", "--on-error", "--batch-tokens", "--compute",
        "--json", "--quiet", "Example"}},
      {"verify",
       {"source", "export", "--adapter", "--imatrix", "--data", "--tokens", "--limit",
        "--max-length", "--compute", "--all", "--json", "--quiet", "exit code"}},
      {"inspect", {"model", "--json", "--grid"}},
      {"watch", {"run", "--every", "--once", "--serve"}},
      {"completion", {"shell", "bash", "zsh", "fish", "man"}},
      {"doctor", {"path", "--fix", "--base", "--list", "--json", "exit code"}},
      {"distill-cache", {"config", "--out", "--top-k", "--model", "--adapter", "--set"}},
      {"tokenize", {"--model", "--decode", "--json", "--no-special", "--add-special", "files"}},
      {"make-model",
       {"--out", "--shape", "--layers", "--config", "--tokenizer", "--seed", "--format"}},
      {"make-data", {"--out", "--seed", "--size", "--held-out", "--json"}},
      {"plan", {"config", "--set", "--shape", "--format", "--json", "--no-speed", "example"}},
      {"compare", {"rows", "--html", "--title", "--json", "example"}},
      {"data", {"inspect", "stats", "check", "prepare"}},
      {"data inspect",
       {"--model", "--limit", "--format", "--max-length", "--on-too-long", "--json", "--html",
        "--thoughts", "--train-on", "--audio-limit", "--video-fps", "--on-long-video",
        "--video-sound", "--allow-outside-paths"}},
      {"data stats", {"--model", "--format", "--max-length", "--json", "--html", "--held-out"}},
      {"data check", {"--held-out", "--max-problems", "--json", "exit code"}},
      {"data prepare", {"config", "--out", "--set", "--threads", "--compress", "--quiet"}},
  };
  for (const auto& [command, names] : options) {
    Words words;
    std::istringstream parts(command);
    for (std::string word; parts >> word;) words.push_back(word);
    words.push_back("--help");
    const std::string text = Works(words);
    for (const std::string& name : names) {
      EXPECT_NE(text.find(name), std::string::npos) << command << " --help: " << name;
    }
    EXPECT_NE(text.find("--help"), std::string::npos) << command;
  }
  // Every command of the main page is in the list above.
  const std::string page = Works({"--help"});
  int listed = 0;
  std::istringstream lines(page.substr(page.find("Subcommands:")));
  static const std::regex row("^  ([a-z-]+) .*");
  std::smatch match;
  for (std::string line; std::getline(lines, line);) {
    if (!std::regex_match(line, match, row)) continue;
    EXPECT_TRUE(options.contains(match[1])) << match[1];
    ++listed;
  }
  EXPECT_GE(listed, 10) << page;
  const std::string version = Works({"--version"});
  EXPECT_TRUE(std::regex_search(version, std::regex("^lapidary [0-9.]+ "))) << version;
  for (const char* format : {"GGUF: 3", "safetensors: ", "PEFT", "prepared data (HDF5): 1"}) {
    EXPECT_NE(version.find(format), std::string::npos) << version;
  }
  EXPECT_NE(Works({"train", "--keys"}).find("learning_rate"), std::string::npos);
}

// --- JSON ---

TEST(Commands, JsonOutputsParse) {
  const json inspect = Json({"inspect", "base", "--json"});
  EXPECT_EQ(inspect.at("usable"), true);
  EXPECT_EQ(inspect.at("architecture").at("layers"), 2);
  EXPECT_EQ(Json({"data", "inspect", "train.jsonl", "--model", "base", "--json", "--limit", "2"})
                .at("samples")
                .size(),
            2u);
  Json({"data", "stats", "train.jsonl", "--model", "base", "--json"});
  const json eval =
      Json({"eval", "--model", "base", "--data", "eval.jsonl", "--answers", "--json", "--quiet"});
  EXPECT_TRUE(std::isfinite(eval.at("loss").get<double>())) << eval.dump();
  EXPECT_TRUE(eval.contains("answers"));
  const json text =
      Json({"generate", "--model", "base", "--prompt", "hi", "--max-new-tokens", "4", "--json"});
  EXPECT_LE(text.at("ids").size(), 4u);
  const json exported =
      Json({"export", "--model", "base", "--out", "gguf:q8_0=json.gguf", "--json"});
  for (const json& file : exported.at("files")) {
    EXPECT_EQ(file.at("bytes"), fs::file_size(Shop() / file.at("path").get<std::string>()));
  }
  EXPECT_EQ(exported.at("files").size(), 2u);
  const json data =
      Json({"make-data", "--out", "data", "--size", "8", "--held-out", "8", "--json"});
  EXPECT_FALSE(data.at("examples").empty());
  const json train = Json({"train", "lora.json", "--set", "output_dir=json-run", "--set",
                           "max_steps=2", "--json", "--quiet"});
  EXPECT_EQ(train.at("steps"), 2);
  const json config = json::parse(Works({"train", "lora.json", "--print-config"}), nullptr, false);
  EXPECT_EQ(config.at("lora").at("r"), 2);
  std::istringstream metrics(ReadFile(Shop() / "json-run/metrics.jsonl"));
  for (std::string line; std::getline(metrics, line);) {
    EXPECT_TRUE(json::parse(line, nullptr, false).is_object()) << line;
  }
}

// Broken records are listed by line, and skipped aloud where that is asked for.
TEST(Commands, BrokenRecordsAreNamed) {
  WriteFile(Shop() / "broken.jsonl", ReadFile(Shop() / "eval.jsonl") + "{\n{\"messages\": []}\n" +
                                         ReadFile(Shop() / "eval.jsonl"));
  const std::string report = Works({"data", "inspect", "broken.jsonl", "--model", "base"});
  for (const char* place : {"broken.jsonl:4", "broken.jsonl:5"}) {
    EXPECT_NE(report.find(place), std::string::npos) << report;
  }
  const Finished eval = Shop().Run({"eval", "--model", "base", "--data", "broken.jsonl", "--quiet",
                                    "--on-error", "skip", "--json"});
  EXPECT_EQ(eval.code, 0) << eval.err;
  EXPECT_EQ(json::parse(eval.out).at("records"), 6);
  EXPECT_NE(eval.err.find("warning: broken.jsonl:4"), std::string::npos) << eval.err;
  EXPECT_NE(eval.err.find("warning: broken.jsonl:5"), std::string::npos) << eval.err;
  EXPECT_EQ(Shop().Run({"eval", "--model", "base", "--data", "broken.jsonl", "--quiet"}).code, 2);
}

// Findings by record and kind; exit codes for scripts.
TEST(Commands, DataCheckFindsAndSays) {
  const std::string good = ReadFile(Shop() / "eval.jsonl");
  const auto check = [](const std::string& file, Words more = {}) {
    Words words = {"data", "check", file, "--model", "base"};
    words.insert(words.end(), more.begin(), more.end());
    return Shop().Run(words);
  };
  const Finished clean = check("eval.jsonl");
  EXPECT_EQ(clean.code, 0) << clean.out << clean.err;
  EXPECT_NE(clean.out.find("records: 0 errors, 0 warnings"), std::string::npos) << clean.out;
  WriteFile(Shop() / "twice.jsonl", good + good + good);
  const Finished twice = check("twice.jsonl", {"--max-problems", "2"});
  EXPECT_EQ(twice.code, 1);
  EXPECT_NE(twice.out.find("duplicate: 6 warnings, the first 2 listed"), std::string::npos)
      << twice.out;
  WriteFile(Shop() / "bad.jsonl",
            good + R"({"messages":[{"role":"user","content":[{"type":"image","image":"no.png"}]},)"
                   R"({"role":"assistant","content":"x"}]})"
                   "\n{\"messages\"\n");
  const Finished bad = check("bad.jsonl", {"--held-out", "eval.jsonl"});
  EXPECT_EQ(bad.code, 3);
  for (const char* line :
       {"bad.jsonl:4: messages[0]: image file must exist", "bad.jsonl:5: must be", "leak: 3 errors",
        "unusable: 2 errors", "5 records: 5 errors"}) {
    EXPECT_NE(bad.out.find(line), std::string::npos) << line << "\n" << bad.out;
  }
  const Finished report = check("bad.jsonl", {"--json"});
  EXPECT_EQ(report.code, 3);
  EXPECT_EQ(json::parse(report.out).at("found").at("unusable").at("errors"), 2);
  EXPECT_EQ(check("none.jsonl").code, 2);
}

// A prepared file trains to the same bits as the raw files.
TEST(Commands, PreparedDataTrainTheSame) {
  const std::string prepared = Works({"data", "prepare", "lora.json", "--out", "d.h5", "--quiet"});
  EXPECT_NE(prepared.find("d.h5: "), std::string::npos) << prepared;
  const auto losses = [](const std::string& folder, Words more) {
    Words words = {"train", "lora.json",           "--quiet", "--set", "max_steps=3",
                   "--set", "output_dir=" + folder};
    words.insert(words.end(), more.begin(), more.end());
    Works(words);
    std::vector<double> all;
    std::istringstream metrics(ReadFile(Shop() / (folder + "/metrics.jsonl")));
    for (std::string line; std::getline(metrics, line);) {
      const json row = json::parse(line);
      if (!row.contains("loss")) continue;
      all.push_back(row.at("loss"));
      EXPECT_GE(row.at("data_wait_s").get<double>(), 0) << line;
    }
    return all;
  };
  const std::vector<double> raw = losses("from-raw", {});
  EXPECT_EQ(raw.size(), 3u);
  EXPECT_EQ(losses("from-prepared", {"--set", "dataset.train=d.h5"}), raw);
  // Packed runs say how full they are.
  losses("packed", {"--set", "packing=true"});
  std::istringstream metrics(ReadFile(Shop() / "packed/metrics.jsonl"));
  for (std::string line; std::getline(metrics, line);) {
    const json row = json::parse(line);
    if (!row.contains("loss")) continue;
    EXPECT_GT(row.at("packing_utilization").get<double>(), 0.5) << line;
    EXPECT_LE(row.at("packing_utilization").get<double>(), 1) << line;
  }
  const Finished other = Shop().Run({"train", "lora.json", "--quiet", "--set", "output_dir=x",
                                     "--set", "dataset.train=d.h5", "--set", "max_length=77"});
  EXPECT_EQ(other.code, 2);
  EXPECT_NE(other.err.find("must be prepared with the settings at hand"), std::string::npos)
      << other.err;
}

// --- tokenize ---

TEST(Commands, TokenizeRoundTrip) {
  const Words lines = {"plain words, and 12345 numbers", "  two  spaces ",
                       "caf\u00e9 \u4f60\u597d \U0001f600", "<bos><|turn>user\\n"};
  std::string text;
  for (const std::string& line : lines) text += line + "\n";
  HowToRun how;
  how.in = text;
  const std::string ids = Works({"tokenize", "--model", "base"}, how);
  EXPECT_EQ(std::count(ids.begin(), ids.end(), '\n'), 4);
  how.in = ids;
  EXPECT_EQ(Works({"tokenize", "--model", "base", "--decode"}, how), text);
  // JSON strings hold what a line cannot.
  const std::string odd = json("tab\there\nand a new line \u2028 end").dump() + "\n";
  how.in = odd;
  how.in = Works({"tokenize", "--model", "base", "--json"}, how);
  EXPECT_TRUE(json::parse(how.in).is_array()) << how.in;
  EXPECT_EQ(json::parse(Works({"tokenize", "--model", "base", "--decode", "--json"}, how)),
            json::parse(odd));
}

// --- generate, eval, export ---

TEST(Commands, GenerateFollowsItsSeed) {
  const auto ids = [](const Words& more) {
    Words words = {"generate", "--model",          "base", "--prompt",
                   "tell me",  "--max-new-tokens", "24",   "--json"};
    words.insert(words.end(), more.begin(), more.end());
    return Json(words).at("ids");
  };
  const json first = ids({"--seed", "7"});
  EXPECT_EQ(ids({"--seed", "7"}), first);
  EXPECT_NE(ids({"--seed", "8"}), first);
  EXPECT_EQ(ids({"--greedy", "--seed", "1"}), ids({"--greedy", "--seed", "2"}));
  EXPECT_EQ(ids({"--greedy"}), ids({"--temperature", "0"}));
  EXPECT_EQ(ids({"--greedy"}), ids({"--top-k", "1"}));
}

TEST(Commands, SavedLogitsHaveTheShapesOfTheTokens) {
  WriteFile(Shop() / "tokens.json", "[[2, 300, 301, 302], [2, 5], [2, 9, 10, 11, 12, 13, 14]]");
  const json eval = Json({"eval", "--model", "base", "--tokens", "tokens.json", "--save-logits",
                          "logits.safetensors", "--json", "--quiet", "--compute", "float32"});
  EXPECT_EQ(eval.at("records"), 3);
  const SafetensorsFile file = SafetensorsFile::Open(Shop() / "logits.safetensors");
  ASSERT_EQ(file.tensors().size(), 3u);
  const std::map<std::string, int64_t> lengths = {
      {"logits.0", 4}, {"logits.1", 2}, {"logits.2", 7}};
  for (const StoredTensor& tensor : file.tensors()) {
    ASSERT_TRUE(lengths.contains(tensor.name)) << tensor.name;
    EXPECT_EQ(tensor.shape, (TensorShape{lengths.at(tensor.name), 2048}));
    EXPECT_EQ(tensor.dtype, "F32");
    for (const float value : tensor.ReadAll()) ASSERT_TRUE(std::isfinite(value));
  }
}

// The hashes of what was exported stand in the run card of the run, and on its page.
TEST(Commands, ExportsAreNotedInTheRunCard) {
  Works({"train", "lora.json", "--set", "output_dir=noted", "--set", "max_steps=2", "--quiet"});
  const auto card = [] { return json::parse(ReadFile(Shop() / "noted/run_card.json")); };
  const auto page = [] { return ReadFile(Shop() / "noted/report.html"); };
  EXPECT_FALSE(card().contains("exports"));
  Words words = {"export",
                 "--model",
                 "base",
                 "--adapter",
                 "noted",
                 "--out",
                 "gguf:q8_0=noted.gguf",
                 "--out",
                 "safetensors=noted-merged"};
  const Finished first = Shop().Run(words);
  ASSERT_EQ(first.code, 0) << first.err;
  EXPECT_NE(first.err.find("noted in noted/run_card.json"), std::string::npos) << first.err;
  json exports = card().at("exports");
  int weights = 0;
  for (const json& file : exports) {
    const std::string path = file.at("path");
    EXPECT_EQ(file.at("sha256"), Sha256Hex(ReadFile(Shop() / path))) << path;
    EXPECT_EQ(file.at("bytes"), std::filesystem::file_size(Shop() / path)) << path;
    EXPECT_NE(page().find(file.at("sha256").get<std::string>()), std::string::npos) << path;
    weights += path == "noted.gguf" || path.find("model.safetensors") != std::string::npos;
  }
  EXPECT_EQ(weights, 2) << exports.dump(1);
  // Once more to one of the paths, from a checkpoint: the entry is replaced, the others stay.
  const Finished again = Shop().Run({"export", "--model", "base", "--adapter", "noted/checkpoint-2",
                                     "--out", "gguf:f32=noted.gguf", "--overwrite"});
  ASSERT_EQ(again.code, 0) << again.err;
  int found = 0;
  const json after = card();
  for (const json& file : after.at("exports")) {
    if (file.at("path") != "noted.gguf") continue;
    ++found;
    EXPECT_EQ(file.at("format"), "gguf:f32");
    EXPECT_EQ(file.at("of"), "checkpoint-2");
    EXPECT_EQ(file.at("sha256"), Sha256Hex(ReadFile(Shop() / "noted.gguf")));
  }
  EXPECT_EQ(found, 1);
  EXPECT_EQ(card().at("exports").size(), exports.size());
  // A run that goes on without a step has the same result, and keeps them.
  Works({"train", "lora.json", "--set", "output_dir=noted", "--set", "max_steps=2", "--quiet",
         "--resume"});
  EXPECT_EQ(card().at("exports").size(), exports.size());
  // A card that is none, or a disk that takes no more, is said and harms nothing.
  for (const char* broken : {"[]", "{", "{\"exports\": 3}"}) {
    WriteFile(Shop() / "noted/run_card.json", broken);
    const Finished run = Shop().Run({"export", "--model", "base", "--adapter", "noted", "--out",
                                     "gguf:f32=noted.gguf", "--overwrite"});
    EXPECT_EQ(run.code, 0) << run.err;
    EXPECT_NE(run.err.find("not noted in the run card: noted/run_card.json"), std::string::npos)
        << run.err;
  }
}

TEST(Commands, ExportsEvaluateAsTheModel) {
  Works({"train", "lora.json", "--set", "output_dir=tuned", "--set", "max_steps=3", "--quiet"});
  Works({"export", "--model", "base", "--adapter", "tuned", "--out", "gguf:f32=f32.gguf", "--out",
         "gguf:bf16=bf16.gguf", "--out", "gguf:q8_0=q8.gguf", "--out", "safetensors=merged"});
  const auto loss = [](const std::string& model, const Words& more = {}) {
    Words words = {"eval",      "--model", model,     "--data", "eval.jsonl",
                   "--compute", "float32", "--quiet", "--json"};
    words.insert(words.end(), more.begin(), more.end());
    return Json(words).at("loss").get<double>();
  };
  const double base = loss("base"), tuned = loss("base", {"--adapter", "tuned"});
  const double merged = loss("merged");
  ASSERT_TRUE(std::isfinite(tuned));
  EXPECT_GT(std::abs(tuned - base), 1e-3) << "the adapter must change the loss";
  std::printf("base %.6f, adapter %.6f, merged %.6f, f32 %.6f, bf16 %.6f, q8_0 %.6f\n", base, tuned,
              merged, loss("f32.gguf"), loss("bf16.gguf"), loss("q8.gguf"));
  EXPECT_NEAR(loss("f32.gguf"), tuned, 1e-5 * tuned);
  EXPECT_NEAR(loss("bf16.gguf"), merged, 1e-5 * merged);  // the same bf16 weights
  EXPECT_NEAR(merged, tuned, 1e-2 * tuned);
  EXPECT_NEAR(loss("q8.gguf"), tuned, 2e-2 * tuned);
}

TEST(Commands, ImportanceOfDataGoesIntoTheExport) {
  const json measured = Json({"imatrix", "--model", "base", "--data", "eval.jsonl", "--out",
                              "i.gguf", "--quiet", "--json"});
  EXPECT_GT(measured.at("tokens").get<int64_t>(), 50);
  EXPECT_EQ(measured.at("chunks").get<int64_t>(),
            (measured.at("tokens").get<int64_t>() + 511) / 512);
  Works({"imatrix", "--model", "base", "--data", "eval.jsonl", "--max-length", "12", "--out",
         "i.dat", "--quiet"});
  Works({"export", "--model", "base", "--out", "gguf:q4_1=without.gguf"});
  Works({"export", "--model", "base", "--imatrix", "i.gguf", "--out", "gguf:q4_1=with.gguf"});
  Works({"export", "--model", "base", "--imatrix", "i.dat", "--out", "gguf:q4_1=old.gguf"});
  EXPECT_NE(HashOf("without.gguf"), HashOf("with.gguf"));
  const json known = Json({"verify", "base", "with.gguf", "--imatrix", "i.gguf", "--json"});
  EXPECT_TRUE(known.at("whole").get<bool>());
  const Finished unknown = Shop().Run({"verify", "base", "with.gguf", "--json"});
  EXPECT_FALSE(json::parse(unknown.out).at("whole").get<bool>());
  EXPECT_NE(HashOf("old.gguf"), HashOf("with.gguf"));
  const Finished neither = Shop().Run({"imatrix", "--model", "base", "--out", "x.gguf"});
  EXPECT_EQ(neither.code, 2);
  EXPECT_NE(neither.err.find("--text and --data"), std::string::npos) << neither.err;
  EXPECT_EQ(Shop()
                .Run({"export", "--model", "base", "--imatrix", "eval.jsonl", "--out",
                      "gguf:q4_1=x.gguf"})
                .code,
            2);
}

TEST(Commands, VerifySaysWhetherAnExportIsWhatWasTrained) {
  Works({"export", "--model", "base", "--out", "gguf:q4_0=v.gguf"});
  const json same = Json(
      {"verify", "base", "v.gguf", "--data", "eval.jsonl", "--limit", "2", "--json", "--quiet"});
  EXPECT_TRUE(same.at("whole").get<bool>());
  EXPECT_GT(same.at("models").at("targets"), 0);
  EXPECT_GT(same.at("models").at("kl"), 0);
  const json itself =
      Json({"verify", "base", "base", "--data", "eval.jsonl", "--limit", "2", "--json", "--quiet"});
  EXPECT_EQ(itself.at("models").at("kl"), 0);
  EXPECT_EQ(itself.at("models").at("top_agreement"), 1);
  // Rounded twice is not rounded once.
  Works({"export", "--model", "v.gguf", "--out", "gguf:q8_0=twice.gguf"});
  const Finished twice = Shop().Run({"verify", "base", "twice.gguf", "--quiet"});
  EXPECT_EQ(twice.code, 1);
  EXPECT_NE(twice.out.find("off "), std::string::npos) << twice.out;
  EXPECT_EQ(Shop().Run({"verify", "base", "absent.gguf"}).code, 2);
}

// --- interrupted training ---

Words TrainInto(const std::string& out, const Words& set = {}) {
  Words words = {"train", "lora.json", "--quiet", "--set", "output_dir=" + out};
  for (const std::string& item : set) words.insert(words.end(), {"--set", item});
  return words;
}

const Words kLong = {"num_train_epochs=12", "save_steps=5"};  // 36 steps

double straight_milliseconds = 0;

const std::string& StraightHash() {
  static const std::string hash = [] {
    const auto start = std::chrono::steady_clock::now();
    Works(TrainInto("straight", kLong));
    straight_milliseconds =
        std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
    return HashOf("straight/adapter_model.safetensors");
  }();
  return hash;
}

void ExpectClean(const std::string& folder) {
  for (const auto& entry : fs::recursive_directory_iterator(Shop() / folder)) {
    EXPECT_EQ(entry.path().string().find("tmp-"), std::string::npos) << entry.path();
  }
}

TEST(Interrupted, CtrlCSavesAndResumes) {
  ASSERT_EQ(StraightHash().size(), 64u) << StraightHash();
  for (const int lines : {1, 6, 13}) {
    const std::string out = StrCat("stopped-", lines);
    HowToRun how;
    how.signal = SIGINT;
    how.metrics = Shop() / out + "/metrics.jsonl";
    how.lines = lines;
    Finished run;
    for (int attempt = 0; attempt < 10; ++attempt) {  // on a busy machine the signal may be late
      fs::remove_all(Shop() / out);
      run = Shop().Run(TrainInto(out, kLong), how);
      if (run.err.find("saving a checkpoint") != std::string::npos) break;
    }
    EXPECT_EQ(run.code, 0) << run.err;
    EXPECT_NE(run.err.find("saving a checkpoint"), std::string::npos) << run.err;
    EXPECT_NE(run.out.find("--resume"), std::string::npos) << run.out;
    EXPECT_NE(HashOf(out + "/adapter_model.safetensors"), StraightHash()) << "was not interrupted";
    ExpectClean(out);
    Words again = TrainInto(out, kLong);
    again.push_back("--resume");
    Works(again);
    EXPECT_EQ(HashOf(out + "/adapter_model.safetensors"), StraightHash()) << lines;
  }
}

// SIGKILL after random times, several in one run: what is resumed at the end has the same bits.
TEST(Interrupted, KilledAtRandomTimes) {
  ASSERT_EQ(StraightHash().size(), 64u) << StraightHash();
  int killed = 0;
  for (uint64_t round = 0; round < 4; ++round) {
    const std::string out = StrCat("killed-", round);
    fs::remove_all(Shop() / out);
    Words words = TrainInto(out, kLong);
    words.push_back("--resume");
    for (uint64_t kill = 0; kill < 3; ++kill) {
      HowToRun how;
      how.signal = SIGKILL;
      if (kill == 0) {
        how.metrics = Shop() / out + "/metrics.jsonl";
        how.lines =
            1 + static_cast<int>(RandomBelow({.seed = 6, .step = round, .op = 1}, kill, 12));
      }
      how.milliseconds =
          straight_milliseconds * 1e-3 *
          static_cast<double>(100 + RandomBelow({.seed = 5, .step = round, .op = 1}, kill, 800));
      killed += Shop().Run(words, how).code == -SIGKILL;
    }
    Works(words);
    EXPECT_EQ(HashOf(out + "/adapter_model.safetensors"), StraightHash()) << round;
    ExpectClean(out);
  }
  std::printf("%d of 12 runs were killed before their end\n", killed);
  EXPECT_GT(killed, 0);
}

// --- the same bits ---

// One run with pictures, sounds, clips and text, in both kinds of training.
TEST(SameBits, ThreadsCheckpointingAndLossChunks) {
  Works({"make-data", "--out", "mixed", "--size", "8", "--held-out", "8", "--image-pixels", "48",
         "--audio-samples", "5120", "--video-frames", "4"});
  for (const char* kind : {"lora", "full"}) {
    std::map<std::string, std::string> hashes;
    for (const char* threads : {"1", "2"}) {
      for (const char* checkpointing : {"true", "false"}) {
        for (const char* chunk : {"64", "128", "256"}) {
          const std::string out = StrCat("bits-", kind);
          fs::remove_all(Shop() / out);
          Words words = TrainInto(
              out,
              {"dataset.train=mixed/catalog.train.jsonl", "max_steps=2", "max_length=512",
               "lora.target_modules=\"all-linear\"", "per_device_train_batch_size=4",
               StrCat("gradient_checkpointing=", checkpointing), StrCat("loss_chunk=", chunk)});
          const bool full = std::string(kind) == "full";
          if (full)
            words.insert(words.end(), {"--set", "lora=null", "--set", "learning_rate=1e-3"});
          HowToRun how;
          how.env = {StrCat("LAPIDARY_THREADS=", threads)};
          Works(words, how);
          const std::string file = full ? "/model.safetensors" : "/adapter_model.safetensors";
          hashes[StrCat("threads ", threads, ", checkpointing ", checkpointing, ", chunk ",
                        chunk)] = HashOf(out + file);
        }
      }
    }
    std::set<std::string> distinct;
    for (const auto& [how, hash] : hashes) {
      std::printf("%s, %s: %s\n", kind, how.c_str(), hash.substr(0, 16).c_str());
      distinct.insert(hash);
    }
    EXPECT_EQ(distinct.size(), 1u) << kind;
    EXPECT_EQ(distinct.begin()->size(), 64u) << *distinct.begin();
  }
}

}  // namespace
}  // namespace lapidary
