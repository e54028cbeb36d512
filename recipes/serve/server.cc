#include "recipes/serve/server.h"

#include <httplib.h>

#include <chrono>

#include "autograd/base/error.h"
#include "recipes/serve/connection.h"
#include "recipes/serve/work_queue.h"

namespace lapidary {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kClientGone = 499;  // as nginx logs it; nobody reads it
constexpr size_t kThreads = 72;   // a thread a request, most of them waiting

std::string Text(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

void Set(httplib::Response& res, int status, const Json& json) {
  res.status = status;
  res.set_content(Text(json), "application/json");
}

ApiError Busy() {
  return ApiError(503, "",
                  "server: requests are served one after another; got too many at once; "
                  "try again later",
                  "overloaded", "server_error");
}

ApiError Ending() {
  return ApiError(503, "", "server: must go on to answer; got its end; try again once it runs",
                  "stopping", "server_error");
}

// Whatever went wrong, as an ApiError.
ApiError AsApiError(std::exception_ptr error) {
  try {
    std::rethrow_exception(error);
  } catch (const ApiError& e) {
    return e;
  } catch (const Error& e) {
    return ApiError(400, "", e.what());
  } catch (const std::bad_alloc&) {
    return ApiError(500, "", "memory: must suffice; got none; try a shorter request", "memory",
                    "server_error");
  } catch (const std::exception& e) {
    return ApiError(500, "", StrCat("server: must not fail in a library; got ", e.what()), "",
                    "server_error");
  }
}

}  // namespace

struct Server::State {
  State(Api& which, ServerOptions given)
      : api(which), options(std::move(given)), queue(static_cast<size_t>(options.max_waiting)) {}

  Api& api;
  const ServerOptions options;
  httplib::Server http;
  int port = 0;
  WorkQueue queue;  // ends before the rest goes

  void SetUp();
  void Serve(const httplib::Request& req, httplib::Response& res,
             Api::Call (Api::*read)(const std::string&));
  void Stream(std::shared_ptr<Api::Call> call, Connection connection, httplib::Response& res);
  bool Refused(const httplib::Request& req, httplib::Response& res) const;
};

// Requests that a page in a browser could send behind its user's back, or without the key.
bool Server::State::Refused(const httplib::Request& req, httplib::Response& res) const {
  if (!options.api_key.empty() && req.path != "/health" &&
      req.get_header_value("Authorization") != "Bearer " + options.api_key) {
    res.set_header("Connection", "close");  // the body is not read
    Set(res, 401,
        ErrorJson(ApiError(401, "",
                           "Authorization: must be 'Bearer KEY' with the server's key; got "
                           "something else",
                           "invalid_api_key")));
    return true;
  }
  const std::string type = req.get_header_value("Content-Type");
  if (req.method == "POST" && type.rfind("application/json", 0) != 0) {
    res.set_header("Connection", "close");
    Set(res, 415,
        ErrorJson(ApiError(
            415, "", "Content-Type: must be application/json; got '" + type.substr(0, 60) + "'")));
    return true;
  }
  return false;
}

// Events as server-sent events, [DONE] at the end. What fails after the first byte is an event.
void Server::State::Stream(std::shared_ptr<Api::Call> call, Connection connection,
                           httplib::Response& res) {
  res.set_header("Cache-Control", "no-store");
  res.set_chunked_content_provider("text/event-stream", [this, call, connection, &res](
                                                            size_t, httplib::DataSink& sink) {
    const auto write = [&](const std::string& text) {
      return sink.write(text.data(), text.size());
    };
    const auto emit = [&](const Json& event) {
      return sink.is_writable() && write("data: " + Text(event) + "\n\n");
    };
    try {
      const bool done = queue.Run([&] { call->run(emit, [&] { return !connection.closed(); }); });
      if (!done) throw Busy();
      if (api.cancelled()) throw Ending();
    } catch (...) {
      emit(ErrorJson(AsApiError(std::current_exception())));
    }
    write("data: [DONE]\n\n");
    sink.done();
    if (connection.closed()) res.status = kClientGone;  // for the log
    return true;
  });
}

void Server::State::Serve(const httplib::Request& req, httplib::Response& res,
                          Api::Call (Api::*read)(const std::string&)) {
  try {
    auto call = std::make_shared<Api::Call>();
    const Connection connection(req.remote_addr, req.remote_port);
    Json reply;
    const bool done = queue.Run([&] {
      if (connection.closed()) return;  // gone while it waited
      *call = (api.*read)(req.body);
      if (!call->stream) reply = call->run({}, [&] { return !connection.closed(); });
    });
    if (!done) throw Busy();
    if (call->stream) {
      Stream(std::move(call), connection, res);
    } else if (reply.is_null()) {
      if (!connection.closed()) throw Ending();
      res.status = kClientGone;
    } else {
      Set(res, 200, reply);
    }
  } catch (...) {
    const ApiError error = AsApiError(std::current_exception());
    Set(res, error.status, ErrorJson(error));
  }
}

void Server::State::SetUp() {
  http.new_task_queue = [] { return new httplib::ThreadPool(kThreads); };
  http.set_payload_max_length(static_cast<size_t>(options.max_body_bytes));
  http.set_keep_alive_max_count(1000);
  http.set_tcp_nodelay(true);
  http.set_read_timeout(30);
  http.set_write_timeout(30);
  http.set_pre_routing_handler([this](const httplib::Request& req, httplib::Response& res) {
    return Refused(req, res) ? httplib::Server::HandlerResponse::Handled
                             : httplib::Server::HandlerResponse::Unhandled;
  });
  http.Get("/health", [this](const httplib::Request&, httplib::Response& res) {
    Set(res, 200, {{"status", "ok"}, {"requests", queue.size()}});
  });
  http.Get("/v1/models", [this](const httplib::Request&, httplib::Response& res) {
    Set(res, 200, api.Models());
  });
  http.Get(R"(/v1/models/(.+))", [this](const httplib::Request& req, httplib::Response& res) {
    try {
      Set(res, 200, api.Model(req.matches[1]));
    } catch (const ApiError& error) {
      Set(res, error.status, ErrorJson(error));
    }
  });
  http.Post("/v1/completions", [this](const httplib::Request& req, httplib::Response& res) {
    Serve(req, res, &Api::Completion);
  });
  http.Post("/v1/chat/completions", [this](const httplib::Request& req, httplib::Response& res) {
    Serve(req, res, &Api::Chat);
  });
  // What no handler has answered: unknown paths, bodies that are too large.
  http.set_error_handler([this](const httplib::Request& req, httplib::Response& res) {
    if (!res.body.empty()) return;
    const int status = res.status;
    const std::string message =
        status == 413 ? StrCat("request: must have at most ", options.max_body_bytes,
                               " bytes; got more; try serve --max-request-mb")
        : status == 404
            ? StrCat(
                  "path: must be /v1/models, /v1/completions, /v1/chat/completions or /health; "
                  "got ",
                  req.method, " ", req.path.substr(0, 100))
            : StrCat("request: must be HTTP that this server reads; got one it answers with ",
                     status);
    Set(res, status, ErrorJson(ApiError(status, "", message)));
  });
  http.set_logger([this](const httplib::Request& req, const httplib::Response& res) {
    if (options.on_request)
      options.on_request(StrCat(req.method, " ", req.path.substr(0, 100), " ", res.status));
  });
}

Server::Server(Api& api, ServerOptions options)
    : state_(std::make_unique<State>(api, std::move(options))) {
  State& s = *state_;
  s.SetUp();
  if (s.options.port == 0) {
    s.port = s.http.bind_to_any_port(s.options.host);
  } else {
    s.port = s.http.bind_to_port(s.options.host, s.options.port) ? s.options.port : -1;
  }
  LAPIDARY_CHECK(s.port > 0, "serve: the address must be free; got ", s.options.host, " port ",
                 s.options.port, ", which cannot be bound; try another --port");
}

Server::~Server() = default;

int Server::port() const { return state_->port; }
void Server::Run() {
  if (!state_->api.cancelled()) state_->http.listen_after_bind();
}
void Server::Stop() {
  state_->api.Cancel();
  state_->http.stop();
}

}  // namespace lapidary
