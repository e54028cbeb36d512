// Every case of golden/template: text, errors, spans, and the ids and loss masks of both
// tokenizers.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "data/chat_template.h"
#include "data/json.h"
#include "tests/data/text_golden.h"

namespace lapidary {
namespace {

using Json = nlohmann::ordered_json;

ChatOptions OptionsOf(const Json& c) {
  const Json flags = c.value("flags", Json::object());
  ChatOptions options;
  options.add_generation_prompt = flags.value("add_generation_prompt", false);
  options.enable_thinking = flags.value("enable_thinking", false);
  options.preserve_thinking = flags.value("preserve_thinking", false);
  return options;
}

void CheckSpans(const RenderedChat& chat, const Json& expected, const std::string& name) {
  Json got = Json::array();
  int64_t position = 0;
  for (const ChatSpan& span : chat.spans) {
    EXPECT_EQ(span.begin, position) << name;
    position = span.end;
    // The golden spans do not tell messages apart.
    Json row = {span.begin, span.end, ChatClassName(span.kind), span.trained ? 1 : 0};
    if (!got.empty() && got.back()[2] == row[2] && got.back()[3] == row[3]) {
      got.back()[1] = span.end;
    } else {
      got.push_back(row);
    }
  }
  EXPECT_EQ(position, static_cast<int64_t>(chat.text.size())) << name;
  EXPECT_EQ(got, expected) << name;
}

// A token is trained if the byte where it begins is; no token of a golden case crosses a border.
void CheckTokens(const RenderedChat& chat, const Tokenizer& tokenizer, const Json& expected,
                 const std::string& name) {
  const Encoding encoding = tokenizer.EncodeWithOffsets(chat.text);
  EXPECT_EQ(encoding.ids, expected["ids"].get<std::vector<int32_t>>()) << name;
  std::string mask;
  size_t span = 0;
  for (const int64_t begin : encoding.begins) {
    while (chat.spans[span].end <= begin) ++span;
    mask += chat.spans[span].trained ? '1' : '0';
  }
  EXPECT_EQ(mask, expected["mask"].get<std::string>()) << name;
}

TEST(ChatTemplateGolden, AllCases) {
  int rendered = 0, errors = 0, tokenized = 0;
  const char* names[] = {"small", "gemma4"};
  for (const std::string& folder : golden::Find("template")) {
    const std::string root = std::filesystem::path(folder).parent_path().string();
    const std::unique_ptr<Tokenizer> tokenizers[] = {golden::FindTokenizer(names[0], root),
                                                     golden::FindTokenizer(names[1], root)};
    for (const std::string& path : golden::FilesEndingIn(folder, "cases.json")) {
      const Json file = ParseJson(ReadFile(path), path);
      EXPECT_EQ(file["template_sha256"], kCanonicalTemplateSha256);
      for (const Json& c : file["cases"]) {
        const std::string name = c["name"];
        const Json* tools = c.contains("tools") ? &c["tools"] : nullptr;
        if (c.contains("error")) {
          EXPECT_THROW(RenderChat(c["messages"], tools, OptionsOf(c)), Error) << name;
          ++errors;
          continue;
        }
        try {
          const RenderedChat chat = RenderChat(c["messages"], tools, OptionsOf(c));
          EXPECT_EQ(chat.text, c["rendered"].get<std::string>()) << name;
          CheckSpans(chat, c["spans"], name);
          ++rendered;
          for (int t = 0; t < 2; ++t) {
            if (!c.contains(names[t]) || tokenizers[t] == nullptr) continue;
            CheckTokens(chat, *tokenizers[t], c[names[t]], name);
            ++tokenized;
          }
        } catch (const Error& e) {
          ADD_FAILURE() << name << ": " << e.what();
        }
      }
    }
    for (const std::string& path : golden::FilesEndingIn(folder, ".jinja")) {
      EXPECT_EQ(CheckTemplateRevision(ReadFile(path)), std::nullopt) << path;
    }
  }
  std::printf("%d rendered, %d errors, %d tokenized\n", rendered, errors, tokenized);
  EXPECT_GT(rendered + errors, 0) << "no golden template case found";
}

}  // namespace
}  // namespace lapidary
