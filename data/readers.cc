#include "data/readers.h"

#include <array>
#include <utility>

#include "autograd/base/error.h"
#include "data/chat_tools.h"
#include "data/json.h"
#include "data/media_ref.h"

namespace lapidary {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::array<MediaKind, 3> kKinds = {MediaKind::kImage, MediaKind::kAudio,
                                             MediaKind::kVideo};

const char* MarkOf(MediaKind kind) {
  return kind == MediaKind::kImage   ? "<|image|>"
         : kind == MediaKind::kAudio ? "<|audio|>"
                                     : "<|video|>";
}

bool HasString(const Json& row, const char* key) {
  const Json* value = FindMember(row, key);
  return value != nullptr && value->is_string();
}

bool HasList(const Json& row, const char* key) {
  const Json* value = FindMember(row, key);
  return value != nullptr && value->is_array();
}

// Media of the columns beside the text (`images` or `image`, ...), handed out in order.
class Columns {
 public:
  Columns(const Json& row, const RecordPlace& place) {
    constexpr std::array<std::array<const char*, 2>, 3> names = {
        {{"images", "image"}, {"audios", "audio"}, {"videos", "video"}}};
    for (size_t k = 0; k < kKinds.size(); ++k) {
      for (const char* name : names[k]) {
        const Json* column = FindMember(row, name);
        if (column == nullptr || column->is_null()) continue;
        LAPIDARY_CHECK(refs_[k].empty(), place.where, ": only one of the columns '", names[k][0],
                       "' and '", names[k][1], "' may be given; got both");
        if (column->is_array()) {
          for (const Json& value : *column)
            refs_[k].push_back(ReadMediaRef(value, kKinds[k], place));
        } else {
          refs_[k].push_back(ReadMediaRef(*column, kKinds[k], place));
        }
      }
    }
  }

  int64_t left(MediaKind kind) const {
    const auto k = static_cast<size_t>(kind);
    return static_cast<int64_t>(refs_[k].size()) - used_[k];
  }
  int64_t used(MediaKind kind) const { return used_[static_cast<size_t>(kind)]; }
  MediaRef Take(MediaKind kind) {
    const auto k = static_cast<size_t>(kind);
    return std::move(refs_[k][used_[k]++]);
  }
  // The rest, for the marks in the text.
  void TakeAll(Record& record) {
    for (const MediaKind kind : kKinds) {
      while (left(kind) > 0) record.media.push_back(Take(kind));
    }
  }

 private:
  std::array<std::vector<MediaRef>, 3> refs_;
  std::array<int64_t, 3> used_ = {};
};

Json ReadTools(const Json& row, const RecordPlace& place) {
  const Json* tools = FindMember(row, "tools");
  if (tools == nullptr || tools->is_null()) return nullptr;
  Json parsed = *tools;
  if (tools->is_string()) {
    const std::string& text = tools->get_ref<const std::string&>();
    if (text.empty()) return nullptr;
    parsed = ParseJson(text, place.where + ": tools");
  }
  LAPIDARY_CHECK(parsed.is_array() || parsed.is_null(), place.where, ": tools must be a list; got ",
                 DumpJson(parsed).substr(0, 40));
  return parsed;
}

// The kind of a content part by its `type`; none for text.
bool PartKind(const std::string& type, MediaKind& kind) {
  if (type == "image" || type == "image_url" || type == "input_image") {
    kind = MediaKind::kImage;
  } else if (type == "audio" || type == "input_audio" || type == "audio_url") {
    kind = MediaKind::kAudio;
  } else if (type == "video" || type == "video_url" || type == "input_video") {
    kind = MediaKind::kVideo;
  } else {
    return false;
  }
  return true;
}

// Reads the messages of a record: media become indices, tool arguments objects.
class MessageReader {
 public:
  MessageReader(Record& record, Columns& columns, const RecordPlace& place)
      : record_(record), columns_(columns), place_(place) {}

  void Read(Json messages) {
    LAPIDARY_CHECK(messages.is_array(), place_.where, ": messages must be a list; got ",
                   DumpJson(messages).substr(0, 40));
    for (Json& message : messages) {
      const std::string where = StrCat(place_.where, ": messages[", record_.messages.size(), "]");
      LAPIDARY_CHECK(message.is_object(), where, " must be an object; got ",
                     DumpJson(message).substr(0, 40));
      if (HasList(message, "content")) Parts(message["content"], where);
      if (HasString(message, "content")) CountMarks(message["content"].get_ref<std::string&>());
      if (HasList(message, "tool_calls")) Arguments(message["tool_calls"], where);
      Weight(message, where);
      record_.messages.push_back(std::move(message));
    }
  }

  // Columns that no part has claimed go in front of the first user's text (sounds behind it),
  // unless the text has marks.
  void PlaceRest() {
    for (const MediaKind kind : kKinds) {
      const int64_t left = columns_.left(kind);
      if (left == 0 || marks_[static_cast<size_t>(kind)] > 0) continue;
      LAPIDARY_CHECK(columns_.used(kind) == 0, place_.where, ": there must be as many ",
                     MediaKindName(kind), " parts as files; got ", columns_.used(kind),
                     " parts and ", columns_.used(kind) + left, " files");
      Insert(kind);
    }
    columns_.TakeAll(record_);
  }

 private:
  void CountMarks(const std::string& text) {
    for (const MediaKind kind : kKinds) {
      const std::string mark = MarkOf(kind);
      for (size_t at = text.find(mark); at != std::string::npos; at = text.find(mark, at + 1)) {
        ++marks_[static_cast<size_t>(kind)];
      }
    }
  }

  Json Placed(MediaRef ref) {
    const MediaKind kind = ref.kind;
    ref.placed = true;
    record_.media.push_back(std::move(ref));
    return Json{{"type", MediaKindName(kind)}, {"media", record_.media.size() - 1}};
  }

  void Parts(Json& parts, const std::string& where) {
    for (Json& part : parts) {
      LAPIDARY_CHECK(part.is_object() && HasString(part, "type"), where,
                     ": a content part must be an object with a type; got ",
                     DumpJson(part).substr(0, 60));
      const std::string type = part["type"];
      MediaKind kind;
      if (PartKind(type, kind)) {
        part = Placed(Medium(part, type, kind, where));
        continue;
      }
      LAPIDARY_CHECK(type == "text", where,
                     ": a content part must be text, image, image_url, audio, input_audio or "
                     "video; got '",
                     type, "'");
      LAPIDARY_CHECK(HasString(part, "text"), where, ": a text part must have a text; got ",
                     DumpJson(part).substr(0, 60));
      CountMarks(part["text"].get_ref<std::string&>());
    }
  }

  // What the part names, else the next of its column.
  MediaRef Medium(const Json& part, const std::string& type, MediaKind kind,
                  const std::string& where) {
    const RecordPlace place = {where, place_.folder};
    for (const char* key : {type.c_str(), MediaKindName(kind), "url", "path", "bytes", "data"}) {
      const Json* value = FindMember(part, key);
      if (value == nullptr || value->is_null()) continue;
      const std::string_view name = key;
      if (name == "bytes" || name == "data") return ReadMediaRef(part, kind, place);
      return ReadMediaRef(*value, kind, place);
    }
    LAPIDARY_CHECK(columns_.left(kind) > 0, where, ": a bare ", type,
                   " part must have its file in the column '", MediaKindName(kind), "s'; got ",
                   columns_.used(kind), " files there for more parts");
    return columns_.Take(kind);
  }

  // OpenAI writes arguments as a JSON string; the template wants the object.
  void Arguments(Json& calls, const std::string& where) {
    for (Json& call : calls) {
      if (!call.is_object() || !call.contains("function") || !call["function"].is_object())
        continue;
      Json& function = call["function"];
      if (!HasString(function, "arguments")) continue;
      const std::string text = function["arguments"];
      function["arguments"] =
          text.empty() ? Json::object() : ParseJson(text, where + ": function.arguments");
    }
  }

  // OpenAI's "weight": 0 leaves a message untrained.
  void Weight(const Json& message, const std::string& where) {
    const Json* weight = FindMember(message, "weight");
    const size_t index = record_.messages.size();
    if (weight != nullptr && !weight->is_null()) {
      LAPIDARY_CHECK(
          weight->is_number() && weight->get<double>() >= 0 && weight->get<double>() <= 1e6, where,
          ": weight must be a number from 0 to 1e6; got ", DumpJson(*weight).substr(0, 40));
      if (record_.weights.empty()) record_.weights.assign(index, 1.0f);
      record_.weights.push_back(static_cast<float>(weight->get<double>()));
    } else if (!record_.weights.empty()) {
      record_.weights.push_back(1.0f);
    }
  }

  void Insert(MediaKind kind) {
    for (Json& message : record_.messages) {
      if (!message.contains("role") || message["role"] != "user") continue;
      Json parts = Json::array();
      if (HasString(message, "content")) {
        parts.push_back({{"type", "text"}, {"text", message["content"]}});
      } else if (HasList(message, "content")) {
        parts = message["content"];
      }
      Json media = Json::array();
      while (columns_.left(kind) > 0) media.push_back(Placed(columns_.Take(kind)));
      const bool behind = kind == MediaKind::kAudio;
      Json& first = behind ? parts : media;
      for (Json& part : behind ? media : parts) first.push_back(std::move(part));
      Json joined = std::move(first);
      message["content"] = std::move(joined);
      return;
    }
    throw Error(StrCat(place_.where, ": ", MediaKindName(kind),
                       " files must have a user message to stand in; got none"));
  }

  Record& record_;
  Columns& columns_;
  const RecordPlace& place_;
  std::array<int64_t, 3> marks_ = {};  // written out in the text
};

Record NewRecord(RecordKind kind, const Json& row, const RecordPlace& place) {
  Record record;
  record.kind = kind;
  record.where = place.where;
  record.messages = Json::array();
  if (kind == RecordKind::kMessages) record.tools = ReadTools(row, place);
  return record;
}

bool FitsMessages(const Json& row) { return HasList(row, "messages"); }

Record ReadMessages(Json row, const RecordPlace& place) {
  Record record = NewRecord(RecordKind::kMessages, row, place);
  const Json* messages = FindMember(row, "messages");
  LAPIDARY_CHECK(messages != nullptr && messages->is_array() && !messages->empty(), place.where,
                 ": messages must be a list of at least one message; got ",
                 messages == nullptr ? "none" : DumpJson(*messages).substr(0, 40));
  Columns columns(row, place);
  MessageReader reader(record, columns, place);
  reader.Read(std::move(row["messages"]));
  reader.PlaceRest();
  return record;
}

bool FitsPrompt(const Json& row) {
  return (HasString(row, "prompt") && HasString(row, "completion")) ||
         (HasList(row, "prompt") && HasList(row, "completion"));
}

Record ReadPrompt(Json row, const RecordPlace& place) {
  LAPIDARY_CHECK(FitsPrompt(row), place.where,
                 ": prompt and completion must be two strings or two lists of messages; got ",
                 DumpJson(row).substr(0, 80));
  Columns columns(row, place);
  if (row["prompt"].is_string()) {
    Record record = NewRecord(RecordKind::kPromptCompletion, row, place);
    record.prompt = row["prompt"];
    record.completion = row["completion"];
    columns.TakeAll(record);
    return record;
  }
  Record record = NewRecord(RecordKind::kMessages, row, place);
  MessageReader reader(record, columns, place);
  reader.Read(std::move(row["prompt"]));
  record.prompt_messages = static_cast<int64_t>(record.messages.size());
  reader.Read(std::move(row["completion"]));
  reader.PlaceRest();
  return record;
}

bool FitsText(const Json& row) { return HasString(row, "text"); }

Record ReadText(Json row, const RecordPlace& place) {
  LAPIDARY_CHECK(FitsText(row), place.where, ": text must be a string; got ",
                 DumpJson(row).substr(0, 80));
  Record record = NewRecord(RecordKind::kText, row, place);
  Columns columns(row, place);
  record.completion = row["text"];
  columns.TakeAll(record);
  return record;
}

}  // namespace

const char* MediaKindName(MediaKind kind) {
  return kind == MediaKind::kImage ? "image" : kind == MediaKind::kAudio ? "audio" : "video";
}

const std::vector<RecordFormat>& RecordFormats() {
  static const std::vector<RecordFormat> formats = {
      {"messages", R"({"messages": [{"role": ..., "content": ...}, ...]})", FitsMessages,
       ReadMessages},
      {"prompt_completion", R"({"prompt": ..., "completion": ...})", FitsPrompt, ReadPrompt},
      {"text", R"({"text": ...})", FitsText, ReadText},
  };
  return formats;
}

}  // namespace lapidary
