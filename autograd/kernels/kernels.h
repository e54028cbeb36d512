// The kernel table: every inner loop of the ops except the matrix products (autograd/gemm.h), once
// per instruction set. A kernel is single-threaded, trusts its arguments and knows a range of
// outputs; the op checks, allocates and partitions. "+=" marks outputs that are added to; null
// outputs are allowed only where it says so.
//
// Results of one output element depend on the instruction set, never on the range it was computed
// in: vector kernels handle tails with masked vectors, so that an element sees the same arithmetic
// wherever it lies, and a sum over rows or columns runs in an order of its own.
#ifndef LAPIDARY_AUTOGRAD_KERNELS_KERNELS_H_
#define LAPIDARY_AUTOGRAD_KERNELS_KERNELS_H_

#include <cstdint>

#include "autograd/base/parallel.h"
#include "autograd/base/random.h"
#include "autograd/kernels/attention_args.h"
#include "autograd/kernels/isa.h"

namespace lapidary {

// --- Elementwise; ranges of elements unless said otherwise ---------------------------------------

struct AddArgs {  // y = a + b
  const float *a, *b;
  float* y;
};
struct ScaleArgs {  // y = c x, or y += c x if `add`
  const float* x;
  float* y;
  float c;
  bool add;
};
struct RoundArgs {  // y = x rounded to bf16, nearest even
  const float* x;
  float* y;
};
struct SoftcapArgs {  // x = cap tanh(x / cap), in place
  float* x;
  float cap;
};
struct GeGluArgs {  // y = gelu_tanh(gate) up; gradient: dgate +=, dup +=, either may be null
  const float *gate, *up;
  float* y;
  const float* dy;
  float *dgate, *dup;
};
// y = x * mask / (1 - p), or += if `add`; ranges of rows. Element (n, c) is kept iff the upper 24
// bits of word j % 4 of RandomBits(key, j / 4), j = indices[n] * cols + c, are at least threshold.
struct DropoutArgs {
  const float* x;
  float* y;
  const int64_t* indices;
  int64_t cols;
  RandomKey key;
  uint32_t threshold;  // p * 2^24
  float scale;         // 1 / (1 - p)
  bool add;
};

// --- Columns: values per channel -----------------------------------------------------------------

struct AddBiasArgs {  // y[n, c] = x[n, c] + b[c]; ranges of rows
  const float *x, *b;
  float* y;
  int64_t cols;
};
// Sums over rows go on from what the output holds, row after row: rows in several calls give the
// bits of one call.
struct SumRowsArgs {  // sum[c] += sum over n of x[n, c]; ranges of columns
  const float* x;
  float* sum;
  int64_t rows, cols;
};
// y = x g k, per channel.
//   ScaleColumns: y (ranges of rows); ScaleColumnsGradX: dx += dy g k (ranges of rows);
//   ScaleColumnsGradG: dg[c] += sum over n of dy (k[c] x) (ranges of columns)
struct ScaleColumnsArgs {
  const float *x, *g, *k;
  float* y;
  const float* dy;
  float *dx, *dg;
  int64_t rows, cols;
};

// --- Norms ---------------------------------------------------------------------------------------

// RmsNorm: y, rstd (rows); RmsNormGradX: dx += (rows); RmsNormGradW: dw += (columns). w null: ones.
struct RmsNormArgs {
  const float *x, *w;
  float *y, *rstd;
  const float* dy;
  float *dx, *dw;
  int64_t rows, cols;
  float eps;
};
// LayerNorm: y, mean, rstd (rows); LayerNormGradX: dx += (rows); LayerNormGradW: dw +=, db +=
// (columns; either may be null).
struct LayerNormArgs {
  const float *x, *w, *b;
  float *y, *mean, *rstd;
  const float* dy;
  float *dx, *dw, *db;
  int64_t rows, cols;
  float eps;
};

// --- Rotation ------------------------------------------------------------------------------------

// y[i] = x[i] c - x[i + D/2] s, y[i + D/2] = x[i + D/2] c + x[i] s with c = cos[n, i] and s =
// sign * sin[n, i]; y += if `add`. sign -1 is the gradient. Ranges of tokens.
struct RopeArgs {
  const float* x;
  float* y;
  const float *cos, *sin;  // [N, D/2]
  int64_t heads, width;
  float sign;
  bool add;
};

// --- Loss ----------------------------------------------------------------------------------------

// Per row of raw scores z [rows, vocab] (ranges of rows): logits = cap tanh(z / cap) (cap 0: z),
//   loss[n] = log sum exp(logits) - logits[target],
//   correct[n] = the lowest id with the largest logit is the target;
// then, if `grad`, z becomes weight[n] * d loss / d z; else its contents are undefined. Sums of
// exponentials run in blocks of kVocabBlock, block sums are added in double.
struct CrossEntropyArgs {
  float* z;
  const int32_t* target;
  const float* weight;
  float* loss;
  uint8_t* correct;
  int64_t vocab;
  float cap;
  bool grad;
};
inline constexpr int64_t kVocabBlock = 1024;

// --- Optimizer -----------------------------------------------------------------------------------

// One AdamW step with decoupled decay as torch.optim.AdamW, float32 throughout; ranges of elements.
//   g = grad_scale grad;  param *= 1 - lr decay;  m += (g - m)(1 - beta1);
//   v = beta2 v + (1 - beta2) g g;  param -= (lr / bias1) m / (sqrt(v) / sqrt(bias2) + eps)
// bias1 = 1 - beta1^t and bias2 = 1 - beta2^t, t the number of this step counted from 1. Constants
// are combined in double and rounded once.
struct AdamWArgs {
  float *param, *m, *v;
  const float* grad;
  double lr, beta1, beta2, eps, weight_decay, bias1, bias2;
  float grad_scale = 1.0f;
};

// --- The table -----------------------------------------------------------------------------------

#define LAPIDARY_KERNELS(X)              \
  X(Add, AddArgs)                        \
  X(Scale, ScaleArgs)                    \
  X(RoundBf16, RoundArgs)                \
  X(Softcap, SoftcapArgs)                \
  X(GeGlu, GeGluArgs)                    \
  X(GeGluGrad, GeGluArgs)                \
  X(Dropout, DropoutArgs)                \
  X(AddBias, AddBiasArgs)                \
  X(SumRows, SumRowsArgs)                \
  X(ScaleColumns, ScaleColumnsArgs)      \
  X(ScaleColumnsGradX, ScaleColumnsArgs) \
  X(ScaleColumnsGradG, ScaleColumnsArgs) \
  X(RmsNorm, RmsNormArgs)                \
  X(RmsNormGradX, RmsNormArgs)           \
  X(RmsNormGradW, RmsNormArgs)           \
  X(LayerNorm, LayerNormArgs)            \
  X(LayerNormGradX, LayerNormArgs)       \
  X(LayerNormGradW, LayerNormArgs)       \
  X(Rope, RopeArgs)                      \
  X(CrossEntropyRows, CrossEntropyArgs)  \
  X(AdamW, AdamWArgs)                    \
  X(AttentionPack, AttentionArgs)        \
  X(AttentionForward, AttentionArgs)     \
  X(AttentionScores, AttentionArgs)      \
  X(AttentionSoftmax, AttentionArgs)     \
  X(AttentionValues, AttentionArgs)      \
  X(AttentionDelta, AttentionArgs)       \
  X(AttentionGradQ, AttentionArgs)       \
  X(AttentionGradKV, AttentionArgs)      \
  X(AttentionGradGroup, AttentionArgs)

// One function pointer per row: void Name(const Args&, Range) noexcept.
struct Kernels {
  const char* name;  // of the instruction set they were compiled for
#define LAPIDARY_KERNEL_FIELD(Name, Args) void (*Name)(const Args&, Range) noexcept;
  LAPIDARY_KERNELS(LAPIDARY_KERNEL_FIELD)
#undef LAPIDARY_KERNEL_FIELD
};

// The table of an instruction set; avx512_bf16 and amx share avx512's (they differ in the GEMM).
const Kernels& KernelsFor(Isa isa);
// KernelsFor(ActiveIsa()).
const Kernels& ActiveKernels();

// The plain loops; also the reference of the kernel tests.
const Kernels& ScalarKernels();

}  // namespace lapidary

#endif  // LAPIDARY_AUTOGRAD_KERNELS_KERNELS_H_
