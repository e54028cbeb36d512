// Compiled once per instruction set by Highway's foreach_target; each pass fills one table.
#include "autograd/kernels/kernels.h"

#include <algorithm>
#include <cmath>
#include <limits>

// Only the tables of isa.h: the other targets would be compiled for nothing.
#if defined(__aarch64__)
#define HWY_COMPILE_ONLY_STATIC  // NEON, which every AArch64 CPU has
#endif
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "autograd/kernels/kernels.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// The static target (emulation on x86) is no table of ours: kernels_scalar.cc is the reference.
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_NEON
// Kernel families; after highway.h.
#include "autograd/kernels/vector-inl.h"
// (this comment keeps clang-format from sorting them first)
#include "autograd/kernels/elementwise-inl.h"
#include "autograd/kernels/loss-inl.h"
#include "autograd/kernels/rows-inl.h"
// The attention family uses all of the above.
#include "autograd/kernels/attention-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lapidary::HWY_NAMESPACE {

#if HWY_TARGET == HWY_NEON
constexpr const char* kTableName = "neon";
#else
constexpr const char* kTableName = HWY_TARGET == HWY_AVX2 ? "avx2" : "avx512";
#endif

const Kernels& Table() {
  static constexpr Kernels kTable = {kTableName,
#define LAPIDARY_ENTRY(Name, Args) &HWY_NAMESPACE::Name,
                                     LAPIDARY_KERNELS(LAPIDARY_ENTRY)
#undef LAPIDARY_ENTRY
  };
  return kTable;
}

}  // namespace lapidary::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif

#if HWY_ONCE
namespace lapidary {

const Kernels& KernelsFor(Isa isa) {
#if HWY_TARGETS & HWY_AVX3
  if (isa == Isa::kAvx512 || isa == Isa::kAvx512Bf16 || isa == Isa::kAmx) return N_AVX3::Table();
#endif
#if HWY_TARGETS & HWY_AVX2
  if (isa == Isa::kAvx2) return N_AVX2::Table();
#endif
#if HWY_TARGETS & HWY_NEON
  if (isa == Isa::kNeon) return N_NEON::Table();
#endif
  return ScalarKernels();
}

const Kernels& ActiveKernels() { return KernelsFor(ActiveIsa()); }

}  // namespace lapidary
#endif
