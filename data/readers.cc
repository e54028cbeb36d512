#include "data/readers.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "autograd/base/error.h"
#include "data/chat_tools.h"
#include "data/json.h"
#include "data/message_reader.h"
#include "data/readers_more.h"

namespace lapidary {
namespace {

using Json = nlohmann::ordered_json;

bool FitsMessages(const Json& row) { return HasList(row, "messages"); }

Record ReadMessages(Json row, const RecordPlace& place) {
  Record record = NewRecord(RecordKind::kMessages, row, place);
  const Json* messages = FindMember(row, "messages");
  LAPIDARY_CHECK(messages != nullptr && messages->is_array() && !messages->empty(), place.where,
                 ": messages must be a list of at least one message; got ",
                 messages == nullptr ? "none" : DumpJson(*messages).substr(0, 40));
  MediaColumns columns(row, place);
  MessageReader reader(record, columns, place);
  Json list = std::move(row["messages"]);
  // `messages` with LLaVA's <image> tags in plain strings.
  for (Json& message : list) {
    if (HasString(message, "content")) {
      message["content"] = reader.TaggedContent(message["content"].get<std::string>());
    }
  }
  reader.Read(std::move(list));
  reader.PlaceRest();
  return record;
}

bool HasPrompt(const Json& row) {
  return (HasString(row, "prompt") && HasString(row, "completion")) ||
         (HasList(row, "prompt") && HasList(row, "completion"));
}

std::optional<bool> LabelOf(const Json& row) {
  const Json* label = FindMember(row, "label");
  if (label == nullptr || !label->is_boolean()) return std::nullopt;
  return label->get<bool>();
}

bool FitsPrompt(const Json& row) { return HasPrompt(row) && !LabelOf(row); }

// A label is kept however the row is read: an answer labelled false is never just an answer.
Record ReadPrompt(Json row, const RecordPlace& place) {
  LAPIDARY_CHECK(HasPrompt(row), place.where,
                 ": prompt and completion must be two strings or two lists of messages; got ",
                 DumpJson(row).substr(0, 80));
  MediaColumns columns(row, place);
  const bool text = row["prompt"].is_string();
  Record record =
      NewRecord(text ? RecordKind::kPromptCompletion : RecordKind::kMessages, row, place);
  record.label = LabelOf(row);
  if (text) {
    record.prompt = row["prompt"];
    record.completion = row["completion"];
    columns.TakeAll(record);
    return record;
  }
  MessageReader reader(record, columns, place);
  reader.Read(std::move(row["prompt"]));
  record.prompt_messages = static_cast<int64_t>(record.messages.size());
  reader.Read(std::move(row["completion"]));
  reader.PlaceRest();
  return record;
}

bool FitsUnpaired(const Json& row) { return HasPrompt(row) && LabelOf(row); }

Record ReadUnpaired(Json row, const RecordPlace& place) {
  const Json* label = FindMember(row, "label");
  LAPIDARY_CHECK(LabelOf(row), place.where,
                 ": label must be true (an answer to be desired) or false; got ",
                 label == nullptr ? "none" : DumpJson(*label).substr(0, 80));
  return ReadPrompt(std::move(row), place);
}

bool FitsText(const Json& row) { return HasString(row, "text"); }

Record ReadText(Json row, const RecordPlace& place) {
  LAPIDARY_CHECK(FitsText(row), place.where, ": text must be a string; got ",
                 DumpJson(row).substr(0, 80));
  Record record = NewRecord(RecordKind::kText, row, place);
  MediaColumns columns(row, place);
  record.completion = row["text"];
  columns.TakeAll(record);
  return record;
}

Record SideOf(const Record& pair, bool chosen) {
  LAPIDARY_CHECK(pair.kind == RecordKind::kPreference, pair.where,
                 ": must be a preference pair; got another kind of record");
  Record side = pair;
  side.rejected = Json::array();
  if (!chosen && pair.messages.empty()) {
    side.completion = pair.rejected_completion;
  } else if (!chosen) {
    side.messages.erase(side.messages.begin() + pair.prompt_messages, side.messages.end());
    for (const Json& message : pair.rejected) side.messages.push_back(message);
  }
  side.rejected_completion.clear();
  side.kind = pair.messages.empty() ? RecordKind::kPromptCompletion : RecordKind::kMessages;
  side.weights.clear();
  return side;
}

}  // namespace

const char* MediaKindName(MediaKind kind) {
  return kind == MediaKind::kImage ? "image" : kind == MediaKind::kAudio ? "audio" : "video";
}

Record WithoutLabel(Record record) {
  record.label.reset();
  return record;
}

Record ChosenOf(const Record& pair) { return SideOf(pair, true); }
Record RejectedOf(const Record& pair) { return SideOf(pair, false); }

const std::vector<RecordFormat>& RecordFormats() {
  static const std::vector<RecordFormat> formats = {
      {"messages", R"({"messages": [{"role": ..., "content": ...}, ...]})", FitsMessages,
       ReadMessages},
      {"preference", R"({"prompt": ..., "chosen": ..., "rejected": ...})", FitsPreference,
       ReadPreference},
      {"unpaired", R"({"prompt": ..., "completion": ..., "label": true})", FitsUnpaired,
       ReadUnpaired},
      {"prompt_completion", R"({"prompt": ..., "completion": ...})", FitsPrompt, ReadPrompt},
      {"sharegpt", R"({"conversations": [{"from": "human", "value": ...}, ...]})", FitsShareGpt,
       ReadShareGpt},
      {"alpaca", R"({"instruction": ..., "input": ..., "output": ...})", FitsAlpaca, ReadAlpaca},
      {"audio_text", R"({"audio": ..., "text": ...})", FitsAudioText, ReadAudioText},
      {"image_text", R"({"image": ..., "text": ...})", FitsImageText, ReadImageText},
      {"text", R"({"text": ...})", FitsText, ReadText},
  };
  return formats;
}

const RecordFormat* FindRecordFormat(const std::string& name) {
  for (const RecordFormat& format : RecordFormats()) {
    if (name == format.name) return &format;
  }
  return nullptr;
}

const RecordFormat* RecognizeFormat(const std::vector<Json>& rows) {
  const RecordFormat* best = nullptr;
  int64_t most = 0;
  for (const RecordFormat& format : RecordFormats()) {
    const int64_t fitting = std::count_if(rows.begin(), rows.end(), format.fits);
    if (fitting > most) best = &format;
    most = std::max(most, fitting);
  }
  return best;
}

}  // namespace lapidary
