// Runs an op and its gradient on given inputs, for tests that compare bits.
#ifndef LAPIDARY_TESTS_AUTOGRAD_RUN_OP_H_
#define LAPIDARY_TESTS_AUTOGRAD_RUN_OP_H_

#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "autograd/base/parallel.h"
#include "autograd/kernels/isa.h"
#include "autograd/tape.h"
#include "tests/autograd/grad_check.h"

namespace lapidary {

using OpFunction = std::function<Var(Tape&, const std::vector<Var>&)>;

struct OpResult {
  std::vector<float> y;
  std::vector<std::vector<float>> grad;  // of each input
};

inline std::vector<float> FloatsOf(const Tensor& t) {
  return t.defined() ? std::vector<float>(t.data(), t.data() + t.size()) : std::vector<float>();
}

// Inputs are trainable and standard normal (functions of their place) unless given.
inline OpResult RunOp(const OpFunction& op, const std::vector<Tensor>& in) {
  Tape tape;
  std::vector<Var> vars;
  for (const Tensor& t : in) vars.push_back(tape.Input(t));
  const Var y = op(tape, vars);
  OpResult result = {FloatsOf(y.value()), {}};
  tape.Backward(y, Tensor::FromFloats(y.shape(), NormalFloats(y.value().size(), 77).data()));
  for (const Var& v : vars) result.grad.push_back(FloatsOf(tape.Grad(v)));
  return result;
}

inline Tensor NormalTensor(const Shape& shape, uint64_t seed, float spread = 1.0f) {
  return Tensor::FromFloats(shape, NormalFloats(shape.size(), seed, spread).data());
}

// Sets the number of threads for a scope.
class WithThreads {
 public:
  explicit WithThreads(int threads) : before_(Threads()) { SetThreads(threads); }
  ~WithThreads() { SetThreads(before_); }

 private:
  int before_;
};

// Sets the instruction set for a test of one.
class EveryIsa : public testing::TestWithParam<Isa> {
 protected:
  void SetUp() override { SetIsa(GetParam()); }
  void TearDown() override { SetIsa(SupportedIsas().front()); }
};
#define LAPIDARY_ON_EVERY_ISA(Suite)                                       \
  INSTANTIATE_TEST_SUITE_P(Isa, Suite, testing::ValuesIn(SupportedIsas()), \
                           [](const auto& info) { return std::string(IsaName(info.param)); })

}  // namespace lapidary

#endif  // LAPIDARY_TESTS_AUTOGRAD_RUN_OP_H_
