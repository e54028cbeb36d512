#include "recipes/generate_batch.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "autograd/base/error.h"
#include "autograd/base/file.h"
#include "data/dataset.h"
#include "data/json.h"
#include "recipes/serve/answer_reader.h"
#include "train/progress.h"

namespace lapidary {
namespace {

using Json = nlohmann::ordered_json;
using Done = std::set<std::pair<std::string, int64_t>>;  // record and sample

// What an earlier call wrote; a line that it did not finish is taken away.
Done ReadDone(const std::string& path, const Json& settings) {
  const std::string beside = path + ".settings.json";
  const std::string text = settings.dump(1) + "\n";
  Done done;
  if (!std::filesystem::exists(path)) {
    WriteFile(beside, text);
    WriteFile(path, "");
    return done;
  }
  LAPIDARY_CHECK(std::filesystem::exists(beside) && ReadFile(beside) == text, path,
                 ": must hold answers of the same model, data and settings; got others (", beside,
                 "); try another --out");
  const std::string all = ReadFile(path);
  std::string kept;
  for (size_t begin = 0; begin < all.size();) {
    const size_t end = all.find('\n', begin);
    if (end == std::string::npos) break;
    const std::string line = all.substr(begin, end - begin);
    const Json row = Json::parse(line, nullptr, false);
    LAPIDARY_CHECK(row.is_object() && row.contains("record") && row["record"].is_string() &&
                       row.contains("sample") && row["sample"].is_number_integer(),
                   path, ": lines must be answers; got ", line.substr(0, 60),
                   "; try another --out");
    done.emplace(row["record"].get<std::string>(), row["sample"].get<int64_t>());
    kept += line + "\n";
    begin = end + 1;
  }
  if (kept.size() != all.size()) WriteFile(path, kept);
  return done;
}

class Lines {
 public:
  explicit Lines(const std::string& path) : path_(path), file_(std::fopen(path.c_str(), "ab")) {
    LAPIDARY_CHECK(file_, path_, ": cannot open; got ", std::strerror(errno));
  }
  ~Lines() { std::fclose(file_); }
  Lines(const Lines&) = delete;
  Lines& operator=(const Lines&) = delete;
  void Add(const Json& row) {
    const std::string line = row.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
    LAPIDARY_CHECK(
        std::fwrite(line.data(), 1, line.size(), file_) == line.size() && std::fflush(file_) == 0,
        path_, ": cannot write; got ", std::strerror(errno), "; try freeing disk space");
  }

 private:
  const std::string path_;
  std::FILE* const file_;
};

}  // namespace

Record WithoutAnswer(Record record, const std::string& place) {
  LAPIDARY_CHECK(record.kind != RecordKind::kText, place,
                 ": must be a conversation or a prompt; got raw text");
  record.completion.clear();
  while (!record.messages.empty() && record.messages.back().value("role", "") == "assistant")
    record.messages.erase(record.messages.size() - 1);
  LAPIDARY_CHECK(record.kind != RecordKind::kMessages || !record.messages.empty(), place,
                 ": must have a message before the answer; got none");
  return record;
}

int64_t GenerateBatch(Engine& engine, GenerateOptions options,
                      const std::optional<JsonGrammar>& grammar, const BatchArgs& args,
                      const Json& settings) {
  const std::shared_ptr<const Dataset> dataset = Dataset::Open({args.data});
  const Done done = ReadDone(args.out, settings);
  Lines lines(args.out);
  const int64_t records = args.limit > 0 ? std::min(args.limit, dataset->size()) : dataset->size();
  const int64_t total = records * args.num_samples;
  Progress progress(args.quiet ? nullptr : stderr, "generate", total);
  progress.StartAt(static_cast<int64_t>(done.size()));
  int64_t written = 0, passed = 0, tokens = 0;
  for (int64_t i = 0; i < records; ++i) {
    const std::string place = dataset->Where(i);
    std::optional<ModelInput> prompt;
    for (int64_t sample = 0; sample < args.num_samples; ++sample, ++passed) {
      if (done.count({place, sample})) continue;
      if (!prompt) prompt = engine.Prompt(WithoutAnswer(dataset->Read(i), place), args.think);
      options.sample = static_cast<uint64_t>(sample);
      std::unique_ptr<TokenConstraint> constraint;
      if (grammar) constraint = engine.Constrain(*grammar);
      options.constraint = constraint.get();
      AnswerReader reader(engine.tokenizer(), prompt->ids);
      std::string text, thought;
      Json calls = Json::array();
      const auto take = [&](const std::vector<AnswerPiece>& pieces) {
        for (const AnswerPiece& piece : pieces) {
          if (piece.kind == AnswerPiece::Kind::kThought) thought += piece.text;
          if (piece.kind == AnswerPiece::Kind::kContent) text += piece.text;
          if (piece.kind == AnswerPiece::Kind::kToolCall)
            calls.push_back({{"name", piece.call.name}, {"arguments", piece.call.arguments}});
        }
      };
      const std::vector<int32_t>& stops = options.stop_ids;
      const GenerateResult result = engine.Run(*prompt, options, [&](int32_t id) {
        if (std::find(stops.begin(), stops.end(), id) == stops.end()) take(reader.Push(id));
        return true;
      });
      take(reader.Finish());
      Json row = {{"record", place}, {"sample", sample}, {"text", text}};
      if (!thought.empty()) row["thought"] = thought;
      if (!calls.empty()) row["tool_calls"] = calls;
      row["finish"] = result.stopped ? "stop" : "length";
      row["ids"] = result.ids;
      lines.Add(row);
      ++written;
      tokens += static_cast<int64_t>(result.ids.size());
      progress.Update(passed + 1, CountText(tokens) + " tokens");
    }
  }
  progress.Finish();
  return written;
}

}  // namespace lapidary
