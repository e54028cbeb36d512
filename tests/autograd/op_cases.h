// The gradient cases of every op in autograd/ops/op_list.h. An op without cases does not link.
#ifndef LAPIDARY_TESTS_AUTOGRAD_OP_CASES_H_
#define LAPIDARY_TESTS_AUTOGRAD_OP_CASES_H_

#include <vector>

#include "autograd/ops/op_list.h"
#include "tests/autograd/grad_check.h"

namespace lapidary {

#define LAPIDARY_DECLARE_CASES(Op) std::vector<GradCase> Op##Cases();
LAPIDARY_OPS(LAPIDARY_DECLARE_CASES)
#undef LAPIDARY_DECLARE_CASES

}  // namespace lapidary

#endif  // LAPIDARY_TESTS_AUTOGRAD_OP_CASES_H_
