// `lapidary chat`: a conversation in the terminal, or from a pipe.
#include <signal.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <iostream>
#include <nlohmann/json.hpp>

#include "autograd/base/error.h"
#include "autograd/base/file.h"
#include "data/json.h"
#include "recipes/commands.h"
#include "recipes/model_args.h"
#include "recipes/serve/answer_reader.h"
#include "recipes/serve/engine.h"

namespace lapidary {
namespace {

using Json = nlohmann::ordered_json;

struct ChatArgs {
  BaseFormat base;
  std::string model, adapter, system, tools;
  int64_t max_new_tokens = 1024;
  EngineArgs engine;
  SamplingArgs sampling;
  bool think = false;
};

constexpr char kHelp[] =
    "/image PATH, /audio PATH, /video PATH   go with what you say next\n"
    "/adapter FOLDER|off   another adapter from now on\n"
    "/system [TEXT]        what the model is told first; starts anew\n"
    "/think on|off         let the model think before it answers\n"
    "/reset                start anew\n"
    "/save FILE            the conversation as a line of a data set\n"
    "/help                 this page\n"
    "Ctrl-C ends an answer or a question, Ctrl-D or /quit the program.\n";

std::atomic<bool> interrupted{false};
void Interrupt(int) { interrupted = true; }

// What is written where: thoughts dimmed, on terminals only.
class Screen {
 public:
  Screen() : terminal_(::isatty(1) != 0) {}
  void Prompt() const {
    if (::isatty(0) && terminal_) Write("> ");
  }
  void Show(const AnswerPiece& piece) {
    Dim(piece.kind == AnswerPiece::Kind::kThought);
    if (piece.kind == AnswerPiece::Kind::kToolCall) {
      Write(DumpJson({{"name", piece.call.name}, {"arguments", piece.call.arguments}}) + "\n");
    } else {
      Write(piece.text);
    }
  }
  void End() {
    Dim(false);
    Write("\n");
  }
  void Note(const std::string& text) const { std::fprintf(stderr, "%s\n", text.c_str()); }

 private:
  // Thoughts without colours stand on lines of their own.
  void Dim(bool dim) {
    if (dim == dim_) return;
    dim_ = dim;
    Write(terminal_ ? (dim ? "\x1b[2m" : "\x1b[0m\n") : (dim ? "[thought] " : "\n[answer] "));
  }
  static void Write(const std::string& text) {
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
  }
  const bool terminal_;
  bool dim_ = false;
};

class Chat {
 public:
  Chat(Engine& engine, const ChatArgs& args) : engine_(engine), think_(args.think) {
    system_ = args.system;
    if (!args.tools.empty()) {
      tools_ = ParseJson(ReadFile(args.tools, 1 << 24), args.tools);
      LAPIDARY_CHECK(tools_.is_array(), args.tools,
                     ": must be a list of tools; got something else");
    }
    options_ = args.sampling.Over(engine.Defaults());
    options_.max_new_tokens = args.max_new_tokens;
    if (!args.adapter.empty()) UseAdapter(args.adapter);
    Reset();
  }

  // One line of input; false: the end.
  bool Take(const std::string& line) {
    if (line.empty()) return true;
    if (line[0] != '/') {
      Say(line);
      return true;
    }
    const size_t space = std::min(line.find(' '), line.size());
    const std::string word = line.substr(0, space);
    const size_t begin = line.find_first_not_of(' ', space);
    return Command(word, begin == std::string::npos ? "" : line.substr(begin));
  }

 private:
  bool Command(const std::string& word, const std::string& rest) {
    if (word == "/quit" || word == "/exit") return false;
    if (word == "/help") {
      std::fputs(kHelp, stdout);
      std::fflush(stdout);
    } else if (word == "/image" || word == "/audio" || word == "/video") {
      LAPIDARY_CHECK(::access(rest.c_str(), R_OK) == 0, word, ": must name a file; got '", rest,
                     "'");
      const std::string kind = word.substr(1);
      (kind == "audio" ? behind_ : front_).push_back({{"type", kind}, {kind, rest}});
    } else if (word == "/adapter") {
      LAPIDARY_CHECK(!rest.empty(), "/adapter: must name a folder, or off; got nothing");
      UseAdapter(rest == "off" ? "" : rest);
      screen_.Note(rest == "off" ? "the base model answers" : StrCat(rest, " answers"));
    } else if (word == "/system") {
      system_ = rest;
      Reset();
    } else if (word == "/think") {
      LAPIDARY_CHECK(rest == "on" || rest == "off", "/think: must be on or off; got '", rest, "'");
      think_ = rest == "on";
    } else if (word == "/reset") {
      Reset();
    } else if (word == "/save") {
      LAPIDARY_CHECK(!rest.empty(), "/save: must name a file; got nothing");
      WriteFile(rest, DumpJson(Row()) + "\n");
      screen_.Note(StrCat("saved to ", rest));
    } else {
      throw Error(StrCat(word, ": must be one of the commands of /help; got another"));
    }
    return true;
  }

  void UseAdapter(const std::string& folder) {
    if (!folder.empty() && !engine_.HasAdapter(folder)) {
      const auto warning = engine_.AddAdapter(folder, folder);
      if (warning) screen_.Note("warning: " + *warning);
    }
    engine_.UseAdapter(folder);
  }

  void Reset() {
    messages_ = Json::array();
    front_ = behind_ = Json::array();
    if (!system_.empty()) messages_.push_back({{"role", "system"}, {"content", system_}});
  }

  Json Row() const {
    Json row = {{"messages", messages_}};
    if (!tools_.empty()) row["tools"] = tools_;
    return row;
  }

  // Google's advice: pictures before the text, sound after it.
  void Say(const std::string& text) {
    Json content = text;
    if (!front_.empty() || !behind_.empty()) {
      content = front_;
      content.push_back({{"type", "text"}, {"text", text}});
      for (const Json& part : behind_) content.push_back(part);
    }
    front_ = behind_ = Json::array();
    messages_.push_back({{"role", "user"}, {"content", std::move(content)}});
    bool answered = false;
    try {
      interrupted = false;
      answered = Answer();
    } catch (...) {
      messages_.erase(messages_.size() - 1);
      throw;
    }
    if (answered) return;
    messages_.erase(messages_.size() - 1);
    screen_.Note("interrupted before the answer began; the question is forgotten");
  }

  // False if it was broken off before its first token.
  bool Answer() {
    const ModelInput prompt = engine_.PromptOfRow(Row(), "chat", think_);
    AnswerReader reader(engine_.tokenizer(), prompt.ids);
    std::string content, thought;
    Json calls = Json::array();
    const auto take = [&](const std::vector<AnswerPiece>& pieces) {
      for (const AnswerPiece& piece : pieces) {
        screen_.Show(piece);
        if (piece.kind == AnswerPiece::Kind::kThought) thought += piece.text;
        if (piece.kind == AnswerPiece::Kind::kContent) content += piece.text;
        if (piece.kind == AnswerPiece::Kind::kToolCall)
          calls.push_back(
              {{"type", "function"},
               {"function", {{"name", piece.call.name}, {"arguments", piece.call.arguments}}}});
      }
    };
    options_.go_on = [] { return !interrupted; };
    options_.sample = answers_++;  // the same question again is another draw
    const std::vector<int32_t>& stops = options_.stop_ids;
    const GenerateResult result = engine_.Run(prompt, options_, [&](int32_t id) {
      if (std::find(stops.begin(), stops.end(), id) == stops.end()) take(reader.Push(id));
      return !interrupted;
    });
    if (result.ids.empty()) return false;
    take(reader.Finish());
    screen_.End();
    Json message = {{"role", "assistant"}, {"content", content}};
    if (!thought.empty()) message["reasoning_content"] = thought;
    if (!calls.empty()) message["tool_calls"] = calls;
    messages_.push_back(std::move(message));
    return true;
  }

  Engine& engine_;
  GenerateOptions options_;
  Screen screen_;
  bool think_;
  std::string system_;
  Json tools_ = Json::array(), messages_, front_, behind_;
  uint64_t answers_ = 0;
};

void RunChat(const ChatArgs& args) {
  struct sigaction action = {};
  action.sa_handler = Interrupt;
  action.sa_flags = SA_RESTART;
  ::sigaction(SIGINT, &action, nullptr);
  Engine engine = OpenEngine(args.model, "", args.base, args.engine);
  Chat chat(engine, args);
  const Screen screen;
  if (::isatty(0)) screen.Note("/help for the commands, Ctrl-D to leave");
  for (;;) {
    screen.Prompt();
    std::string line;
    if (!std::getline(std::cin, line)) break;
    if (!line.empty() && line.back() == '\r') line.pop_back();
    try {
      if (!chat.Take(line)) break;
    } catch (const Error& error) {  // of the user's making: the conversation goes on
      screen.Note(StrCat("error: ", error.what()));
    }
  }
}

}  // namespace

void AddChat(CLI::App& cli) {
  CLI::App* app = cli.add_subcommand("chat", "talk with a model in the terminal");
  auto a = std::make_shared<ChatArgs>();
  app->add_option("--model", a->model, "Hugging Face folder or .gguf file (its mmproj beside it)")
      ->required();
  app->add_option("--adapter", a->adapter, "PEFT folder to begin with; /adapter changes it");
  AddBaseFormatOptions(app, &a->base);
  app->add_option("--system", a->system, "what the model is told first");
  app->add_option("--tools", a->tools, "JSON file with a list of tools; calls are printed as JSON");
  app->add_flag("--think", a->think, "let the model think first; /think changes it");
  app->add_option("--max-new-tokens", a->max_new_tokens, "of an answer, at most")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  AddSamplingOptions(app, &a->sampling);
  AddEngineOptions(app, &a->engine);
  app->footer(std::string("Commands inside:\n") + kHelp +
              "Example:\n  lapidary chat --model gemma-4-12b-it --adapter out/adapter\n"
              "  printf '/image cat.jpg\\nWhich animal is it?\\n' | lapidary chat --model "
              "gemma-4-12b-it");
  app->callback([a] { RunChat(*a); });
}

}  // namespace lapidary
