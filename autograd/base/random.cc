#include "autograd/base/random.h"

#include <cmath>

namespace lapidary {
namespace {

uint64_t Mix(uint64_t x) {  // splitmix64 finalizer
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

}  // namespace

RandomState StateOf(const RandomKey& key) {
  const uint64_t stream = Mix(key.step ^ Mix(key.op));
  const uint64_t seed = Mix(key.seed);
  return {{static_cast<uint32_t>(stream), static_cast<uint32_t>(stream >> 32)},
          {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)}};
}

std::array<uint32_t, 4> RandomBits(const RandomKey& key, uint64_t index) {
  const RandomState state = StateOf(key);
  uint32_t c[4] = {static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32),
                   state.stream[0], state.stream[1]};
  uint32_t k0 = state.seed[0], k1 = state.seed[1];
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = 0xD2511F53ull * c[0];
    const uint64_t p1 = 0xCD9E8D57ull * c[2];
    const uint32_t next[4] = {
        static_cast<uint32_t>(p1 >> 32) ^ c[1] ^ k0, static_cast<uint32_t>(p1),
        static_cast<uint32_t>(p0 >> 32) ^ c[3] ^ k1, static_cast<uint32_t>(p0)};
    for (int i = 0; i < 4; ++i) c[i] = next[i];
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {c[0], c[1], c[2], c[3]};
}

float RandomUniform(const RandomKey& key, uint64_t index) {
  return static_cast<float>(RandomBits(key, index)[0] >> 8) * 0x1p-24f;
}

float RandomNormal(const RandomKey& key, uint64_t index) {
  const std::array<uint32_t, 4> bits = RandomBits(key, index);
  const double u1 = (static_cast<double>(bits[0]) + 1.0) * 0x1p-32;  // (0, 1]
  const double u2 = static_cast<double>(bits[1]) * 0x1p-32;
  return static_cast<float>(std::sqrt(-2.0 * std::log(u1)) *
                            std::cos(2.0 * 3.14159265358979323846 * u2));
}

uint64_t RandomBelow(const RandomKey& key, uint64_t index, uint64_t bound) {
  const std::array<uint32_t, 4> bits = RandomBits(key, index);
  const uint64_t word = (static_cast<uint64_t>(bits[0]) << 32) | bits[1];
  return static_cast<uint64_t>((static_cast<unsigned __int128>(word) * bound) >> 64);
}

uint64_t HashName(const char* data, uint64_t size) {
  uint64_t hash = 0xcbf29ce484222325ull;
  for (uint64_t i = 0; i < size; ++i) {
    hash = (hash ^ static_cast<unsigned char>(data[i])) * 0x100000001b3ull;
  }
  return hash;
}

}  // namespace lapidary
