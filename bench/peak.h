// Peaks of this machine, measured with all threads: what a bench's percentages refer to.
#ifndef LAPIDARY_BENCH_PEAK_H_
#define LAPIDARY_BENCH_PEAK_H_

#include <time.h>

#include <algorithm>
#include <cstdint>
#include <functional>

#include "autograd/base/parallel.h"
#include "autograd/kernels/isa.h"
#include "autograd/tensor.h"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace lapidary::bench {

// Seconds since some start: of processor time with one thread, which other programs disturb less,
// else of the wall clock.
inline double Now() {
  timespec t;
  clock_gettime(Threads() == 1 ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
}

inline double SecondsOf(const std::function<void()>& run) {
  double best = 1e30;
  for (int i = 0; i < 5; ++i) {
    const double start = Now();
    run();
    best = std::min(best, Now() - start);
  }
  return best;
}

// a = b + c s over arrays of 128 MB each; counts three moves an element.
inline double TriadBytesPerSecond() {
  const int64_t size = int64_t{1} << 25;
  const Tensor a = Tensor::Zeros({size}), b = Tensor::Zeros({size}), c = Tensor::Zeros({size});
  const double seconds = SecondsOf([&] {
    ParallelFor(size, [&](Range r) {
      float *x = a.data(), *y = b.data(), *z = c.data();
      for (int64_t i = r.begin; i < r.end; ++i) x[i] = y[i] + 0.5f * z[i];
    });
  });
  return 12.0 * static_cast<double>(size) / seconds;
}

#if defined(__x86_64__)
// Twelve independent chains hide the latency of a fused multiply-add.
__attribute__((target("avx512f"))) inline float FmaLoop512(int64_t steps) {
  __m512 acc[12];
#pragma GCC unroll 12
  for (int i = 0; i < 12; ++i) acc[i] = _mm512_set1_ps(static_cast<float>(i));
  const __m512 x = _mm512_set1_ps(0.999f), y = _mm512_set1_ps(0.001f);
  for (int64_t s = 0; s < steps; ++s) {
#pragma GCC unroll 12
    for (int i = 0; i < 12; ++i) acc[i] = _mm512_fmadd_ps(acc[i], x, y);
  }
#pragma GCC unroll 12
  for (int i = 1; i < 12; ++i) acc[0] = _mm512_add_ps(acc[0], acc[i]);
  return _mm512_cvtss_f32(acc[0]);
}
__attribute__((target("avx2,fma"))) inline float FmaLoop256(int64_t steps) {
  __m256 acc[12];
#pragma GCC unroll 12
  for (int i = 0; i < 12; ++i) acc[i] = _mm256_set1_ps(static_cast<float>(i));
  const __m256 x = _mm256_set1_ps(0.999f), y = _mm256_set1_ps(0.001f);
  for (int64_t s = 0; s < steps; ++s) {
#pragma GCC unroll 12
    for (int i = 0; i < 12; ++i) acc[i] = _mm256_fmadd_ps(acc[i], x, y);
  }
#pragma GCC unroll 12
  for (int i = 1; i < 12; ++i) acc[0] = _mm256_add_ps(acc[0], acc[i]);
  return _mm256_cvtss_f32(acc[0]);
}
#elif defined(__aarch64__)
inline float FmaLoopNeon(int64_t steps) {
  float32x4_t acc[12];
#pragma GCC unroll 12
  for (int i = 0; i < 12; ++i) acc[i] = vdupq_n_f32(static_cast<float>(i));
  const float32x4_t x = vdupq_n_f32(0.999f), y = vdupq_n_f32(0.001f);
  for (int64_t s = 0; s < steps; ++s) {
#pragma GCC unroll 12
    for (int i = 0; i < 12; ++i) acc[i] = vfmaq_f32(y, acc[i], x);
  }
#pragma GCC unroll 12
  for (int i = 1; i < 12; ++i) acc[0] = vaddq_f32(acc[0], acc[i]);
  return vaddvq_f32(acc[0]);
}
#endif

// Float32 fused multiply-adds of the instruction set in use, two flops each.
inline double FmaFlopsPerSecond() {
  const int64_t steps = 4000000;
  const Isa isa = ActiveIsa();
  double flops_a_step = 2.0;
  if (isa != Isa::kScalar) {
    const int lanes = isa == Isa::kAvx2 ? 8 : isa == Isa::kNeon ? 4 : 16;
    flops_a_step = 2.0 * 12 * lanes;
  }
  volatile float sink = 0;
  const double seconds = SecondsOf([&] {
    ParallelForDynamic(Threads(), [&](int64_t, int) {
#if defined(__x86_64__)
      if (isa == Isa::kAvx2) {
        sink = FmaLoop256(steps);
        return;
      }
      if (isa != Isa::kScalar) {
        sink = FmaLoop512(steps);
        return;
      }
#elif defined(__aarch64__)
      if (isa == Isa::kNeon) {
        sink = FmaLoopNeon(steps);
        return;
      }
#endif
      float acc = 1;
      for (int64_t s = 0; s < steps; ++s) acc = acc * 0.999f + 0.001f;
      sink = acc;
    });
  });
  (void)sink;
  return flops_a_step * static_cast<double>(steps) * Threads() / seconds;
}

}  // namespace lapidary::bench

#endif  // LAPIDARY_BENCH_PEAK_H_
