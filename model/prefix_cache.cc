#include "model/prefix_cache.h"

#include <algorithm>

#include "autograd/base/sha256.h"

namespace lapidary {
namespace {

bool InImage(const PrefixToken& token) { return token.type == 1 || token.type == 2; }

// Whether `tokens` has a run of one picture across position `at`.
bool CutsImage(const std::vector<PrefixToken>& tokens, size_t at) {
  return at > 0 && at < tokens.size() && InImage(tokens[at - 1]) && InImage(tokens[at]);
}

uint64_t HashOf(const void* data, uint64_t bytes, const int32_t* position) {
  Sha256 hash;
  hash.Add(data, bytes);
  if (position) hash.Add(position, 2 * sizeof(int32_t));
  return std::stoull(hash.Hex().substr(0, 16), nullptr, 16);
}

// Keys that a sliding layer needs before position `at`.
bool Holds(const Transformer& model, const KvCache& cache, int64_t at) {
  for (size_t i = 0; i < cache.layers.size(); ++i) {
    const bool full = model.layers[i].config.full_attention;
    const int64_t from = full ? 0 : std::max<int64_t>(0, at - model.config.text.sliding_window + 1);
    if (cache.layers[i].first() > from) return false;
  }
  return true;
}

}  // namespace

std::vector<PrefixToken> PrefixTokens(const ModelInput& prompt) {
  std::vector<PrefixToken> tokens(prompt.ids.size());
  for (size_t i = 0; i < tokens.size(); ++i) {
    tokens[i].id = prompt.ids[i];
    if (!prompt.types.empty()) tokens[i].type = prompt.types[i];
  }
  const auto mark = [&](const std::vector<int64_t>& rows, const Tensor& features,
                        const std::vector<int32_t>* positions) {
    for (size_t r = 0; r < rows.size(); ++r) {
      const int64_t width = features.shape()[1];
      tokens[static_cast<size_t>(rows[r])].media =
          HashOf(features.data() + static_cast<int64_t>(r) * width,
                 static_cast<uint64_t>(width) * sizeof(float),
                 positions ? positions->data() + 2 * r : nullptr);
    }
  };
  mark(prompt.patch_rows, prompt.patches, &prompt.patch_positions);
  mark(prompt.audio_rows, prompt.audio_frames, nullptr);
  return tokens;
}

KvCache PrefixCache::Take(const Transformer& model, const std::vector<PrefixToken>& tokens,
                          Compute compute, ImageMask image_mask) {
  KvCache best;
  size_t longest = 0;
  for (State& state : states_) {
    if (state.compute != compute || state.image_mask != image_mask || tokens.empty()) continue;
    const size_t most = std::min(state.tokens.size(), tokens.size() - 1);
    size_t shared = 0;
    while (shared < most && state.tokens[shared] == tokens[shared]) ++shared;
    // Soft tokens of one picture see each other: all of it, or nothing.
    while (CutsImage(tokens, shared) || CutsImage(state.tokens, shared)) --shared;
    if (shared <= longest || !Holds(model, state.cache, static_cast<int64_t>(shared))) continue;
    longest = shared;
    best = std::move(state.cache);
  }
  states_.clear();
  if (longest > 0) best.Truncate(static_cast<int64_t>(longest));
  return best;
}

void PrefixCache::Put(KvCache state, std::vector<PrefixToken> tokens, Compute compute,
                      ImageMask image_mask) {
  tokens.resize(static_cast<size_t>(state.length));
  states_.push_back({std::move(state), std::move(tokens), compute, image_mask});
}

int64_t PrefixCache::bytes() const {
  int64_t bytes = 0;
  for (const State& state : states_) {
    for (const AttentionCache& layer : state.cache.layers) bytes += layer.bytes();
  }
  return bytes;
}

}  // namespace lapidary
