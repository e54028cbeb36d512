// What the tests of media share: the JSON files of golden/media, tensors beside them, hashes and
// mutations.
#ifndef LAPIDARY_TESTS_DATA_MEDIA_GOLDEN_H_
#define LAPIDARY_TESTS_DATA_MEDIA_GOLDEN_H_

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "autograd/base/error.h"
#include "autograd/base/file.h"
#include "autograd/base/random.h"
#include "autograd/base/sha256.h"

namespace lapidary::golden {

// Tensors of a trusted safetensors file.
class Tensors {
 public:
  explicit Tensors(const std::string& path) : bytes_(ReadFile(path)) {
    uint64_t header = 0;
    std::memcpy(&header, bytes_.data(), 8);
    index_ = nlohmann::json::parse(bytes_.substr(8, header));
    begin_ = 8 + header;
  }
  bool Has(const std::string& name) const { return index_.contains(name); }
  template <class T>
  std::vector<T> Get(const std::string& name) const {
    const auto& offsets = index_.at(name).at("data_offsets");
    const uint64_t from = offsets[0], to = offsets[1];
    std::vector<T> out((to - from) / sizeof(T));
    std::memcpy(out.data(), bytes_.data() + begin_ + from, to - from);
    return out;
  }

 private:
  std::string bytes_;
  nlohmann::json index_;
  uint64_t begin_ = 0;
};

template <class T>
std::string Hash(const std::vector<T>& values) {
  Sha256 hash;
  hash.Add(values.data(), values.size() * sizeof(T));
  return hash.Hex();
}

// Iterations of a fuzz test: LAPIDARY_FUZZ_ITERATIONS, or `fallback`.
inline int64_t FuzzIterations(int64_t fallback) {
  const char* env = std::getenv("LAPIDARY_FUZZ_ITERATIONS");
  return env && *env ? std::atoll(env) : fallback;
}

// Mutation number `round` of `seed`: flipped bits, overwritten, removed, doubled or cut bytes; a
// function of its arguments.
inline std::string Mutate(const std::string& seed, uint64_t round) {
  std::string out = seed;
  uint64_t draw = 0;
  const auto below = [&](uint64_t bound) {
    return RandomBelow({.seed = 99, .step = round, .op = 7}, draw++, bound);
  };
  for (uint64_t i = 0, edits = 1 + below(4); i < edits && !out.empty(); ++i) {
    // Headers decide more than bodies: half of the edits fall into the first 200 bytes.
    const uint64_t reach = below(2) ? out.size() : std::min<uint64_t>(out.size(), 200);
    const uint64_t at = below(reach), count = std::min<uint64_t>(1 + below(16), out.size() - at);
    switch (below(6)) {
      case 0:
        out[at] = static_cast<char>(out[at] ^ (1 << below(8)));
        break;
      case 1:
        for (uint64_t k = 0; k < count; ++k) out[at + k] = static_cast<char>(below(256));
        break;
      case 2:
        out.erase(at, count);
        break;
      case 3:
        out.insert(at, out.substr(at, count));
        break;
      case 4:
        out.resize(at);
        break;
      default:
        for (uint64_t k = 0; k < std::min<uint64_t>(count, 4); ++k) {
          out[at + k] = static_cast<char>(below(2) ? 0xff : 0);
        }
    }
  }
  return out;
}

}  // namespace lapidary::golden

#endif  // LAPIDARY_TESTS_DATA_MEDIA_GOLDEN_H_
