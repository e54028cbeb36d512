// The rows of the format table; each is defined in the file of its name. Listed by ggml id.
#ifndef LAPIDARY_QUANT_FORMATS_ROWS_H_
#define LAPIDARY_QUANT_FORMATS_ROWS_H_

#include "quant/format.h"

#define LAPIDARY_FORMAT_ROWS(X) \
  X(F32)                        \
  X(F16)                        \
  X(Q4_0)                       \
  X(Q4_1)                       \
  X(Q5_0)                       \
  X(Q5_1)                       \
  X(Q8_0)                       \
  X(Q2_K)                       \
  X(Q3_K)                       \
  X(Q4_K)                       \
  X(Q5_K)                       \
  X(Q6_K)                       \
  X(IQ4_NL)                     \
  X(IQ4_XS)                     \
  X(F64)                        \
  X(BF16)                       \
  X(MXFP4)                      \
  X(NVFP4)

namespace lapidary::formats {

#define LAPIDARY_DECLARE_ROW(name) Format name();
LAPIDARY_FORMAT_ROWS(LAPIDARY_DECLARE_ROW)
#undef LAPIDARY_DECLARE_ROW

}  // namespace lapidary::formats

#endif  // LAPIDARY_QUANT_FORMATS_ROWS_H_
