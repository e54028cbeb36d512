// Answers to every record of a data set, several each, one JSON line an answer. A call that was
// broken off goes on where it ended.
#ifndef LAPIDARY_RECIPES_GENERATE_BATCH_H_
#define LAPIDARY_RECIPES_GENERATE_BATCH_H_

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "recipes/serve/engine.h"

namespace lapidary {

struct BatchArgs {
  std::string data, out;
  int64_t num_samples = 1;
  int64_t limit = 0;  // records; 0: all
  bool think = false, quiet = false;
};

// The question of a record: its conversation without the answers at the end. Throws Error beginning
// with `place` for raw text, and where nothing is left.
Record WithoutAnswer(Record record, const std::string& place);

// Lines {"record", "sample", "text", "thought", "tool_calls", "finish", "ids"} in order of the
// records. `settings` says what the answers depend on: it is kept beside the file, and another one
// there is an Error. Returns the answers written.
int64_t GenerateBatch(Engine& engine, GenerateOptions options,
                      const std::optional<JsonGrammar>& grammar, const BatchArgs& args,
                      const nlohmann::ordered_json& settings);

}  // namespace lapidary

#endif  // LAPIDARY_RECIPES_GENERATE_BATCH_H_
