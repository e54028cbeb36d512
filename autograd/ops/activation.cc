#include "autograd/ops/activation.h"

#include "autograd/kernels/kernels.h"
#include "autograd/ops/common.h"
#include "autograd/profile.h"

namespace lapidary {
namespace {

struct GeGluOp {
  static constexpr const char* kName = "geglu";
  Tensor gate, up;
  void Backward(const float* dy, const InputGrads& d) const {
    const GeGluArgs args = {
        .gate = gate.data(), .up = up.data(), .y = nullptr, .dy = dy, .dgate = d[0], .dup = d[1]};
    ParallelFor(
        gate.size(), [&](Range r) { ActiveKernels().GeGluGrad(args, r); }, kElementGrain);
  }
};

}  // namespace

Var GeGlu(Var gate, Var up) {
  const ProfileScope scope(GeGluOp::kName);
  LAPIDARY_CHECK(gate.shape() == up.shape(), "geglu: shapes must be equal; got ", gate.shape(),
                 " and ", up.shape());
  Tensor y(gate.shape());
  const GeGluArgs args = {.gate = gate.data(),
                          .up = up.data(),
                          .y = y.data(),
                          .dy = nullptr,
                          .dgate = nullptr,
                          .dup = nullptr};
  ParallelFor(
      y.size(), [&](Range r) { ActiveKernels().GeGlu(args, r); }, kElementGrain);
  return gate.tape().Record(GeGluOp{gate.value(), up.value()}, {gate, up}, y);
}

}  // namespace lapidary
