// Text generation with a key-value cache: greedy or sampled, stop ids, suppressed ids, constrained
// output, log-probabilities, and a cache of prefixes that later prompts share.
#ifndef LAPIDARY_MODEL_GENERATE_H_
#define LAPIDARY_MODEL_GENERATE_H_

#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "model/transformer.h"

namespace lapidary {

class PrefixCache;

// Says which ids may come next. One object serves one generation.
class TokenConstraint {
 public:
  virtual ~TokenConstraint() = default;
  // Sets the logits of ids that cannot come next to -inf. Throws Error if none can.
  virtual void Mask(float* logits, int64_t n) = 0;
  // What was chosen.
  virtual void Accept(int32_t id) = 0;
};

// log p of a token under the model itself (before penalties, masks and temperature; ids that are
// never produced count), and the likeliest tokens there, best first.
struct TokenLogprobs {
  double logprob = 0;
  std::vector<std::pair<int32_t, double>> top;
};

struct GenerateOptions {
  int64_t max_new_tokens = 256;
  bool do_sample = false;  // else the arg max
  double temperature = 1.0;
  int64_t top_k = 64;             // 0: all
  double top_p = 0.95;            // 1: all
  double min_p = 0;               // 0: all; else in (0, 1]
  double repetition_penalty = 1;  // of ids of the prompt and the answer; 1: none
  uint64_t seed = 0;
  uint64_t sample =
      0;  // which of several answers: draws are a function of (seed, sample, position)
  std::vector<int32_t> stop_ids = {1, 106, 50};
  std::vector<int32_t> suppress_ids;  // never produced; their logits are -inf before anything else
  TokenConstraint* constraint = nullptr;
  int64_t top_logprobs = -1;  // how many likeliest tokens on_logprobs gets; -1: it is not called
  std::function<void(const TokenLogprobs&)> on_logprobs;  // before on_token, for the same token
  // Scores every token of the prompt but the first, given those before it: size() - 1 entries with
  // top_logprobs likeliest, handed over before the first new token. Nothing cached is used then.
  bool score_prompt = false;
  std::function<void(const std::vector<TokenLogprobs>&)> on_prompt_logprobs;
  // Asked before every matrix of every pass, by the thread that generates; false ends the
  // generation there. Empty: it is never asked.
  std::function<bool()> go_on;
  int64_t prefill_chunk = 1024;  // tokens at a time; never splits an image; does not change bits
  const ActivationPolicy* activations = nullptr;  // asked whether the base is streamed; null: no
  Compute compute = Compute::kBfloat16;
  ImageMask image_mask = ImageMask::kSlidingOnly;
};

struct GenerateResult {
  std::vector<int32_t> ids;  // new tokens, the stop id included
  bool stopped = false;      // by a stop id
  bool interrupted = false;  // by go_on
  int64_t reused = 0;        // tokens of the prompt that the prefix cache held
  double prefill_seconds = 0, decode_seconds = 0;
};

// Continues `prompt` (one document). `on_token` may be empty; returning false ends the generation.
// With a `cache`, what the prompt shares with earlier ones is not computed again; tokens are the
// same, bit for bit in the logits.
GenerateResult Generate(Transformer& model, const ModelInput& prompt,
                        const GenerateOptions& options,
                        const std::function<bool(int32_t)>& on_token, PrefixCache* cache = nullptr);

}  // namespace lapidary

#endif  // LAPIDARY_MODEL_GENERATE_H_
