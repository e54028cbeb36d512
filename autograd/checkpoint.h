// Activation checkpointing: forget what a piece of the network computed and compute it again when
// its gradient is due. Chen et al. 2016, arXiv:1604.06174.
#ifndef LAPIDARY_AUTOGRAD_CHECKPOINT_H_
#define LAPIDARY_AUTOGRAD_CHECKPOINT_H_

#include <functional>
#include <span>
#include <vector>

#include "autograd/tape.h"

namespace lapidary {

// A piece of the network: the same values and bits every time it is called with the same inputs.
using CheckpointBody = std::function<Var(Tape& tape, std::span<const Var> inputs)>;

// body(inputs), keeping only the inputs. `params`: every trainable Param that the body uses (a
// Param it captured silently would get no gradient when no input needs one; using one that is not
// listed throws Error). `inputs_are_bf16`: the inputs hold values that bf16 represents exactly
// (Gemma's residual stream in bf16 compute), so they are kept in half the bytes without loss;
// throws Error if they do not.
Var Checkpoint(Tape& tape, CheckpointBody body, std::vector<Var> inputs, std::vector<Param*> params,
               bool inputs_are_bf16);

}  // namespace lapidary

#endif  // LAPIDARY_AUTOGRAD_CHECKPOINT_H_
