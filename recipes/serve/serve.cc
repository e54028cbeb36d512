// `lapidary serve`: an OpenAI-compatible endpoint on this machine.
#include <signal.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>
#include <thread>

#include "autograd/base/error.h"
#include "autograd/base/file.h"
#include "recipes/commands.h"
#include "recipes/model_args.h"
#include "recipes/serve/server.h"

namespace lapidary {
namespace {

struct ServeArgs {
  BaseFormat base;
  std::string model, name, key_file;
  std::vector<std::string> adapters;
  ServerOptions server;
  int64_t max_context = 8192, max_new_tokens = 1024, max_request_mb = 32;
  EngineArgs engine;
  bool quiet = false, add_bos = false;
};

// The last part of a path without ".gguf": what clients call the model.
std::string NameOf(const std::string& path) {
  const std::filesystem::path whole = std::filesystem::weakly_canonical(path);
  return whole.extension() == ".gguf" ? whole.stem().string() : whole.filename().string();
}

void RunServe(ServeArgs args) {
  // Before any thread is made, so that none takes the signals that one waits for.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  ::signal(SIGPIPE, SIG_IGN);
  if (!args.key_file.empty()) {
    args.server.api_key = ReadFile(args.key_file, 1 << 16);
    while (!args.server.api_key.empty() && args.server.api_key.back() == '\n')
      args.server.api_key.pop_back();
    LAPIDARY_CHECK(!args.server.api_key.empty(), args.key_file, ": must hold a key; got nothing");
  }
  Engine engine = OpenEngine(args.model, "", args.base, args.engine);
  ApiOptions options;
  options.model = args.name.empty() ? NameOf(args.model) : args.name;
  options.add_bos = args.add_bos;
  options.max_context = args.max_context;
  options.default_new_tokens = args.max_new_tokens;
  for (const std::string& adapter : args.adapters) {
    const size_t equals = adapter.find('=');
    LAPIDARY_CHECK(equals != std::string::npos && equals > 0,
                   "--adapter: must be NAME=FOLDER; got ", adapter);
    const std::string name = adapter.substr(0, equals);
    LAPIDARY_CHECK(name != options.model, "--adapter: names must differ from the model's; got ",
                   name);
    const auto warning = engine.AddAdapter(name, adapter.substr(equals + 1));
    if (warning) std::fprintf(stderr, "warning: %s\n", warning->c_str());
    options.adapters.push_back(name);
  }
  Api api(engine, options);
  args.server.max_body_bytes = args.max_request_mb << 20;
  if (!args.quiet) {
    args.server.on_request = [](const std::string& line) {
      std::fprintf(stderr, "%s\n", line.c_str());
    };
  }
  Server server(api, args.server);
  std::fprintf(stderr, "serving %s", options.model.c_str());
  for (const std::string& name : options.adapters) std::fprintf(stderr, ", %s", name.c_str());
  std::fprintf(stderr, " at http://%s:%d/v1; Ctrl-C ends it\n", args.server.host.c_str(),
               server.port());
  std::thread waiter([&] {
    int signal = 0;
    sigwait(&signals, &signal);
    server.Stop();
  });
  server.Run();
  ::kill(::getpid(), SIGTERM);  // wakes the waiter if the server ended by itself
  waiter.join();
}

}  // namespace

void AddServe(CLI::App& cli) {
  CLI::App* app = cli.add_subcommand("serve", "an OpenAI-compatible endpoint on this machine");
  auto a = std::make_shared<ServeArgs>();
  app->add_option("--model", a->model, "Hugging Face folder or .gguf file (its mmproj beside it)")
      ->required();
  app->add_option("--name", a->name, "what clients call it; default: the folder's name");
  app->add_option("--adapter", a->adapters,
                  "NAME=FOLDER: the model NAME is the base with this PEFT adapter; repeatable");
  AddBaseFormatOptions(app, &a->base);
  app->add_option("--host", a->server.host,
                  "address to listen at; anything but this machine's own opens it to others")
      ->capture_default_str();
  app->add_option("--port", a->server.port, "0: any free one")
      ->capture_default_str()
      ->check(CLI::Range(0, 65535));
  app->add_option("--api-key-file", a->key_file,
                  "file with a key that requests must carry; default: none");
  app->add_flag(
      "--add-bos", a->add_bos,
      "put <bos> in front of prompts of token ids that lack it, unseen in what is echoed: "
      "for lm-eval");
  app->add_option("--max-context", a->max_context, "tokens of prompt and answer together")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{16}, int64_t{1} << 20));
  app->add_option("--max-new-tokens", a->max_new_tokens, "of a chat that names no max_tokens")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  app->add_option("--max-request-mb", a->max_request_mb, "a request may have, media included")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{1}, int64_t{2048}));
  app->add_option("--max-waiting", a->server.max_waiting,
                  "requests that wait; they are served one after another, more are refused")
      ->capture_default_str()
      ->check(CLI::Range(1, 64));
  AddEngineOptions(app, &a->engine);
  app->add_flag("--quiet", a->quiet, "no line for each request");
  app->footer(
      "Serves /v1/models, /v1/completions, /v1/chat/completions and /health. Example:\n"
      "  lapidary serve --model gemma-4-12b-it --adapter tuned=out/adapter --port 8080\n"
      "  curl -s http://127.0.0.1:8080/v1/chat/completions -H 'Content-Type: application/json' \\\n"
      "    -d '{\"model\": \"tuned\", \"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}]}'");
  app->callback([a] { RunServe(*a); });
}

}  // namespace lapidary
