// `lapidary completion bash|zsh|fish|man`: what shells complete, and a manual page, written from
// the tree of commands itself, so that they name exactly what the program knows.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "autograd/base/error.h"
#include "recipes/commands.h"
#include "train/versions.h"

namespace lapidary {
namespace {

struct Choice {
  std::string word, help;
};

struct Node {
  std::vector<std::string> path;  // "data", "inspect"
  std::string help;
  std::vector<Choice> commands, options;
};

void Collect(const CLI::App& app, std::vector<std::string> path, std::vector<Node>* nodes) {
  Node node = {path, app.get_description(), {}, {}};
  for (const CLI::App* child : app.get_subcommands({})) {
    node.commands.push_back({child->get_name(), child->get_description()});
  }
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) {
      node.options.push_back({"--" + name, option->get_description()});
    }
  }
  nodes->push_back(node);
  for (const CLI::App* child : app.get_subcommands({})) {
    std::vector<std::string> deeper = path;
    deeper.push_back(child->get_name());
    Collect(*child, deeper, nodes);
  }
}

std::string Joined(const std::vector<std::string>& words, const std::string& between) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : between) + word;
  return text;
}

// One line in single quotes of any of the shells.
std::string Quoted(std::string text) {
  std::string out = "'";
  for (const char c : text) {
    if (c == '\'') {
      out += "'\\''";
    } else {
      out += c == '\n' ? ' ' : c;
    }
  }
  return out + "'";
}

std::string Words(const Node& node) {
  std::vector<std::string> words;
  for (const Choice& c : node.commands) words.push_back(c.word);
  for (const Choice& c : node.options) words.push_back(c.word);
  return Joined(words, " ");
}

// Shell lines that follow the words typed so far down the tree: `path` is then "data inspect".
std::string FollowPath(const std::vector<Node>& nodes, const std::string& word) {
  std::vector<std::string> known;
  for (const Node& node : nodes) {
    if (!node.path.empty()) known.push_back("'" + Joined(node.path, " ") + "'");
  }
  return StrCat("    case \"${path:+$path }", word, "\" in\n      ", Joined(known, "|"),
                ") path=\"${path:+$path }", word, "\" ;;\n    esac\n");
}

std::string Bash(const std::vector<Node>& nodes) {
  std::string text =
      "# bash completion of lapidary; written by `lapidary completion bash`\n"
      "_lapidary() {\n  local cur=${COMP_WORDS[COMP_CWORD]} path= words= i\n"
      "  for ((i = 1; i < COMP_CWORD; i++)); do\n" +
      FollowPath(nodes, "${COMP_WORDS[i]}") + "  done\n  case \"$path\" in\n";
  for (const Node& node : nodes) {
    text += StrCat("    '", Joined(node.path, " "), "') words='", Words(node), "' ;;\n");
  }
  return text +
         "  esac\n"
         "  # Nothing that fits: the shell offers file names.\n"
         "  COMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))\n"
         "  if [[ $cur != -* && $words == --* ]]; then COMPREPLY=(); fi\n"
         "}\ncomplete -o default -F _lapidary lapidary\n";
}

std::string Zsh(const std::vector<Node>& nodes) {
  std::string text =
      "#compdef lapidary\n# zsh completion of lapidary; written by `lapidary completion zsh`\n"
      "_lapidary() {\n  local path= i\n  local -a choices\n"
      "  for ((i = 2; i < CURRENT; i++)); do\n" +
      FollowPath(nodes, "${words[i]}") + "  done\n  case \"$path\" in\n";
  for (const Node& node : nodes) {
    text += StrCat("    '", Joined(node.path, " "), "') choices=(\n");
    for (const auto* list : {&node.commands, &node.options}) {
      for (const Choice& c : *list) {
        std::string help;  // a colon ends the word
        for (const char letter : c.help)
          help += letter == ':' ? std::string("\\:") : std::string(1, letter);
        text += "      " + Quoted(c.word + ":" + help) + "\n";
      }
    }
    text += "    ) ;;\n";
  }
  return text + "  esac\n  _describe lapidary choices\n  _files\n}\n_lapidary \"$@\"\n";
}

std::string Fish(const std::vector<Node>& nodes) {
  std::string text =
      "# fish completion of lapidary; written by `lapidary completion fish`\n"
      "function __lapidary_at\n"
      "  set -l words (commandline -opc)\n  set -e words[1]\n  set -l path\n"
      "  for word in $words\n    if contains -- \"$path$word\"";
  for (const Node& node : nodes) {
    if (!node.path.empty()) text += " '" + Joined(node.path, " ") + "'";
  }
  text +=
      "\n      set path \"$path$word \"\n    end\n  end\n  test \"$path\" = \"$argv[1]\"\nend\n";
  for (const Node& node : nodes) {
    const std::string at = node.path.empty() ? "" : Joined(node.path, " ") + " ";
    const std::string when = "complete -c lapidary -n \"__lapidary_at '" + at + "'\"";
    for (const Choice& c : node.commands) {
      text += StrCat(when, " -f -a ", c.word, " -d ", Quoted(c.help), "\n");
    }
    for (const Choice& c : node.options) {
      text += StrCat(when, " -l ", c.word.substr(2), " -d ", Quoted(c.help), "\n");
    }
  }
  return text;
}

// Text of a manual page: a dot or a quote at the start of a line and backslashes have a meaning.
std::string Roff(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '\\') {
      out += "\\e";
    } else if (c == '-') {
      out += "\\-";
    } else {
      out += c == '\n' ? ' ' : c;
    }
  }
  return out.empty() || (out[0] != '.' && out[0] != '\'') ? out : "\\&" + out;
}

std::string Man(const std::vector<Node>& nodes) {
  std::string text = StrCat(".TH LAPIDARY 1 \"\" \"lapidary ", ProgramVersion(),
                            "\" \"User Commands\"\n.SH NAME\nlapidary \\- ",
                            Roff("fine-tune Gemma 4 on a CPU and ship the result"),
                            "\n.SH SYNOPSIS\n.B lapidary\nCOMMAND [OPTIONS]\n.SH COMMANDS\n");
  for (const Node& node : nodes) {
    if (node.path.empty()) continue;
    text += StrCat(".SS lapidary ", Roff(Joined(node.path, " ")), "\n", Roff(node.help), "\n");
    for (const Choice& c : node.options) {
      text += StrCat(".TP\n.B ", Roff(c.word), "\n", Roff(c.help), "\n");
    }
  }
  return text +
         ".SH EXIT STATUS\n0 done; 2 an error, named on standard error; other codes as the "
         "command's help says.\n";
}

struct Kind {
  const char* name;
  std::string (*write)(const std::vector<Node>&);
};
constexpr Kind kKinds[] = {{"bash", Bash}, {"zsh", Zsh}, {"fish", Fish}, {"man", Man}};

}  // namespace

void AddCompletion(CLI::App& cli) {
  CLI::App* app = cli.add_subcommand(
      "completion", "print what a shell needs to complete this command line, or a manual page");
  auto shell = std::make_shared<std::string>();
  std::vector<std::string> names;
  for (const Kind& kind : kKinds) names.push_back(kind.name);
  app->add_option("shell", *shell, "bash, zsh, fish; or man")
      ->required()
      ->check(CLI::IsMember(names));
  app->footer(
      "example: lapidary completion bash > ~/.local/share/bash-completion/completions/lapidary");
  app->callback([&cli, shell] {
    std::vector<Node> nodes;
    Collect(cli, {}, &nodes);
    for (const Kind& kind : kKinds) {
      if (*shell == kind.name) std::fputs(kind.write(nodes).c_str(), stdout);
    }
  });
}

}  // namespace lapidary
