#include "recipes/serve/request.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <limits>

#include "autograd/base/error.h"
#include "data/json.h"

namespace lapidary {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kMaxStops = 16;

std::string Shown(const Json& value) { return DumpJson(value).substr(0, 60); }

[[noreturn]] void Bad(const std::string& param, const std::string& rule, const std::string& got) {
  throw ApiError(400, param, StrCat(param, ": ", rule, "; got ", got));
}

const Json* Member(const Json& object, const char* key) {
  if (!object.is_object()) return nullptr;
  const auto found = object.find(key);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

// The medium of a part as a data: URL.
std::string DataUrl(const Json& part, const std::string& type, const std::string& where) {
  const Json* value = Member(part, type.c_str());
  if (type == "input_audio") {
    const Json* data = value ? Member(*value, "data") : nullptr;
    if (!data || !data->is_string())
      Bad(where, "input_audio must have data in base64", Shown(part));
    const std::string text = data->get<std::string>();
    return text.starts_with("data:") ? text : "data:audio;base64," + text;
  }
  const Json* url = value && value->is_object() ? Member(*value, "url") : value;
  if (!url || !url->is_string()) Bad(where, type + " must have a url", Shown(part));
  const std::string text = url->get<std::string>();
  if (!text.starts_with("data:"))
    Bad(where, type + " must be a data: URL, as nothing is fetched and no file is read",
        Shown(*url));
  return text;
}

// Content as data/ reads it: a text, or parts.
Json ReadContent(const Json& content, const std::string& where) {
  if (content.is_string()) return content;
  if (!content.is_array()) Bad(where, "must be a text or a list of parts", Shown(content));
  Json parts = Json::array();
  for (size_t i = 0; i < content.size(); ++i) {
    const std::string here = StrCat(where, "[", i, "]");
    const Json* type = Member(content[i], "type");
    const std::string kind = type && type->is_string() ? type->get<std::string>() : "";
    if (kind == "text") {
      const Json* text = Member(content[i], "text");
      if (!text || !text->is_string()) Bad(here, "must have a text", Shown(content[i]));
      parts.push_back({{"type", "text"}, {"text", *text}});
    } else if (kind == "image_url") {
      parts.push_back({{"type", "image"}, {"image", DataUrl(content[i], kind, here)}});
    } else if (kind == "input_audio") {
      parts.push_back({{"type", "audio"}, {"audio", DataUrl(content[i], kind, here)}});
    } else if (kind == "video_url") {
      parts.push_back({{"type", "video"}, {"video", DataUrl(content[i], kind, here)}});
    } else {
      Bad(here, "type must be text, image_url, input_audio or video_url", Shown(content[i]));
    }
  }
  return parts;
}

Json ReadMessage(const Json& message, const std::string& where) {
  const Json* role = Member(message, "role");
  if (!role || !role->is_string()) Bad(where, "must be an object with a role", Shown(message));
  std::string name = role->get<std::string>();
  if (name == "developer") name = "system";
  if (name != "system" && name != "user" && name != "assistant" && name != "tool")
    Bad(where + ".role", "must be system, developer, user, assistant or tool", Shown(*role));
  Json read = {{"role", name}};
  if (const Json* content = Member(message, "content")) {
    read["content"] = ReadContent(*content, where + ".content");
  } else if (name != "assistant") {
    Bad(where, "must have content", Shown(message));
  }
  for (const char* key : {"reasoning_content", "tool_call_id", "name"}) {
    const Json* value = Member(message, key);
    if (!value) continue;
    if (!value->is_string()) Bad(where + "." + key, "must be a text", Shown(*value));
    read[key] = *value;
  }
  if (const Json* calls = Member(message, "tool_calls")) {
    if (!calls->is_array()) Bad(where + ".tool_calls", "must be a list", Shown(*calls));
    if (!calls->empty()) read["tool_calls"] = *calls;
  }
  return read;
}

}  // namespace

RequestReader::RequestReader(const std::string& body) {
  try {
    body_ = ParseJson(body, "request");
  } catch (const Error& error) {
    throw ApiError(400, "", error.what());
  }
  if (!body_.is_object())
    throw ApiError(400, "", StrCat("request: must be a JSON object; got ", Shown(body_)));
}

const Json* RequestReader::Get(const char* key) {
  known_.insert(key);
  return Member(body_, key);
}

double RequestReader::Number(const char* key, double low, double high, double fallback) {
  const Json* value = Get(key);
  if (!value) return fallback;
  if (!value->is_number() || !(value->get<double>() >= low && value->get<double>() <= high))
    Bad(key, StrCat("must be a number from ", low, " to ", high), Shown(*value));
  return value->get<double>();
}

int64_t RequestReader::Integer(const char* key, int64_t low, int64_t high, int64_t fallback) {
  const Json* value = Get(key);
  if (!value) return fallback;
  const bool fits = value->is_number_unsigned()
                        ? value->get<uint64_t>() <= uint64_t{0x7fffffffffffffff}
                        : value->is_number_integer();
  if (!fits || value->get<int64_t>() < low || value->get<int64_t>() > high)
    Bad(key, StrCat("must be a whole number from ", low, " to ", high), Shown(*value));
  return value->get<int64_t>();
}

bool RequestReader::Flag(const char* key, bool fallback) {
  const Json* value = Get(key);
  if (!value) return fallback;
  if (!value->is_boolean()) Bad(key, "must be true or false", Shown(*value));
  return value->get<bool>();
}

std::string RequestReader::Text(const char* key) {
  const Json* value = Get(key);
  if (!value || !value->is_string())
    Bad(key, "must be given as a text", value ? Shown(*value) : "nothing");
  return value->get<std::string>();
}

void RequestReader::Refuse(const char* key, const Json& only) {
  const Json* value = Get(key);
  if (value && *value != only)
    Bad(key, StrCat("must be ", DumpJson(only), " or left out: this server does not offer it"),
        Shown(*value));
}

void RequestReader::Ignore(std::initializer_list<const char*> keys) {
  for (const char* key : keys) known_.insert(key);
}

void RequestReader::Finish() const {
  for (const auto& [key, value] : body_.items()) {
    if (!known_.count(key))
      throw ApiError(400, key.substr(0, 100),
                     StrCat("request: members must be known; got '", key.substr(0, 100), "'"),
                     "unknown_parameter");
  }
}

CommonRequest ReadCommon(RequestReader& reader, const GenerateOptions& defaults) {
  CommonRequest request;
  request.model = reader.Text("model");
  GenerateOptions& o = request.options;
  o = defaults;
  // A temperature that is asked for is one of sampling; 0 is the likeliest token.
  const bool sampled = reader.Get("temperature") != nullptr || reader.Get("top_p") != nullptr;
  if (sampled) o.do_sample = true;
  o.temperature = reader.Number("temperature", 0, 100, o.temperature);
  if (o.temperature == 0) {
    o.do_sample = false;
    o.temperature = 1;
  }
  o.top_p = reader.Number("top_p", 0, 1, o.top_p);
  if (o.top_p == 0) o.do_sample = false, o.top_p = 1;
  const int64_t all = reader.Integer("top_k", -1, int64_t{1} << 30, o.top_k);
  o.top_k = std::max<int64_t>(all, 0);
  o.min_p = reader.Number("min_p", 0, 1, 0);
  o.repetition_penalty = reader.Number("repetition_penalty", 0.01, 100, 1);
  // Without a seed every request draws anew.
  static std::atomic<uint64_t> fresh{
      static_cast<uint64_t>(std::chrono::system_clock::now().time_since_epoch().count())};
  constexpr int64_t kAny = std::numeric_limits<int64_t>::max();
  const int64_t seed = reader.Integer("seed", -kAny, kAny, -1);
  o.seed = reader.Get("seed") ? static_cast<uint64_t>(seed) : fresh++;
  request.n = reader.Integer("n", 1, 16, 1);
  request.stream = reader.Flag("stream", false);
  if (const Json* more = reader.Get("stream_options")) {
    const Json* usage = Member(*more, "include_usage");
    if (!more->is_object() || (usage && !usage->is_boolean()))
      Bad("stream_options", "must be an object with include_usage", Shown(*more));
    request.include_usage = usage && usage->get<bool>();
  }
  if (const Json* stop = reader.Get("stop")) {
    const Json list = stop->is_array() ? *stop : Json::array({*stop});
    for (const Json& text : list) {
      if (!text.is_string() || text.get_ref<const std::string&>().empty() ||
          request.stops.size() >= kMaxStops)
        Bad("stop", StrCat("must be a text or a list of up to ", kMaxStops, " texts"),
            Shown(*stop));
      request.stops.push_back(text.get<std::string>());
    }
  }
  reader.Refuse("frequency_penalty", 0);
  reader.Refuse("presence_penalty", 0);
  reader.Refuse("logit_bias", Json::object());
  reader.Ignore({"user", "metadata", "store", "service_tier", "safety_identifier",
                 "prompt_cache_key", "skip_special_tokens", "spaces_between_special_tokens"});
  return request;
}

Json ReadConversation(RequestReader& reader) {
  const Json* messages = reader.Get("messages");
  if (!messages || !messages->is_array() || messages->empty())
    Bad("messages", "must be a list with a message", messages ? Shown(*messages) : "nothing");
  Json row = {{"messages", Json::array()}};
  for (size_t i = 0; i < messages->size(); ++i)
    row["messages"].push_back(ReadMessage((*messages)[i], StrCat("messages[", i, "]")));
  const Json* tools = reader.Get("tools");
  const Json* choice = reader.Get("tool_choice");
  if (choice && *choice != "auto" && *choice != "none")
    Bad("tool_choice", "must be auto or none: a call cannot be forced", Shown(*choice));
  if (tools && !tools->is_array()) Bad("tools", "must be a list", Shown(*tools));
  if (tools && !tools->empty() && !(choice && *choice == "none")) row["tools"] = *tools;
  reader.Ignore({"parallel_tool_calls"});
  return row;
}

std::optional<JsonGrammar> ReadResponseFormat(RequestReader& reader) {
  const Json* format = reader.Get("response_format");
  if (!format) return std::nullopt;
  const Json* type = Member(*format, "type");
  const std::string name = type && type->is_string() ? type->get<std::string>() : "";
  if (name == "text") return std::nullopt;
  if (name == "json_object") return JsonGrammar::Any(/*object=*/true);
  const Json* named = Member(*format, "json_schema");
  const Json* schema = named ? Member(*named, "schema") : nullptr;
  if (name != "json_schema" || !schema)
    Bad("response_format",
        "must be of type text, json_object, or json_schema with {\"schema\": ...}", Shown(*format));
  try {
    return JsonGrammar::FromSchema(*schema, "response_format");
  } catch (const Error& error) {
    throw ApiError(400, "response_format", error.what());
  }
}

}  // namespace lapidary
