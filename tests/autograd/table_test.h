// A test that runs on every kernel table of this machine, with both ways to compute.
#ifndef LAPIDARY_TESTS_AUTOGRAD_TABLE_TEST_H_
#define LAPIDARY_TESTS_AUTOGRAD_TABLE_TEST_H_

#include <gtest/gtest.h>

#include <tuple>

#include "autograd/base/parallel.h"
#include "autograd/gemm.h"
#include "autograd/kernels/isa.h"

namespace lapidary {

class TableTest : public testing::TestWithParam<std::tuple<Isa, Compute>> {
 protected:
  void SetUp() override {
    SetIsa(std::get<0>(GetParam()));
    compute_ = std::get<1>(GetParam());
  }
  void TearDown() override {
    SetIsa(SupportedIsas().front());
    SetThreads(2);
  }
  Compute compute_ = Compute::kFloat32;
};

}  // namespace lapidary

#endif  // LAPIDARY_TESTS_AUTOGRAD_TABLE_TEST_H_
