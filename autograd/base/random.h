// Random numbers as a function of (seed, step, op, index): no state to save, so recomputation and
// resume are exact. The generator is Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers:
// as easy as 1, 2, 3").
#ifndef LAPIDARY_AUTOGRAD_BASE_RANDOM_H_
#define LAPIDARY_AUTOGRAD_BASE_RANDOM_H_

#include <array>
#include <cstdint>

namespace lapidary {

// Names one stream of random numbers. `op` tells apart the users of one step (a hash of a module
// path, say).
struct RandomKey {
  uint64_t seed = 0;
  uint64_t step = 0;
  uint64_t op = 0;
};

// Four independent uniform 32-bit words for (key, index).
std::array<uint32_t, 4> RandomBits(const RandomKey& key, uint64_t index);

// What RandomBits derives from a key: the upper half of the Philox counter and the Philox key. For
// kernels that make many words at once.
struct RandomState {
  uint32_t stream[2], seed[2];
};
RandomState StateOf(const RandomKey& key);

// Uniform in [0, 1): a multiple of 2^-24.
float RandomUniform(const RandomKey& key, uint64_t index);

// Standard normal (Box-Muller on two of the words).
float RandomNormal(const RandomKey& key, uint64_t index);

// Uniform integer in [0, bound), bound >= 1; multiply-shift, bias below 2^-32 * bound.
uint64_t RandomBelow(const RandomKey& key, uint64_t index, uint64_t bound);

// Stable 64-bit FNV-1a hash of a name, for RandomKey::op.
uint64_t HashName(const char* data, uint64_t size);
template <class String>
uint64_t HashName(const String& s) {
  return HashName(s.data(), s.size());
}

}  // namespace lapidary

#endif  // LAPIDARY_AUTOGRAD_BASE_RANDOM_H_
