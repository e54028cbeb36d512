// Chat template: what the golden cases do not reach.
#include "data/chat_template.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "autograd/base/error.h"
#include "data/json.h"

namespace lapidary {
namespace {

using Json = nlohmann::ordered_json;

std::string Render(const std::string& messages, const ChatOptions& options = {},
                   const std::string& tools = "null") {
  const Json parsed_tools = ParseJson(tools, "tools");
  return RenderChat(ParseJson(messages, "messages"), &parsed_tools, options).text;
}

TEST(ChatTemplate, EmptyThoughtIsInsertedUntrained) {
  ChatOptions options;
  options.empty_thought = EmptyThought::kInsert;
  const Json messages = ParseJson(
      R"([{"role":"user","content":"a"},{"role":"assistant","content":"b"},{"role":"assistant","content":"c"}])",
      "m");
  const RenderedChat chat = RenderChat(messages, nullptr, options);
  EXPECT_EQ(chat.text,
            "<bos><|turn>user\na<turn|>\n<|turn>model\n<|channel>thought\n<channel|>bc<turn|>\n")
      << "a continued turn has one";
  for (const ChatSpan& span : chat.spans) {
    EXPECT_FALSE(span.trained && span.kind == ChatClass::kGenerationPrompt);
  }
  // What stands before the answer is what a generation prompt would have been.
  options.add_generation_prompt = true;
  const std::string prompt = Render(R"([{"role":"user","content":"a"}])", options);
  EXPECT_TRUE(chat.text.starts_with(prompt));
}

TEST(ChatTemplate, SpansNameTheirMessages) {
  const Json messages = ParseJson(
      R"([{"role":"system","content":"s"},{"role":"user","content":"a"},{"role":"assistant","content":"b"}])",
      "m");
  const RenderedChat chat = RenderChat(messages, nullptr, {});
  EXPECT_EQ(chat.spans.front().message, -1);
  EXPECT_EQ(chat.spans.back().message, 2);
  for (const ChatSpan& span : chat.spans) {
    EXPECT_TRUE(!span.trained || span.message == 2);
  }
}

TEST(ChatTemplate, MediaAreReportedInOrderOfTheText) {
  const Json messages = ParseJson(
      R"([{"role":"user","content":"q"},{"role":"assistant","content":[{"type":"image"}],"tool_calls":[{"id":"1",)"
      R"("function":{"name":"f","arguments":{}}}]},{"role":"tool","tool_call_id":"1","content":[{"type":"text","text":"t"},)"
      R"({"type":"audio"}]}])",
      "m");
  const RenderedChat chat = RenderChat(messages, nullptr, {});
  ASSERT_EQ(chat.media.size(), 2u);
  EXPECT_EQ(chat.media[0].message, 2) << "responses stand before the content of the call's message";
  EXPECT_EQ(chat.media[0].part, 1);
  EXPECT_EQ(chat.text.substr(chat.media[0].offset, 9), "<|audio|>");
  EXPECT_EQ(chat.text.substr(chat.media[1].offset, 9), "<|image|>");
}

TEST(ChatTemplate, DroppedThoughtsAreCounted) {
  const Json messages = ParseJson(
      R"([{"role":"user","content":"a"},{"role":"assistant","reasoning":"r","content":"b"},{"role":"user","content":"c"},)"
      R"({"role":"assistant","content":"<|channel>thought\nx\n<channel|>d"}])",
      "m");
  EXPECT_EQ(RenderChat(messages, nullptr, {}).dropped_thoughts, 2);
}

TEST(ChatTemplate, OddValuesRenderAsInJinja) {
  EXPECT_EQ(
      Render(R"([{"role":"system","content":{"a":1,"text":"b"}},{"role":"user","content":"x"}])"),
      "<bos><|turn>system\n  <turn|>\n<|turn>user\nx<turn|>\n");
  EXPECT_EQ(Render(R"([{"role":"user","content":7},{"role":"user"}])"),
            "<bos><|turn>user\n<turn|>\n<|turn>user\n<turn|>\n");
  const std::string tools =
      R"([{"function":{"name":"f","parameters":{"type":["object","null"],"properties":{)"
      R"("ß":{"type":"array","items":{"type":0}},"SS":{"type":null},"q":true}}}}])";
  EXPECT_EQ(
      Render(R"([{"role":"user","content":"x"}])", {}, tools),
      "<bos><|turn>system\n<|tool>declaration:f{description:<|\"|><|\"|>,parameters:{properties:{"
      "q:{type:<|\"|><|\"|>},SS:{type:<|\"|>NONE<|\"|>},ß:{items:{type:[]},type:<|\"|>ARRAY<|\"|>}}"
      ","
      "type:<|\"|>['OBJECT', 'NULL']<|\"|>}}<tool|><turn|>\n<|turn>user\nx<turn|>\n");
}

TEST(ChatTemplate, ErrorsNameTheMessage) {
  try {
    Render(R"([{"role":"user","content":"x"},{"content":"y"}])");
    FAIL();
  } catch (const Error& e) {
    EXPECT_STREQ(e.what(), "messages[1]: role must be a string; got none");
  }
  for (
      const char* bad :
      {"[]", "{}", "null", "[3]", R"([{"role":"user","content":[1]}])",
       R"([{"role":"user"},{"role":"assistant","tool_calls":[{"function":{"name":"f","arguments":"{}"}}]}])",
       R"([{"role":"user"},{"role":"assistant","reasoning":7}])",
       R"([{"role":"user"},{"role":"assistant","tool_responses":"x"}])"}) {
    EXPECT_THROW(Render(bad), Error) << bad;
  }
  EXPECT_THROW(Render(R"([{"role":"user"}])", {}, R"([{"name":"f"}])"), Error);
  EXPECT_THROW(Render(R"([{"role":"user"}])", {}, R"([{"function":"f"}])"), Error);
}

TEST(ChatTemplate, OtherRevisionsAreNamed) {
  const std::string unknown = CheckTemplateRevision("{{ messages }}").value();
  EXPECT_NE(unknown.find("an unknown revision (14 bytes, SHA-256 "), std::string::npos) << unknown;
  const std::string first = CheckTemplateRevision(std::string(17466, ' ')).value();
  EXPECT_NE(first.find("2026-06-03"), std::string::npos) << first;
}

}  // namespace
}  // namespace lapidary
