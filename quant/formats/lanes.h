// Eight sub-blocks at a time. The searches of the K and IQ4 formats add in a fixed order within a
// sub-block (the bytes depend on it), so their sums cannot be split; lanes of different sub-blocks
// side by side can. A lane does exactly what ggml's scalar loop does, branches become selections.
//
// The vectors are GCC's and Clang's own (any target, any width), so this needs no intrinsics. On
// x86 the same source is compiled a second time for AVX2 (no FMA: it would change bits) and chosen
// by ActiveIsa(); both give the same bytes.
#ifndef LAPIDARY_QUANT_FORMATS_LANES_H_
#define LAPIDARY_QUANT_FORMATS_LANES_H_

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "autograd/kernels/isa.h"

#define LAPIDARY_LANES inline __attribute__((always_inline))

namespace lapidary::formats {

inline constexpr int kLanes = 8;
using F8 = float __attribute__((vector_size(32)));
using I8 = int32_t __attribute__((vector_size(32)));

LAPIDARY_LANES F8 Floats(I8 v) { return __builtin_convertvector(v, F8); }
LAPIDARY_LANES F8 Abs(F8 v) { return std::bit_cast<F8>(std::bit_cast<I8>(v) & 0x7fffffff); }
// Nearest() and Clamp() of blocks.h.
LAPIDARY_LANES I8 Nearest(F8 v) {
  return (std::bit_cast<I8>(v + 12582912.0f) & 0x007fffff) - 0x00400000;
}
LAPIDARY_LANES I8 Clamp(I8 v, int32_t low, int32_t high) {
  const I8 lows = I8{} + low, highs = I8{} + high;
  v = v < lows ? lows : v;
  return v > highs ? highs : v;
}
LAPIDARY_LANES bool AnyOf(I8 mask) {
  int32_t any = 0;
  for (int k = 0; k < kLanes; ++k) any |= mask[k];
  return any != 0;
}

// Eight runs of kSize values, one after the other, as lanes: out[i][k] = x[k * kSize + i].
template <int kSize>
LAPIDARY_LANES void ToLanes(const float* x, F8* out) {
  float at[kSize * kLanes];
  for (int k = 0; k < kLanes; ++k)
    for (int i = 0; i < kSize; ++i) at[i * kLanes + k] = x[k * kSize + i];
  std::memcpy(out, at, sizeof(at));
}

// The reverse for codes.
template <int kSize>
LAPIDARY_LANES void FromLanes(const I8* codes, uint8_t* out) {
  for (int k = 0; k < kLanes; ++k)
    for (int i = 0; i < kSize; ++i) out[k * kSize + i] = static_cast<uint8_t>(codes[i][k]);
}

// Per lane the element of largest magnitude, the first of several, and that magnitude.
template <int kSize>
LAPIDARY_LANES void Extremum(const F8* x, F8* magnitude, F8* extremum) {
  *magnitude = *extremum = F8{};
  for (int i = 0; i < kSize; ++i) {
    const F8 a = Abs(x[i]);
    const I8 larger = a > *magnitude;
    *magnitude = larger ? a : *magnitude;
    *extremum = larger ? x[i] : *extremum;
  }
}

using QuantizeFunction = void (*)(const float* row, int64_t n, uint8_t* out);

}  // namespace lapidary::formats

// Defines Quantize(row, n, out) from the always-inline Body of the same arguments, compiled for the
// plain machine and, on x86, for AVX2.
#if defined(__x86_64__)
#define LAPIDARY_QUANTIZE_IN_LANES(Quantize, Body)                                                 \
  __attribute__((target("avx2"))) void Quantize##Avx2(const float* row, int64_t n, uint8_t* out) { \
    Body(row, n, out);                                                                             \
  }                                                                                                \
  void Quantize##Plain(const float* row, int64_t n, uint8_t* out) { Body(row, n, out); }           \
  void Quantize(const float* row, int64_t n, uint8_t* out) {                                       \
    (ActiveIsa() == Isa::kScalar ? Quantize##Plain : Quantize##Avx2)(row, n, out);                 \
  }
// The same for Project(values, n), with AVX-512 as well.
#define LAPIDARY_PROJECT_IN_LANES(Project, Body)                                      \
  __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl"))) void Project##Avx512( \
      float* values, int64_t n) {                                                     \
    Body(values, n);                                                                  \
  }                                                                                   \
  __attribute__((target("avx2"))) void Project##Avx2(float* values, int64_t n) {      \
    Body(values, n);                                                                  \
  }                                                                                   \
  void Project##Plain(float* values, int64_t n) { Body(values, n); }                  \
  void Project(float* values, int64_t n) {                                            \
    const Isa isa = ActiveIsa();                                                      \
    (isa == Isa::kScalar ? Project##Plain                                             \
     : isa == Isa::kAvx2 ? Project##Avx2                                              \
                         : Project##Avx512)(values, n);                               \
  }
#else
#define LAPIDARY_PROJECT_IN_LANES(Project, Body) \
  void Project(float* values, int64_t n) { Body(values, n); }
#define LAPIDARY_QUANTIZE_IN_LANES(Quantize, Body) \
  void Quantize(const float* row, int64_t n, uint8_t* out) { Body(row, n, out); }
#endif

#endif  // LAPIDARY_QUANT_FORMATS_LANES_H_
