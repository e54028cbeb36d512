#include "autograd/kernels/isa.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <algorithm>
#include <cstdlib>
#include <optional>

#include "autograd/base/error.h"

namespace lapidary {
namespace {

#if defined(__x86_64__)
// Asks Linux for the AMX tile registers (arch_prctl ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA).
bool RequestTiles() {
  constexpr int kArchReqXcompPerm = 0x1023, kXtileData = 18;
  return syscall(SYS_arch_prctl, kArchReqXcompPerm, kXtileData) == 0;
}

bool CpuHas(Isa isa) {
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl");
  unsigned a = 0, b = 0, c = 0, d = 0;
  bool bf16 = false, amx = false;
  if (__get_cpuid_count(7, 1, &a, &b, &c, &d)) bf16 = (a >> 5) & 1;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) amx = ((d >> 22) & 1) && ((d >> 24) & 1);
  switch (isa) {
    case Isa::kScalar:
      return true;
    case Isa::kAvx2:
      return avx2;
    case Isa::kAvx512:
      return avx512;
    case Isa::kAvx512Bf16:
      return avx512 && bf16;
    case Isa::kAmx:
      return avx512 && bf16 && amx && RequestTiles();
    case Isa::kNeon:
      return false;
  }
  return false;
}
#elif defined(__aarch64__)
bool CpuHas(Isa isa) { return isa == Isa::kScalar || isa == Isa::kNeon; }  // part of AArch64
#else
bool CpuHas(Isa isa) { return isa == Isa::kScalar; }
#endif

std::optional<Isa>& Override() {
  static std::optional<Isa> isa;
  return isa;
}

std::string SupportedNames() {
  std::string names;
  for (Isa isa : SupportedIsas()) names += StrCat(names.empty() ? "" : " ", IsaName(isa));
  return names;
}

Isa FromEnvironment() {
  const char* want = std::getenv("LAPIDARY_ISA");
  if (!want || !*want) return SupportedIsas().front();
  for (Isa isa : SupportedIsas()) {
    if (std::string(want) == IsaName(isa)) return isa;
  }
  throw Error(StrCat("LAPIDARY_ISA: must name an instruction set that this CPU supports; got ",
                     want, "; try one of ", SupportedNames()));
}

}  // namespace

const char* IsaName(Isa isa) {
  static constexpr const char* kNames[kIsaCount] = {"scalar",      "avx2", "avx512",
                                                    "avx512_bf16", "amx",  "neon"};
  return kNames[static_cast<int>(isa)];
}

const std::vector<Isa>& SupportedIsas() {
  static const std::vector<Isa> supported = [] {
    std::vector<Isa> found;
    for (int i = kIsaCount - 1; i >= 0; --i) {
      if (CpuHas(static_cast<Isa>(i))) found.push_back(static_cast<Isa>(i));
    }
    return found;
  }();
  return supported;
}

Isa ActiveIsa() {
  if (Override()) return *Override();
  static const Isa chosen = FromEnvironment();
  return chosen;
}

void SetIsa(Isa isa) {
  const std::vector<Isa>& all = SupportedIsas();
  LAPIDARY_CHECK(std::find(all.begin(), all.end(), isa) != all.end(),
                 "SetIsa: must be an instruction set that this CPU supports; got ", IsaName(isa),
                 "; try one of ", SupportedNames());
  Override() = isa;
}

}  // namespace lapidary
