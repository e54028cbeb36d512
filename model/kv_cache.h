// Keys and values of one document, layer by layer, for generation. Sliding layers keep what the
// window can still see.
#ifndef LAPIDARY_MODEL_KV_CACHE_H_
#define LAPIDARY_MODEL_KV_CACHE_H_

#include <cstdint>
#include <vector>

#include "autograd/ops/attention_cache.h"

namespace lapidary {

struct KvCache {
  std::vector<AttentionCache> layers;
  int64_t length = 0;  // tokens seen

  // As those of AttentionCache, for every layer.
  void Truncate(int64_t to) {
    for (AttentionCache& layer : layers) layer.Truncate(to);
    length = to;
  }
  KvCache Snapshot() {
    KvCache copy;
    for (AttentionCache& layer : layers) copy.layers.push_back(layer.Snapshot());
    copy.length = length;
    return copy;
  }
};

}  // namespace lapidary

#endif  // LAPIDARY_MODEL_KV_CACHE_H_
