#include "tests/autograd/grad_check.h"

#include <algorithm>
#include <cmath>

#include "autograd/base/random.h"

namespace lapidary {
namespace {

constexpr double kStep = 1e-30;

// Gradients of sum(dy * ref) at the probed elements, and the value of `value`.
struct Exact {
  std::vector<double> y;
  std::vector<std::vector<int64_t>> at;  // probed elements of each input
  std::vector<std::vector<double>> grad;
};

Exact ExactGradients(const GradCase& c, const std::vector<std::vector<float>>& in,
                     const std::function<double(int64_t)>& dy) {
  Exact exact;
  ComplexInputs x;
  for (const std::vector<float>& values : in) x.emplace_back(values.begin(), values.end());
  for (const C64& y : (c.value ? c.value : c.ref)(x)) exact.y.push_back(y.real());
  exact.at.resize(in.size());
  exact.grad.resize(in.size());
  for (size_t i = 0; i < in.size(); ++i) {
    const int64_t size = static_cast<int64_t>(in[i].size());
    const int64_t probes = std::min<int64_t>(c.probes, size);
    for (int64_t p = 0; p < probes; ++p) {
      const int64_t k = p * size / probes;
      const C64 kept = x[i][k];
      x[i][k] += C64(0, kStep);
      const std::vector<C64> y = c.ref(x);
      x[i][k] = kept;
      double grad = 0;
      for (size_t j = 0; j < y.size(); ++j) {
        grad += dy(static_cast<int64_t>(j)) * (y[j].imag() / kStep);
      }
      exact.at[i].push_back(k);
      exact.grad[i].push_back(grad);
    }
  }
  return exact;
}

double MaxAbs(const std::vector<double>& values) {
  double most = 0;
  for (double v : values) most = std::max(most, std::abs(v));
  return most;
}

}  // namespace

std::vector<float> NormalFloats(int64_t size, uint64_t seed, float spread) {
  std::vector<float> values(static_cast<size_t>(size));
  for (int64_t i = 0; i < size; ++i) {
    values[i] = spread * RandomNormal({seed, 1, 2}, static_cast<uint64_t>(i));
  }
  return values;
}

std::string GradProblem(const GradCase& c) {
  std::vector<std::vector<float>> in;
  for (size_t i = 0; i < c.in.size(); ++i) {
    in.push_back(NormalFloats(c.in[i].size(), 100 + i, c.spread));
  }
  const auto dy_at = [](int64_t j) {
    return static_cast<double>(RandomNormal({99, 1, 2}, static_cast<uint64_t>(j)));
  };
  const Exact exact = ExactGradients(c, in, dy_at);

  const size_t inputs = in.size();
  for (size_t frozen = 0; frozen <= inputs; ++frozen) {  // `inputs`: none
    if (inputs == 1 && frozen == 0) continue;            // nothing would be left to train
    std::vector<Param> params(inputs);
    std::vector<std::vector<float>> before(inputs);
    Tape tape;
    std::vector<Var> vars;
    for (size_t i = 0; i < inputs; ++i) {
      params[i].value = Tensor::FromFloats(c.in[i], in[i].data());
      params[i].trainable = i != frozen;
      before[i] = NormalFloats(c.in[i].size(), 200 + i);
      params[i].grad = Tensor::FromFloats(c.in[i], before[i].data());
      vars.push_back(tape.Leaf(params[i]));
    }
    const Var y = c.op(tape, vars);
    const std::string where =
        StrCat(c.name, frozen < inputs ? StrCat(", input ", frozen, " frozen: ") : ": ");
    if (y.value().size() != static_cast<int64_t>(exact.y.size())) {
      return StrCat(where, "the value has ", y.value().size(), " elements, not ", exact.y.size());
    }
    const double y_scale = std::max(MaxAbs(exact.y), 1e-30);
    for (size_t j = 0; j < exact.y.size(); ++j) {
      const double err = std::abs(y.data()[j] - exact.y[j]) / y_scale;
      if (!(err <= c.value_tol)) {
        return StrCat(where, "y[", j, "] is ", y.data()[j], ", must be ", exact.y[j], ": off by ",
                      err, " of the largest");
      }
    }
    Tensor dy(y.shape());
    for (int64_t j = 0; j < dy.size(); ++j) dy.data()[j] = static_cast<float>(dy_at(j));
    tape.Backward(y, dy);
    for (size_t i = 0; i < inputs; ++i) {
      if (i == frozen) {
        if (!std::equal(before[i].begin(), before[i].end(), params[i].grad.data())) {
          return StrCat(where, "its gradient was written");
        }
        continue;
      }
      const double scale = std::max(MaxAbs(exact.grad[i]), 1e-30);
      for (size_t p = 0; p < exact.at[i].size(); ++p) {
        const int64_t k = exact.at[i][p];
        const double want = static_cast<double>(before[i][k]) + exact.grad[i][p];
        const double err = std::abs(params[i].grad.data()[k] - want);
        // 2^-23 of the sum: the addition to what was there rounds, too.
        if (!(err <= c.grad_tol * scale + std::abs(want) * 0x1p-23)) {
          return StrCat(where, "gradient ", i, " [", k, "] changed by ",
                        params[i].grad.data()[k] - before[i][k], ", must by ", exact.grad[i][p],
                        ": off by ", err / scale, " of the largest");
        }
      }
    }
  }
  return "";
}

}  // namespace lapidary
