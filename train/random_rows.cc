#include "train/random_rows.h"

#include <algorithm>

#include "autograd/base/float16.h"
#include "quant/formats/lanes.h"

namespace lapidary {
namespace {

constexpr int kWide = 16;                 // Philox generators side by side: two vectors of AVX2
constexpr float kRootThree = 1.7320508f;  // four uniforms in [-1/2, 1/2) have variance 1/3

// Philox4x32-10 (base/random.cc) of kWide consecutive indices, in loops over the generators that
// the compiler makes vectors of. words[k][g]: word k of generator g.
LAPIDARY_LANES void Words(const RandomState& state, uint64_t first, uint32_t (*c)[kWide]) {
  for (int g = 0; g < kWide; ++g) {
    const uint64_t index = first + static_cast<uint64_t>(g);
    c[0][g] = static_cast<uint32_t>(index);
    c[1][g] = static_cast<uint32_t>(index >> 32);
    c[2][g] = state.stream[0];
    c[3][g] = state.stream[1];
  }
  uint32_t k0 = state.seed[0], k1 = state.seed[1];
  for (int round = 0; round < 10; ++round) {
    for (int g = 0; g < kWide; ++g) {
      const uint64_t p0 = uint64_t{0xD2511F53u} * c[0][g];
      const uint64_t p1 = uint64_t{0xCD9E8D57u} * c[2][g];
      c[0][g] = static_cast<uint32_t>(p1 >> 32) ^ c[1][g] ^ k0;
      c[1][g] = static_cast<uint32_t>(p1);
      c[2][g] = static_cast<uint32_t>(p0 >> 32) ^ c[3][g] ^ k1;
      c[3][g] = static_cast<uint32_t>(p0);
    }
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
}

LAPIDARY_LANES void Fill(const RandomState& state, uint64_t first, int64_t count, float factor,
                         float* out) {
  for (int64_t begin = 0; begin < count; begin += 2 * kWide) {
    uint32_t words[4][kWide];
    Words(state, first + static_cast<uint64_t>(begin / 2), words);
    float values[2 * kWide];
    for (int k = 0; k < 2; ++k) {
      for (int g = 0; g < kWide; ++g) {
        const uint32_t a = words[2 * k][g], b = words[2 * k + 1][g];
        const int32_t sum =
            static_cast<int32_t>((a & 0xffff) + (a >> 16) + (b & 0xffff) + (b >> 16));
        const uint32_t bits =
            std::bit_cast<uint32_t>(factor * (static_cast<float>(sum) * 0x1p-16f - 2.0f));
        values[2 * g + k] =
            std::bit_cast<float>((bits + 0x7fffu + (bits >> 16 & 1u)) & 0xffff0000u);
      }
    }
    std::copy_n(values, std::min<int64_t>(2 * kWide, count - begin), out + begin);
  }
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) void FillAvx2(const RandomState& state, uint64_t first,
                                              int64_t count, float factor, float* out) {
  Fill(state, first, count, factor, out);
}
#endif

}  // namespace

void RandomRow(const RandomKey& key, int64_t row, int64_t count, float deviation, float* out) {
  const uint64_t first = static_cast<uint64_t>(row) * static_cast<uint64_t>((count + 1) / 2);
  const float factor = deviation * kRootThree;
#if defined(__x86_64__)
  if (ActiveIsa() != Isa::kScalar) return FillAvx2(StateOf(key), first, count, factor, out);
#endif
  Fill(StateOf(key), first, count, factor, out);
}

}  // namespace lapidary
