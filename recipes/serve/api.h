// The OpenAI-compatible interface without the network: a request's JSON in, replies out. Requests
// are checked in full before anything is computed.
//   completions        prompt (text, ids, or a list of either), echo, logprobs, n, stop, stream
//   chat completions   messages with text, image_url (data: URLs), input_audio and video_url parts,
//                      tools, response_format, logprobs, thinking as reasoning_content, stream
// Nothing is fetched and no file of this machine is read for a request.
#ifndef LAPIDARY_RECIPES_SERVE_API_H_
#define LAPIDARY_RECIPES_SERVE_API_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "recipes/serve/engine.h"

namespace lapidary {

// Something wrong with a request, in OpenAI's shape.
struct ApiError : std::runtime_error {
  ApiError(int http_status, std::string which, const std::string& message,
           std::string error_code = "", std::string error_type = "invalid_request_error")
      : std::runtime_error(message),
        status(http_status),
        param(std::move(which)),
        code(std::move(error_code)),
        type(std::move(error_type)) {}
  int status;
  std::string param, code, type;
};
// {"error": {"message", "type", "param", "code"}}
nlohmann::ordered_json ErrorJson(const ApiError& error);

struct ApiOptions {
  std::string model;                  // the base's name
  std::vector<std::string> adapters;  // names that stand for the base with an adapter
  // Prompts of completions that are token ids without <bos> get it in front; it is neither echoed
  // nor scored. The model needs it, and clients with a tokenizer of their own leave it out.
  bool add_bos = false;
  int64_t max_context = 8192;         // tokens of prompt and answer
  int64_t default_new_tokens = 1024;  // of a chat without max_tokens
};

class Api {
 public:
  using Json = nlohmann::ordered_json;
  // Sends one event of a stream; false: nobody listens any more.
  using Emit = std::function<bool(const Json&)>;

  // Whether whoever asked still waits; asked before every matrix of the model.
  using Listens = std::function<bool()>;

  // One request, checked and ready. Run computes the answer: streams give their events to `emit`
  // and return nothing, others return the reply, null if nobody waits for it any more or after
  // Cancel. `listens` may be empty, and `emit` if it is no stream.
  struct Call {
    bool stream = false;
    std::function<Json(const Emit& emit, const Listens& listens)> run;
  };

  // `engine` must outlive this.
  Api(Engine& engine, ApiOptions options);

  // Throw ApiError. Not thread-safe: media are decoded here.
  Call Completion(const std::string& body);
  Call Chat(const std::string& body);

  Json Models() const;
  Json Model(const std::string& name) const;  // throws ApiError 404

  // Ends what is running, and what will be, as soon as it can.
  void Cancel() { cancelled_ = true; }
  bool cancelled() const { return cancelled_; }

 private:
  friend class CompletionRun;
  friend class ChatRun;
  std::string AdapterOf(const std::string& model) const;  // "": the base
  std::string NewId(const char* prefix);

  Engine& engine_;
  const ApiOptions options_;
  const int64_t created_;
  uint64_t count_ = 0;
  std::atomic<bool> cancelled_{false};
};

}  // namespace lapidary

#endif  // LAPIDARY_RECIPES_SERVE_API_H_
