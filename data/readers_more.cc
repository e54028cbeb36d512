#include "data/readers_more.h"

#include <algorithm>
#include <deque>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "autograd/base/error.h"
#include "data/chat_tools.h"
#include "data/json.h"
#include "data/message_reader.h"

namespace lapidary {
namespace {

using Json = nlohmann::ordered_json;

// Google's advice for speech recognition, without the language, which the row does not name.
constexpr const char* kTranscribe =
    "Transcribe the following speech segment in its original language into text. Only output the "
    "transcription, with no newlines.";
constexpr const char* kDescribe = "Describe this image.";

// Messages that both lists begin with; one at least is left on each side.
size_t CommonMessages(const Json& a, const Json& b) {
  size_t common = 0;
  while (common + 1 < a.size() && common + 1 < b.size() && a[common] == b[common]) ++common;
  return common;
}

Json Slice(const Json& list, size_t from, size_t to) {
  Json out = Json::array();
  for (size_t i = from; i < to; ++i) out.push_back(list[i]);
  return out;
}

// TRL's rule for strings: up to the first difference, less a space before it.
std::string CommonText(const std::string& a, const std::string& b) {
  const auto at = std::mismatch(a.begin(), a.begin() + std::min(a.size(), b.size()), b.begin());
  size_t common = static_cast<size_t>(at.first - a.begin());
  // Never inside a character.
  while (common > 0 && common < a.size() && (static_cast<uint8_t>(a[common]) & 0xc0) == 0x80) {
    --common;
  }
  if (common > 0 && a[common - 1] == ' ') --common;
  return a.substr(0, common);
}

std::string Role(const std::string& from, const std::string& where) {
  static const std::map<std::string, std::string> roles = {{"human", "user"},
                                                           {"user", "user"},
                                                           {"gpt", "assistant"},
                                                           {"assistant", "assistant"},
                                                           {"chatgpt", "assistant"},
                                                           {"model", "assistant"},
                                                           {"bing", "assistant"},
                                                           {"bard", "assistant"},
                                                           {"system", "system"},
                                                           {"function_call", "function_call"},
                                                           {"observation", "tool"},
                                                           {"tool", "tool"},
                                                           {"function_response", "tool"}};
  const auto found = roles.find(from);
  LAPIDARY_CHECK(found != roles.end(), where,
                 ": from must be one of human, gpt, system, function_call, observation, tool; "
                 "got '",
                 from, "'");
  return found->second;
}

// LLaMA-Factory's function_call: {"name", "arguments"} or a list of them, as JSON text.
Json ToolCalls(const std::string& text, const std::string& where, int64_t& count,
               std::deque<std::string>& open) {
  Json parsed = ParseJson(text, where + ": function_call");
  if (parsed.is_object()) parsed = Json::array({std::move(parsed)});
  Json calls = Json::array();
  for (Json& call : parsed) {
    LAPIDARY_CHECK(call.is_object() && HasString(call, "name"), where,
                   ": function_call must be objects with name and arguments; got ",
                   DumpJson(call).substr(0, 60));
    open.push_back(StrCat("call_", count++));
    Json arguments = call.contains("arguments") ? std::move(call["arguments"]) : Json::object();
    calls.push_back({{"id", open.back()},
                     {"type", "function"},
                     {"function", {{"name", call["name"]}, {"arguments", std::move(arguments)}}}});
  }
  return calls;
}

const char* const kTextColumns[] = {"text", "transcription", "transcript", "sentence", "caption"};

const std::string* PairText(const Json& row) {
  for (const char* key : kTextColumns) {
    if (HasString(row, key)) return FindMember(row, key)->get_ptr<const std::string*>();
  }
  return nullptr;
}

bool FitsPair(const Json& row, const char* one, const char* many, const char* mark) {
  const Json* medium = FindMember(row, one);
  if (medium == nullptr) medium = FindMember(row, many);
  const std::string* text = PairText(row);
  return medium != nullptr && !medium->is_null() && text != nullptr &&
         text->find(mark) == std::string::npos;
}

Record ReadPair(const Json& row, const RecordPlace& place, const char* ask) {
  const std::string* text = PairText(row);
  LAPIDARY_CHECK(text != nullptr, place.where,
                 ": text must be a string in one of the columns text, transcription, sentence or "
                 "caption; got ",
                 DumpJson(row).substr(0, 80));
  Record record = NewRecord(RecordKind::kMessages, row, place);
  MediaColumns columns(row, place);
  MessageReader reader(record, columns, place);
  const std::string prompt = HasString(row, "prompt") ? row["prompt"].get<std::string>()
                             : place.prompt.empty()   ? ask
                                                      : place.prompt;
  reader.Read(Json::array(
      {{{"role", "user"}, {"content", prompt}}, {{"role", "assistant"}, {"content", *text}}}));
  reader.PlaceRest();
  return record;
}

}  // namespace

bool FitsPreference(const Json& row) {
  return (HasString(row, "chosen") && HasString(row, "rejected")) ||
         (HasList(row, "chosen") && HasList(row, "rejected"));
}

Record ReadPreference(Json row, const RecordPlace& place) {
  LAPIDARY_CHECK(FitsPreference(row), place.where,
                 ": chosen and rejected must be two strings or two lists of messages; got ",
                 DumpJson(row).substr(0, 80));
  Record record = NewRecord(RecordKind::kPreference, row, place);
  MediaColumns columns(row, place);
  if (row["chosen"].is_string()) {
    const std::string chosen = row["chosen"], rejected = row["rejected"];
    if (HasString(row, "prompt")) {
      record.prompt = row["prompt"];
      record.completion = chosen;
      record.rejected_completion = rejected;
    } else {
      record.prompt = CommonText(chosen, rejected);
      record.completion = chosen.substr(record.prompt.size());
      record.rejected_completion = rejected.substr(record.prompt.size());
    }
    columns.TakeAll(record);
    return record;
  }
  Json chosen = std::move(row["chosen"]), rejected = std::move(row["rejected"]), prompt;
  if (HasList(row, "prompt")) {
    prompt = std::move(row["prompt"]);
  } else {
    const size_t common = CommonMessages(chosen, rejected);
    prompt = Slice(chosen, 0, common);
    chosen = Slice(chosen, common, chosen.size());
    rejected = Slice(rejected, common, rejected.size());
    // A prompt column beside whole answers.
    if (common == 0 && HasString(row, "prompt")) {
      prompt.push_back({{"role", "user"}, {"content", row["prompt"]}});
    }
  }
  LAPIDARY_CHECK(!chosen.empty() && !rejected.empty(), place.where,
                 ": chosen and rejected must have a message each that is not in the prompt; got ",
                 chosen.size(), " and ", rejected.size());
  MessageReader reader(record, columns, place);
  reader.Read(std::move(prompt));
  record.prompt_messages = static_cast<int64_t>(record.messages.size());
  reader.Read(std::move(chosen));
  reader.ReadRejected(std::move(rejected));
  reader.PlaceRest();
  return record;
}

bool FitsShareGpt(const Json& row) { return HasList(row, "conversations"); }

Record ReadShareGpt(Json row, const RecordPlace& place) {
  LAPIDARY_CHECK(FitsShareGpt(row) && !row["conversations"].empty(), place.where,
                 ": conversations must be a list of turns {from, value}; got ",
                 DumpJson(row).substr(0, 80));
  Record record = NewRecord(RecordKind::kMessages, row, place);
  MediaColumns columns(row, place);
  MessageReader reader(record, columns, place);
  Json messages = Json::array();
  if (HasString(row, "system") && !row["system"].get_ref<const std::string&>().empty()) {
    messages.push_back({{"role", "system"}, {"content", row["system"]}});
  }
  std::deque<std::string> open;  // ids of calls without an observation
  int64_t calls = 0, index = 0;
  for (Json& turn : row["conversations"]) {
    const std::string where = StrCat(place.where, ": conversations[", index++, "]");
    const bool sharegpt = turn.is_object() && HasString(turn, "from") && HasString(turn, "value");
    const bool openai = turn.is_object() && HasString(turn, "role") && turn.contains("content");
    LAPIDARY_CHECK(sharegpt || openai, where, " must have strings from and value; got ",
                   DumpJson(turn).substr(0, 60));
    Json message = Json::object();
    const std::string role = Role(turn[sharegpt ? "from" : "role"], where);
    Json value = std::move(turn[sharegpt ? "value" : "content"]);
    if (role == "function_call") {
      LAPIDARY_CHECK(value.is_string(), where, ": a function_call must be JSON text; got ",
                     DumpJson(value).substr(0, 60));
      message = {{"role", "assistant"},
                 {"tool_calls", ToolCalls(value.get<std::string>(), where, calls, open)}};
    } else {
      if (value.is_string()) value = reader.TaggedContent(value.get<std::string>());
      message = {{"role", role}, {"content", std::move(value)}};
    }
    if (role == "tool" && !open.empty()) {
      message["tool_call_id"] = open.front();
      open.pop_front();
    }
    for (const char* key : {"weight", "train", "reasoning", "reasoning_content"}) {
      if (turn.contains(key)) message[key] = std::move(turn[key]);
    }
    messages.push_back(std::move(message));
  }
  reader.Read(std::move(messages));
  reader.PlaceRest();
  return record;
}

bool FitsAlpaca(const Json& row) {
  return HasString(row, "instruction") && HasString(row, "output");
}

Record ReadAlpaca(Json row, const RecordPlace& place) {
  LAPIDARY_CHECK(FitsAlpaca(row), place.where, ": instruction and output must be strings; got ",
                 DumpJson(row).substr(0, 80));
  Record record = NewRecord(RecordKind::kMessages, row, place);
  MediaColumns columns(row, place);
  MessageReader reader(record, columns, place);
  Json messages = Json::array();
  const auto add = [&](const char* role, const std::string& text) {
    messages.push_back({{"role", role}, {"content", reader.TaggedContent(text)}});
  };
  if (HasString(row, "system") && !row["system"].get_ref<const std::string&>().empty()) {
    add("system", row["system"]);
  }
  const Json* history = FindMember(row, "history");
  if (history != nullptr && !history->is_null()) {
    LAPIDARY_CHECK(history->is_array(), place.where, ": history must be a list of pairs; got ",
                   DumpJson(*history).substr(0, 60));
    for (const Json& pair : *history) {
      LAPIDARY_CHECK(
          pair.is_array() && pair.size() == 2 && pair[0].is_string() && pair[1].is_string(),
          place.where, ": history must hold pairs of strings; got ", DumpJson(pair).substr(0, 60));
      add("user", pair[0]);
      add("assistant", pair[1]);
    }
  }
  std::string prompt = row["instruction"];
  if (HasString(row, "input") && !row["input"].get_ref<const std::string&>().empty()) {
    prompt += "\n" + row["input"].get<std::string>();
  }
  add("user", prompt);
  add("assistant", row["output"]);
  reader.Read(std::move(messages));
  reader.PlaceRest();
  return record;
}

bool FitsAudioText(const Json& row) { return FitsPair(row, "audio", "audios", "<|audio|>"); }
Record ReadAudioText(Json row, const RecordPlace& place) {
  return ReadPair(row, place, kTranscribe);
}

bool FitsImageText(const Json& row) { return FitsPair(row, "image", "images", "<|image|>"); }
Record ReadImageText(Json row, const RecordPlace& place) { return ReadPair(row, place, kDescribe); }

}  // namespace lapidary
