// Which instruction set the kernels use. Every kernel family has one table of functions per Isa,
// all in one binary; the best one that the CPU has is picked at start, LAPIDARY_ISA overrides it.
// Results are bit-equal for any thread count within one Isa, not across them.
#ifndef LAPIDARY_AUTOGRAD_KERNELS_ISA_H_
#define LAPIDARY_AUTOGRAD_KERNELS_ISA_H_

#include <string>
#include <vector>

namespace lapidary {

enum class Isa {
  kScalar,      // plain C++ loops: the reference
  kAvx2,        // AVX2 + FMA + F16C
  kAvx512,      // AVX-512 F, BW, DQ, VL
  kAvx512Bf16,  // the same plus vdpbf16ps in the bf16 GEMM
  kAmx,         // the same plus bf16 tiles in the bf16 GEMM
  kNeon,        // AArch64's Advanced SIMD
};
inline constexpr int kIsaCount = 6;

// "scalar", "avx2", "avx512", "avx512_bf16", "amx", "neon".
const char* IsaName(Isa isa);

// What this CPU and kernel can run, best first. AMX needs (and gets here) the kernel's permission
// for tile data.
const std::vector<Isa>& SupportedIsas();

// The one in use: LAPIDARY_ISA, else the best. Throws Error if LAPIDARY_ISA names none that is
// supported.
Isa ActiveIsa();
// Changes it, for tests and benches; not while kernels run. Throws Error if unsupported.
void SetIsa(Isa isa);

}  // namespace lapidary

#endif  // LAPIDARY_AUTOGRAD_KERNELS_ISA_H_
