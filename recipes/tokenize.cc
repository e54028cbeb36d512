// `lapidary tokenize`: lines (or JSON strings) to token ids, and ids back to text.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "autograd/base/error.h"
#include "data/json.h"
#include "data/tokenizer.h"
#include "recipes/commands.h"
#include "train/bundle.h"

namespace lapidary {
namespace {

using Json = nlohmann::ordered_json;

struct TokenizeArgs {
  std::string model;
  std::vector<std::string> files;
  bool decode = false, json = false, no_special = false, add_special = false;
};

int32_t CheckedId(int64_t id, const std::string& where) {
  LAPIDARY_CHECK(id >= 0 && id < (int64_t{1} << 31), where, ": an id must be in [0, 2^31); got ",
                 id);
  return static_cast<int32_t>(id);
}

// "1 2 3", "1,2,3" or "[1, 2, 3]".
std::vector<int32_t> ReadIds(const std::string& line, const std::string& where) {
  std::string text = line;
  for (char& c : text) {
    if (c == ',' || c == '[' || c == ']') c = ' ';
  }
  std::vector<int32_t> ids;
  std::istringstream words(text);
  for (std::string word; words >> word;) {
    size_t used = 0;
    int64_t id = -1;
    try {
      id = std::stoll(word, &used);
    } catch (const std::exception&) {
      used = 0;
    }
    LAPIDARY_CHECK(used == word.size(), where, ": an id must be a number; got '", word, "'");
    ids.push_back(CheckedId(id, where));
  }
  return ids;
}

void Encode(const Tokenizer& tokenizer, const TokenizeArgs& args, const std::string& line,
            const std::string& where) {
  std::string text = line;
  if (args.json) {
    const Json value = ParseJson(line, where);
    LAPIDARY_CHECK(value.is_string(), where, ": must be a JSON string; got ",
                   DumpJson(value).substr(0, 40), "; try --decode for ids");
    text = value.get<std::string>();
  }
  const std::vector<int32_t> ids = tokenizer.Encode(
      text, {.add_special_tokens = args.add_special, .parse_added = !args.no_special});
  std::string out;
  for (const int32_t id : ids) out += StrCat(out.empty() ? "" : args.json ? "," : " ", id);
  std::printf(args.json ? "[%s]\n" : "%s\n", out.c_str());
}

void Decode(const Tokenizer& tokenizer, const TokenizeArgs& args, const std::string& line,
            const std::string& where) {
  const std::string text = tokenizer.Decode(ReadIds(line, where), args.no_special);
  const std::string shown = args.json ? DumpJson(text) : text;
  std::fwrite(shown.data(), 1, shown.size(), stdout);
  std::fputc('\n', stdout);
}

void Lines(const Tokenizer& tokenizer, const TokenizeArgs& args, std::istream& in,
           const std::string& name) {
  std::string line;
  for (int64_t number = 1; std::getline(in, line); ++number) {
    const std::string where = StrCat(name, ":", number);
    if ((args.json || args.decode) && line.find_first_not_of(" \t\r") == std::string::npos)
      continue;
    args.decode ? Decode(tokenizer, args, line, where) : Encode(tokenizer, args, line, where);
  }
}

void Run(const TokenizeArgs& args) {
  const std::unique_ptr<Tokenizer> tokenizer = OpenTokenizer(args.model);
  if (args.files.empty()) Lines(*tokenizer, args, std::cin, "stdin");
  for (const std::string& path : args.files) {
    if (path == "-") {
      Lines(*tokenizer, args, std::cin, "stdin");
      continue;
    }
    std::ifstream file(path, std::ios::binary);
    LAPIDARY_CHECK(file.is_open(), path, ": must be a file that can be read; got none");
    Lines(*tokenizer, args, file, path);
  }
}

}  // namespace

void AddTokenize(CLI::App& cli) {
  auto args = std::make_shared<TokenizeArgs>();
  CLI::App* command = cli.add_subcommand("tokenize", "Lines to token ids, and back");
  command->add_option("--model", args->model, "checkpoint folder or GGUF")->required();
  command->add_option("files", args->files, "files to read; standard input if there are none");
  command->add_flag("--decode", args->decode, "ids (a line: 1 2 3 or [1,2,3]) to text");
  command->add_flag("--json", args->json, "lines are JSON strings, ids JSON lists");
  command->add_flag("--no-special", args->no_special,
                    "treat special tokens as text; with --decode, leave them out");
  command->add_flag("--add-special", args->add_special,
                    "add what the tokenizer puts around a text (<bos> of base models)");
  command->callback([args] { Run(*args); });
}

}  // namespace lapidary
