// Keys and values of one document, layer by layer, for generation. Sliding layers keep what the
// window can still see.
#ifndef LAPIDARY_MODEL_KV_CACHE_H_
#define LAPIDARY_MODEL_KV_CACHE_H_

#include <cstdint>
#include <vector>

#include "autograd/tensor.h"

namespace lapidary {

struct KvCache {
  struct LayerCache {
    std::vector<float> k, v;  // [count, G * D]
    int64_t first = 0;  // position of the first kept key, a multiple of 64 (attention's blocks of
                        // keys stay aligned)
  };
  std::vector<LayerCache> layers;
  int64_t length = 0;  // tokens seen
};

}  // namespace lapidary

#endif  // LAPIDARY_MODEL_KV_CACHE_H_
