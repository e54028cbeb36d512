// Activation checkpointing: forget what a piece of the network computed and compute it again when
// its gradient is due. Chen et al. 2016, arXiv:1604.06174.
#ifndef LAPIDARY_AUTOGRAD_CHECKPOINT_H_
#define LAPIDARY_AUTOGRAD_CHECKPOINT_H_

#include <functional>
#include <span>
#include <vector>

#include "autograd/stash.h"
#include "autograd/tape.h"

namespace lapidary {

// A piece of the network: the same values and bits every time it is called with the same inputs.
using CheckpointBody = std::function<Var(Tape& tape, std::span<const Var> inputs)>;

// body(inputs); keeps only the inputs, as `keep` says (a form other than float32 is for inputs that
// it represents exactly, or a loss that the user chose), and computes body again for its gradient.
// `params`: every trainable Param that the body uses (a Param captured silently would get no
// gradient when no input needs one; using one that is not listed throws Error).
Var Checkpoint(Tape& tape, CheckpointBody body, std::vector<Var> inputs, std::vector<Param*> params,
               const StashPolicy& keep);

}  // namespace lapidary

#endif  // LAPIDARY_AUTOGRAD_CHECKPOINT_H_
