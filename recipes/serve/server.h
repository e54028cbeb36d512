// The interface of api.h over HTTP: GET /health, /v1/models, /v1/models/NAME; POST /v1/completions,
// /v1/chat/completions. Requests are served one after another through a queue.
#ifndef LAPIDARY_RECIPES_SERVE_SERVER_H_
#define LAPIDARY_RECIPES_SERVE_SERVER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "recipes/serve/api.h"

namespace lapidary {

struct ServerOptions {
  std::string host = "127.0.0.1";
  int port = 8080;  // 0: any free one
  int64_t max_body_bytes = 32 << 20;
  int64_t max_waiting = 64;                                 // requests; more are answered 503
  std::string api_key;                                      // "": none is asked for
  std::function<void(const std::string& line)> on_request;  // from any thread; may be empty
};

class Server {
 public:
  // Binds; throws Error if the port cannot be had. `api` must outlive this.
  Server(Api& api, ServerOptions options);
  ~Server();
  int port() const;
  // Serves until Stop, which any thread may call.
  void Run();
  void Stop();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace lapidary

#endif  // LAPIDARY_RECIPES_SERVE_SERVER_H_
