// Hostile bytes: tokenizer.json, texts of any bytes, JSON Lines records, templates. What is wrong
// must end in Error, never in a crash; what is accepted must keep its promises.
// LAPIDARY_FUZZ_ITERATIONS inputs a target (default 20000).
#include <gtest/gtest.h>

#include <cstdlib>
#include <nlohmann/json.hpp>

#include "autograd/base/error.h"
#include "autograd/base/random.h"
#include "data/json.h"
#include "data/readers.h"
#include "data/sample.h"
#include "data/unicode.h"
#include "tests/data/tiny_tokenizer.h"

namespace lapidary {
namespace {

using nlohmann::json;

int64_t Iterations() {
  const char* env = std::getenv("LAPIDARY_FUZZ_ITERATIONS");
  return env != nullptr ? std::atoll(env) : 20000;
}

// Random numbers of one input.
class Dice {
 public:
  Dice(uint64_t target, uint64_t input) : key_{target, input, 0} {}
  uint64_t operator()(uint64_t bound) { return RandomBelow(key_, index_++, bound); }

 private:
  RandomKey key_;
  uint64_t index_ = 0;
};

// One to four changes: bytes replaced, removed, doubled, or pieces of another seed put in.
std::string Mutate(std::string text, const std::vector<std::string>& seeds, Dice& dice) {
  static const char* const pieces[] = {"\"",
                                       "{",
                                       "}",
                                       "[",
                                       "]",
                                       ",",
                                       ":",
                                       "null",
                                       "-1",
                                       "1e999",
                                       "99999999999999999999",
                                       "\\u0000",
                                       "\\ud800",
                                       "\xff",
                                       "<|image|>",
                                       "<|channel>",
                                       "\"type\"",
                                       "true",
                                       "0.5",
                                       "\\"};
  for (uint64_t n = 1 + dice(4); n > 0; --n) {
    const size_t at = dice(text.size() + 1);
    const size_t count = std::min<size_t>(dice(9), text.size() - at);
    switch (dice(5)) {
      case 0:
        if (at < text.size()) text[at] = static_cast<char>(dice(256));
        break;
      case 1:
        text.erase(at, count);
        break;
      case 2:
        text.insert(at, text.substr(at, count));
        break;
      case 3:
        text.insert(at, pieces[dice(std::size(pieces))]);
        break;
      default: {
        const std::string& other = seeds[dice(seeds.size())];
        const size_t from = dice(other.size());
        text.replace(at, count, other.substr(from, dice(40)));
      }
    }
  }
  return text;
}

// The places of all values below `value`.
void Collect(nlohmann::ordered_json& value, std::vector<nlohmann::ordered_json*>& places) {
  places.push_back(&value);
  if (!value.is_structured()) return;
  for (auto& child : value) Collect(child, places);
}

// One to three values of a valid document replaced, removed or copied elsewhere: it stays JSON.
std::string MutateValues(const std::string& text, Dice& dice) {
  using Json = nlohmann::ordered_json;
  Json root = Json::parse(text);
  for (uint64_t n = 1 + dice(3); n > 0; --n) {
    std::vector<Json*> places;
    Collect(root, places);
    Json& place = *places[dice(places.size())];
    const Json other = *places[dice(places.size())];
    static const char* const strings[] = {"",   "text",      "image",  "assistant", "tool",  "ab",
                                          "\n", "<|image|>", "string", "OBJECT",    "array", " "};
    switch (dice(9)) {
      case 0:
        place = nullptr;
        break;
      case 1:
        place = dice(2) == 0;
        break;
      case 2:
        place = static_cast<int64_t>(dice(12)) - 1;
        break;
      case 3:
        place = strings[dice(std::size(strings))];
        break;
      case 4:
        place = dice(2) == 0 ? Json::array() : Json::object();
        break;
      case 5:
        place = 1e-7 * static_cast<double>(dice(1000));
        break;
      case 6:
        if (place.is_array() && !place.empty()) place.erase(dice(place.size()));
        break;
      case 7:
        if (place.is_array()) place.push_back(other);
        break;
      default:
        place = other;
    }
  }
  return root.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string Change(const std::string& text, const std::vector<std::string>& seeds, Dice& dice) {
  return dice(2) == 0 ? Mutate(text, seeds, dice) : MutateValues(text, dice);
}

std::string SmallTokenizerJson() {
  return R"({"added_tokens":[{"id":0,"content":"<bos>","special":true,"normalized":false},
{"id":1,"content":"x y","special":false,"normalized":true}],"normalizer":{"type":"Replace","pattern":{"String":" "},
"content":"\u2581"},"pre_tokenizer":{"type":"Split","pattern":{"String":" "},"behavior":"MergedWithPrevious","invert":false},
"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<bos>","type_id":0}},
{"Sequence":{"id":"A","type_id":0}}],"special_tokens":{"<bos>":{"id":"<bos>","ids":[0]}}},
"decoder":{"type":"Sequence","decoders":[{"type":"Replace","pattern":{"String":"\u2581"},"content":" "},
{"type":"ByteFallback"},{"type":"Fuse"}]},"model":{"type":"BPE","dropout":null,"unk_token":"<unk>","byte_fallback":true,
"fuse_unk":true,"vocab":{"<bos>":0,"x y":1,"<unk>":2,"a":3,"b":4,"ab":5,"\u2581":6,"\u2581ab":7,"<0x0A>":8,"\u4e2d":9},
"merges":[["a","b"],["\u2581","ab"]]}})";
}

TEST(TextFuzz, TokenizerJson) {
  const std::vector<std::string> seeds = {SmallTokenizerJson()};
  ASSERT_NO_THROW(Tokenizer(ParseTokenizerJson(seeds[0], "seed")));
  int64_t accepted = 0;
  for (int64_t i = 0; i < Iterations(); ++i) {
    Dice dice(1, i);
    const std::string bytes = Change(seeds[0], seeds, dice);
    try {
      const Tokenizer tokenizer(ParseTokenizerJson(bytes, "t"));
      ++accepted;
      const std::vector<int32_t> ids = tokenizer.Encode("ab ab<bos>x y\n\xff\xe4\xb8\xad");
      for (const int32_t id : ids) ASSERT_LT(id, tokenizer.size()) << bytes;
      tokenizer.Decode(ids);
    } catch (const Error&) {
    }
  }
  std::printf("%lld accepted\n", static_cast<long long>(accepted));
  EXPECT_TRUE(accepted > 0 || Iterations() < 1000);
}

TEST(TextFuzz, EncodeAnyBytes) {
  const auto tokenizer = MakeTinyTokenizer();
  static const char* const pieces[] = {"the",
                                       " ",
                                       "\n",
                                       "<bos>",
                                       "<|turn>",
                                       "<|",
                                       "\xe2\x96\x81",
                                       "\xe4\xb8\xad",
                                       "\xf0\x9f\x98\x80",
                                       "ll"};
  for (int64_t i = 0; i < Iterations(); ++i) {
    Dice dice(2, i);
    std::string text;
    for (uint64_t n = dice(40); n > 0; --n) {
      if (dice(3) == 0) {
        text += static_cast<char>(dice(256));
      } else {
        text += pieces[dice(std::size(pieces))];
      }
    }
    const Encoding encoding = tokenizer->EncodeWithOffsets(text);
    ASSERT_EQ(encoding.ids, tokenizer->Encode(text));
    ASSERT_TRUE(std::is_sorted(encoding.begins.begin(), encoding.begins.end()));
    const std::string decoded = tokenizer->Decode(encoding.ids);
    ASSERT_TRUE(IsUtf8(decoded));
    // Valid text without U+2581 comes back as it was.
    const bool valid = IsUtf8(text);
    if (valid && text.find("\xe2\x96\x81") == std::string::npos) {
      ASSERT_EQ(decoded, text);
    }
    StreamDecoder stream(*tokenizer);
    std::string streamed;
    for (const int32_t id : encoding.ids) streamed += stream.Push(id);
    streamed += stream.Finish();
    ASSERT_TRUE(IsUtf8(streamed));
    if (valid) {
      ASSERT_EQ(streamed, decoded);
    }
  }
}

const std::vector<std::string>& RecordSeeds() {
  static const std::vector<std::string> seeds = {
      R"({"messages":[{"role":"system","content":[{"type":"text","text":"s"}]},{"role":"user","content":[{"type":"text",)"
      R"("text":" a "},{"type":"image","image":"data:image/png;base64,AAAA"}]},{"role":"assistant","content":"b <|channel>t<channel|>",)"
      R"("reasoning":"r","weight":1}]})",
      R"({"tools":[{"type":"function","function":{"name":"f","description":"d","parameters":{"type":"object","properties":)"
      R"({"a":{"type":"array","items":{"type":["string","null"],"required":["x"],"properties":{"q":{"type":"boolean"}}}},)"
      R"("o":{"type":"object","nullable":true,"enum":["x"],"required":["p"],"properties":{"p":{"type":"string","enum":["u"]}}}},)"
      R"("required":["a"]},"response":{"type":"object","description":"r"}}}],"messages":[{"role":"user","content":"x"},)"
      R"({"role":"assistant","tool_calls":[{"id":"1","function":{"name":"f","arguments":{"a":[1,2.5,null,{"Z":1,"b":"2"}]}}}]},)"
      R"({"role":"tool","tool_call_id":"1","content":[{"type":"text","text":"t"}]},{"role":"assistant","content":"y",)"
      R"("tool_responses":[{"name":"f","response":{"k":"v"}}]}]})",
      R"({"prompt":"a <|image|>","completion":"b","images":["data:,xyz"]})",
      R"({"prompt":[{"role":"user","content":"p"}],"completion":[{"role":"assistant","content":"c"}]})",
      R"({"text":"the other <|audio|>","audio":{"bytes":"AAAA","path":null}})",
      R"({"prompt":"a","chosen":" b","rejected":" c"})",
      R"({"chosen":[{"role":"user","content":"p"},{"role":"assistant","content":"a"}],)"
      R"("rejected":[{"role":"user","content":"p"},{"role":"assistant","content":"<think>t</think>b"}]})",
      R"({"conversations":[{"from":"human","value":"<image>q"},{"from":"function_call","value":)"
      R"("{\"name\":\"f\",\"arguments\":{\"a\":[1]}}"},{"from":"observation","value":"o"},)"
      R"({"from":"gpt","value":"<|channel>thought\nx\n<channel|>a","weight":0.5}],)"
      R"("system":"s","images":["data:,xyz"]})",
      R"({"instruction":"i","input":"n","output":"o","system":"s","history":[["a","b"]]})",
      R"({"audio":["data:;base64,AAAA"],"sentence":"hi","prompt":"p"})",
      R"({"image":{"bytes":null,"path":"x.png"},"caption":"hi","train":false})",
  };
  return seeds;
}

TEST(TextFuzz, RecordsToSamples) {
  const auto tokenizer = MakeTinyTokenizer();
  SampleOptions options;
  options.require_targets = false;
  options.preference = PreferencePolicy::kChosen;
  std::vector<std::unique_ptr<SampleBuilder>> builders;
  for (const Thoughts thoughts :
       {Thoughts::kTemplate, Thoughts::kKeep, Thoughts::kDrop, Thoughts::kEmpty}) {
    options.chat.thoughts = thoughts;
    options.train_on = static_cast<TrainOn>(builders.size() % 3);
    builders.push_back(std::make_unique<SampleBuilder>(*tokenizer, options));
  }
  const RecordPlace place = {"fuzz:1", "/nonexistent"};
  int64_t built = 0;
  for (int64_t i = 0; i < Iterations(); ++i) {
    Dice dice(3, i);
    const std::string line = Change(RecordSeeds()[dice(RecordSeeds().size())], RecordSeeds(), dice);
    for (const RecordFormat& format : RecordFormats()) {
      try {
        nlohmann::ordered_json row = ParseJson(line, place.where);
        if (!row.is_object() || !format.fits(row)) continue;
        const SampleBuilder& builder = *builders[dice(builders.size())];
        const Record record = format.read(std::move(row), place);
        if (record.kind == RecordKind::kPreference) {
          std::string note;
          const auto sides = builder.BuildPair(record, &note);
          ASSERT_TRUE(sides && sides->chosen.size() > 0 && sides->rejected.size() > 0);
        }
        const BuiltSample result = builder.Build(record);
        ++built;
        const Sample& sample = *result.sample;
        ASSERT_EQ(sample.ids.size(), sample.weights.size());
        ASSERT_EQ(sample.ids.size(), sample.types.size());
      } catch (const Error& e) {
        ASSERT_TRUE(std::string(e.what()).starts_with("fuzz:1")) << e.what() << "\n" << line;
      }
    }
  }
  std::printf("%lld samples\n", static_cast<long long>(built));
  EXPECT_TRUE(built > 0 || Iterations() < 1000);
}

TEST(TextFuzz, Template) {
  for (int64_t i = 0; i < Iterations(); ++i) {
    Dice dice(4, i);
    try {
      const auto row = ParseJson(Change(RecordSeeds()[dice(2)], RecordSeeds(), dice), "t");
      if (!row.is_object() || !row.contains("messages")) continue;
      ChatOptions options;
      options.add_generation_prompt = dice(2) == 0;
      options.enable_thinking = dice(2) == 0;
      options.preserve_thinking = dice(2) == 0;
      const auto tools = row.value("tools", nlohmann::ordered_json());
      const RenderedChat chat = RenderChat(row["messages"], &tools, options);
      int64_t position = 0;
      for (const ChatSpan& span : chat.spans) {
        ASSERT_EQ(span.begin, position);
        ASSERT_LT(span.begin, span.end);
        position = span.end;
      }
      ASSERT_EQ(position, static_cast<int64_t>(chat.text.size()));
    } catch (const Error&) {
    }
  }
}

}  // namespace
}  // namespace lapidary
