// Which implementation serves what: every op and kernel by instruction set, every matrix product by
// instruction set, compute type, weight format and direction. A kernel that a vector table borrows
// from a slower one, a product that runs on another table than declared, and a format without a
// panel function and without a stated reason are mistakes; so are reasons that no longer hold.
// Everything is looked up, nothing is run, so tables that this CPU lacks are checked as well.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "autograd/base/error.h"
#include "autograd/kernels/gemm_isa.h"
#include "autograd/kernels/kernels.h"
#include "autograd/ops/op_list.h"
#include "quant/format.h"
#include "quant/panels.h"

namespace lapidary {
namespace {

// --- Declared ------------------------------------------------------------------------------------

struct TableChoice {
  Isa isa;
  const char* kernels;  // whose vector kernels
  const GemmTable* f32;
  const GemmTable* bf16;
};
const TableChoice kTables[] = {
    {Isa::kScalar, "scalar", &kGemmScalarF32, &kGemmScalarBf16},
#if defined(__x86_64__)
    {Isa::kAvx2, "avx2", &kGemmAvx2F32, &kGemmAvx2Bf16},
    {Isa::kAvx512, "avx512", &kGemmAvx512F32, &kGemmAvx512Bf16Fma},
    // The next two differ from avx512 in the bf16 product only.
    {Isa::kAvx512Bf16, "avx512", &kGemmAvx512F32, &kGemmAvx512Bf16},
    {Isa::kAmx, "avx512", &kGemmAvx512F32, &kGemmAmxBf16},
#elif defined(__aarch64__)
    {Isa::kNeon, "neon", &kGemmNeonF32, &kGemmNeonBf16},
#endif
};

// What an op runs on: rows of the kernel table, "Gemm" for the products.
const std::map<std::string, std::vector<std::string>>& OpKernels() {
  static const std::map<std::string, std::vector<std::string>> ops = {
      {"Add", {"Add", "Scale"}},
      {"Scale", {"Scale"}},
      {"AddBias", {"AddBias", "SumRows"}},
      {"ScaleColumns", {"ScaleColumns", "ScaleColumnsGradX", "ScaleColumnsGradG"}},
      {"RoundBf16", {"RoundBf16", "Scale"}},
      {"Dropout", {"Dropout"}},
      {"FakeQuantInt8", {"Scale"}},
      {"GeGlu", {"GeGlu", "GeGluGrad"}},
      {"RmsNorm", {"RmsNorm", "RmsNormGradX", "RmsNormGradW"}},
      {"LayerNorm", {"LayerNorm", "LayerNormGradX", "LayerNormGradW"}},
      {"Rope", {"Rope"}},
      {"Embedding", {"Scale"}},
      {"ReplaceRows", {"Scale"}},
      {"PositionEmbedding", {"Add", "RoundBf16", "Scale"}},
      {"MatMulFrozen", {"Gemm"}},
      {"MatMul", {"Gemm"}},
      {"MatMulGroup", {"Gemm"}},
      {"Attention",
       {"RoundBf16", "AttentionPack", "AttentionForward", "AttentionDelta", "AttentionGradQ",
        "AttentionGradKV", "AttentionGradGroup"}},
      {"CrossEntropyFrozen", {"Gemm", "CrossEntropyRows", "Scale", "Softcap"}},
      {"CrossEntropy", {"Gemm", "CrossEntropyRows", "Scale", "Softcap"}},
  };
  return ops;
}
// Kernels that no op of the list uses: the optimizer's, and those of attention over a cache.
const std::set<std::string> kOtherKernels = {"AdamW", "AttentionScores", "AttentionSoftmax",
                                             "AttentionValues"};

// Weight formats without a panel function of their own: rows are dequantized and packed.
struct ThroughRows {
  const char* format;
  std::vector<Isa> isas;  // empty: all
  const char* reason;
};
constexpr const char* kNoArm = "rows are dequantized; measured on no Arm machine";
const std::vector<ThroughRows> kThroughRows = {
    {"F64", {}, "no weight of a model is stored so"},
    {"NVFP4", {}, "trained on and exported; no base is read in it"},
    {"F16", {Isa::kNeon}, "dense bases are bf16; measured on no Arm machine"},
    {"Q4_1", {Isa::kNeon}, kNoArm},
    {"Q5_0", {Isa::kNeon}, kNoArm},
    {"Q5_1", {Isa::kNeon}, kNoArm},
    {"Q2_K", {Isa::kNeon}, kNoArm},
    {"Q3_K", {Isa::kNeon}, kNoArm},
    {"Q4_K", {Isa::kNeon}, kNoArm},
    {"Q5_K", {Isa::kNeon}, kNoArm},
    {"IQ4_NL", {Isa::kNeon}, kNoArm},
    {"IQ4_XS", {Isa::kNeon}, kNoArm},
    {"MXFP4", {Isa::kNeon}, kNoArm},
};

// --- Checks --------------------------------------------------------------------------------------

// The functions of a kernel table by name.
using Functions = std::map<std::string, const void*>;
Functions FunctionsOf(const Kernels& k) {
  Functions f;
#define LAPIDARY_FUNCTION(Name, Args) f[#Name] = reinterpret_cast<const void*>(k.Name);
  LAPIDARY_KERNELS(LAPIDARY_FUNCTION)
#undef LAPIDARY_FUNCTION
  return f;
}

std::vector<std::string> OpNames() {
  std::vector<std::string> names;
#define LAPIDARY_OP_NAME(Op) names.push_back(#Op);
  LAPIDARY_OPS(LAPIDARY_OP_NAME)
#undef LAPIDARY_OP_NAME
  return names;
}

// Ops without a row, rows without an op, kernels that nothing uses or that do not exist.
std::vector<std::string> OpProblems(const std::vector<std::string>& ops,
                                    const std::map<std::string, std::vector<std::string>>& rows,
                                    const Functions& kernels) {
  std::vector<std::string> problems;
  std::set<std::string> used = kOtherKernels;
  for (const std::string& op : ops) {
    if (!rows.count(op)) problems.push_back("op without a row: " + op);
  }
  for (const auto& [op, names] : rows) {
    if (std::find(ops.begin(), ops.end(), op) == ops.end())
      problems.push_back("row without an op: " + op);
    for (const std::string& name : names) {
      if (name != "Gemm" && !kernels.count(name)) problems.push_back("no such kernel: " + name);
      used.insert(name);
    }
  }
  for (const auto& [name, function] : kernels) {
    if (!used.count(name)) problems.push_back("kernel that no op uses: " + name);
  }
  return problems;
}

// Functions that a table shares with one that it should be faster than.
std::vector<std::string> BorrowedKernels(const std::string& name, const Functions& table,
                                         const std::string& slower_name, const Functions& slower) {
  std::vector<std::string> problems;
  for (const auto& [kernel, function] : table) {
    if (!function || function == slower.at(kernel))
      problems.push_back(StrCat(kernel, " of ", name, " is that of ", slower_name));
  }
  return problems;
}

bool MayGoThroughRows(const std::string& format, Isa isa) {
  return std::any_of(kThroughRows.begin(), kThroughRows.end(), [&](const ThroughRows& row) {
    return row.format == format &&
           (row.isas.empty() || std::find(row.isas.begin(), row.isas.end(), isa) != row.isas.end());
  });
}

using Find = std::function<PanelFunction(int32_t, Isa, Compute, GemmSide)>;
PanelFunction FindInRows(int32_t id, Isa isa, Compute compute, GemmSide side) {
  return FindPanelFunction(id, isa, compute, side);
}

// Formats without panel function or reason; reasons for formats that have one; functions that a
// table of another layout or rounding uses as well.
std::vector<std::string> PanelProblems(const std::vector<std::pair<int32_t, std::string>>& formats,
                                       const Find& find) {
  std::vector<std::string> problems;
  for (const auto& [id, format] : formats) {
    std::map<const void*, const GemmTable*> served;
    for (const TableChoice& choice : kTables) {
      if (choice.isa == Isa::kScalar) continue;  // the reference always goes through rows
      for (Compute compute : {Compute::kFloat32, Compute::kBfloat16}) {
        for (GemmSide side : {GemmSide::kForward, GemmSide::kInputGrad}) {
          const std::string what =
              StrCat(format, " ", IsaName(choice.isa), " ", ComputeName(compute),
                     side == GemmSide::kForward ? " forward" : " input grad");
          const PanelFunction function = find(id, choice.isa, compute, side);
          const bool rows = MayGoThroughRows(format, choice.isa);
          if (!function && !rows) problems.push_back(what + ": no panel function and no reason");
          if (function && rows)
            problems.push_back(what + ": has a panel function; drop the reason");
          if (!function) continue;
          const GemmTable* table = compute == Compute::kFloat32 ? choice.f32 : choice.bf16;
          const auto [at, fresh] = served.emplace(reinterpret_cast<const void*>(function), table);
          if (!fresh &&
              (at->second->layout != table->layout || at->second->k_unit != table->k_unit))
            problems.push_back(what + ": the function packs for another table");
        }
      }
    }
  }
  return problems;
}

std::vector<std::pair<int32_t, std::string>> Formats() {
  std::vector<std::pair<int32_t, std::string>> formats;
  for (const Format* f : AllFormats()) formats.emplace_back(f->id, f->name);
  return formats;
}

std::string Lines(const std::vector<std::string>& problems) {
  std::string text;
  for (const std::string& p : problems) text += p + "\n";
  return text;
}

TEST(Manifest, EveryOpHasItsKernels) {
  EXPECT_EQ(Lines(OpProblems(OpNames(), OpKernels(), FunctionsOf(ScalarKernels()))), "");
}

TEST(Manifest, EveryTableHasKernelsOfItsOwn) {
  const Functions scalar = FunctionsOf(ScalarKernels());
  for (const TableChoice& choice : kTables) {
    const Kernels& kernels = KernelsFor(choice.isa);
    EXPECT_STREQ(kernels.name, choice.kernels);
    if (choice.isa == Isa::kScalar) continue;
    EXPECT_EQ(Lines(BorrowedKernels(choice.kernels, FunctionsOf(kernels), "scalar", scalar)), "");
  }
#if defined(__x86_64__)
  EXPECT_EQ(Lines(BorrowedKernels("avx512", FunctionsOf(KernelsFor(Isa::kAvx512)), "avx2",
                                  FunctionsOf(KernelsFor(Isa::kAvx2)))),
            "");
#endif
}

TEST(Manifest, EveryProductRunsOnItsTable) {
  std::set<const void*> multiply;
  for (const TableChoice& choice : kTables) {
    EXPECT_EQ(&GetGemmTable(choice.isa, Compute::kFloat32), choice.f32) << IsaName(choice.isa);
    EXPECT_EQ(&GetGemmTable(choice.isa, Compute::kBfloat16), choice.bf16) << IsaName(choice.isa);
  }
#if defined(__x86_64__)
  // scalar, avx2, avx512 (each for both compute types), vdpbf16ps, tiles.
  for (const TableChoice& choice : kTables) {
    multiply.insert(reinterpret_cast<const void*>(choice.f32->multiply));
    multiply.insert(reinterpret_cast<const void*>(choice.bf16->multiply));
  }
  EXPECT_EQ(multiply.size(), 5u);
#endif
}

TEST(Manifest, EveryFormatHasPanelsOrAReason) {
  EXPECT_EQ(Lines(PanelProblems(Formats(), FindInRows)), "");
  for (const ThroughRows& row : kThroughRows) {
    EXPECT_TRUE(FindFormat(row.format)) << row.format << ": a reason for an unknown format";
    std::printf("through rows: %-7s %s\n", row.format, row.reason);
  }
}

TEST(Manifest, PlantedMistakesAreFound) {
  const Functions scalar = FunctionsOf(ScalarKernels());
  const TableChoice& best = kTables[std::size(kTables) - 1];
  ASSERT_NE(best.isa, Isa::kScalar) << "no vector table for this architecture";
  Functions borrowed = FunctionsOf(KernelsFor(best.isa));
  borrowed["RmsNorm"] = scalar.at("RmsNorm");
  borrowed["Rope"] = nullptr;
  EXPECT_EQ(BorrowedKernels("best", borrowed, "scalar", scalar).size(), 2u);

  std::vector<std::string> ops = OpNames();
  ops.push_back("Convolution");
  EXPECT_EQ(OpProblems(ops, OpKernels(), scalar).size(), 1u);
  auto rows = OpKernels();
  rows["Rope"] = {"Ropes"};
  EXPECT_EQ(OpProblems(OpNames(), rows, scalar).size(), 2u);  // unknown, and Rope is unused

  // A format that nobody thought of; one whose bf16 gradient lost its function; one that got one.
  auto formats = Formats();
  formats.emplace_back(12345, "Q12_9");
  EXPECT_NE(Lines(PanelProblems(formats, FindInRows)).find("Q12_9"), std::string::npos);
  const Find lost = [](int32_t id, Isa isa, Compute compute, GemmSide side) {
    const bool here =
        id == kFormatQ4_0 && compute == Compute::kBfloat16 && side == GemmSide::kInputGrad;
    return here ? nullptr : FindPanelFunction(id, isa, compute, side);
  };
  EXPECT_EQ(PanelProblems(Formats(), lost).size(), std::size(kTables) - 1);
  const int32_t f64 = GetFormat("F64").id;
  const Find gained = [f64](int32_t id, Isa isa, Compute compute, GemmSide side) {
    return FindPanelFunction(id == f64 ? kFormatBF16 : id, isa, compute, side);
  };
  EXPECT_EQ(PanelProblems(Formats(), gained).size(), 4 * (std::size(kTables) - 1));
#if defined(__x86_64__)
  const Find other_table = [](int32_t id, Isa isa, Compute compute, GemmSide side) {
    return FindPanelFunction(id, isa == Isa::kAmx ? Isa::kAvx512Bf16 : isa, compute, side);
  };
  EXPECT_NE(Lines(PanelProblems(Formats(), other_table)).find("another table"), std::string::npos);
#endif
}

}  // namespace
}  // namespace lapidary
