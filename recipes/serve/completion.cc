// POST /v1/completions.
#include <algorithm>
#include <optional>

#include "autograd/base/error.h"
#include "recipes/serve/answer_reader.h"
#include "recipes/serve/reply.h"
#include "recipes/serve/request.h"

namespace lapidary {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kMaxPrompts = 256;

struct CompletionRequest {
  CommonRequest common;
  std::vector<ModelInput> prompts;
  std::vector<size_t> unseen;  // tokens in front of each that the client did not send
  bool echo = false;
};

// What "prompt" may be: a text, a list of texts, a list of ids, a list of such lists.
std::vector<std::vector<int32_t>> ReadPrompts(const Json* prompt, const Tokenizer& tokenizer) {
  const auto bad = [&](const Json& got) -> ApiError {
    return ApiError(400, "prompt",
                    StrCat("prompt: must be a text, a list of token ids below ", tokenizer.size(),
                           ", or a list of up to ", kMaxPrompts, " of these; got ",
                           got.dump(-1, ' ', false, Json::error_handler_t::replace).substr(0, 60)));
  };
  if (!prompt) throw bad(nullptr);
  const auto text_ids = [&](const Json& text) {
    const std::string& t = text.get_ref<const std::string&>();
    return tokenizer.Encode(t.starts_with("<bos>") ? t : "<bos>" + t);
  };
  const auto token_ids = [&](const Json& list) {
    std::vector<int32_t> ids;
    for (const Json& id : list) {
      if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() >= tokenizer.size())
        throw bad(list);
      ids.push_back(id.get<int32_t>());
    }
    if (ids.empty()) throw bad(list);
    return ids;
  };
  if (prompt->is_string()) return {text_ids(*prompt)};
  if (!prompt->is_array() || prompt->empty()) throw bad(*prompt);
  if ((*prompt)[0].is_number()) return {token_ids(*prompt)};
  if (prompt->size() > kMaxPrompts) throw bad(prompt->size());
  std::vector<std::vector<int32_t>> all;
  for (const Json& one : *prompt) {
    if (!one.is_string() && !one.is_array()) throw bad(one);
    all.push_back(one.is_string() ? text_ids(one) : token_ids(one));
  }
  return all;
}

int64_t Characters(std::string_view text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; });
}

// "logprobs" of one choice, token by token.
class LogprobList {
 public:
  explicit LogprobList(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}

  // `scores` null: the first token of a prompt.
  void Add(int32_t id, const TokenLogprobs* scores) {
    tokens_.push_back(TokenLabel(tokenizer_, id));
    offsets_.push_back(offset_);
    if (!tokenizer_.IsSpecial(id))
      offset_ += tokenizer_.ByteOf(id) >= 0 ? 1 : Characters(tokenizer_.TokenText(id));
    if (!scores) {
      logprobs_.push_back(nullptr);
      top_.push_back(nullptr);
      return;
    }
    logprobs_.push_back(Finite(scores->logprob));
    Json top = Json::object();
    for (const auto& [other, logprob] : scores->top)
      top[TokenLabel(tokenizer_, other)] = Finite(logprob);
    top[TokenLabel(tokenizer_, id)] = Finite(scores->logprob);
    top_.push_back(std::move(top));
  }

  // What was added since the last call.
  Json Take() {
    Json out = {{"tokens", std::move(tokens_)},
                {"token_logprobs", std::move(logprobs_)},
                {"top_logprobs", std::move(top_)},
                {"text_offset", std::move(offsets_)}};
    tokens_ = logprobs_ = top_ = offsets_ = Json::array();
    return out;
  }

 private:
  const Tokenizer& tokenizer_;
  int64_t offset_ = 0;
  Json tokens_ = Json::array(), logprobs_ = Json::array(), top_ = Json::array(),
       offsets_ = Json::array();
};

}  // namespace

class CompletionRun {
 public:
  CompletionRun(Api& api, CompletionRequest request, std::string adapter)
      : api_(api),
        request_(std::move(request)),
        adapter_(std::move(adapter)),
        id_(api.NewId("cmpl-")) {}

  Json operator()(const Api::Emit& emit, const Api::Listens& listens) {
    go_on_ = [&] { return !api_.cancelled() && (!listens || listens()); };
    api_.engine_.UseAdapter(adapter_);
    Json choices = Json::array();
    int64_t index = 0;
    for (size_t p = 0; p < request_.prompts.size(); ++p) {
      const ModelInput& prompt = request_.prompts[p];
      const size_t unseen = request_.unseen[p];
      usage_.prompt += prompt.size();
      for (int64_t sample = 0; sample < request_.common.n; ++sample, ++index) {
        Json choice = Choice(prompt, unseen, sample, index, emit);
        if (gone_) return nullptr;
        if (!request_.common.stream) choices.push_back(std::move(choice));
      }
    }
    if (!request_.common.stream) {
      Json reply = Envelope(std::move(choices));
      reply["usage"] = usage_.ToJson();
      return reply;
    }
    if (request_.common.include_usage) {
      Json event = Envelope(Json::array());
      event["usage"] = usage_.ToJson();
      emit(event);
    }
    return nullptr;
  }

 private:
  Json Envelope(Json choices) const {
    return {{"id", id_},
            {"object", "text_completion"},
            {"created", api_.created_},
            {"model", request_.common.model},
            {"choices", std::move(choices)}};
  }

  // One answer: the choice, or its events.
  Json Choice(const ModelInput& prompt, size_t unseen, int64_t sample, int64_t index,
              const Api::Emit& emit) {
    const Tokenizer& tokenizer = api_.engine_.tokenizer();
    GenerateOptions options = request_.common.options;
    options.sample = static_cast<uint64_t>(sample);
    const bool report = options.top_logprobs >= 0;
    LogprobList logprobs(tokenizer);
    std::string text, fresh;
    StopText stop(request_.common.stops);
    const auto send = [&](const char* finish) {
      if (!request_.common.stream) {
        text += fresh;
      } else if (!fresh.empty() || finish) {
        gone_ = !emit(Envelope(Json::array({{{"text", fresh},
                                             {"index", index},
                                             {"logprobs", report ? logprobs.Take() : Json()},
                                             {"finish_reason", finish ? Json(finish) : Json()}}})));
      }
      fresh.clear();
    };
    options.go_on = go_on_;
    TokenLogprobs last;
    options.on_logprobs = [&](const TokenLogprobs& scores) { last = scores; };
    if (request_.echo) {
      fresh = tokenizer.Decode(prompt.ids, /*skip_special=*/true);
      options.score_prompt = report;
      options.on_prompt_logprobs = [&](const std::vector<TokenLogprobs>& scores) {
        for (size_t i = unseen; i < prompt.ids.size(); ++i)
          logprobs.Add(prompt.ids[i], i > 0 ? &scores[i - 1] : nullptr);
      };
    }
    StreamDecoder decoder(tokenizer, /*skip_special=*/true);
    const std::vector<int32_t>& stops = options.stop_ids;
    const GenerateResult result = api_.engine_.Run(prompt, options, [&](int32_t id) {
      ++usage_.completion;
      if (report) logprobs.Add(id, &last);
      if (std::find(stops.begin(), stops.end(), id) == stops.end())
        fresh += stop.Push(decoder.Push(id));
      send(nullptr);
      return !gone_ && !stop.stopped();
    });
    if (result.interrupted) gone_ = true;
    if (gone_) return {};
    usage_.cached += result.reused;
    fresh += stop.Push(decoder.Finish());
    if (!stop.stopped()) fresh += stop.Finish();
    const char* finish = result.stopped || stop.stopped() ? "stop" : "length";
    if (!gone_) send(finish);
    return {{"text", text},
            {"index", index},
            {"logprobs", report ? logprobs.Take() : Json()},
            {"finish_reason", finish}};
  }

  Api& api_;
  const CompletionRequest request_;
  const std::string adapter_, id_;
  Usage usage_;
  std::function<bool()> go_on_;
  bool gone_ = false;  // whoever asked
};

Api::Call Api::Completion(const std::string& body) {
  RequestReader reader(body);
  CompletionRequest request;
  request.common = ReadCommon(reader, engine_.Defaults());
  const std::string adapter = AdapterOf(request.common.model);
  for (std::vector<int32_t>& ids : ReadPrompts(reader.Get("prompt"), engine_.tokenizer())) {
    ModelInput prompt;
    const std::optional<int32_t> bos = engine_.tokenizer().Find("<bos>");
    const bool lacks = options_.add_bos && bos && ids[0] != *bos;
    if (lacks) ids.insert(ids.begin(), *bos);
    request.unseen.push_back(lacks ? 1 : 0);
    prompt.ids = std::move(ids);
    request.prompts.push_back(std::move(prompt));
  }
  request.echo = reader.Flag("echo", false);
  GenerateOptions& o = request.common.options;
  o.max_new_tokens = reader.Integer("max_tokens", 0, options_.max_context, 16);
  o.top_logprobs = reader.Integer("logprobs", 0, 20, -1);
  for (const ModelInput& prompt : request.prompts)
    CheckContext(prompt.size(), o.max_new_tokens, options_.max_context);
  reader.Refuse("suffix", "");
  const int64_t best = reader.Integer("best_of", 1, 16, request.common.n);
  if (best != request.common.n)
    throw ApiError(400, "best_of", StrCat("best_of: must equal n or be left out; got ", best));
  reader.Finish();
  Call call;
  call.stream = request.common.stream;
  auto run = std::make_shared<CompletionRun>(*this, std::move(request), adapter);
  call.run = [run](const Emit& emit, const Listens& listens) { return (*run)(emit, listens); };
  return call;
}

}  // namespace lapidary
