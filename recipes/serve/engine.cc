#include "recipes/serve/engine.h"

#include <nlohmann/json.hpp>

#include "autograd/base/error.h"
#include "data/json.h"
#include "data/readers.h"
#include "model/base_fingerprint.h"
#include "train/micro_batch.h"

namespace lapidary {
namespace {

// The bytes that every id writes; none for special tokens.
std::vector<std::string> Pieces(const Tokenizer& tokenizer) {
  std::vector<std::string> pieces(static_cast<size_t>(tokenizer.size()));
  for (int32_t id = 0; id < tokenizer.size(); ++id) {
    std::string& piece = pieces[static_cast<size_t>(id)];
    if (tokenizer.IsSpecial(id) || tokenizer.Token(id).empty()) continue;
    const int byte = tokenizer.ByteOf(id);
    piece = byte >= 0 ? std::string(1, static_cast<char>(byte)) : tokenizer.TokenText(id);
  }
  return pieces;
}

}  // namespace

Engine::Engine(Bundle bundle, EngineOptions options)
    : bundle_(std::move(bundle)), options_(options), adapters_(bundle_.model) {
  bundle_.RequireTokenizer();
}

std::optional<std::string> Engine::AddAdapter(const std::string& name, const std::string& folder) {
  const AdapterConfig config = adapters_.Add(name, folder);
  if (!config.base_fingerprint) return std::nullopt;
  return OtherBaseWarning(config, folder, OpenCheckpointFiles(bundle_.path), bundle_.path);
}

void Engine::UseAdapter(const std::string& name) {
  if (name == adapters_.used()) return;
  adapters_.Use(name);
  prefixes_.Clear();
}

ModelInput Engine::Prompt(const Record& record, bool think) const {
  SampleOptions sample;
  sample.chat.add_generation_prompt = true;
  sample.chat.enable_thinking = think;
  sample.chat.empty_thought = EmptyThought::kOmit;
  sample.media = bundle_.media;
  sample.image_budget = options_.image_budget;
  sample.num_frames = options_.num_frames;
  sample.add_eos = false;
  sample.require_targets = false;
  const BuiltSample built = SampleBuilder(tokenizer(), sample).Build(record);
  LAPIDARY_CHECK(built.sample, record.where, ": ", built.note);
  return MakeMicroBatch(MakeBatch(*built.sample)).input;
}

ModelInput Engine::PromptOfRow(const nlohmann::ordered_json& row, const std::string& where,
                               bool think) const {
  const RecordPlace place{where, "."};
  for (const RecordFormat& format : RecordFormats()) {
    if (format.fits(row)) return Prompt(format.read(row, place), think);
  }
  throw Error(
      StrCat(where, ": must be a list of messages or an object with one; got something else"));
}

GenerateOptions Engine::Defaults() const {
  const GenerationDefaults& defaults = bundle_.generation;
  GenerateOptions o;
  o.do_sample = defaults.do_sample;
  o.temperature = defaults.temperature;
  o.top_k = defaults.top_k;
  o.top_p = defaults.top_p;
  o.stop_ids = defaults.stop_ids;
  o.suppress_ids = defaults.suppress_ids;
  o.compute = options_.compute;
  o.image_mask = options_.image_mask;
  return o;
}

GenerateResult Engine::Run(const ModelInput& prompt, const GenerateOptions& options,
                           const std::function<bool(int32_t)>& on_token) {
  return Generate(bundle_.model, prompt, options, on_token,
                  options_.prefix_cache ? &prefixes_ : nullptr);
}

std::unique_ptr<TokenConstraint> Engine::Constrain(JsonGrammar grammar) {
  if (!pieces_) pieces_ = std::make_unique<PieceTable>(Pieces(tokenizer()));
  return std::make_unique<JsonConstraint>(std::move(grammar), *pieces_,
                                          bundle_.generation.stop_ids);
}

JsonGrammar GrammarOfText(const std::string& schema, const std::string& where) {
  return JsonGrammar::FromSchema(ParseJson(schema, where), where);
}

}  // namespace lapidary
