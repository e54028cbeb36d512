// Tokenizer: what the golden files do not reach: streaming, offsets, hostile and unsupported files,
// speed of cuts.
#include "data/tokenizer.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <thread>

#include "autograd/base/error.h"
#include "autograd/base/random.h"
#include "data/unicode.h"
#include "tests/data/tiny_tokenizer.h"

namespace lapidary {
namespace {

using nlohmann::json;

// The tiny tokenizer as a tokenizer.json.
json TinyJson() {
  const TokenizerSpec spec = TinyTokenizerSpec();
  json vocab = json::object(), merges = json::array(), added = json::array();
  for (size_t id = 0; id < spec.tokens.size(); ++id) vocab[spec.tokens[id]] = id;
  for (const auto& [left, right] : spec.merges) merges.push_back({left, right});
  for (const AddedToken& token : spec.added) {
    added.push_back({{"id", token.id},
                     {"content", token.content},
                     {"special", true},
                     {"normalized", false},
                     {"lstrip", false}});
  }
  return {{"added_tokens", added},
          {"normalizer",
           {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "\xe2\x96\x81"}}},
          {"pre_tokenizer",
           {{"type", "Split"},
            {"pattern", {{"String", " "}}},
            {"behavior", "MergedWithPrevious"},
            {"invert", false}}},
          {"decoder",
           {{"type", "Sequence"},
            {"decoders",
             {{{"type", "Replace"}, {"pattern", {{"String", "\xe2\x96\x81"}}}, {"content", " "}},
              {{"type", "ByteFallback"}},
              {{"type", "Fuse"}}}}}},
          {"post_processor",
           {{"type", "TemplateProcessing"},
            {"single",
             {{{"SpecialToken", {{"id", "<bos>"}, {"type_id", 0}}}},
              {{"Sequence", {{"id", "A"}, {"type_id", 0}}}}}},
            {"special_tokens", {{"<bos>", {{"id", "<bos>"}, {"ids", {2}}}}}}}},
          {"model",
           {{"type", "BPE"},
            {"unk_token", "<unk>"},
            {"byte_fallback", true},
            {"fuse_unk", true},
            {"vocab", vocab},
            {"merges", merges}}}};
}

// The slow way to the same ids: one word, repeated search for the best pair.
std::vector<std::string> SlowBpe(const std::string& text, const TokenizerSpec& spec) {
  std::vector<std::string> symbols;
  for (size_t i = 0; i < text.size();) {
    const CodePoint c = DecodeUtf8(text.data() + i, text.size() - i);
    const std::string symbol = text.substr(i, c.length);
    i += c.length;
    if (std::find(spec.tokens.begin(), spec.tokens.end(), symbol) != spec.tokens.end()) {
      symbols.push_back(symbol);
      continue;
    }
    for (const char b : symbol) {
      char name[8];
      std::snprintf(name, sizeof name, "<0x%02X>", static_cast<uint8_t>(b));
      symbols.push_back(name);
    }
  }
  while (true) {
    size_t best = spec.merges.size(), at = 0;
    for (size_t i = 0; i + 1 < symbols.size(); ++i) {
      for (size_t rank = 0; rank < best; ++rank) {
        if (spec.merges[rank] == std::pair(symbols[i], symbols[i + 1])) {
          best = rank;
          at = i;
        }
      }
    }
    if (best == spec.merges.size()) return symbols;
    symbols[at] += symbols[at + 1];
    symbols.erase(symbols.begin() + static_cast<int64_t>(at) + 1);
  }
}

TEST(Tokenizer, AgreesWithTheSlowWay) {
  const TokenizerSpec spec = TinyTokenizerSpec();
  const auto tokenizer = MakeTinyTokenizer();
  const char* words[] = {"the", "th", "e",        "r",    "l",   "ll",
                         " ",   "\n", "\xc3\xa9", "\xff", "lll", "x"};
  for (uint64_t round = 0; round < 300; ++round) {
    std::string text;
    const uint64_t n = RandomBelow({1, round, 0}, 0, 30);
    for (uint64_t i = 0; i < n; ++i) text += words[RandomBelow({1, round, 1}, i, 12)];
    std::string marked;
    for (const char c : text) marked += c == ' ' ? "\xe2\x96\x81" : std::string(1, c);
    std::vector<std::string> got;
    for (const int32_t id : tokenizer->Encode(text)) got.push_back(tokenizer->Token(id));
    EXPECT_EQ(got, SlowBpe(marked, spec)) << round;
  }
}

// Random vocabularies over several scripts, texts with pieces of every length, many of them new at
// once: short ones are merged in turns, long ones by a heap, and all of them come again from the
// cache.
TEST(Tokenizer, AgreesWithTheSlowWayOnRandomVocabularies) {
  const std::vector<std::string> alphabet = {"a",           "b",        "c",        "\xe2\x96\x81",
                                             "\xc3\xa9",    "\xd0\xb4", "\xd0\xb6", "\xe4\xb8\xad",
                                             "\xe6\x96\x87"};
  for (uint64_t round = 0; round < 24; ++round) {
    uint64_t index = 0;
    const auto pick = [&](uint64_t n) { return RandomBelow({2, round, 0}, index++, n); };
    TokenizerSpec spec = TinyTokenizerSpec();
    spec.merges.clear();
    std::vector<std::string> parts = alphabet;
    for (const std::string& letter : alphabet) {
      if (std::find(spec.tokens.begin(), spec.tokens.end(), letter) == spec.tokens.end()) {
        spec.tokens.push_back(letter);
      }
    }
    const uint64_t merges = 5 + pick(60);
    for (uint64_t m = 0; m < merges; ++m) {
      const std::string left = parts[pick(parts.size())], right = parts[pick(parts.size())];
      if (std::find(spec.tokens.begin(), spec.tokens.end(), left + right) != spec.tokens.end()) {
        continue;
      }
      spec.merges.emplace_back(left, right);
      spec.tokens.push_back(left + right);
      if (left.size() + right.size() < 16) parts.push_back(left + right);
    }
    const TokenizerSpec kept = spec;
    const Tokenizer tokenizer(std::move(spec));
    std::string text;
    for (int i = 0; i < 300; ++i) {
      text += pick(40) == 0 ? std::string("\n") : parts[pick(parts.size())];
    }
    const std::vector<std::string> expected = SlowBpe(text, kept);
    for (int again = 0; again < 2; ++again) {
      std::vector<std::string> got;
      const Encoding encoding = tokenizer.EncodeWithOffsets(text);
      for (const int32_t id : encoding.ids) got.push_back(tokenizer.Token(id));
      ASSERT_EQ(got, expected) << round;
      for (size_t i = 0; i + 1 < got.size(); ++i) {
        ASSERT_EQ(encoding.begins[i + 1] - encoding.begins[i], static_cast<int64_t>(got[i].size()));
      }
    }
  }
}

TEST(Tokenizer, InvalidBytesBecomeByteTokensAndComeBack) {
  const auto tokenizer = MakeTinyTokenizer();
  const std::string text = "a\xff\xc3z\xe2\x96";
  std::vector<int32_t> ids = tokenizer->Encode(text);
  ASSERT_EQ(ids.size(), 6u);
  EXPECT_EQ(tokenizer->Token(ids[1]), "<0xFF>");
  EXPECT_EQ(tokenizer->Decode(ids), "a\xef\xbf\xbd\xef\xbf\xbdz\xef\xbf\xbd\xef\xbf\xbd");
}

TEST(Tokenizer, OffsetsPointIntoTheText) {
  const auto tokenizer = MakeTinyTokenizer();
  const std::string text = "the <bos> the\n\xc3\xa9x";
  const Encoding encoding = tokenizer->EncodeWithOffsets(text);
  std::vector<std::string> pieces;
  for (size_t i = 0; i < encoding.ids.size(); ++i) {
    const int64_t end =
        i + 1 < encoding.begins.size() ? encoding.begins[i + 1] : static_cast<int64_t>(text.size());
    pieces.push_back(text.substr(encoding.begins[i], end - encoding.begins[i]));
  }
  EXPECT_EQ(pieces,
            (std::vector<std::string>{"the", " ", "<bos>", " the", "\n", "\xc3", "\xa9", "x"}));
}

TEST(Tokenizer, AddedTokensCanBeText) {
  const auto tokenizer = MakeTinyTokenizer();
  EXPECT_EQ(tokenizer->Encode("<bos>").size(), 1u);
  EXPECT_EQ(tokenizer->Encode("<bos>", {.parse_added = false}).size(), 5u);
}

TEST(Tokenizer, NormalizedAddedTokens) {
  TokenizerSpec spec = TinyTokenizerSpec();
  spec.added.push_back({static_cast<int32_t>(spec.tokens.size()), "two words", false, true});
  const Tokenizer tokenizer(spec);
  const std::vector<int32_t> ids = tokenizer.Encode("a two words<bos>");
  EXPECT_EQ(tokenizer.Token(ids[2]), "two words");
  EXPECT_EQ(tokenizer.Decode(ids, true), "a two words");
}

TEST(StreamDecoder, HoldsBackPartialCharacters) {
  const auto tokenizer = MakeTinyTokenizer();
  StreamDecoder stream(*tokenizer);
  const std::vector<int32_t> ids = tokenizer->Encode(
      "a\xe4\xb8\xad\xff"
      "b");
  std::vector<std::string> got;
  for (const int32_t id : ids) got.push_back(stream.Push(id));
  EXPECT_EQ(got, (std::vector<std::string>{"a", "", "", "\xe4\xb8\xad", "\xef\xbf\xbd", "b"}));
  EXPECT_EQ(stream.Push(*tokenizer->Find("<0xE4>")), "");
  EXPECT_EQ(stream.Finish(), "\xef\xbf\xbd");
  EXPECT_EQ(stream.Finish(), "");
}

TEST(StreamDecoder, EqualsDecodeForText) {
  const auto tokenizer = MakeTinyTokenizer();
  const std::string text = "the \xf0\x9f\x98\x80 na\xc3\xafve\n<bos>\xe4\xb8\xad\xe6\x96\x87";
  for (const bool skip : {false, true}) {
    StreamDecoder stream(*tokenizer, skip);
    std::string got;
    const std::vector<int32_t> ids = tokenizer->Encode(text);
    for (const int32_t id : ids) got += stream.Push(id);
    EXPECT_EQ(got + stream.Finish(), tokenizer->Decode(ids, skip));
  }
}

TEST(Tokenizer, ConcurrentCallsAgree) {
  const auto tokenizer = MakeTinyTokenizer();
  const std::string text = "the other teller \xc3\xa9\n\n<|turn>";
  const std::vector<int32_t> expected = tokenizer->Encode(text);
  std::vector<std::thread> threads;
  std::vector<int> equal(4, 0);
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 200; ++i) equal[t] += tokenizer->Encode(text) == expected;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(equal, std::vector<int>(4, 200));
}

TEST(TokenizerJson, RoundTrip) {
  const Tokenizer tokenizer(ParseTokenizerJson(TinyJson().dump(), "t.json"));
  EXPECT_EQ(tokenizer.Encode("the", {.add_special_tokens = true}),
            (std::vector<int32_t>{2, *tokenizer.Find("the")}));
  json old = TinyJson();  // merges as "left right"
  for (json& merge : old["model"]["merges"]) {
    merge = merge[0].get<std::string>() + " " + merge[1].get<std::string>();
  }
  const Tokenizer same(ParseTokenizerJson(old.dump(), "t.json"));
  EXPECT_EQ(same.Encode("the other"), tokenizer.Encode("the other"));
}

// Everything that is not Gemma's pipeline must be named, not ignored.
TEST(TokenizerJson, UnsupportedStagesAreErrors) {
  const std::pair<const char*, json> changes[] = {
      {"/model/type", "Unigram"},
      {"/model/dropout", 0.1},
      {"/model/ignore_merges", true},
      {"/model/end_of_word_suffix", "</w>"},
      {"/model/vocab", json::object()},
      {"/model/vocab", 3},
      {"/model/vocab/the", -1},
      {"/model/vocab/the", 4000000000u},
      {"/model/vocab/the", 2},
      {"/model/vocab/the", "x"},
      {"/model/merges/0", {"t"}},
      {"/model/merges/0", {"t", "h", "e"}},
      {"/model/merges/0", {"q", "zz"}},
      {"/model/merges/0", "nospace"},
      {"/model/unk_token", "nothing"},
      {"/normalizer/type", "NFKC"},
      {"/normalizer/pattern", {{"Regex", " "}}},
      {"/pre_tokenizer/type", "Metaspace"},
      {"/pre_tokenizer/pattern", {{"String", "-"}}},
      {"/decoder/decoders/1", {{"type", "Strip"}}},
      {"/decoder", nullptr},
      {"/post_processor/type", "RobertaProcessing"},
      {"/post_processor/special_tokens", json::object()},
      {"/added_tokens/0/lstrip", true},
      {"/added_tokens/0/id", 7},
      {"/added_tokens/0/content", 7},
  };
  for (const auto& [path, value] : changes) {
    json changed = TinyJson();
    changed[json::json_pointer(path)] = value;
    try {
      const Tokenizer tokenizer(ParseTokenizerJson(changed.dump(), "t.json"));
      ADD_FAILURE() << path << " = " << value << " must be refused";
    } catch (const Error& e) {
      EXPECT_FALSE(std::string(e.what()).empty());
    }
  }
  for (const char* text : {"", "{", "[]", "null", "{\"model\": {\"vocab\": {\"a\": 0}"}) {
    EXPECT_THROW(ParseTokenizerJson(text, "t.json"), Error) << text;
  }
}

TEST(TokenizerJson, MessagesNamePlaceAndRule) {
  json changed = TinyJson();
  changed["model"]["type"] = "Unigram";
  try {
    ParseTokenizerJson(changed.dump(), "m/tokenizer.json");
    FAIL();
  } catch (const Error& e) {
    EXPECT_STREQ(e.what(), "m/tokenizer.json: model: type must be BPE; got Unigram");
  }
}

TEST(Tokenizer, IdsAreChecked) {
  const auto tokenizer = MakeTinyTokenizer();
  EXPECT_THROW(tokenizer->Decode(std::vector<int32_t>{tokenizer->size()}), Error);
  EXPECT_THROW(tokenizer->Decode(std::vector<int32_t>{-1}), Error);
  EXPECT_THROW(tokenizer->Require("<nothing>"), Error);
  EXPECT_EQ(tokenizer->Find("<nothing>"), std::nullopt);
}

}  // namespace
}  // namespace lapidary
