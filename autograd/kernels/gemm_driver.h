// How a matrix product is walked through: activations packed once for as many products as read
// them, panels of the weights claimed one by one by the threads, sums kept between the chunks of
// the inner dimension. What gemm.h and gemm_group.h are made of.
//
// A product may have two terms, C (+)= A1 B1 + A2 B2, the second being narrow (a low-rank
// correction): it is a continuation of the inner dimension, so every element is still one chain of
// additions, the bits of the second product added to the first.
#ifndef LAPIDARY_AUTOGRAD_KERNELS_GEMM_DRIVER_H_
#define LAPIDARY_AUTOGRAD_KERNELS_GEMM_DRIVER_H_

#include <cstdint>
#include <functional>
#include <span>

#include "autograd/base/parallel.h"
#include "autograd/kernels/gemm_table.h"

namespace lapidary {

// Activations A[rows, k]: element (r, k) is data[r * row_stride + k * k_stride]; one stride is 1.
struct Activations {
  const float* data = nullptr;
  int64_t row_stride = 0, k_stride = 1;
  int64_t rows = 0, k = 0;
};

// The same as one table reads it: [chunk of k][block of rows].
struct PackedActivations {
  const char* data = nullptr;
  int64_t rows = 0, k = 0, blocks = 0;
};

// Bytes that `rows` packed rows take, a multiple of 64.
int64_t PackedBytes(const GemmTable& table, int64_t rows, int64_t k);
// Packs into `to` (64-byte aligned), on all threads unless the work is small.
PackedActivations Pack(const GemmTable& table, const Activations& a, void* to);

struct GemmTerm {
  PackedActivations a;
  WeightView w;
};

// C[rows, cols] (+)= sum over terms of A B, B from the weight as `side` says; rows ldc apart.
struct GemmOutput {
  float* c = nullptr;
  int64_t ldc = 0, cols = 0;
  bool add = false;
  GemmSide side = GemmSide::kForward;
  GemmTerm terms[2];
  int term_count = 1;
};

// All outputs, which have the same number of rows; their panels are claimed from one queue.
void MultiplyPacked(Isa isa, Compute compute, std::span<const GemmOutput> outputs);

// Calls body(rows) on equal ranges of whole row blocks that cover n rows, so that what is packed at
// a time, `row_bytes` for a row, stays below 64 MB.
void ForPasses(const GemmTable& table, int64_t n, int64_t row_bytes,
               const std::function<void(Range)>& body);

// The calling thread's buffer for packed activations, at least `bytes` long, 64-byte aligned; valid
// until the next call of the thread.
char* PackingBuffer(int64_t bytes);

// Throws Error, beginning with `where`, unless n and the sizes of w fit its format.
void CheckWeight(const char* where, const WeightView& w, int64_t n);

}  // namespace lapidary

#endif  // LAPIDARY_AUTOGRAD_KERNELS_GEMM_DRIVER_H_
