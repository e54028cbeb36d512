// Every case of golden/tokenizer: ids, decoded text, and streaming.
#include <gtest/gtest.h>

#include <chrono>
#include <nlohmann/json.hpp>

#include "autograd/base/sha256.h"
#include "tests/data/text_golden.h"

namespace lapidary {
namespace {

using nlohmann::json;

double SecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

std::string TextOf(const json& c) {
  if (c.contains("text")) return c["text"];
  std::string text;
  for (int i = 0; i < c["rule"]["repeat"].get<int>(); ++i) {
    text += c["rule"]["unit"].get<std::string>();
  }
  return text + c["rule"]["tail"].get<std::string>();
}

int CheckEncode(const Tokenizer& tokenizer, const json& c) {
  const std::string text = TextOf(c);
  const std::vector<int32_t> ids = tokenizer.Encode(text, {.add_special_tokens = true});
  const std::string name = c["name"];
  if (c.contains("ids")) {
    EXPECT_EQ(ids, c["ids"].get<std::vector<int32_t>>()) << name;
  } else {
    EXPECT_EQ(ids.size(), c["n_ids"].get<size_t>()) << name;
    EXPECT_EQ(Sha256Hex({reinterpret_cast<const char*>(ids.data()), ids.size() * 4}),
              c["ids_sha256"])
        << name;
    const auto head = c["ids_head"].get<std::vector<int32_t>>();
    const auto tail = c["ids_tail"].get<std::vector<int32_t>>();
    EXPECT_TRUE(ids.size() >= head.size() && std::equal(head.begin(), head.end(), ids.begin()));
    EXPECT_TRUE(ids.size() >= tail.size() &&
                std::equal(tail.begin(), tail.end(), ids.end() - tail.size()));
  }
  const Encoding encoding = tokenizer.EncodeWithOffsets(text, {.add_special_tokens = true});
  EXPECT_EQ(encoding.ids, ids) << name;
  EXPECT_EQ(encoding.begins.size(), ids.size()) << name;
  EXPECT_TRUE(std::is_sorted(encoding.begins.begin(), encoding.begins.end())) << name;
  for (const char* key : {"decoded", "decoded_skip_special"}) {
    if (!c.contains(key)) continue;
    const bool skip = std::string(key) == "decoded_skip_special";
    EXPECT_EQ(tokenizer.Decode(ids, skip), c[key].get<std::string>()) << name << " " << key;
  }
  if (c.contains("decoded_sha256")) {
    EXPECT_EQ(Sha256Hex(tokenizer.Decode(ids)), c["decoded_sha256"]) << name;
  }
  return 1;
}

int CheckDecode(const Tokenizer& tokenizer, const json& c) {
  const auto ids = c["ids"].get<std::vector<int32_t>>();
  EXPECT_EQ(tokenizer.Decode(ids), c["decoded"].get<std::string>()) << c["name"];
  EXPECT_EQ(tokenizer.Decode(ids, true), c["decoded_skip_special"].get<std::string>()) << c["name"];
  return 1;
}

TEST(TokenizerGolden, AllCases) {
  int ran = 0;
  for (const std::string& folder : golden::Find("tokenizer")) {
    std::vector<std::string> files = golden::FilesEndingIn(folder, "tokenizer.json");
    for (const std::string& path : golden::FilesEndingIn(folder, "tokenizer.json.xz")) {
      files.push_back(path);
    }
    std::vector<std::pair<std::string, std::unique_ptr<Tokenizer>>> tokenizers;
    for (const std::string& path : files) {
      const std::string bytes = golden::ReadPacked(path);
      const auto start = std::chrono::steady_clock::now();
      auto tokenizer = std::make_unique<Tokenizer>(ParseTokenizerJson(bytes, path));
      const double seconds = SecondsSince(start);
      std::printf("%s: %d tokens, ready in %.3f s\n", path.c_str(), tokenizer->size(), seconds);
      EXPECT_LT(seconds, 10) << "far beyond 1.5 s, on any machine";
      tokenizers.emplace_back(Sha256Hex(ReadFile(path)), std::move(tokenizer));
    }
    for (const std::string& path : golden::FilesEndingIn(folder, "cases.json")) {
      const json cases = json::parse(ReadFile(path));
      const Tokenizer* tokenizer = nullptr;
      for (const auto& [hash, candidate] : tokenizers) {
        if (hash == cases["tokenizer_file_sha256"]) tokenizer = candidate.get();
      }
      ASSERT_NE(tokenizer, nullptr) << path << ": its tokenizer must be beside it";
      int encoded = 0, decoded = 0;
      for (const json& c : cases["encode"]) encoded += CheckEncode(*tokenizer, c);
      for (const json& c : cases["decode"]) decoded += CheckDecode(*tokenizer, c);
      std::printf("%s: %d encoded, %d decoded\n", path.c_str(), encoded, decoded);
      ran += encoded + decoded;
    }
  }
  EXPECT_GT(ran, 0) << "no golden tokenizer case found";
}

}  // namespace
}  // namespace lapidary
