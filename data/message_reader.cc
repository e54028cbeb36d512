#include "data/message_reader.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "autograd/base/error.h"
#include "data/chat_tools.h"
#include "data/json.h"
#include "data/media_ref.h"

namespace lapidary {
namespace {

using Json = nlohmann::ordered_json;

const char* MarkOf(MediaKind kind) {
  return kind == MediaKind::kImage   ? "<|image|>"
         : kind == MediaKind::kAudio ? "<|audio|>"
                                     : "<|video|>";
}

// LLaMA-Factory and LLaVA.
const char* TagOf(MediaKind kind) {
  return kind == MediaKind::kImage ? "<image>" : kind == MediaKind::kAudio ? "<audio>" : "<video>";
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

// A list of tools, or null; LLaMA-Factory gives the bare functions.
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
  for (Json& tool : parsed) {
    if (tool.is_object() && !tool.contains("function") && HasString(tool, "name")) {
      tool = Json{{"type", "function"}, {"function", std::move(tool)}};
    }
  }
  return parsed;
}

}  // namespace

bool HasString(const Json& row, const char* key) {
  const Json* value = FindMember(row, key);
  return value != nullptr && value->is_string();
}

bool HasList(const Json& row, const char* key) {
  const Json* value = FindMember(row, key);
  return value != nullptr && value->is_array();
}

Record NewRecord(RecordKind kind, const Json& row, const RecordPlace& place) {
  Record record;
  record.kind = kind;
  record.where = place.where;
  record.messages = Json::array();
  record.rejected = Json::array();
  if (kind == RecordKind::kMessages || kind == RecordKind::kPreference) {
    record.tools = ReadTools(row, place);
  }
  return record;
}

MediaColumns::MediaColumns(const Json& row, const RecordPlace& place) {
  constexpr std::array<std::array<const char*, 2>, 3> names = {
      {{"images", "image"}, {"audios", "audio"}, {"videos", "video"}}};
  for (size_t k = 0; k < kMediaKinds.size(); ++k) {
    for (const char* name : names[k]) {
      const Json* column = FindMember(row, name);
      if (column == nullptr) continue;
      present_[k] = true;
      if (column->is_null()) continue;
      LAPIDARY_CHECK(refs_[k].empty(), place.where, ": only one of the columns '", names[k][0],
                     "' and '", names[k][1], "' may be given; got both");
      if (column->is_array()) {
        for (const Json& value : *column) {
          refs_[k].push_back(ReadMediaRef(value, kMediaKinds[k], place));
        }
      } else {
        refs_[k].push_back(ReadMediaRef(*column, kMediaKinds[k], place));
      }
    }
  }
}

void MessageReader::Read(Json messages) { Append(std::move(messages), record_.messages, true); }

void MessageReader::ReadRejected(Json messages) {
  Append(std::move(messages), record_.rejected, false);
}

void MessageReader::Append(Json messages, Json& to, bool weigh) {
  LAPIDARY_CHECK(messages.is_array(), place_.where, ": messages must be a list; got ",
                 DumpJson(messages).substr(0, 40));
  for (Json& message : messages) {
    const std::string where = StrCat(place_.where, ": messages[", to.size(), "]");
    LAPIDARY_CHECK(message.is_object(), where, " must be an object; got ",
                   DumpJson(message).substr(0, 40));
    if (HasList(message, "content")) Parts(message["content"], where);
    if (HasString(message, "content")) CountMarks(message["content"].get_ref<std::string&>());
    if (HasList(message, "tool_calls")) Arguments(message["tool_calls"], where);
    if (weigh) Weight(message, where);
    to.push_back(std::move(message));
  }
}

void MessageReader::PlaceRest() {
  for (const MediaKind kind : kMediaKinds) {
    const int64_t left = columns_.left(kind);
    if (left == 0 || marks_[static_cast<size_t>(kind)] > 0) continue;
    LAPIDARY_CHECK(columns_.used(kind) == 0, place_.where, ": there must be as many ",
                   MediaKindName(kind), " parts as files; got ", columns_.used(kind), " parts and ",
                   columns_.used(kind) + left, " files");
    Insert(kind);
  }
  columns_.TakeAll(record_);
}

Json MessageReader::TaggedContent(const std::string& text) {
  Json parts = Json::array();
  bool tagged = false;
  size_t from = 0;
  const auto add_text = [&](size_t to) {
    if (to > from) parts.push_back({{"type", "text"}, {"text", text.substr(from, to - from)}});
  };
  for (size_t at = text.find('<'); at != std::string::npos; at = text.find('<', at + 1)) {
    for (const MediaKind kind : kMediaKinds) {
      const std::string_view tag = TagOf(kind);
      if (text.compare(at, tag.size(), tag) != 0 || !columns_.present(kind)) continue;
      add_text(at);
      parts.push_back({{"type", MediaKindName(kind)}});
      from = at + tag.size();
      tagged = true;
    }
  }
  if (!tagged) return text;
  add_text(text.size());
  return parts;
}

void MessageReader::CountMarks(const std::string& text) {
  for (const MediaKind kind : kMediaKinds) {
    const std::string mark = MarkOf(kind);
    for (size_t at = text.find(mark); at != std::string::npos; at = text.find(mark, at + 1)) {
      ++marks_[static_cast<size_t>(kind)];
    }
  }
}

Json MessageReader::Placed(MediaRef ref) {
  const MediaKind kind = ref.kind;
  ref.placed = true;
  record_.media.push_back(std::move(ref));
  return Json{{"type", MediaKindName(kind)}, {"media", record_.media.size() - 1}};
}

void MessageReader::Parts(Json& parts, const std::string& where) {
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
MediaRef MessageReader::Medium(const Json& part, const std::string& type, MediaKind kind,
                               const std::string& where) {
  RecordPlace place = place_;
  place.where = where;
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
void MessageReader::Arguments(Json& calls, const std::string& where) {
  for (Json& call : calls) {
    if (!call.is_object() || !call.contains("function") || !call["function"].is_object()) continue;
    Json& function = call["function"];
    if (!HasString(function, "arguments")) continue;
    const std::string text = function["arguments"];
    function["arguments"] =
        text.empty() ? Json::object() : ParseJson(text, where + ": function.arguments");
  }
}

// OpenAI's "weight" (0 leaves a message untrained) and Axolotl's "train": false.
void MessageReader::Weight(const Json& message, const std::string& where) {
  const Json* weight = FindMember(message, "weight");
  const Json* train = FindMember(message, "train");
  const size_t index = record_.messages.size();
  if (train != nullptr && train->is_null()) train = nullptr;
  LAPIDARY_CHECK(train == nullptr || train->is_boolean(), where,
                 ": train must be true or false; got ",
                 train == nullptr ? "" : DumpJson(*train).substr(0, 40));
  const bool left_out = train != nullptr && !train->get<bool>();
  float value = left_out ? 0.0f : 1.0f;
  if (weight != nullptr && !weight->is_null()) {
    LAPIDARY_CHECK(
        weight->is_number() && weight->get<double>() >= 0 && weight->get<double>() <= 1e6, where,
        ": weight must be a number from 0 to 1e6; got ", DumpJson(*weight).substr(0, 40));
    value *= static_cast<float>(weight->get<double>());
  } else if (!left_out) {
    if (!record_.weights.empty()) record_.weights.push_back(1.0f);
    return;
  }
  if (record_.weights.empty()) record_.weights.assign(index, 1.0f);
  record_.weights.push_back(value);
}

void MessageReader::Insert(MediaKind kind) {
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

}  // namespace lapidary
