// Every op with a gradient, one row each. The gradient tests define a case per row
// (tests/autograd/op_cases.h); a row without its case does not link.
#ifndef LAPIDARY_AUTOGRAD_OPS_OP_LIST_H_
#define LAPIDARY_AUTOGRAD_OPS_OP_LIST_H_

#define LAPIDARY_OPS(X) \
  X(Add)                \
  X(Scale)              \
  X(AddBias)            \
  X(ScaleColumns)       \
  X(RoundBf16)          \
  X(Dropout)            \
  X(FakeQuantInt8)      \
  X(GeGlu)              \
  X(RmsNorm)            \
  X(LayerNorm)          \
  X(Rope)               \
  X(Embedding)          \
  X(ReplaceRows)        \
  X(PositionEmbedding)  \
  X(MatMulFrozen)       \
  X(MatMul)             \
  X(MatMulGroup)        \
  X(Attention)          \
  X(CrossEntropyFrozen) \
  X(CrossEntropy)

#endif  // LAPIDARY_AUTOGRAD_OPS_OP_LIST_H_
