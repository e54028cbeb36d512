#include "bench/gemm_peak.h"

#include <cstring>

#if defined(__aarch64__)
#include <arm_neon.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace lapidary {
namespace {

#if defined(__x86_64__)
// The sums are in explicit registers so that no compiler flag decides whether they are spilled.
__attribute__((target("avx2,fma"))) void LoopAvx2(int64_t rounds) {
  for (int64_t i = 0; i < rounds; ++i) {
    asm volatile(
        "vfmadd231ps %%ymm14, %%ymm15, %%ymm0\n vfmadd231ps %%ymm14, %%ymm15, %%ymm1\n"
        "vfmadd231ps %%ymm14, %%ymm15, %%ymm2\n vfmadd231ps %%ymm14, %%ymm15, %%ymm3\n"
        "vfmadd231ps %%ymm14, %%ymm15, %%ymm4\n vfmadd231ps %%ymm14, %%ymm15, %%ymm5\n"
        "vfmadd231ps %%ymm14, %%ymm15, %%ymm6\n vfmadd231ps %%ymm14, %%ymm15, %%ymm7\n"
        "vfmadd231ps %%ymm14, %%ymm15, %%ymm8\n vfmadd231ps %%ymm14, %%ymm15, %%ymm9\n"
        "vfmadd231ps %%ymm14, %%ymm15, %%ymm10\n vfmadd231ps %%ymm14, %%ymm15, %%ymm11\n"
        :
        :
        : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",
          "xmm11");
  }
}

#define LAPIDARY_TWELVE(op)                                             \
  op " %%zmm14, %%zmm15, %%zmm0\n " op " %%zmm14, %%zmm15, %%zmm1\n" op \
     " %%zmm14, %%zmm15, %%zmm2\n " op " %%zmm14, %%zmm15, %%zmm3\n" op \
     " %%zmm14, %%zmm15, %%zmm4\n " op " %%zmm14, %%zmm15, %%zmm5\n" op \
     " %%zmm14, %%zmm15, %%zmm6\n " op " %%zmm14, %%zmm15, %%zmm7\n" op \
     " %%zmm14, %%zmm15, %%zmm8\n " op " %%zmm14, %%zmm15, %%zmm9\n" op \
     " %%zmm14, %%zmm15, %%zmm10\n " op " %%zmm14, %%zmm15, %%zmm11\n"

__attribute__((target("avx512f"))) void LoopAvx512(int64_t rounds) {
  for (int64_t i = 0; i < rounds; ++i) {
    asm volatile(LAPIDARY_TWELVE("vfmadd231ps")
                 :
                 :
                 : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",
                   "xmm10", "xmm11");
  }
}

__attribute__((target("avx512f"))) void LoopAvx512Bf16(int64_t rounds) {
  for (int64_t i = 0; i < rounds; ++i) {
    asm volatile(LAPIDARY_TWELVE("vdpbf16ps")
                 :
                 :
                 : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",
                   "xmm10", "xmm11");
  }
}
#undef LAPIDARY_TWELVE

void LoopAmx(int64_t rounds) {
  alignas(64) unsigned char config[64] = {1};
  for (int t = 0; t < 8; ++t) {
    config[16 + 2 * t] = 64;
    config[48 + t] = 16;
  }
  asm volatile(
      "ldtilecfg %0\n tilezero %%tmm4\n tilezero %%tmm5\n tilezero %%tmm6\n tilezero %%tmm7"
      :
      : "m"(config)
      : "memory");
  for (int64_t i = 0; i < rounds; ++i) {
    asm volatile(
        "tdpbf16ps %tmm6, %tmm4, %tmm0\n tdpbf16ps %tmm7, %tmm4, %tmm1\n"
        "tdpbf16ps %tmm6, %tmm5, %tmm2\n tdpbf16ps %tmm7, %tmm5, %tmm3");
  }
  asm volatile("tilerelease" : : : "memory");
}
#elif defined(__aarch64__)
void LoopNeon(int64_t rounds) {
  float32x4_t acc[12];
  for (int i = 0; i < 12; ++i) acc[i] = vdupq_n_f32(static_cast<float>(i));
  const float32x4_t x = vdupq_n_f32(0.5f);
  for (int64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 12
    for (int i = 0; i < 12; ++i) acc[i] = vfmaq_f32(acc[i], x, x);
  }
  for (int i = 1; i < 12; ++i) acc[0] = vaddq_f32(acc[0], acc[i]);
  volatile float sink = vaddvq_f32(acc[0]);
  (void)sink;
}
#endif

}  // namespace

double RunPeakLoop(Isa isa, Compute compute, double milliseconds) {
#if defined(__x86_64__)
  const auto run = [&](void (*loop)(int64_t), double flops, double cycles) {
    const int64_t rounds = static_cast<int64_t>(milliseconds * 4e6 / cycles);
    loop(rounds);
    return flops * static_cast<double>(rounds);
  };
  const bool bf16 = compute == Compute::kBfloat16;
  switch (isa) {
    case Isa::kScalar:
      return 0;
    case Isa::kAvx2:
      return run(LoopAvx2, 12 * 16, 6);
    case Isa::kAmx:
      if (bf16) return run(LoopAmx, 4 * 16384, 64);
      return run(LoopAvx512, 12 * 32, 6);
    case Isa::kAvx512Bf16:
      if (bf16) return run(LoopAvx512Bf16, 12 * 64, 6);
      return run(LoopAvx512, 12 * 32, 6);
    case Isa::kAvx512:
      return run(LoopAvx512, 12 * 32, 6);
    case Isa::kNeon:
      return 0;
  }
#elif defined(__aarch64__)
  if (isa == Isa::kNeon) {
    const int64_t rounds = static_cast<int64_t>(milliseconds * 4e6 / 6);
    LoopNeon(rounds);
    return 12.0 * 8 * static_cast<double>(rounds);
  }
#endif
  (void)isa;
  (void)compute;
  (void)milliseconds;
  return 0;
}

}  // namespace lapidary
