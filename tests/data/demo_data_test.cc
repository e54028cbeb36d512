// The demonstration data set: same options, same bytes; every record loads; classes are balanced,
// and told apart by the nearest mean of the training examples, so that failing to learn them is the
// trainer's fault.
#include "data/demo/demo_data.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>

#include "data/demo/draw.h"
#include "data/demo/voice.h"
#include "data/media.h"
#include "tests/data/media_golden.h"

namespace lapidary {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

class DemoDataTest : public ::testing::Test {
 protected:
  void SetUp() override {
    root_ = fs::temp_directory_path() / ("lapidary-demo-" + std::to_string(::getpid()));
    fs::remove_all(root_);
  }
  void TearDown() override { fs::remove_all(root_); }
  std::string Folder(const char* name) const { return (root_ / name).string(); }

  fs::path root_;
};

constexpr DemoDataOptions kSmall = {.size = 64, .held_out = 32};

std::vector<json> Lines(const std::string& path) {
  std::vector<json> out;
  std::ifstream in(path);
  for (std::string line; std::getline(in, line);) out.push_back(json::parse(line));
  return out;
}

// Path and SHA-256 of every file.
std::map<std::string, std::string> Hashes(const std::string& folder) {
  std::map<std::string, std::string> out;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (!entry.is_regular_file()) continue;
    Sha256 hash;
    const std::string bytes = ReadFile(entry.path());
    hash.Add(bytes.data(), bytes.size());
    out[fs::relative(entry.path(), folder)] = hash.Hex();
  }
  return out;
}

// The rows of the medium of a record, as a tiny model with 8-pixel patches and 64-sample frames
// sees it.
std::vector<float> Rows(const std::string& folder, const json& record) {
  MediaConfig config = ParseMediaConfig(
      R"({"image_processor":{"max_soft_tokens":16},"video_processor":{"max_soft_tokens":16,"num_frames":4}})",
      R"({"vision_config":{"patch_size":4,"pooling_kernel_size":2},"audio_config":{"audio_embed_dim":64}})",
      "tiny");
  const std::string modality = record.at("modality");
  for (const json& part : record.at("messages")[0].at("content")) {
    if (part.at("type") != modality) continue;
    const MediaSource source =
        MediaSource::File(folder + "/" + part.at(modality).get<std::string>());
    if (modality == "image") return LoadImageFeatures(source, config.image).rows;
    if (modality == "audio") return LoadAudioFeatures(source, config.audio).rows;
    return LoadVideoFeatures(source, config.video).rows;
  }
  ADD_FAILURE() << record.dump();
  return {};
}

// Brightness only for pictures (their colors are not what the catalog asks for), each row scaled to
// its own size.
std::vector<float> Describe(const std::string& modality, const std::vector<float>& rows) {
  std::vector<float> out;
  const size_t step = modality == "audio" ? 1 : 3;
  double squares = 0, mean = 0;
  for (size_t i = 0; i < rows.size(); i += step) {
    float value = rows[i];
    for (size_t k = 1; k < step; ++k) value = std::max(value, rows[i + k]);
    out.push_back(value);
    mean += value;
  }
  mean /= static_cast<double>(out.size());
  for (float& value : out) {
    value -= static_cast<float>(mean);
    squares += double{value} * value;
  }
  for (float& value : out) value = static_cast<float>(value / std::sqrt(squares + 1e-9));
  return out;
}

TEST_F(DemoDataTest, SameOptionsSameBytes) {
  WriteDemoData(Folder("a"), kSmall);
  WriteDemoData(Folder("b"), kSmall);
  EXPECT_EQ(Hashes(Folder("a")), Hashes(Folder("b")));
  DemoDataOptions other = kSmall;
  other.seed = 2;
  WriteDemoData(Folder("c"), other);
  EXPECT_NE(Hashes(Folder("a")), Hashes(Folder("c")));
}

TEST_F(DemoDataTest, RecordsAreCompleteAndSplitsApart) {
  const DemoDataSummary summary = WriteDemoData(Folder("a"), kSmall);
  EXPECT_EQ(summary.media, 3 * (64 + 32));
  std::map<std::string, std::set<std::string>> sentences;  // of text, by split
  for (const auto& [file, count] : summary.files) {
    const std::vector<json> records = Lines(Folder("a") + "/" + file);
    EXPECT_EQ(static_cast<int64_t>(records.size()), count);
    std::map<std::string, std::map<std::string, int>> answers;
    for (const json& record : records) {
      const std::string modality = record.at("modality");
      ++answers[modality][record.at("answer")];
      EXPECT_EQ(file.substr(0, file.find('.')), record.at("task"));
      if (modality == "text") {
        sentences[file.substr(file.find('.') + 1)].insert(record.at("messages")[0].at("content"));
        EXPECT_EQ(record.at("tools").size(), 1u);
        EXPECT_TRUE(record.at("messages")[1].at("tool_calls")[0].at("function").contains("name"));
      } else {
        EXPECT_EQ(record.at("messages")[1].at("content"), record.at("answer"));
        EXPECT_FALSE(Rows(Folder("a"), record).empty());
      }
    }
    EXPECT_EQ(answers.size(), 4u) << file;
    if (file.starts_with("catalog")) {
      EXPECT_EQ(answers["image"].size(), 8u);
      EXPECT_EQ(answers["video"].size(), 4u);
      EXPECT_EQ(answers["audio"].size(), 20u);  // 4 tones, 16 words
      for (const auto& [answer, n] : answers["image"]) EXPECT_EQ(n, count / 4 / 8) << answer;
    }
  }
  for (const std::string& sentence : sentences["eval.jsonl"]) {
    EXPECT_FALSE(sentences["train.jsonl"].contains(sentence)) << sentence;
  }
  std::set<std::string> media;
  for (const auto& [path, hash] : Hashes(Folder("a")))
    EXPECT_TRUE(media.insert(hash).second) << path;
}

TEST_F(DemoDataTest, ClassesAreToldApartByTheNearestMean) {
  DemoDataOptions options = kSmall;
  options.size = 160;
  WriteDemoData(Folder("a"), options);
  const std::string folder = Folder("a");
  std::map<std::string, std::map<std::string, std::vector<double>>> means;  // modality, answer
  for (const json& record : Lines(folder + "/catalog.train.jsonl")) {
    const std::string modality = record.at("modality");
    if (modality == "text") continue;
    const std::vector<float> x = Describe(modality, Rows(folder, record));
    std::vector<double>& mean = means[modality][record.at("answer")];
    mean.resize(x.size());
    for (size_t i = 0; i < x.size(); ++i) mean[i] += x[i];
  }
  std::map<std::string, std::pair<int, int>> score;  // right, all
  for (const json& record : Lines(folder + "/catalog.eval.jsonl")) {
    const std::string modality = record.at("modality");
    if (modality == "text") continue;
    const std::vector<float> x = Describe(modality, Rows(folder, record));
    std::string best;
    double nearest = -1e30;
    for (const auto& [answer, mean] : means[modality]) {
      double dot = 0, norm = 0;
      for (size_t i = 0; i < x.size(); ++i) {
        dot += x[i] * mean[i];
        norm += mean[i] * mean[i];
      }
      if (dot / std::sqrt(norm) > nearest) {
        nearest = dot / std::sqrt(norm);
        best = answer;
      }
    }
    score[modality].first += best == record.at("answer");
    ++score[modality].second;
  }
  for (const auto& [modality, s] : score) {
    std::printf("nearest mean, %s: %d of %d\n", modality.c_str(), s.first, s.second);
    EXPECT_GE(s.first, 0.9 * s.second) << modality;
  }
  EXPECT_EQ(score.size(), 3u);
}

TEST_F(DemoDataTest, Refusals) {
  const auto error = [&](const std::string& folder, const DemoDataOptions& options) {
    try {
      WriteDemoData(folder, options);
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string("no Error");
  };
  fs::create_directories(Folder("full"));
  WriteFile(Folder("full") + "/keep.txt", "x");
  EXPECT_EQ(error(Folder("full"), kSmall),
            Folder("full") +
                ": the folder for the data must be new or empty; got one with files; try "
                "another, or --overwrite");
  EXPECT_EQ(ReadFile(Folder("full") + "/keep.txt"), "x");
  EXPECT_EQ(Hashes(Folder("full")).size(), 1u);
  DemoDataOptions options = kSmall;
  options.size = 3;
  EXPECT_EQ(error(Folder("a"), options), "make-data: size must be 8 to 100000; got 3");
  WriteFile(Folder("full") + "/file", "x");
  EXPECT_NE(error(Folder("full") + "/file/below", kSmall).find("must be a folder that can be made"),
            std::string::npos);
  EXPECT_THROW(Speak("ax", 100, {}), Error);
  EXPECT_THROW(Tone(0, 0, 100), Error);
}

}  // namespace
}  // namespace lapidary
