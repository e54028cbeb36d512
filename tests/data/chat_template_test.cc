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

// What follows "<|turn>model\n" of the one answer, under a policy.
std::string AnswerUnder(Thoughts thoughts, const std::string& message, int64_t* dropped = nullptr) {
  ChatOptions options;
  options.thoughts = thoughts;
  options.empty_thought = EmptyThought::kInsert;
  const Json messages = ParseJson(R"([{"role":"user","content":"q"},)" + message + "]", "m");
  const RenderedChat chat = RenderChat(messages, nullptr, options);
  if (dropped != nullptr) *dropped = chat.dropped_thoughts;
  for (const ChatSpan& span : chat.spans) {
    const std::string text = chat.text.substr(span.begin, span.end - span.begin);
    EXPECT_EQ(text.find("<|channel>") != std::string::npos,
              span.kind == ChatClass::kThought || span.kind == ChatClass::kGenerationPrompt)
        << text;
    EXPECT_TRUE(span.kind != ChatClass::kThought || span.trained);
  }
  const std::string head = "<bos><|turn>user\nq<turn|>\n<|turn>model\n", end = "<turn|>\n";
  EXPECT_TRUE(chat.text.starts_with(head) && chat.text.ends_with(end)) << chat.text;
  return chat.text.substr(head.size(), chat.text.size() - head.size() - end.size());
}

TEST(ChatTemplate, ThoughtsInsideContentFollowThePolicy) {
  const std::string empty = "<|channel>thought\n<channel|>";
  const std::string one =
      R"({"role":"assistant","content":"\n<|channel>thought\nx\n<channel|>\n d "})";
  EXPECT_EQ(AnswerUnder(Thoughts::kTemplate, one), empty + "d");
  EXPECT_EQ(AnswerUnder(Thoughts::kKeep, one), "<|channel>thought\nx\n<channel|>d");
  EXPECT_EQ(AnswerUnder(Thoughts::kDrop, one), empty + "d");
  int64_t dropped = 0;
  EXPECT_EQ(AnswerUnder(Thoughts::kEmpty, one, &dropped), empty + "d");
  EXPECT_EQ(dropped, 1);
  // Another habit of data sets; the template takes it for text.
  const std::string think = R"({"role":"assistant","content":"<think>\nx\n</think>\n\nd"})";
  EXPECT_EQ(AnswerUnder(Thoughts::kTemplate, think), empty + "<think>\nx\n</think>\n\nd");
  EXPECT_EQ(AnswerUnder(Thoughts::kKeep, think), "<|channel>thought\nx\n<channel|>d");
  EXPECT_EQ(AnswerUnder(Thoughts::kDrop, think), empty + "d");
  // Later ones stand where they stood; one that does not end is left out.
  const std::string later = R"({"role":"assistant","content":[{"type":"text","text":)"
                            R"("a <|channel>thought\nx\n<channel|> b"},{"type":"text","text":)"
                            R"("c<|channel>thought\ny"}]})";
  EXPECT_EQ(AnswerUnder(Thoughts::kKeep, later, &dropped),
            empty + "a<|channel>thought\nx\n<channel|>bc");
  EXPECT_EQ(dropped, 1);
  EXPECT_EQ(AnswerUnder(Thoughts::kDrop, later, &dropped), empty + "abc");
  EXPECT_EQ(dropped, 2);
  // In front of a call, as the model writes it, though the template puts content behind.
  const std::string call =
      R"({"role":"assistant","content":"<|channel>thought\nx\n<channel|>d","tool_calls":)"
      R"([{"id":"1","function":{"name":"f","arguments":{}}}]},)"
      R"({"role":"tool","tool_call_id":"1","content":"t"})";
  EXPECT_TRUE(AnswerUnder(Thoughts::kKeep, call)
                  .starts_with("<|channel>thought\nx\n<channel|><|tool_call>call:f{}"));
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
