// Keys and values of what was generated last, so that a prompt with the same beginning (the next
// turn of a conversation, another sample, the same examples in front) need not compute it again.
// Two states are kept: the end of the last prompt, and the end of its answer. They share what
// they have in common. A model whose weights or adapter change needs Clear(). Not thread-safe.
#ifndef LAPIDARY_MODEL_PREFIX_CACHE_H_
#define LAPIDARY_MODEL_PREFIX_CACHE_H_

#include <cstdint>
#include <vector>

#include "model/input.h"
#include "model/kv_cache.h"
#include "model/transformer.h"

namespace lapidary {

// What must be equal for a cached token to stand for one of a prompt: soft tokens are told apart by
// a hash of their rows.
struct PrefixToken {
  int32_t id = 0;
  uint8_t type = 0;
  uint64_t media = 0;
  bool operator==(const PrefixToken&) const = default;
};
std::vector<PrefixToken> PrefixTokens(const ModelInput& prompt);

class PrefixCache {
 public:
  void Clear() { states_.clear(); }
  // Takes out the state that shares most with `tokens`, cut to what is shared, at most
  // tokens.size() - 1 and never inside an image; an empty state if none does. The other states are
  // forgotten.
  KvCache Take(const Transformer& model, const std::vector<PrefixToken>& tokens, Compute compute,
               ImageMask image_mask);
  // Keeps a state that has seen `tokens`.
  void Put(KvCache state, std::vector<PrefixToken> tokens, Compute compute, ImageMask image_mask);
  int64_t bytes() const;  // of keys and values; shared ones count in both states

 private:
  struct State {
    KvCache cache;
    std::vector<PrefixToken> tokens;
    Compute compute;
    ImageMask image_mask;
  };
  std::vector<State> states_;
};

}  // namespace lapidary

#endif  // LAPIDARY_MODEL_PREFIX_CACHE_H_
