// The OpenAI-compatible server in this process, asked by the HTTP library's own client; the parts
// that take an answer apart; requests that are wrong.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <httplib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <filesystem>
#include <mutex>
#include <nlohmann/json.hpp>
#include <thread>

#include "autograd/base/error.h"
#include "autograd/base/file.h"
#include "autograd/base/random.h"
#include "data/chat_tools.h"
#include "data/json.h"
#include "recipes/serve/answer_reader.h"
#include "recipes/serve/server.h"
#include "tests/fuzz/mutate.h"

namespace lapidary {
namespace {

using Json = nlohmann::ordered_json;

const std::string kGolden = LAPIDARY_SOURCE_DIR "/tests/golden/gguf";

// A server over the small golden checkpoint and its adapter.
class Running {
 public:
  explicit Running(ServerOptions options = {}, bool add_bos = false, int64_t max_context = 600)
      : engine_(OpenBundle(kGolden + "/hf"), SmallPictures()),
        api_(WithAdapter(engine_), {"base", {"tuned"}, add_bos, max_context, 20}) {
    options.port = 0;
    server_ = std::make_unique<Server>(api_, std::move(options));
    thread_ = std::thread([this] { server_->Run(); });
    httplib::Client client = Connect();
    for (int i = 0; i < 1000 && !client.Get("/health"); ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  ~Running() {
    server_->Stop();
    thread_.join();
  }

  httplib::Client Connect() const {
    httplib::Client client("127.0.0.1", server_->port());
    client.set_read_timeout(120);
    return client;
  }
  // Status and body of a POST.
  std::pair<int, std::string> Raw(const std::string& path, const std::string& body) const {
    httplib::Client client = Connect();
    const httplib::Result result = client.Post(path, body, "application/json");
    if (!result) return {0, ""};
    return {result->status, result->body};
  }
  Json Post(const std::string& path, const Json& body) const {
    const auto [status, text] = Raw(path, body.dump());
    EXPECT_EQ(status, 200) << text;
    return Json::parse(text, nullptr, false);
  }
  // The events of a stream.
  std::vector<Json> Stream(const std::string& path, Json body) const {
    body["stream"] = true;
    const auto [status, text] = Raw(path, body.dump());
    EXPECT_EQ(status, 200) << text;
    std::vector<Json> events;
    std::istringstream lines(text);
    bool done = false;
    for (std::string line; std::getline(lines, line);) {
      if (line.empty()) continue;
      EXPECT_EQ(line.rfind("data: ", 0), 0u) << line;
      EXPECT_FALSE(done);
      done = line == "data: [DONE]";
      if (!done) events.push_back(Json::parse(line.substr(6), nullptr, false));
    }
    EXPECT_TRUE(done);
    return events;
  }
  Api& api() { return api_; }
  int port() const { return server_->port(); }

 private:
  static EngineOptions SmallPictures() {
    EngineOptions options;
    options.image_budget = 70;
    return options;
  }
  static Engine& WithAdapter(Engine& engine) {
    engine.AddAdapter("tuned", kGolden + "/lora");
    return engine;
  }
  Engine engine_;
  Api api_;
  std::unique_ptr<Server> server_;
  std::thread thread_;
};

const Running& Shared() {
  static const Running running;
  return running;
}

Json Chat(const std::string& text) {
  return {{"model", "base"},
          {"messages", Json::array({{{"role", "user"}, {"content", text}}})},
          {"max_tokens", 12},
          {"seed", 5}};
}

const char kChat[] = "/v1/chat/completions", kText[] = "/v1/completions";

TEST(Serve, ModelsAndHealth) {
  httplib::Client client = Shared().Connect();
  const Json models = Json::parse(client.Get("/v1/models")->body);
  EXPECT_EQ(models["data"].size(), 2u);
  EXPECT_EQ(models["data"][1]["id"], "tuned");
  EXPECT_EQ(Json::parse(client.Get("/v1/models/base")->body)["object"], "model");
  EXPECT_EQ(client.Get("/v1/models/other")->status, 404);
  EXPECT_EQ(Json::parse(client.Get("/health")->body)["status"], "ok");
}

TEST(Serve, CompletionsEchoAndScore) {
  const Json body = {{"model", "base"}, {"prompt", Json::array({2, 100, 101, 102, 103})},
                     {"echo", true},    {"logprobs", 3},
                     {"max_tokens", 4}, {"temperature", 0}};
  const Json reply = Shared().Post(kText, body);
  const Json& choice = reply["choices"][0];
  const Json& scores = choice["logprobs"];
  ASSERT_EQ(scores["tokens"].size(), 5u + reply["usage"]["completion_tokens"].get<size_t>());
  EXPECT_TRUE(scores["token_logprobs"][0].is_null());
  for (size_t i = 1; i < scores["tokens"].size(); ++i) {
    const double p = scores["token_logprobs"][i];
    EXPECT_LE(p, 0);
    double best = -1e9;
    for (const auto& [token, value] : scores["top_logprobs"][i].items())
      best = std::max(best, value.get<double>());
    EXPECT_LE(p, best);
    if (i >= 5) {
      EXPECT_EQ(p, best);  // greedy
    }
  }
  // What was generated has the same score as part of a prompt.
  Json again = body;
  again["max_tokens"] = 0;
  Json stream = body;
  stream["echo"] = false;
  std::string text;
  Json streamed = Json::array();
  for (const Json& event : Shared().Stream(kText, stream)) {
    text += event["choices"][0]["text"].get<std::string>();
    for (const Json& p : event["choices"][0]["logprobs"]["token_logprobs"]) streamed.push_back(p);
  }
  EXPECT_TRUE(choice["text"].get<std::string>().ends_with(text));
  for (size_t i = 0; i < streamed.size(); ++i)
    EXPECT_EQ(streamed[i], scores["token_logprobs"][5 + i]);
  const Json only = Shared().Post(kText, again);
  EXPECT_EQ(only["choices"][0]["logprobs"]["tokens"].size(), 5u);
  for (size_t i = 1; i < 5; ++i)
    EXPECT_EQ(only["choices"][0]["logprobs"]["token_logprobs"][i], scores["token_logprobs"][i]);
}

// With add_bos, ids without <bos> are scored as if they had it, and echoed as they came.
TEST(Serve, AddsBosUnseen) {
  const Running running({}, /*add_bos=*/true);
  Json body = {{"model", "base"}, {"prompt", Json::array({100, 101, 102})},
               {"echo", true},    {"logprobs", 0},
               {"max_tokens", 2}, {"temperature", 0}};
  const Json got = running.Post(kText, body)["choices"][0];
  body["prompt"] = Json::array({2, 100, 101, 102});
  const Json want = Shared().Post(kText, body)["choices"][0];
  EXPECT_EQ(running.Post(kText, body)["choices"][0], want);
  EXPECT_EQ(got["text"], want["text"]);
  ASSERT_EQ(got["logprobs"]["tokens"].size() + 1, want["logprobs"]["tokens"].size());
  for (size_t i = 0; i < got["logprobs"]["tokens"].size(); ++i)
    EXPECT_EQ(got["logprobs"]["token_logprobs"][i], want["logprobs"]["token_logprobs"][i + 1]);
}

TEST(Serve, ListsOfPromptsAndSamples) {
  const Json body = {{"model", "base"}, {"prompt", Json::array({"one", "two"})},
                     {"n", 3},          {"max_tokens", 6},
                     {"seed", 9},       {"temperature", 80}};
  const Json first = Shared().Post(kText, body), second = Shared().Post(kText, body);
  ASSERT_EQ(first["choices"].size(), 6u);
  EXPECT_EQ(first["choices"], second["choices"]);
  EXPECT_NE(first["choices"][0]["text"], first["choices"][1]["text"]);
  for (size_t i = 0; i < 6; ++i) EXPECT_EQ(first["choices"][i]["index"], i);
  // A prompt alone, and as ids: the same.
  Json alone = body;
  alone["prompt"] = "two";
  const Json third = Shared().Post(kText, alone);
  for (size_t i = 0; i < 3; ++i)
    EXPECT_EQ(third["choices"][i]["text"], first["choices"][3 + i]["text"]);
}

TEST(Serve, StopTextsEndAnswers) {
  Json body = {{"model", "base"}, {"prompt", "tell me"}, {"max_tokens", 30}, {"temperature", 0}};
  const std::string whole = Shared().Post(kText, body)["choices"][0]["text"];
  ASSERT_GE(whole.size(), 6u);
  size_t begin = 3, end = 5;  // whole characters
  while (begin < whole.size() && (whole[begin] & 0xc0) == 0x80) ++begin;
  while (end < whole.size() && (whole[end] & 0xc0) == 0x80) ++end;
  const std::string stop = whole.substr(begin, end - begin);
  body["stop"] = Json::array({"no such text", stop});
  const Json choice = Shared().Post(kText, body)["choices"][0];
  EXPECT_EQ(choice["text"], whole.substr(0, whole.find(stop)));
  EXPECT_EQ(choice["finish_reason"], "stop");
}

TEST(Serve, ChatStreamsWhatItReplies) {
  for (const bool think : {false, true}) {
    Json body = Chat("How are you?");
    body["logprobs"] = true;
    body["top_logprobs"] = 2;
    body["chat_template_kwargs"] = {{"enable_thinking", think}};
    const Json reply = Shared().Post(kChat, body);
    body["stream_options"] = {{"include_usage", true}};
    const std::vector<Json> events = Shared().Stream(kChat, body);
    std::string content, finish;
    Json scores = Json::array();
    for (const Json& event : events) {
      if (event["choices"].empty()) continue;
      const Json& choice = event["choices"][0];
      content += choice["delta"].value("content", "");
      for (const Json& token : choice["logprobs"]["content"]) scores.push_back(token);
      if (choice["finish_reason"].is_string()) finish = choice["finish_reason"];
    }
    EXPECT_EQ(content, reply["choices"][0]["message"]["content"]);
    EXPECT_EQ(finish, reply["choices"][0]["finish_reason"]);
    EXPECT_EQ(scores, reply["choices"][0]["logprobs"]["content"]);
    EXPECT_EQ(events.back()["usage"]["total_tokens"], reply["usage"]["total_tokens"]);
    EXPECT_EQ(events.front()["choices"][0]["delta"]["role"], "assistant");
  }
}

// Adapters answer by name; the base is as it was before.
TEST(Serve, AdaptersByName) {
  Json base = {{"model", "base"}, {"prompt", "Which stone?"}, {"echo", true},
               {"logprobs", 0},   {"max_tokens", 3},          {"temperature", 0}};
  Json tuned = base;
  tuned["model"] = "tuned";
  const Json one = Shared().Post(kText, base), two = Shared().Post(kText, tuned),
             three = Shared().Post(kText, base);
  EXPECT_EQ(one["choices"], three["choices"]);
  EXPECT_NE(one["choices"][0]["logprobs"], two["choices"][0]["logprobs"]);
  EXPECT_EQ(two["model"], "tuned");
}

std::string Base64(const std::string& bytes) {
  static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  for (size_t i = 0; i < bytes.size(); i += 3) {
    uint32_t bits = 0;
    for (size_t j = 0; j < 3; ++j)
      bits = bits << 8 | (i + j < bytes.size() ? static_cast<uint8_t>(bytes[i + j]) : 0);
    for (size_t j = 0; j < 4; ++j)
      out += i + j > bytes.size() ? '=' : digits[bits >> (18 - 6 * j) & 63];
  }
  return out;
}

TEST(Serve, PicturesAndSoundsCount) {
  std::string picture, sound;
  for (const auto& entry : std::filesystem::directory_iterator(kGolden + "/media")) {
    const std::string extension = entry.path().extension();
    if (extension == ".png") picture = Base64(ReadFile(entry.path()));
    if (extension == ".wav") sound = Base64(ReadFile(entry.path()));
  }
  ASSERT_FALSE(picture.empty());
  ASSERT_FALSE(sound.empty());
  Json body = Chat("?");
  const int64_t plain = Shared().Post(kChat, body)["usage"]["prompt_tokens"];
  body["messages"][0]["content"] = Json::array(
      {{{"type", "image_url"}, {"image_url", {{"url", "data:image/png;base64," + picture}}}},
       {{"type", "text"}, {"text", "?"}}});
  const int64_t seen = Shared().Post(kChat, body)["usage"]["prompt_tokens"];
  EXPECT_GT(seen, plain + 2);
  body["messages"][0]["content"].push_back(
      {{"type", "input_audio"}, {"input_audio", {{"data", sound}, {"format", "wav"}}}});
  const Json all = Shared().Post(kChat, body);
  EXPECT_GT(all["usage"]["prompt_tokens"].get<int64_t>(), seen + 2);
  // Said again, the same prompt is not computed again.
  const Json again = Shared().Post(kChat, body);
  EXPECT_EQ(again["choices"], all["choices"]);
  EXPECT_EQ(again["usage"]["prompt_tokens_details"]["cached_tokens"],
            again["usage"]["prompt_tokens"].get<int64_t>() - 1);
}

TEST(Serve, ConstrainedAnswersFitTheirSchema) {
  const Json schema = Json::parse(R"({"type": "object", "properties": {
      "stone": {"enum": ["flint", "basalt"]}, "hard": {"type": "boolean"}},
      "required": ["stone", "hard"], "additionalProperties": false})");
  int whole = 0;
  for (int seed = 0; seed < 6; ++seed) {
    Json body = Chat("Which stone?");
    body["seed"] = seed;
    body["max_tokens"] = 200;
    body["response_format"] = {{"type", "json_schema"},
                               {"json_schema", {{"name", "stone"}, {"schema", schema}}}};
    const Json choice = Shared().Post(kChat, body)["choices"][0];
    if (choice["finish_reason"] != "stop") continue;
    ++whole;
    const Json value = Json::parse(choice["message"]["content"].get<std::string>(), nullptr, false);
    ASSERT_TRUE(value.is_object()) << choice.dump();
    EXPECT_EQ(value.size(), 2u);
    EXPECT_TRUE(value["stone"] == "flint" || value["stone"] == "basalt");
    EXPECT_TRUE(value["hard"].is_boolean());
  }
  EXPECT_GT(whole, 0);
}

// Requests that come together are answered as if they had come one by one.
TEST(Serve, ManyAtOnce) {
  std::vector<Json> bodies, alone;
  for (int i = 0; i < 6; ++i) {
    bodies.push_back(Chat("question " + std::to_string(i / 2)));
    bodies.back()["model"] = i % 2 ? "tuned" : "base";
    alone.push_back(Shared().Post(kChat, bodies.back())["choices"]);
  }
  std::vector<Json> together(6);
  std::vector<std::thread> threads;
  for (int i = 0; i < 6; ++i) {
    threads.emplace_back([&, i] { together[i] = Shared().Post(kChat, bodies[i])["choices"]; });
  }
  for (std::thread& thread : threads) thread.join();
  for (int i = 0; i < 6; ++i) EXPECT_EQ(together[i], alone[i]) << i;
}

// A client that sends a request by hand, and may go away.
class RawClient {
 public:
  RawClient(int port, const std::string& path, const std::string& body)
      : socket_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in to = {};
    to.sin_family = AF_INET;
    to.sin_port = htons(static_cast<uint16_t>(port));
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(::connect(socket_, reinterpret_cast<sockaddr*>(&to), sizeof to), 0);
    const std::string text = "POST " + path +
                             " HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
                             "Content-Length: " +
                             std::to_string(body.size()) + "\r\n\r\n" + body;
    for (size_t sent = 0; sent < text.size();) {
      const ssize_t n = ::send(socket_, text.data() + sent, text.size() - sent, MSG_NOSIGNAL);
      if (n <= 0) throw Error("the server must take the request");
      sent += static_cast<size_t>(n);
    }
  }
  ~RawClient() { GoAway(); }
  void GoAway() {
    if (socket_ >= 0) ::close(socket_);
    socket_ = -1;
  }
  // Until the first bytes of the reply are there.
  void AwaitReply() const {
    char byte = 0;
    EXPECT_EQ(::recv(socket_, &byte, 1, MSG_PEEK), 1);
  }

 private:
  int socket_;
};

// Lines of the log, waited for.
class Log {
 public:
  void Add(const std::string& line) {
    const std::lock_guard lock(mutex_);
    lines_.push_back(line);
    changed_.notify_all();
  }
  bool Await(const std::string& line) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(60), [&] {
      return std::find(lines_.begin(), lines_.end(), line) != lines_.end();
    });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::string> lines_;
};

// A prompt that takes a minute or more if it is read to its end.
Json LongPrompt() {
  Json ids = Json::array({2});
  for (int i = 1; i < 150000; ++i) ids.push_back(100 + i % 100);
  return {{"model", "base"}, {"prompt", std::move(ids)}, {"max_tokens", 1}};
}

int64_t Requests(const Running& running) {
  httplib::Client client = running.Connect();
  return Json::parse(client.Get("/health")->body)["requests"].get<int64_t>();
}

void AwaitRequests(const Running& running, int64_t count) {
  for (int i = 0; i < 10000 && Requests(running) != count; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  EXPECT_EQ(Requests(running), count);
}

// Whoever goes away while the prompt is read, or while waiting, does not keep the next one waiting.
TEST(Serve, ClientsThatGoAwayFreeTheServer) {
  Log log;
  ServerOptions options;
  options.on_request = [&](const std::string& line) { log.Add(line); };
  const Running running(options, false, 200000);
  const std::string body = LongPrompt().dump();
  Json streaming = LongPrompt();
  streaming["stream"] = true;
  RawClient first(running.port(), kText, body);
  AwaitRequests(running, 1);
  RawClient second(running.port(), kText, body);  // waits, and is gone when its turn comes
  AwaitRequests(running, 2);
  second.GoAway();
  std::this_thread::sleep_for(std::chrono::milliseconds(50));  // into the first layers
  const auto start = std::chrono::steady_clock::now();
  first.GoAway();
  EXPECT_TRUE(log.Await(std::string("POST ") + kText + " 499"));
  AwaitRequests(running, 0);
  EXPECT_EQ(running.Raw(kChat, Chat("x").dump()).first, 200);
  RawClient third(running.port(), kText, streaming.dump());
  third.AwaitReply();
  third.GoAway();
  EXPECT_EQ(running.Raw(kChat, Chat("y").dump()).first, 200);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(20));
}

// The end of the server ends what is being read, too, and says so.
TEST(Serve, StopInterruptsPrompts) {
  Running running({}, false, 200000);
  std::pair<int, std::string> reply;
  std::thread client([&] { reply = running.Raw(kText, LongPrompt().dump()); });
  AwaitRequests(running, 1);
  running.api().Cancel();
  client.join();
  EXPECT_EQ(reply.first, 503) << reply.second;
  EXPECT_NE(reply.second.find("\"stopping\""), std::string::npos) << reply.second;
}

struct Wrong {
  const char *path, *change;  // merged into a request that is right
  int status;
  const char* param;
};

TEST(Serve, WrongRequestsSayWhatIsWrong) {
  const Wrong cases[] = {
      {kChat, R"({"model": "other"})", 404, "model"},
      {kChat, R"({"model": null})", 400, "model"},
      {kChat, R"({"messages": []})", 400, "messages"},
      {kChat, R"({"messages": [{"role": "king", "content": "x"}]})", 400, "messages[0].role"},
      {kChat, R"({"messages": [{"role": "user"}]})", 400, "messages[0]"},
      {kChat, R"({"messages": [{"role": "user", "content": [{"type": "image_url",
         "image_url": {"url": "http://example.org/a.png"}}]}]})",
       400, "messages[0].content[0]"},
      {kChat, R"({"messages": [{"role": "user", "content": [{"type": "image_url",
         "image_url": {"url": "file:///etc/hostname"}}]}]})",
       400, "messages[0].content[0]"},
      {kChat, R"({"messages": [{"role": "user", "content": [{"type": "image_url",
         "image_url": {"url": "/etc/hostname"}}]}]})",
       400, "messages[0].content[0]"},
      {kChat, R"({"messages": [{"role": "user", "content": [{"type": "image",
         "image": "/etc/hostname"}]}]})",
       400, "messages[0].content[0]"},
      {kChat, R"({"messages": [{"role": "user", "content": [{"type": "image_url",
         "image_url": {"url": "data:image/png;base64,AAAA"}}]}]})",
       400, "messages"},
      {kChat, R"({"temperature": -1})", 400, "temperature"},
      {kChat, R"({"temperature": "hot"})", 400, "temperature"},
      {kChat, R"({"top_p": 2})", 400, "top_p"},
      {kChat, R"({"n": 1000})", 400, "n"},
      {kChat, R"({"max_tokens": 100000})", 400, "max_tokens"},
      {kChat, R"({"max_tokens": 599})", 400, "max_tokens"},
      {kChat, R"({"seed": 1e30})", 400, "seed"},
      {kChat, R"({"stop": ""})", 400, "stop"},
      {kChat, R"({"logit_bias": {"5": 1}})", 400, "logit_bias"},
      {kChat, R"({"presence_penalty": 1})", 400, "presence_penalty"},
      {kChat, R"({"tool_choice": "required"})", 400, "tool_choice"},
      {kChat, R"({"response_format": {"type": "xml"}})", 400, "response_format"},
      {kChat, R"({"response_format": {"type": "json_schema", "json_schema": {"schema":
         {"type": "string", "pattern": "a"}}}})",
       400, "response_format"},
      {kChat, R"({"response_format": {"type": "json_object"}, "reasoning_effort": "high"})", 400,
       "response_format"},
      {kChat, R"({"temprature": 1})", 400, "temprature"},
      {kText, R"({"prompt": []})", 400, "prompt"},
      {kText, R"({"prompt": [1, -1]})", 400, "prompt"},
      {kText, R"({"prompt": [1, 10000000]})", 400, "prompt"},
      {kText, R"({"prompt": [[]]})", 400, "prompt"},
      {kText, R"({"prompt": {"a": 1}})", 400, "prompt"},
      {kText, R"({"logprobs": 100})", 400, "logprobs"},
      {kText, R"({"suffix": "end"})", 400, "suffix"},
      {kText, R"({"best_of": 5})", 400, "best_of"},
  };
  for (const Wrong& wrong : cases) {
    Json body = wrong.path == kChat ? Chat("x") : Json{{"model", "base"}, {"prompt", "x"}};
    const Json change = Json::parse(wrong.change);
    for (const auto& [key, value] : change.items()) body[key] = value;
    const auto [status, text] = Shared().Raw(wrong.path, body.dump());
    EXPECT_EQ(status, wrong.status) << wrong.change << text;
    const Json error = Json::parse(text, nullptr, false);
    ASSERT_TRUE(error.is_object() && error.contains("error")) << text;
    EXPECT_EQ(error["error"]["param"], wrong.param) << text;
    EXPECT_TRUE(error["error"]["message"].is_string());
  }
  EXPECT_EQ(Shared().Raw(kChat, "{").first, 400);
  EXPECT_EQ(Shared().Raw(kChat, "[]").first, 400);
  EXPECT_EQ(Shared().Raw("/v2/nothing", "{}").first, 404);
  httplib::Client client = Shared().Connect();
  EXPECT_EQ(client.Post(kChat, Chat("x").dump(), "text/plain")->status, 415);
}

TEST(Serve, LimitsAndKeys) {
  ServerOptions options;
  options.max_body_bytes = 1000;
  options.api_key = "sesame";
  const Running running(options);
  httplib::Client client = running.Connect();
  EXPECT_EQ(client.Get("/v1/models")->status, 401);
  EXPECT_EQ(client.Get("/health")->status, 200);
  client.set_default_headers({{"Authorization", "Bearer sesame"}});
  EXPECT_EQ(client.Get("/v1/models")->status, 200);
  EXPECT_EQ(client.Post(kChat, Chat("x").dump(), "application/json")->status, 200);
  const httplib::Result large =
      client.Post(kChat, Chat(std::string(2000, 'x')).dump(), "application/json");
  ASSERT_TRUE(large);
  EXPECT_EQ(large->status, 413);
  EXPECT_NE(large->body.find("1000 bytes"), std::string::npos) << large->body;
}

// Bodies with bytes changed, cut and doubled: read, or refused in OpenAI's shape.
TEST(Serve, BrokenBodiesAreRefused) {
  Engine engine(OpenBundle(kGolden + "/hf"), EngineOptions{});
  Api api(engine, {"base", {}, false, 600, 20});
  Json chat = Chat("What is this?");
  chat["tools"] = Json::parse(R"([{"type": "function", "function": {"name": "f", "description": "d",
      "parameters": {"type": "object", "properties": {"a": {"type": "string"}}}}}])");
  chat["messages"].push_back(Json::parse(R"({"role": "assistant", "content": null, "tool_calls":
      [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{\"a\": \"b\"}"}}]})"));
  chat["messages"].push_back({{"role", "tool"}, {"tool_call_id", "1"}, {"content", "yes"}});
  chat["response_format"] = {{"type", "json_object"}};
  const std::string bodies[] = {
      chat.dump(),
      Json{{"model", "base"}, {"prompt", Json::array({1, 2})}, {"logprobs", 2}, {"stop", "x"}}
          .dump()};
  int read = 0, refused = 0;
  const auto iterations = static_cast<uint64_t>(fuzz::Iterations() / 10);
  for (uint64_t i = 0; i < iterations; ++i) {
    const bool text = i % 3 == 0;
    const std::string body = fuzz::Mutator(1, i)(bodies[text], bodies[text].size());
    try {
      const Api::Call call = text ? api.Completion(body) : api.Chat(body);
      EXPECT_TRUE(call.run);
      ++read;
    } catch (const ApiError& error) {
      EXPECT_GE(error.status, 400);
      EXPECT_FALSE(ErrorJson(error).dump(-1, ' ', false, Json::error_handler_t::replace).empty());
      ++refused;
    }
  }
  EXPECT_GT(refused, 100);
  EXPECT_GT(read, 10);
}

// --- Taking answers apart ---

struct Apart {
  std::string thought, content;
  Json calls = Json::array();
};

Apart Read(const std::string& prompt, const std::string& answer) {
  static const std::unique_ptr<Tokenizer> tokenizer = OpenTokenizer(kGolden + "/hf");
  const std::vector<int32_t> before = tokenizer->Encode(prompt);
  AnswerReader reader(*tokenizer, before);
  Apart apart;
  const auto take = [&](const std::vector<AnswerPiece>& pieces) {
    for (const AnswerPiece& p : pieces) {
      if (p.kind == AnswerPiece::Kind::kThought) apart.thought += p.text;
      if (p.kind == AnswerPiece::Kind::kContent) apart.content += p.text;
      if (p.kind == AnswerPiece::Kind::kToolCall)
        apart.calls.push_back({{"name", p.call.name}, {"arguments", p.call.arguments}});
    }
  };
  for (const int32_t id : tokenizer->Encode(answer)) take(reader.Push(id));
  take(reader.Finish());
  return apart;
}

TEST(AnswerReader, ThoughtsCallsAndContent) {
  Apart a = Read("<bos>", "<|channel>thought\nTwo\nlines.\n<channel|>The answer 日本.");
  EXPECT_EQ(a.thought, "Two\nlines.");
  EXPECT_EQ(a.content, "The answer 日本.");
  a = Read("<|channel>thought\n<channel|>", "plain");
  EXPECT_EQ(a.thought + "|" + a.content, "|plain");
  a = Read("<bos><|channel>thought\n", "still thinking\n<channel|>done");
  EXPECT_EQ(a.thought + "|" + a.content, "still thinking|done");
  a = Read("",
           "Let me see.<|tool_call>call:f{a:<|\"|>x, {y}<|\"|>,b:[1,true,null],c:{}}<tool_call|>"
           "<|tool_call>call:g{}<tool_call|>");
  EXPECT_EQ(a.content, "Let me see.");
  EXPECT_EQ(a.calls.dump(), R"([{"name":"f","arguments":{"a":"x, {y}","b":[1,true,null],"c":{}}},)"
                            R"({"name":"g","arguments":{}}])");
  a = Read("", "<|tool_call>call:broken{a:<tool_call|>after");
  EXPECT_EQ(a.content, "<|tool_call>call:broken{a:<tool_call|>after");
  a = Read("", "<|tool_call>call:cut{a:");
  EXPECT_EQ(a.content, "<|tool_call>call:cut{a:");
}

TEST(AnswerReader, StopTexts) {
  const std::vector<std::string> stops = {"END", "\n\n"};
  for (const std::string text :
       {"abc END def", "abcENXEND", "a\n\nb", "nothing", "almost EN", ""}) {
    size_t end = text.size();
    for (const std::string& stop : stops) end = std::min(end, text.find(stop));
    for (size_t piece : {1, 2, 5}) {
      StopText stop(stops);
      std::string got;
      for (size_t i = 0; i < text.size(); i += piece) got += stop.Push(text.substr(i, piece));
      if (!stop.stopped()) got += stop.Finish();
      EXPECT_EQ(got, text.substr(0, end)) << text << " by " << piece;
    }
  }
}

Json RandomValue(uint64_t seed, uint64_t* next, int depth) {
  const auto pick = [&](uint64_t bound) { return RandomBelow({seed, 0, 3}, (*next)++, bound); };
  static const char* const texts[] = {"",           "a b",  "{x:1}", "日本\n",
                                      "\"quoted\"", "true", "<|",    "5"};
  switch (pick(depth > 3 ? 5 : 7)) {
    case 0:
      return texts[pick(8)];
    case 1:
      return static_cast<int64_t>(pick(1000)) - 500;
    case 2:
      return static_cast<double>(pick(1000)) / 8;
    case 3:
      return pick(2) == 0;
    case 4:
      return nullptr;
    case 5: {
      Json list = Json::array();
      for (uint64_t i = pick(4); i > 0; --i) list.push_back(RandomValue(seed, next, depth + 1));
      return list;
    }
    default: {
      static const char* const keys[] = {"a", "b_c", "key 2", "ä", "z"};
      Json object = Json::object();
      for (uint64_t i = pick(4); i > 0; --i)
        object[keys[pick(5)]] = RandomValue(seed, next, depth + 1);
      return object;
    }
  }
}

// What the template writes is read back as it was (members in the template's order).
TEST(ToolCalls, ReadWhatTheTemplateWrites) {
  for (uint64_t seed = 0; seed < 500; ++seed) {
    uint64_t next = 0;
    const Json arguments = {{"arg", RandomValue(seed, &next, 0)}};
    std::string text = "call:some_name";
    AppendValue(arguments, false, text);
    const std::optional<ToolCall> call = ParseToolCall(text);
    ASSERT_TRUE(call) << text;
    EXPECT_EQ(call->name, "some_name");
    EXPECT_EQ(nlohmann::json::parse(call->arguments.dump()),
              nlohmann::json::parse(arguments.dump()))
        << text;
    // Cut anywhere it is no call; changed anywhere it is one or none.
    EXPECT_FALSE(ParseToolCall(text.substr(0, text.size() - 1)));
    ParseToolCall(fuzz::Mutator(2, seed)(text, text.size()));
  }
  EXPECT_FALSE(ParseToolCall("call:f" + std::string(5000, '{')));
  EXPECT_FALSE(ParseToolCall("call:f{a:" + std::string(5000, '[')));
}

}  // namespace
}  // namespace lapidary
