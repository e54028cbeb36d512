// A model with its adapters and the caches of generation: what `serve`, `chat` and `generate` run
// on. Not thread-safe but for the constant parts: one request at a time.
#ifndef LAPIDARY_RECIPES_SERVE_ENGINE_H_
#define LAPIDARY_RECIPES_SERVE_ENGINE_H_

#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "data/sample.h"
#include "model/adapter_set.h"
#include "model/generate.h"
#include "model/json_constraint.h"
#include "model/prefix_cache.h"
#include "train/bundle.h"

namespace lapidary {

struct EngineOptions {
  Compute compute = Compute::kBfloat16;
  ImageMask image_mask = ImageMask::kSlidingOnly;
  int64_t image_budget = 0, num_frames = 0;  // as in SampleOptions
  bool prefix_cache = true;
};

class Engine {
 public:
  // A bundle with a tokenizer. With an adapter of its own it takes no others.
  Engine(Bundle bundle, EngineOptions options);

  const Bundle& bundle() const { return bundle_; }
  const Tokenizer& tokenizer() const { return *bundle_.tokenizer; }
  // AdapterSet::Add. Returns a warning if the adapter was trained on another base.
  std::optional<std::string> AddAdapter(const std::string& name, const std::string& folder);
  bool HasAdapter(const std::string& name) const { return adapters_.Has(name); }
  // AdapterSet::Use; what is cached belongs to the adapter before.
  void UseAdapter(const std::string& name);

  // A record as a prompt: a conversation with the generation prompt behind it, or raw text. Media
  // are decoded. Throws Error beginning with record.where.
  ModelInput Prompt(const Record& record, bool think) const;
  // The same for a row of a data set ({"messages": ...}).
  ModelInput PromptOfRow(const nlohmann::ordered_json& row, const std::string& where,
                         bool think) const;

  // Options as the checkpoint's generation_config.json has them.
  GenerateOptions Defaults() const;
  GenerateResult Run(const ModelInput& prompt, const GenerateOptions& options,
                     const std::function<bool(int32_t)>& on_token);
  // Constrained output for one answer.
  std::unique_ptr<TokenConstraint> Constrain(JsonGrammar grammar);

 private:
  Bundle bundle_;
  const EngineOptions options_;
  AdapterSet adapters_;
  PrefixCache prefixes_;
  std::unique_ptr<PieceTable> pieces_;  // made when first needed
};

// A grammar from the text of a schema; `where` begins messages.
JsonGrammar GrammarOfText(const std::string& schema, const std::string& where);

}  // namespace lapidary

#endif  // LAPIDARY_RECIPES_SERVE_ENGINE_H_
