// POST /v1/chat/completions.
#include <algorithm>
#include <optional>

#include "autograd/base/error.h"
#include "data/json.h"
#include "recipes/serve/answer_reader.h"
#include "recipes/serve/reply.h"
#include "recipes/serve/request.h"

namespace lapidary {
namespace {

using Json = nlohmann::ordered_json;

struct ChatRequest {
  CommonRequest common;
  ModelInput prompt;
  std::optional<JsonGrammar> grammar;
};

// Whether the model is to think first: chat_template_kwargs.enable_thinking, as vLLM has it, or
// reasoning_effort other than none and minimal.
bool ReadThinking(RequestReader& reader) {
  bool think = false;
  if (const Json* effort = reader.Get("reasoning_effort")) {
    static const char* const words[] = {"none", "minimal", "low", "medium", "high"};
    const auto* const end = std::end(words);
    const auto* const found =
        std::find_if(std::begin(words), end, [&](const char* w) { return *effort == w; });
    if (found == end)
      throw ApiError(400, "reasoning_effort",
                     StrCat("reasoning_effort: must be none, minimal, low, medium or high; got ",
                            DumpJson(*effort).substr(0, 40)));
    think = found - std::begin(words) >= 2;
  }
  if (const Json* more = reader.Get("chat_template_kwargs")) {
    const bool fits = more->is_object() &&
                      (more->empty() || (more->size() == 1 && more->contains("enable_thinking") &&
                                         (*more)["enable_thinking"].is_boolean()));
    if (!fits)
      throw ApiError(400, "chat_template_kwargs",
                     StrCat("chat_template_kwargs: must be {\"enable_thinking\": true or false}; "
                            "got ",
                            DumpJson(*more).substr(0, 60)));
    if (!more->empty()) think = (*more)["enable_thinking"].get<bool>();
  }
  return think;
}

Json Scores(const Tokenizer& tokenizer, int32_t id, double logprob) {
  const int byte = tokenizer.ByteOf(id);
  Json bytes = Json::array();
  if (byte >= 0) {
    bytes.push_back(byte);
  } else {
    for (const char c : tokenizer.TokenText(id)) bytes.push_back(static_cast<uint8_t>(c));
  }
  return {{"token", TokenLabel(tokenizer, id)},
          {"logprob", Finite(logprob)},
          {"bytes", std::move(bytes)}};
}

}  // namespace

class ChatRun {
 public:
  ChatRun(Api& api, ChatRequest request, std::string adapter)
      : api_(api),
        request_(std::move(request)),
        adapter_(std::move(adapter)),
        id_(api.NewId("chatcmpl-")) {}

  Json operator()(const Api::Emit& emit, const Api::Listens& listens) {
    go_on_ = [&] { return !api_.cancelled() && (!listens || listens()); };
    api_.engine_.UseAdapter(adapter_);
    usage_.prompt = request_.prompt.size();
    const bool stream = request_.common.stream;
    Json choices = Json::array();
    for (int64_t i = 0; i < request_.common.n; ++i) {
      Choice choice;
      choice.index = i;
      choice.emit = stream ? &emit : nullptr;
      Answer(choice);
      if (gone_) return nullptr;
      if (stream) continue;
      Json message = {
          {"role", "assistant"},
          {"content",
           choice.content.empty() && !choice.calls.empty() ? Json() : Json(choice.content)}};
      if (!choice.thought.empty()) message["reasoning_content"] = choice.thought;
      if (!choice.calls.empty()) message["tool_calls"] = choice.calls;
      choices.push_back({{"index", i},
                         {"message", std::move(message)},
                         {"logprobs", Logprobs(choice)},
                         {"finish_reason", choice.finish}});
    }
    if (!stream) {
      Json reply = Envelope("chat.completion", std::move(choices));
      reply["usage"] = usage_.ToJson();
      return reply;
    }
    if (request_.common.include_usage) {
      Json event = Envelope("chat.completion.chunk", Json::array());
      event["usage"] = usage_.ToJson();
      emit(event);
    }
    return nullptr;
  }

 private:
  struct Choice {
    int64_t index = 0;
    const Api::Emit* emit = nullptr;  // null: not a stream
    std::string thought, content;
    Json calls = Json::array(), scores = Json::array();
    std::string finish;
  };

  Json Envelope(const char* object, Json choices) const {
    return {{"id", id_},
            {"object", object},
            {"created", api_.created_},
            {"model", request_.common.model},
            {"choices", std::move(choices)}};
  }

  // What was scored since the last call; null if nobody asked.
  Json Logprobs(Choice& choice) const {
    if (request_.common.options.top_logprobs < 0) return nullptr;
    Json out = {{"content", std::move(choice.scores)}};
    choice.scores = Json::array();
    return out;
  }

  void Send(Choice& choice, Json delta, Json finish = nullptr) {
    if (!choice.emit || gone_) return;
    gone_ = !(*choice.emit)(
        Envelope("chat.completion.chunk", Json::array({{{"index", choice.index},
                                                        {"delta", std::move(delta)},
                                                        {"logprobs", Logprobs(choice)},
                                                        {"finish_reason", std::move(finish)}}})));
  }

  void Add(Choice& choice, const AnswerPiece& piece, StopText& stop) {
    switch (piece.kind) {
      case AnswerPiece::Kind::kThought:
        choice.thought += piece.text;
        Send(choice, {{"reasoning_content", piece.text}});
        return;
      case AnswerPiece::Kind::kContent:
        AddContent(choice, stop.Push(piece.text));
        return;
      case AnswerPiece::Kind::kToolCall: {
        Json call = {
            {"id", StrCat("call_", id_.substr(9), "-", choice.index, "-", choice.calls.size())},
            {"type", "function"},
            {"function",
             {{"name", piece.call.name}, {"arguments", DumpJson(piece.call.arguments)}}}};
        choice.calls.push_back(call);
        call["index"] = choice.calls.size() - 1;
        Send(choice, {{"tool_calls", Json::array({std::move(call)})}});
        return;
      }
    }
  }

  void AddContent(Choice& choice, const std::string& text) {
    if (text.empty()) return;
    choice.content += text;
    Send(choice, {{"content", text}});
  }

  void Answer(Choice& choice) {
    const Tokenizer& tokenizer = api_.engine_.tokenizer();
    GenerateOptions options = request_.common.options;
    options.sample = static_cast<uint64_t>(choice.index);
    std::unique_ptr<TokenConstraint> constraint;
    if (request_.grammar) constraint = api_.engine_.Constrain(*request_.grammar);
    options.constraint = constraint.get();
    options.go_on = go_on_;
    TokenLogprobs last;
    options.on_logprobs = [&](const TokenLogprobs& scores) { last = scores; };
    Send(choice, {{"role", "assistant"}, {"content", ""}});
    AnswerReader reader(tokenizer, request_.prompt.ids);
    StopText stop(request_.common.stops);
    const std::vector<int32_t>& stops = options.stop_ids;
    const GenerateResult result = api_.engine_.Run(request_.prompt, options, [&](int32_t id) {
      ++usage_.completion;
      if (std::find(stops.begin(), stops.end(), id) != stops.end()) return true;
      const std::vector<AnswerPiece> pieces = reader.Push(id);
      if (options.top_logprobs >= 0 && reader.in_content()) {
        Json token = Scores(tokenizer, id, last.logprob);
        token["top_logprobs"] = Json::array();
        for (const auto& [other, logprob] : last.top)
          token["top_logprobs"].push_back(Scores(tokenizer, other, logprob));
        choice.scores.push_back(std::move(token));
      }
      for (const AnswerPiece& piece : pieces) Add(choice, piece, stop);
      return !gone_ && !stop.stopped();
    });
    if (result.interrupted) gone_ = true;
    if (gone_) return;
    usage_.cached += result.reused;
    for (const AnswerPiece& piece : reader.Finish()) Add(choice, piece, stop);
    if (!stop.stopped()) AddContent(choice, stop.Finish());
    choice.finish = !choice.calls.empty()              ? "tool_calls"
                    : result.stopped || stop.stopped() ? "stop"
                                                       : "length";
    Send(choice, Json::object(), choice.finish);
  }

  Api& api_;
  const ChatRequest request_;
  const std::string adapter_, id_;
  Usage usage_;
  std::function<bool()> go_on_;
  bool gone_ = false;
};

Api::Call Api::Chat(const std::string& body) {
  RequestReader reader(body);
  ChatRequest request;
  request.common = ReadCommon(reader, engine_.Defaults());
  const std::string adapter = AdapterOf(request.common.model);
  const Json row = ReadConversation(reader);
  request.grammar = ReadResponseFormat(reader);
  const bool think = ReadThinking(reader);
  if (think && request.grammar)
    throw ApiError(400, "response_format",
                   "response_format: JSON must be asked for without thinking; got both");
  GenerateOptions& o = request.common.options;
  const int64_t top = reader.Integer("top_logprobs", 0, 20, 0);
  if (reader.Flag("logprobs", false)) o.top_logprobs = top;
  const bool given = reader.Get("max_tokens") || reader.Get("max_completion_tokens");
  o.max_new_tokens = reader.Integer("max_tokens", 1, options_.max_context, 0);
  o.max_new_tokens =
      reader.Integer("max_completion_tokens", 1, options_.max_context, o.max_new_tokens);
  reader.Finish();
  try {
    request.prompt = engine_.PromptOfRow(row, "messages", think);
  } catch (const Error& error) {
    throw ApiError(400, "messages", error.what());
  }
  const int64_t left = options_.max_context - request.prompt.size();
  if (!given) o.max_new_tokens = std::min(options_.default_new_tokens, std::max<int64_t>(left, 1));
  CheckContext(request.prompt.size(), o.max_new_tokens, options_.max_context);
  Call call;
  call.stream = request.common.stream;
  auto run = std::make_shared<ChatRun>(*this, std::move(request), adapter);
  call.run = [run](const Emit& emit, const Listens& listens) { return (*run)(emit, listens); };
  return call;
}

}  // namespace lapidary
