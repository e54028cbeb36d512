#include "model/generate.h"

#include <algorithm>
#include <chrono>
#include <limits>

#include "model/prefix_cache.h"
#include "model/sampler.h"

namespace lapidary {
namespace {

using Clock = std::chrono::steady_clock;

double Seconds(Clock::time_point since) {
  return std::chrono::duration<double>(Clock::now() - since).count();
}

// Tokens [begin, end) of the prompt with the media that stand there.
ModelInput Slice(const ModelInput& prompt, int64_t begin, int64_t end) {
  ModelInput part;
  part.ids.assign(prompt.ids.begin() + begin, prompt.ids.begin() + end);
  if (!prompt.types.empty())
    part.types.assign(prompt.types.begin() + begin, prompt.types.begin() + end);
  const auto rows = [&](const std::vector<int64_t>& from, const Tensor& features,
                        std::vector<int64_t>* to, Tensor* taken,
                        const std::vector<int32_t>* positions) {
    std::vector<float> values;
    const int64_t width = features.defined() ? features.shape()[1] : 0;
    for (size_t i = 0; i < from.size(); ++i) {
      if (from[i] < begin || from[i] >= end) continue;
      to->push_back(from[i] - begin);
      values.insert(values.end(), features.data() + static_cast<int64_t>(i) * width,
                    features.data() + static_cast<int64_t>(i + 1) * width);
      if (positions)
        part.patch_positions.insert(part.patch_positions.end(), positions->begin() + 2 * i,
                                    positions->begin() + 2 * i + 2);
    }
    if (!to->empty())
      *taken = Tensor::FromFloats({static_cast<int64_t>(to->size()), width}, values.data());
  };
  rows(prompt.patch_rows, prompt.patches, &part.patch_rows, &part.patches, &prompt.patch_positions);
  rows(prompt.audio_rows, prompt.audio_frames, &part.audio_rows, &part.audio_frames, nullptr);
  return part;
}

bool InImage(const ModelInput& input, int64_t i) {
  return !input.types.empty() && (input.types[i] == 1 || input.types[i] == 2);
}

// Where a piece of the prompt that starts at `begin` may end: not inside an image.
int64_t ChunkEnd(const ModelInput& prompt, int64_t begin, int64_t chunk) {
  int64_t end = std::min(prompt.size(), begin + chunk);
  if (end < prompt.size() && InImage(prompt, end) && InImage(prompt, end - 1)) {
    int64_t back = end;
    while (back > begin && InImage(prompt, back - 1)) --back;
    if (back > begin) return back;
    while (end < prompt.size() && InImage(prompt, end))
      ++end;  // an image longer than the chunk goes in one piece
  }
  return end;
}

void CheckOptions(const GenerateOptions& o) {
  LAPIDARY_CHECK(o.max_new_tokens >= 0, "generate: max_new_tokens must be >= 0; got ",
                 o.max_new_tokens);
  LAPIDARY_CHECK(!o.do_sample || o.temperature > 0, "generate: temperature must be > 0; got ",
                 o.temperature, "; try greedy decoding");
  LAPIDARY_CHECK(o.top_k >= 0, "generate: top_k must be >= 0; got ", o.top_k);
  LAPIDARY_CHECK(o.top_p > 0 && o.top_p <= 1, "generate: top_p must be above 0 and at most 1; got ",
                 o.top_p);
  LAPIDARY_CHECK(o.min_p >= 0 && o.min_p <= 1, "generate: min_p must be from 0 to 1; got ",
                 o.min_p);
  LAPIDARY_CHECK(o.repetition_penalty > 0, "generate: repetition_penalty must be above 0; got ",
                 o.repetition_penalty);
  LAPIDARY_CHECK(o.prefill_chunk >= 1, "generate: prefill_chunk must be >= 1; got ",
                 o.prefill_chunk);
}

TokenLogprobs LogprobsOf(const float* logits, int64_t n, int32_t id, int64_t top) {
  const LogSoftmax log_softmax(logits, n);
  TokenLogprobs found;
  found.logprob = log_softmax(logits[id]);
  for (const auto& [other, logit] : LargestLogits(logits, n, top))
    found.top.emplace_back(other, log_softmax(logit));
  return found;
}

// Thrown out of a pass that is not to go on.
struct Interrupted {};

// The cache as it was before a pass that was broken off, in which some layers had seen more. False:
// keys that were wanted are forgotten already.
bool Rewind(KvCache* cache) {
  for (const AttentionCache& layer : cache->layers) {
    if (layer.first() > cache->length) return false;
  }
  cache->Truncate(cache->length);
  return true;
}

// One generation: what goes through its passes.
class Run {
 public:
  Run(Transformer& model, const GenerateOptions& options, KvCache* cache)
      : model_(model),
        options_(options),
        softcap_(static_cast<float>(model.config.text.final_logit_softcapping)) {
    forward_.compute = options.compute;
    forward_.image_mask = options.image_mask;
    forward_.activations = options.activations;
    forward_.cache = cache;
    if (options.go_on) forward_.observer = &ask_;
    forward_.last_only = true;
  }

  // Runs a piece of the prompt and returns the logits after its last token, scoring all tokens that
  // follow its own. Logits exist for kRows tokens at a time.
  Tensor ScoredPass(const ModelInput& piece, const std::vector<int32_t>& ids,
                    std::vector<TokenLogprobs>* scores) {
    constexpr int64_t kRows = 32;
    Tape tape(Tape::Mode::kNoGrad);
    forward_.last_only = false;
    const Tensor hidden = Forward(model_, tape, piece, forward_).value();
    forward_.last_only = true;
    Tensor last;
    for (int64_t begin = 0; begin < piece.size(); begin += kRows) {
      if (options_.go_on) Ask();
      const int64_t rows = std::min(kRows, piece.size() - begin);
      const Tensor logits =
          Logits(hidden.Rows(begin, rows), model_.head().Current(), softcap_, options_.compute);
      const int64_t n = logits.shape()[1];
      for (int64_t r = 0; r < rows && scores->size() + 1 < ids.size(); ++r) {
        scores->push_back(
            LogprobsOf(logits.data() + r * n, n, ids[scores->size() + 1], options_.top_logprobs));
      }
      last = logits.Rows(rows - 1, 1).Clone();
    }
    return last;
  }

  // Runs one piece and returns the logits after its last token (only there is the head needed).
  Tensor Pass(const ModelInput& piece, bool want_logits) {
    Tape tape(Tape::Mode::kNoGrad);
    const Var last = Forward(model_, tape, piece, forward_);
    if (!want_logits) return Tensor();
    return Logits(last.value(), model_.head().Current(), softcap_, options_.compute);
  }

  // The tokens from cached ones on, piece by piece. The last piece has kSlack tokens at least, so
  // that a prompt which differs only at its very end can go on from here.
  Tensor Prefill(const ModelInput& prompt) {
    constexpr int64_t kSlack = 64;
    Tensor logits;
    std::vector<TokenLogprobs> scores;
    for (int64_t begin = forward_.cache->length; begin < prompt.size();) {
      int64_t chunk = options_.prefill_chunk;
      const int64_t left = prompt.size() - begin;
      if (chunk > kSlack && left > chunk && left < chunk + kSlack) chunk = left - kSlack;
      const int64_t end = ChunkEnd(prompt, begin, chunk);
      const ModelInput piece = Slice(prompt, begin, end);
      logits = options_.score_prompt ? ScoredPass(piece, prompt.ids, &scores)
                                     : Pass(piece, end == prompt.size());
      begin = end;
    }
    if (options_.score_prompt && options_.on_prompt_logprobs) options_.on_prompt_logprobs(scores);
    return logits;
  }

  // The next token, and what is to be known of it. `seen`: prompt and answer.
  int32_t Choose(Tensor& logits, const std::vector<int32_t>& seen, int64_t step) {
    const int64_t n = logits.size();
    float* values = logits.data();
    const bool report = options_.top_logprobs >= 0 && options_.on_logprobs;
    const Tensor plain = report ? logits.Clone() : Tensor();
    for (const int32_t id : options_.suppress_ids) {
      if (id >= 0 && id < n) values[id] = -std::numeric_limits<float>::infinity();
    }
    PenalizeRepetition(values, n, seen, options_.repetition_penalty);
    if (options_.constraint) options_.constraint->Mask(values, n);
    const int32_t id =
        options_.do_sample ? SampleToken(values, n, options_, step) : ArgMax(values, n);
    if (options_.constraint) options_.constraint->Accept(id);
    if (report) options_.on_logprobs(LogprobsOf(plain.data(), n, id, options_.top_logprobs));
    return id;
  }

 private:
  void Ask() const {
    if (!options_.go_on()) throw Interrupted();
  }

  Transformer& model_;
  const GenerateOptions& options_;
  const float softcap_;
  const LinearObserver ask_ = [this](std::span<Linear* const>, const Tensor&) { Ask(); };
  ForwardOptions forward_;
};

void CheckPrompt(const ModelInput& prompt) {
  LAPIDARY_CHECK(prompt.size() > 0, "generate: the prompt must have at least one token; got none");
  LAPIDARY_CHECK(prompt.document_starts.size() <= 1,
                 "generate: the prompt must be one document; got ", prompt.document_starts.size());
}

}  // namespace

GenerateResult Generate(Transformer& model, const ModelInput& prompt,
                        const GenerateOptions& options,
                        const std::function<bool(int32_t)>& on_token, PrefixCache* prefixes) {
  CheckOptions(options);
  CheckPrompt(prompt);
  GenerateResult result;
  const Clock::time_point start = Clock::now();
  KvCache cache;
  std::vector<PrefixToken> tokens;
  if (prefixes) {
    tokens = PrefixTokens(prompt);
    if (options.score_prompt) prefixes->Clear();
    cache = prefixes->Take(model, tokens, options.compute, options.image_mask);
    result.reused = cache.length;
  }
  Run run(model, options, &cache);
  Clock::time_point decode = start;
  try {
    Tensor logits = run.Prefill(prompt);
    decode = Clock::now();
    if (prefixes) prefixes->Put(cache.Snapshot(), tokens, options.compute, options.image_mask);
    std::vector<int32_t> seen = prompt.ids;
    while (static_cast<int64_t>(result.ids.size()) < options.max_new_tokens) {
      const int32_t id = run.Choose(logits, seen, static_cast<int64_t>(result.ids.size()));
      result.ids.push_back(id);
      seen.push_back(id);
      tokens.push_back({id, 0, 0});
      result.stopped =
          std::find(options.stop_ids.begin(), options.stop_ids.end(), id) != options.stop_ids.end();
      if ((on_token && !on_token(id)) || result.stopped) break;
      if (static_cast<int64_t>(result.ids.size()) == options.max_new_tokens) break;
      ModelInput next;
      next.ids = {id};
      logits = run.Pass(next, true);
    }
  } catch (const Interrupted&) {
    result.interrupted = true;
  }
  const bool prefilled = decode != start;
  result.prefill_seconds =
      prefilled ? std::chrono::duration<double>(decode - start).count() : Seconds(start);
  if (prefilled) result.decode_seconds = Seconds(decode);
  const bool kept = !result.interrupted || (Rewind(&cache) && cache.length > 0);
  if (prefixes && kept)
    prefixes->Put(std::move(cache), std::move(tokens), options.compute, options.image_mask);
  return result;
}

}  // namespace lapidary
