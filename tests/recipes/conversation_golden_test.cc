// Conversations of several turns, whose history holds the model's own answers, as Transformers
// continues them greedily (tests/oracle/make_conversation_golden.py): the ids of every prompt, of
// every answer, and the text that goes into the history.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "autograd/base/file.h"
#include "recipes/serve/engine.h"
#include "tests/golden.h"

namespace lapidary {
namespace {

using Json = nlohmann::ordered_json;

TEST(ConversationGolden, SameTokensAsTransformers) {
  int turns = 0;
  for (const std::string& file : golden::Find("gguf/conversations.json")) {
    for (const bool prefix_cache : {false, true}) {
      EngineOptions options;
      options.compute = Compute::kFloat32;
      options.prefix_cache = prefix_cache;
      Engine engine(OpenBundle(file.substr(0, file.rfind('/')) + "/hf"), options);
      for (const Json& conversation : Json::parse(ReadFile(file))) {
        int64_t reused = 0;
        for (size_t i = 0; i < conversation["turns"].size(); ++i) {
          const Json& turn = conversation["turns"][i];
          const std::string place = conversation["name"].get<std::string>() + std::to_string(i);
          Json row = {{"messages", turn["messages"]}};
          if (!turn["tools"].empty()) row["tools"] = turn["tools"];
          const ModelInput prompt = engine.PromptOfRow(row, place, turn["enable_thinking"]);
          EXPECT_EQ(prompt.ids, turn["prompt"].get<std::vector<int32_t>>()) << place;
          GenerateOptions generate = engine.Defaults();
          generate.do_sample = false;
          generate.repetition_penalty = 3;
          generate.max_new_tokens = 20;
          const GenerateResult got = engine.Run(prompt, generate, {});
          EXPECT_EQ(got.ids, turn["answer"].get<std::vector<int32_t>>()) << place;
          EXPECT_EQ(engine.tokenizer().Decode(got.ids, /*skip_special=*/true), turn["text"])
              << place;
          reused += got.reused;
          ++turns;
        }
        EXPECT_EQ(reused > 0, prefix_cache) << conversation["name"];
      }
    }
  }
  std::printf("%d turns\n", turns);
  EXPECT_GE(turns, 16);
}

}  // namespace
}  // namespace lapidary
