// LAPIDARY_ISA decides at the start of a program which tables it uses. Every check runs in a child
// process of its own, because the choice is made once.
#include "autograd/kernels/isa.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "autograd/base/error.h"
#include "autograd/kernels/gemm_table.h"
#include "autograd/kernels/kernels.h"

namespace lapidary {
namespace {

// What a program started with LAPIDARY_ISA=name (null: without) says about itself on stderr, then
// exits with 0, or with 2 after an error.
[[noreturn]] void Report(const char* name) {
  if (name) {
    setenv("LAPIDARY_ISA", name, 1);
  } else {
    unsetenv("LAPIDARY_ISA");
  }
  try {
    const Isa isa = ActiveIsa();
    const bool tables = &ActiveKernels() == &KernelsFor(isa) &&
                        (isa == Isa::kScalar || &ActiveKernels() != &ScalarKernels());
    std::fprintf(stderr, "isa %s, kernels %s, own tables %s\n", IsaName(isa), ActiveKernels().name,
                 tables ? "yes" : "no");
    std::exit(0);
  } catch (const Error& e) {
    std::fprintf(stderr, "error: %s\n", e.what());
    std::exit(2);
  }
}

bool Supported(Isa isa) {
  const std::vector<Isa>& all = SupportedIsas();
  return std::find(all.begin(), all.end(), isa) != all.end();
}

class IsaVariable : public testing::TestWithParam<int> {};

TEST_P(IsaVariable, IsHonouredOrRefused) {
  const Isa isa = static_cast<Isa>(GetParam());
  const std::string name = IsaName(isa);
  if (Supported(isa)) {
    EXPECT_EXIT(Report(name.c_str()), testing::ExitedWithCode(0),
                "isa " + name + ", kernels [a-z0-9]*, own tables yes");
  } else {
    std::string others;
    for (const Isa other : SupportedIsas())
      others += (others.empty() ? "" : " ") + std::string(IsaName(other));
    EXPECT_EXIT(Report(name.c_str()), testing::ExitedWithCode(2),
                "error: LAPIDARY_ISA: must name an instruction set that this CPU supports; got " +
                    name + "; try one of " + others + "\n");
  }
}

INSTANTIATE_TEST_SUITE_P(Every, IsaVariable, testing::Range(0, kIsaCount), [](const auto& info) {
  return std::string(IsaName(static_cast<Isa>(info.param)));
});

TEST(IsaDefault, TheBestOfTheCpu) {
  const std::string best = IsaName(SupportedIsas().front());
  EXPECT_EXIT(Report(nullptr), testing::ExitedWithCode(0), "isa " + best + ",");
  EXPECT_EXIT(Report(""), testing::ExitedWithCode(0), "isa " + best + ",");
}

TEST(IsaDefault, UnknownNamesAreRefused) {
  for (const char* name : {"sse9", "AVX2", "avx2 ", "0"}) {
    EXPECT_EXIT(Report(name), testing::ExitedWithCode(2), "LAPIDARY_ISA: must name") << name;
  }
}

TEST(IsaNames, DifferAndTheReferenceIsAlwaysThere) {
  for (int i = 0; i < kIsaCount; ++i) {
    for (int j = 0; j < i; ++j) {
      EXPECT_STRNE(IsaName(static_cast<Isa>(i)), IsaName(static_cast<Isa>(j)));
    }
  }
  ASSERT_FALSE(SupportedIsas().empty());
  EXPECT_EQ(SupportedIsas().back(), Isa::kScalar);
#if defined(__aarch64__)
  EXPECT_TRUE(Supported(Isa::kNeon));
#endif
}

// Every table of this CPU has matrix products of its own, except where the header says that two
// share one.
TEST(IsaTables, MatrixProductsAreNotBorrowedFromTheReference) {
  for (const Compute compute : {Compute::kFloat32, Compute::kBfloat16}) {
    const GemmTable& reference = GetGemmTable(Isa::kScalar, compute);
    for (const Isa isa : SupportedIsas()) {
      if (isa == Isa::kScalar) continue;
      const GemmTable& table = GetGemmTable(isa, compute);
      EXPECT_NE(table.multiply, reference.multiply) << IsaName(isa);
      EXPECT_NE(table.pack_a, reference.pack_a) << IsaName(isa);
      for (const int32_t format : {kFormatF32, kFormatBF16}) {
        for (const GemmSide side : {GemmSide::kForward, GemmSide::kInputGrad}) {
          EXPECT_NE(FindPanelFunction(format, isa, compute, side), nullptr)
              << IsaName(isa) << " format " << format;
        }
      }
    }
  }
}

}  // namespace
}  // namespace lapidary
