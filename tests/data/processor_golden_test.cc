// Whole prompts of golden/media/processor.json: ids, token types and the rows of the media, from
// the messages on.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "autograd/base/sha256.h"
#include "data/json.h"
#include "data/readers.h"
#include "data/sample.h"
#include "tests/data/text_golden.h"

namespace lapidary {
namespace {

using Json = nlohmann::ordered_json;

SampleOptions OptionsOf(const Json& c) {
  SampleOptions options;
  options.require_targets = false;
  options.chat.empty_thought = EmptyThought::kOmit;
  const Json given = c.value("options", Json::object());
  options.chat.add_generation_prompt = given.value("add_generation_prompt", false);
  options.chat.enable_thinking = given.value("enable_thinking", false);
  if (given.contains("processor_kwargs")) {
    options.image_budget = given["processor_kwargs"].value("max_soft_tokens", 0);
    options.num_frames = given["processor_kwargs"].value("num_frames", 0);
  }
  return options;
}

// The golden files lie in one folder a kind.
Json WithFolders(Json messages) {
  for (Json& message : messages) {
    if (!message["content"].is_array()) continue;
    for (Json& part : message["content"]) {
      for (const auto& [key, folder] :
           {std::pair("image", "images/"), {"audio", "audio/"}, {"video", "video/"}}) {
        if (part.contains(key)) part[key] = folder + part[key].get<std::string>();
      }
    }
  }
  return messages;
}

template <class T>
std::string Hash(const std::vector<T>& values) {
  return Sha256Hex({reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)});
}

// The rows of one token type as Transformers pads them: blocks of `budget` rows, zeros and
// positions -1 behind.
void CheckRows(const MediaRows& media, const std::vector<uint8_t>& types, TokenType type,
               const Json& rows, const Json& positions, const std::string& name) {
  const int64_t blocks = rows["shape"][0], budget = rows["shape"][1], features = rows["shape"][2];
  std::vector<float> padded(blocks * budget * features, 0.0f);
  std::vector<int64_t> padded_positions(blocks * budget * 2, -1);
  int64_t block = -1, row = 0, previous = -2;
  for (int64_t r = 0; r < media.count(); ++r) {
    if (types[media.places[r]] != type) continue;
    if (media.places[r] != previous + 1) {
      ++block;
      row = 0;
    }
    previous = media.places[r];
    ASSERT_LT(block, blocks) << name;
    ASSERT_LT(row, budget) << name;
    std::copy_n(media.rows.data() + r * features, features,
                padded.data() + (block * budget + row) * features);
    if (!media.positions.empty()) {
      padded_positions[(block * budget + row) * 2] = media.positions[2 * r];
      padded_positions[(block * budget + row) * 2 + 1] = media.positions[2 * r + 1];
    }
    ++row;
  }
  EXPECT_EQ(Hash(padded), rows["sha256"]) << name;
  if (positions.is_object()) {
    EXPECT_EQ(Hash(padded_positions), positions["sha256"]) << name;
  }
}

void CheckPrompt(const Json& c, const Json& messages, size_t row, const std::string& folder,
                 const Tokenizer& tokenizer) {
  const std::string name = c["name"];
  const RecordPlace place = {name, folder};
  const SampleBuilder builder(tokenizer, OptionsOf(c));
  const auto build = [&] {
    const Record record = RecordFormats()[0].read(Json{{"messages", WithFolders(messages)}}, place);
    const BuiltSample built = builder.Build(record);
    EXPECT_EQ(builder.Measure(record), built.sample->size()) << name;
    return *built.sample;
  };
  if (c.contains("error")) {
    EXPECT_THROW(build(), Error) << name;
    return;
  }
  const Sample sample = build();
  std::vector<int32_t> ids;
  std::vector<uint8_t> types;
  for (size_t i = 0; i < c["input_ids"][row].size(); ++i) {
    if (c["attention_mask"][row][i] == 0) continue;  // padding on the left
    ids.push_back(c["input_ids"][row][i]);
    types.push_back(c["mm_token_type_ids"][row][i]);
  }
  EXPECT_EQ(sample.ids, ids) << name;
  EXPECT_EQ(sample.types, types) << name;
  const Json none;
  const auto at = [&](const char* key) -> const Json& { return c.contains(key) ? c[key] : none; };
  if (c.contains("pixel_values")) {
    CheckRows(sample.vision, sample.types, kImageToken, c["pixel_values"], at("image_position_ids"),
              name);
  }
  if (c.contains("pixel_values_videos")) {
    CheckRows(sample.vision, sample.types, kVideoToken, c["pixel_values_videos"],
              at("video_position_ids"), name);
  }
  if (c.contains("input_features")) {
    CheckRows(sample.audio, sample.types, kAudioToken, c["input_features"], none, name);
  }
}

TEST(ProcessorGolden, AllCases) {
  int ran = 0;
  for (const std::string& path : golden::Find("media/processor.json")) {
    const std::filesystem::path root = std::filesystem::path(path).parent_path().parent_path();
    const std::unique_ptr<Tokenizer> tokenizer = golden::FindTokenizer("small", root.string());
    ASSERT_NE(tokenizer, nullptr) << "golden/tokenizer/small-tokenizer.json is needed";
    const std::string folder = std::filesystem::path(path).parent_path().string();
    const Json file = ParseJson(ReadFile(path), path);
    for (const Json& c : file["cases"]) {
      const Json& messages = c["messages"];
      try {
        if (!messages.empty() && messages[0].is_array()) {
          for (size_t row = 0; row < messages.size(); ++row) {
            CheckPrompt(c, messages[row], row, folder, *tokenizer);
          }
        } else {
          CheckPrompt(c, messages, 0, folder, *tokenizer);
        }
      } catch (const Error& e) {
        ADD_FAILURE() << c["name"] << ": " << e.what();
      }
      std::printf("%s: checked\n", c["name"].get<std::string>().c_str());
      ++ran;
    }
  }
  EXPECT_GT(ran, 0) << "no golden processor case found";
}

}  // namespace
}  // namespace lapidary
