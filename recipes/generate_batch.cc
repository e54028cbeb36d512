#include "recipes/generate_batch.h"

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "autograd/base/error.h"
#include "data/dataset.h"
#include "data/json.h"
#include "recipes/serve/answer_reader.h"
#include "train/journal.h"
#include "train/progress.h"

namespace lapidary {
namespace {

using Json = nlohmann::ordered_json;
using Done = std::set<std::pair<std::string, int64_t>>;  // record and sample

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
  Done done;
  Journal lines(args.out, settings, "another --out", [&](const Json& row) {
    if (!row.contains("record") || !row["record"].is_string() || !row.contains("sample") ||
        !row["sample"].is_number_integer())
      return false;
    done.emplace(row["record"].get<std::string>(), row["sample"].get<int64_t>());
    return true;
  });
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
