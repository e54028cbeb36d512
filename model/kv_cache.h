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
};

}  // namespace lapidary

#endif  // LAPIDARY_MODEL_KV_CACHE_H_
