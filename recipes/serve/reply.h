// What the replies of both interfaces have in common.
#ifndef LAPIDARY_RECIPES_SERVE_REPLY_H_
#define LAPIDARY_RECIPES_SERVE_REPLY_H_

#include <cmath>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "recipes/serve/api.h"

namespace lapidary {

struct Usage {
  int64_t prompt = 0, completion = 0, cached = 0;
  nlohmann::ordered_json ToJson() const {
    return {{"prompt_tokens", prompt},
            {"completion_tokens", completion},
            {"total_tokens", prompt + completion},
            {"prompt_tokens_details", {{"cached_tokens", cached}}}};
  }
};

// A token as logprobs name it: its text, or "bytes:\xNN" for a byte of a character.
std::string TokenLabel(const Tokenizer& tokenizer, int32_t id);

// JSON has no infinity: -9999, as OpenAI writes it.
inline double Finite(double logprob) { return std::isfinite(logprob) ? logprob : -9999.0; }

// Throws ApiError if prompt and answer do not fit.
void CheckContext(int64_t prompt, int64_t answer, int64_t max_context);

}  // namespace lapidary

#endif  // LAPIDARY_RECIPES_SERVE_REPLY_H_
