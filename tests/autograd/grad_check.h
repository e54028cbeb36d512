// Checks an op against a reference: its value, and its gradients against complex-step derivatives,
// which are exact. Gradients are pre-filled with random numbers (ops must add), and each input is
// frozen in turn (ops must accept that one gradient is not wanted).
#ifndef LAPIDARY_TESTS_AUTOGRAD_GRAD_CHECK_H_
#define LAPIDARY_TESTS_AUTOGRAD_GRAD_CHECK_H_

#include <complex>
#include <functional>
#include <string>
#include <vector>

#include "autograd/tape.h"

namespace lapidary {

using C64 = std::complex<double>;
using ComplexInputs = std::vector<std::vector<C64>>;

struct GradCase {
  std::string name;       // of the variant: "tail", "window"
  std::vector<Shape> in;  // all trainable
  std::function<Var(Tape&, const std::vector<Var>&)> op;
  // The whole output. Defines the gradient, and the value unless `value` is given.
  std::function<std::vector<C64>(const ComplexInputs&)> ref;
  // For straight-through ops, whose gradient is that of another function.
  std::function<std::vector<C64>(const ComplexInputs&)> value = nullptr;
  // Of the largest value or gradient. 4 float32 epsilons for sums of a few dozen terms.
  double value_tol = 5e-7;
  double grad_tol = 1e-6;
  float spread = 1.0f;   // standard deviation of the inputs
  int probes = 1 << 30;  // elements of each input whose derivative is taken, spread evenly
};

// What is wrong, one line; empty if nothing is.
std::string GradProblem(const GradCase& c);

// Standard normal values, a function of (seed, index).
std::vector<float> NormalFloats(int64_t size, uint64_t seed, float spread = 1.0f);

}  // namespace lapidary

#endif  // LAPIDARY_TESTS_AUTOGRAD_GRAD_CHECK_H_
