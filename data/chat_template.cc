#include "data/chat_template.h"

#include <nlohmann/json.hpp>

#include "autograd/base/error.h"
#include "data/chat_tools.h"
#include "data/json.h"
#include "data/unicode.h"

namespace lapidary {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view kResponseOpen = "<|tool_response>";
constexpr std::string_view kEmptyThought = "<|channel>thought\n<channel|>";

bool IsLearned(ChatClass kind) {
  return kind == ChatClass::kContent || kind == ChatClass::kThought ||
         kind == ChatClass::kToolCall || kind == ChatClass::kToolResponseOpen ||
         kind == ChatClass::kTurnEnd;
}

// The marker of a content part, or none.
std::string_view MediaMark(const Json* type) {
  if (type == nullptr || !type->is_string()) return "";
  const std::string& name = type->get_ref<const std::string&>();
  if (name == "image" || name == "image_url") return "<|image|>";
  if (name == "audio" || name == "input_audio") return "<|audio|>";
  if (name == "video") return "<|video|>";
  return "";
}

bool IsString(const Json* value, std::string_view text) {
  return value != nullptr && value->is_string() && value->get_ref<const std::string&>() == text;
}

// `text` without anything from <|channel> to the next <channel|> (or the end), trimmed.
std::string StripThinking(const std::string& text) {
  constexpr std::string_view open = "<|channel>", close = "<channel|>";
  std::string kept;
  for (size_t begin = 0;;) {
    const size_t end = text.find(close, begin);
    const std::string_view part = std::string_view(text).substr(begin, end - begin);
    kept += part.substr(0, part.find(open));
    if (end == std::string::npos) break;
    begin = end + close.size();
  }
  return std::string(PythonStrip(kept));
}

// A stretch of a model's text: a thought as the model writes it (closed), or what stands between
// thoughts, trimmed.
struct Piece {
  bool thought = false;
  bool closed = true;
  std::string text;
};

// `text` cut at its thoughts, by the rule of StripThinking. What many data sets put in front of an
// answer, <think>...</think>, is a thought too.
std::vector<Piece> CutThoughts(std::string_view text) {
  constexpr std::string_view open = "<|channel>", close = "<channel|>";
  constexpr std::string_view think = "<think>", unthink = "</think>";
  std::vector<Piece> pieces;
  const auto add_text = [&](std::string_view between) {
    const std::string_view trimmed = PythonStrip(between);
    if (!trimmed.empty()) pieces.push_back({false, true, std::string(trimmed)});
  };
  const std::string_view begun = PythonStrip(text);
  if (begun.starts_with(think)) {
    if (const size_t end = begun.find(unthink); end != std::string_view::npos) {
      const std::string_view inner = PythonStrip(begun.substr(think.size(), end - think.size()));
      if (!inner.empty()) {
        pieces.push_back({true, true, StrCat("<|channel>thought\n", inner, "\n<channel|>")});
      }
      text = begun.substr(end + unthink.size());
    }
  }
  for (size_t begin = 0;;) {
    const size_t end = text.find(close, begin);
    const std::string_view part = text.substr(begin, end - begin);
    const size_t at = part.find(open);
    add_text(part.substr(0, at));
    const bool closed = end != std::string_view::npos;
    if (at != std::string_view::npos) {
      pieces.push_back({true, closed, StrCat(part.substr(at), closed ? close : "")});
    }
    if (!closed) return pieces;
    begin = end + close.size();
  }
}

// One message as Transformers hands it to the template: members that are null are gone.
class Message {
 public:
  Message(const Json& json, int64_t index) : json_(json), index_(index) {
    LAPIDARY_CHECK(json.is_object(), where(), ": must be an object; got ",
                   DumpJson(json).substr(0, 40));
  }
  const Json* Get(const char* key) const {
    const Json* value = FindMember(json_, key);
    return value != nullptr && value->is_null() ? nullptr : value;
  }
  // "" if there is no role or it is no string; then nothing but the header's error comes of it.
  std::string role() const {
    const Json* role = Get("role");
    return role != nullptr && role->is_string() ? role->get<std::string>() : "";
  }
  const Json* thought() const {
    if (const Json* reasoning = Get("reasoning"); IsTruthy(reasoning)) return reasoning;
    for (const char* key : {"reasoning_content", "thinking", "reasoning"}) {
      const Json* value = Get(key);
      if (value != nullptr) return IsTruthy(value) ? value : nullptr;
    }
    return nullptr;
  }
  int64_t index() const { return index_; }
  std::string where() const { return StrCat("messages[", index_, "]"); }

 private:
  const Json& json_;
  int64_t index_;
};

class Renderer {
 public:
  Renderer(const Json& messages, const Json* tools, const ChatOptions& options)
      : options_(options) {
    LAPIDARY_CHECK(messages.is_array() && !messages.empty(),
                   "messages: must be a list of at least one message; got ",
                   DumpJson(messages).substr(0, 40));
    int64_t index = 0;
    for (const Json& message : messages) messages_.emplace_back(message, index++);
    if (tools != nullptr && !tools->is_null()) {
      LAPIDARY_CHECK(tools->is_array(), "tools: must be a list of objects; got ",
                     DumpJson(*tools).substr(0, 40));
      if (!tools->empty()) tools_ = tools;
    }
  }

  RenderedChat Run() {
    Emit("<bos>", ChatClass::kBos);
    SystemTurn();
    for (size_t i = first_; i < messages_.size(); ++i) {
      if (messages_[i].role() == "user") last_user_ = static_cast<int64_t>(i);
    }
    for (size_t i = first_; i < messages_.size(); ++i) {
      if (messages_[i].role() != "tool") Turn(i);
    }
    if (options_.add_generation_prompt) GenerationPrompt();
    return std::move(out_);
  }

 private:
  enum class Last { kOther, kCall, kResponse };

  void Emit(std::string_view text, ChatClass kind) {
    if (text.empty()) return;
    const auto begin = static_cast<int64_t>(out_.text.size());
    out_.text += text;
    const auto end = static_cast<int64_t>(out_.text.size());
    const bool trained = in_model_turn_ && IsLearned(kind);
    if (!out_.spans.empty() && out_.spans.back().kind == kind &&
        out_.spans.back().trained == trained && out_.spans.back().message == current_) {
      out_.spans.back().end = end;
    } else {
      out_.spans.push_back({begin, end, kind, trained, current_});
    }
  }

  void EndTurn() {
    Emit("<turn|>", ChatClass::kTurnEnd);
    Emit("\n", ChatClass::kNewline);
  }

  // A system turn stands in front if thinking is on, there are tools, or the first message is one.
  void SystemTurn() {
    const std::string role = messages_[0].role();
    const bool given = role == "system" || role == "developer";
    if (given) {
      first_ = 1;
      current_ = 0;
    }
    if (!options_.enable_thinking && tools_ == nullptr && !given) return;
    Emit("<|turn>system\n", ChatClass::kHeader);
    if (options_.enable_thinking) Emit("<|think|>\n", ChatClass::kSystem);
    const Json* content = given ? messages_[0].Get("content") : nullptr;
    if (content != nullptr && content->is_string()) {
      Emit(PythonStrip(content->get_ref<const std::string&>()), ChatClass::kSystem);
    } else if (content != nullptr && content->is_structured()) {
      for (const Json& part : *content) {
        // Jinja walks the keys of an object, which have no text.
        const Json* text = content->is_object() ? nullptr : FindMember(part, "text");
        const std::string shown = text == nullptr ? "" : PythonStr(*text);
        Emit(std::string(PythonStrip(shown)) + " ", ChatClass::kSystem);
      }
    }
    if (tools_ != nullptr) {
      for (size_t i = 0; i < tools_->size(); ++i) {
        std::string text = "<|tool>";
        AppendToolDeclaration((*tools_)[i], StrCat("tools[", i, "]"), text);
        Emit(text + "<tool|>", ChatClass::kToolDeclaration);
      }
    }
    EndTurn();
  }

  void Turn(size_t i) {
    const Message& message = messages_[i];
    current_ = message.index();
    last_ = Last::kOther;
    const std::string literal = message.role();
    const bool model = literal == "assistant" || literal == "model";
    const bool continued = model && previous_role_ == "assistant";
    if (!continued) {
      const Json* role = message.Get("role");
      LAPIDARY_CHECK(role != nullptr && role->is_string(), message.where(),
                     ": role must be a string; got ",
                     role == nullptr ? "none" : DumpJson(*role).substr(0, 40));
      in_model_turn_ = model;
      Emit("<|turn>" + (model ? "model" : literal) + "\n", ChatClass::kHeader);
    }
    const bool given = Thought(message, i, model);
    const bool thought = InlineThoughts(message, model, given) || given;
    if (model && !continued && !thought && !options_.enable_thinking &&
        options_.empty_thought == EmptyThought::kInsert) {
      Emit(kEmptyThought, ChatClass::kGenerationPrompt);
    }
    const bool called = Calls(message);
    const bool answered = Responses(message, i, called);
    const bool has_content = Content(message, model);
    Close(i, model, called, answered, has_content);
    previous_role_ = literal;
  }

  bool Thought(const Message& message, size_t i, bool model) {
    const Json* thought = message.thought();
    if (thought == nullptr) return false;
    if (model && options_.thoughts == Thoughts::kEmpty) {
      Emit(kEmptyThought, ChatClass::kGenerationPrompt);
      ++out_.dropped_thoughts;
      return true;
    }
    if (model && options_.thoughts == Thoughts::kDrop) {
      ++out_.dropped_thoughts;
      return false;
    }
    const bool kept = model && options_.thoughts == Thoughts::kKeep;
    const bool shown = kept || static_cast<int64_t>(i) > last_user_ ||
                       (options_.preserve_thinking && IsTruthy(message.Get("tool_calls")));
    if (!shown) {
      if (model) ++out_.dropped_thoughts;
      return false;
    }
    LAPIDARY_CHECK(thought->is_string(), message.where(), ": reasoning must be a string; got ",
                   DumpJson(*thought).substr(0, 40));
    Emit("<|channel>thought\n" + thought->get<std::string>() + "\n<channel|>", ChatClass::kThought);
    return true;
  }

  // Under a policy of its own, thoughts that stand in front of the content come where the model
  // writes them: before its calls. Whether a thought, or an empty one, was written.
  bool InlineThoughts(const Message& message, bool model, bool given) {
    hoisted_ = 0;
    if (!model || options_.thoughts == Thoughts::kTemplate) return false;
    const Json* content = message.Get("content");
    if (content != nullptr && content->is_array() && !content->empty()) {
      const bool text = IsString(FindMember(content->front(), "type"), "text");
      content = text ? FindMember(content->front(), "text") : nullptr;
    }
    if (content == nullptr || !content->is_string()) return false;
    for (const Piece& piece : CutThoughts(content->get_ref<const std::string&>())) {
      if (!piece.thought || !piece.closed) break;
      if (options_.thoughts == Thoughts::kKeep) Emit(piece.text, ChatClass::kThought);
      ++hoisted_;
    }
    if (hoisted_ == 0 || options_.thoughts == Thoughts::kDrop) return false;
    if (options_.thoughts == Thoughts::kEmpty && !given) {
      Emit(kEmptyThought, ChatClass::kGenerationPrompt);
    }
    return true;
  }

  bool Calls(const Message& message) {
    const Json* calls = message.Get("tool_calls");
    if (!IsTruthy(calls)) return false;
    LAPIDARY_CHECK(calls->is_array(), message.where(), ": tool_calls must be a list; got ",
                   DumpJson(*calls).substr(0, 40));
    for (const Json& call : *calls) {
      const Json* function = FindMember(call, "function");
      const Json* name = function == nullptr ? nullptr : FindMember(*function, "name");
      LAPIDARY_CHECK(name != nullptr && name->is_string(), message.where(),
                     ": a tool call must have function.name; got ", DumpJson(call).substr(0, 80));
      const Json* arguments = FindMember(*function, "arguments");
      LAPIDARY_CHECK(arguments != nullptr && (arguments->is_object() || arguments->is_null()),
                     message.where(), ": function.arguments of '", name->get<std::string>(),
                     "' must be an object; got ",
                     arguments == nullptr ? "none" : DumpJson(*arguments).substr(0, 40));
      std::string text = "<|tool_call>call:" + name->get<std::string>() + "{";
      bool first = true;
      if (arguments->is_object()) {
        for (const auto& [key, value] : SortedMembers(*arguments)) {
          if (!first) text += ',';
          first = false;
          text += key + ":";
          AppendValue(*value, false, text);
        }
      }
      Emit(text + "}<tool_call|>", ChatClass::kToolCall);
    }
    last_ = Last::kCall;
    return true;
  }

  void Response(const std::string& name, const Json& response) {
    std::string text;
    AppendToolResponse(name, response, text);
    const std::string_view block = text;
    const bool opens = out_.spans.back().kind == ChatClass::kToolCall;
    const size_t open = opens ? kResponseOpen.size() : 0;
    Emit(block.substr(0, open), ChatClass::kToolResponseOpen);
    Emit(block.substr(open), ChatClass::kToolResponse);
    last_ = Last::kResponse;
  }

  // The message's own tool_responses, or the tool messages that follow its calls.
  bool Responses(const Message& message, size_t i, bool called) {
    const Json* own = message.Get("tool_responses");
    if (IsTruthy(own)) {
      LAPIDARY_CHECK(own->is_array(), message.where(), ": tool_responses must be a list; got ",
                     DumpJson(*own).substr(0, 40));
      for (const Json& entry : *own) {
        const Json* name = FindMember(entry, "name");
        LAPIDARY_CHECK(!IsTruthy(name) || name->is_string(), message.where(),
                       ": the name of a tool response must be a string; got ",
                       DumpJson(entry).substr(0, 80));
        const Json* response = FindMember(entry, "response");
        Response(IsTruthy(name) ? name->get<std::string>() : "unknown",
                 response == nullptr ? Json::array() : *response);
      }
      return true;
    }
    if (!called) return false;
    bool any = false;
    for (size_t k = i + 1; k < messages_.size() && messages_[k].role() == "tool"; ++k) {
      current_ = messages_[k].index();
      ToolMessage(messages_[k], *message.Get("tool_calls"));
      current_ = message.index();
      any = true;
    }
    return any;
  }

  void ToolMessage(const Message& follow, const Json& calls) {
    const Json* name = follow.Get("name");
    if (!IsTruthy(name)) name = nullptr;
    const Json* id = follow.Get("tool_call_id");
    for (const Json& call : calls) {
      const Json* call_id = FindMember(call, "id");
      if (call_id != nullptr && call_id->is_null()) call_id = nullptr;
      const bool same = id == nullptr || call_id == nullptr ? id == call_id : *id == *call_id;
      if (same) name = FindMember(*FindMember(call, "function"), "name");
    }
    LAPIDARY_CHECK(name == nullptr || name->is_string(), follow.where(),
                   ": name must be a string; got ", DumpJson(*name).substr(0, 40));
    const std::string shown = name == nullptr ? "unknown" : name->get<std::string>();
    const Json* body = follow.Get("content");
    if (body == nullptr || !body->is_structured()) {
      Response(shown, body == nullptr ? Json() : *body);
      return;
    }
    std::string text;
    if (!body->empty()) CheckParts(*body, follow);
    for (const Json& part : *body) {
      if (!IsString(FindMember(part, "type"), "text")) continue;
      const Json* piece = FindMember(part, "text");
      LAPIDARY_CHECK(piece != nullptr && piece->is_string(), follow.where(),
                     ": a text part must have a text; got ", DumpJson(part).substr(0, 80));
      text += piece->get_ref<const std::string&>();
    }
    Response(shown, text);
    for (size_t part = 0; part < body->size() && body->is_array(); ++part) {
      EmitMedia(MediaMark(FindMember((*body)[part], "type")), follow, part);
    }
  }

  void CheckParts(const Json& parts, const Message& message) {
    LAPIDARY_CHECK(parts.is_array(), message.where(),
                   ": content must be a string or a list of parts; got ",
                   DumpJson(parts).substr(0, 60));
    for (const Json& part : parts) {
      LAPIDARY_CHECK(part.is_object(), message.where(), ": a part must be an object; got ",
                     DumpJson(part).substr(0, 40));
    }
  }

  void EmitMedia(std::string_view mark, const Message& message, size_t part) {
    if (mark.empty()) return;
    out_.media.push_back(
        {static_cast<int64_t>(out_.text.size()), message.index(), static_cast<int64_t>(part)});
    Emit(mark, ChatClass::kMedia);
  }

  // Text of a message or part: trimmed; in model turns the template leaves thoughts out.
  void Text(const std::string& text, bool model) {
    if (!model) return Emit(PythonStrip(text), ChatClass::kContent);
    if (options_.thoughts == Thoughts::kTemplate) {
      if (text.find("<|channel>") != std::string::npos) ++out_.dropped_thoughts;
      return Emit(StripThinking(text), ChatClass::kContent);
    }
    for (const Piece& piece : CutThoughts(text)) {
      const bool hoisted = piece.thought && hoisted_ > 0;
      hoisted_ -= hoisted;
      const bool kept = options_.thoughts == Thoughts::kKeep && piece.closed;
      if (!piece.thought) {
        Emit(piece.text, ChatClass::kContent);
      } else if (!kept) {
        ++out_.dropped_thoughts;
      } else if (!hoisted) {
        Emit(piece.text, ChatClass::kThought);
      }
    }
  }

  bool Content(const Message& message, bool model) {
    const Json* content = message.Get("content");
    if (content == nullptr) return false;
    const size_t before = out_.text.size();
    if (content->is_string()) {
      Text(content->get_ref<const std::string&>(), model);
    } else if (content->is_structured() && !content->empty()) {
      CheckParts(*content, message);
      for (size_t i = 0; i < content->size(); ++i) {
        const Json& part = (*content)[i];
        const Json* type = FindMember(part, "type");
        if (!IsString(type, "text")) {
          EmitMedia(MediaMark(type), message, i);
          continue;
        }
        const Json* text = FindMember(part, "text");
        LAPIDARY_CHECK(!model || (text != nullptr && text->is_string()), message.where(),
                       ": a text part must have a text; got ", DumpJson(part).substr(0, 80));
        Text(text == nullptr ? "" : PythonStr(*text), model);
      }
    }
    return out_.text.size() > before;
  }

  void Close(size_t i, bool model, bool called, bool answered, bool has_content) {
    size_t next = i + 1;
    while (next < messages_.size() && messages_[next].role() == "tool") ++next;
    const bool more = next < messages_.size();
    const bool continues =
        model && more && messages_[next].role() == "assistant" && (!called || answered);
    if (last_ == Last::kCall && !answered) {
      Emit(kResponseOpen, ChatClass::kToolResponseOpen);
    } else if (!continues && (!answered || has_content || more)) {
      EndTurn();
    }
  }

  void GenerationPrompt() {
    in_model_turn_ = false;
    current_ = -1;
    if (last_ == Last::kOther) {
      Emit("<|turn>model\n", ChatClass::kGenerationPrompt);
      if (!options_.enable_thinking) Emit(kEmptyThought, ChatClass::kGenerationPrompt);
    } else if (last_ == Last::kResponse && options_.enable_thinking) {
      Emit("<|channel>thought\n", ChatClass::kGenerationPrompt);
    }
  }

  const ChatOptions& options_;
  std::vector<Message> messages_;
  const Json* tools_ = nullptr;  // null if there are none
  size_t first_ = 0;             // messages before it are in the system turn
  int64_t last_user_ = -1;
  int64_t hoisted_ = 0;  // thoughts in front of the content that are written already
  bool in_model_turn_ = false;
  int64_t current_ = -1;  // message that is being written
  Last last_ = Last::kOther;
  std::string previous_role_;  // of the last message that was no tool's
  RenderedChat out_;
};

}  // namespace

const char* ChatClassName(ChatClass c) {
  static constexpr const char* kNames[] = {"bos",
                                           "header",
                                           "system",
                                           "tool_decl",
                                           "content",
                                           "thought",
                                           "tool_call",
                                           "tool_response_open",
                                           "tool_response",
                                           "media",
                                           "turn_end",
                                           "newline",
                                           "generation_prompt"};
  return kNames[static_cast<int>(c)];
}

RenderedChat RenderChat(const Json& messages, const Json* tools, const ChatOptions& options) {
  return Renderer(messages, tools, options).Run();
}

}  // namespace lapidary
