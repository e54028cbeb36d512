// Every op of op_list.h against its reference, on every instruction set; and the checker against
// ops with planted mistakes.
#include <gtest/gtest.h>

#include <cmath>

#include "autograd/kernels/isa.h"
#include "autograd/ops/basic.h"
#include "tests/autograd/op_cases.h"

namespace lapidary {
namespace {

struct OpRow {
  const char* name;
  std::vector<GradCase> (*cases)();
};
const std::vector<OpRow>& Ops() {
  static const std::vector<OpRow> ops = {
#define LAPIDARY_OP_ROW(Op) {#Op, &Op##Cases},
      LAPIDARY_OPS(LAPIDARY_OP_ROW)
#undef LAPIDARY_OP_ROW
  };
  return ops;
}

class OpGradient : public testing::TestWithParam<std::tuple<size_t, Isa>> {
 protected:
  void SetUp() override { SetIsa(std::get<1>(GetParam())); }
  void TearDown() override { SetIsa(SupportedIsas().front()); }
};

TEST_P(OpGradient, MatchesTheReference) {
  const std::vector<GradCase> cases = Ops()[std::get<0>(GetParam())].cases();
  ASSERT_FALSE(cases.empty());
  for (const GradCase& c : cases) EXPECT_EQ(GradProblem(c), "");
}

INSTANTIATE_TEST_SUITE_P(All, OpGradient,
                         testing::Combine(testing::Range(size_t{0}, Ops().size()),
                                          testing::ValuesIn(SupportedIsas())),
                         [](const auto& info) {
                           return std::string(Ops()[std::get<0>(info.param)].name) + "_" +
                                  IsaName(std::get<1>(info.param));
                         });

// --- The checker itself: y = x^2 b with mistakes -------------------------------------------------

enum class Mistake {
  kNone,
  kAssigns,        // = for +=
  kSign,           // of one gradient
  kHalf,           // x instead of 2 x
  kTail,           // the last element is left out
  kValue,          // of the last output
  kNan,            // in one gradient element
  kIgnoresFrozen,  // works only if both inputs need gradients
};

struct SquareTimesOp {
  static constexpr const char* kName = "square_times";
  Tensor x, b;
  Mistake mistake;
  void Backward(const float* dy, const InputGrads& d) const {
    float *dx = d[0], *db = d[1];
    if (mistake == Mistake::kIgnoresFrozen && (!dx || !db)) return;
    for (int64_t i = 0; i < x.size() - (mistake == Mistake::kTail ? 1 : 0); ++i) {
      const float xi = x.data()[i], bi = b.data()[i];
      const float factor = mistake == Mistake::kHalf ? 1.0f : 2.0f;
      const float gx = factor * xi * bi * dy[i] * (mistake == Mistake::kSign ? -1.0f : 1.0f);
      if (dx) dx[i] = (mistake == Mistake::kAssigns ? 0.0f : dx[i]) + gx;
      if (db) db[i] += mistake == Mistake::kNan && i == 3 ? std::nanf("") : xi * xi * dy[i];
    }
  }
};

std::string ProblemWith(Mistake mistake) {
  return GradProblem({.name = "square_times",
                      .in = {{2, 5}, {2, 5}},
                      .op =
                          [mistake](Tape& tape, const std::vector<Var>& v) {
                            Tensor y(v[0].shape());
                            for (int64_t i = 0; i < y.size(); ++i) {
                              y.data()[i] = v[0].data()[i] * v[0].data()[i] * v[1].data()[i];
                            }
                            if (mistake == Mistake::kValue) y.data()[y.size() - 1] += 0.01f;
                            return tape.Record(SquareTimesOp{v[0].value(), v[1].value(), mistake},
                                               {v[0], v[1]}, y);
                          },
                      .ref =
                          [](const ComplexInputs& in) {
                            std::vector<C64> y;
                            for (size_t i = 0; i < in[0].size(); ++i)
                              y.push_back(in[0][i] * in[0][i] * in[1][i]);
                            return y;
                          }});
}

TEST(GradCheck, AcceptsWhatIsRight) { EXPECT_EQ(ProblemWith(Mistake::kNone), ""); }

TEST(GradCheck, CatchesPlantedMistakes) {
  for (const Mistake mistake : {Mistake::kAssigns, Mistake::kSign, Mistake::kHalf, Mistake::kTail,
                                Mistake::kValue, Mistake::kNan, Mistake::kIgnoresFrozen}) {
    EXPECT_NE(ProblemWith(mistake), "") << "mistake " << static_cast<int>(mistake);
  }
}

}  // namespace
}  // namespace lapidary
