// Softcapped cross-entropy against a large vocabulary, never forming [N, V] logits.
#ifndef LAPIDARY_AUTOGRAD_OPS_LOSS_H_
#define LAPIDARY_AUTOGRAD_OPS_LOSS_H_

#include <cstdint>
#include <vector>

#include "autograd/gemm.h"
#include "autograd/tape.h"
#include "autograd/weight.h"

namespace lapidary {

// Probabilities p to imitate, for every row of x: the loss of a row becomes
//   weights[n] * ((1 - mix) * -log q(target) + mix * T^2 * KL(p_T || q_T))
// with p_T and q_T at the temperature T (Hinton et al. 2015, arXiv:1503.02531). Either another
// model's, formed chunk by chunk as the student's are, or its k likeliest tokens, stored; then
// everything else is one event with the probability that is left, and T is 1.
struct Teacher {
  Tensor hidden;                 // [N, C'] of the teacher, or undefined
  WeightView head;               // [V, C']
  float softcap = 0;             // of the teacher
  int64_t k = 0;                 // stored: tokens a row, up to 256
  std::vector<int32_t> ids;      // [N, k], distinct in a row
  std::vector<float> log_probs;  // [N, k]
  float mix = 1;                 // 1: the teacher alone; 0: the data alone
  float temperature = 1;
};

struct CrossEntropyOptions {
  float softcap = 30.0f;  // logits = softcap * tanh(z / softcap); 0: none
  int64_t chunk = 128;    // tokens at a time, a multiple of 64; the result does not depend on it
  Compute compute = Compute::kFloat32;
  const Teacher* teacher = nullptr;  // null: the data alone
};

// What the loss says of every token; vectors of N, 0 where the weight is 0.
struct TokenStats {
  std::vector<float> loss;        // -log p(target)
  std::vector<float> divergence;  // KL(p_T || q_T) from the teacher; empty without one
  std::vector<uint8_t> correct;   // the target is the arg max (lowest id on ties)
};

// sum over n of weights[n] * -log softmax(cap(x[n] head^T))[targets[n]], a scalar.
//   x [N, C]; head [V, C] frozen in any format; targets [N] in [0, V) (any value where the weight
//   is 0); weights [N],
//   below 0 too: what preference training makes less likely.
// Rows of weight 0 are skipped. Works on `chunk` tokens and the whole vocabulary; the gradient of x
// is formed in the same pass, so the head is multiplied twice, not three times. Vocabulary sums run
// in fixed blocks of 1,024. Saves dx [N, C]. stats may be null.
Var CrossEntropyFrozen(Var x, const WeightView& head, const std::vector<int32_t>& targets,
                       const std::vector<float>& weights, const CrossEntropyOptions& options,
                       TokenStats* stats);

// The same with a trainable head Var [V, C] (tied embeddings in full fine-tuning); also saves the
// head's gradient. With a map the products are with the mapped head, and its gradient goes straight
// through.
Var CrossEntropy(Var x, Var head, const std::vector<int32_t>& targets,
                 const std::vector<float>& weights, const CrossEntropyOptions& options,
                 TokenStats* stats, const WeightMap* map = nullptr);

// Softcapped logits [N, V] themselves, without gradient (evaluation, generation).
Tensor Logits(const Tensor& x, const WeightView& head, float softcap, Compute compute);

}  // namespace lapidary

#endif  // LAPIDARY_AUTOGRAD_OPS_LOSS_H_
