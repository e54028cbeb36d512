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

// A piece whose output row n, of the input's shape, depends on input row n alone: it is computed,
// and differentiated, `chunk` rows at a time, so that what it needs in between is that of a chunk.
// `run` gets rows [first, first + rows) of the input. Sums over rows in the gradients of its
// parameters go on from chunk to chunk; with chunks of a multiple of 64 rows they have the bits of
// one piece.
struct RowsBody {
  std::function<Var(Tape& tape, Var rows, int64_t first)> run;
  int64_t chunk = 512;
};

// body(inputs), then rows(that) if `rows.run` is set; keeps only the inputs, as `keep` says (a form
// other than float32 is for inputs that it represents exactly, or a loss that the user chose). The
// gradient computes body again, and rows chunk by chunk, once: nothing is computed three times.
// `params`: every trainable Param that the pieces use (a Param captured silently would get no
// gradient when no input needs one; using one that is not listed throws Error).
Var Checkpoint(Tape& tape, CheckpointBody body, std::vector<Var> inputs, std::vector<Param*> params,
               const StashPolicy& keep, RowsBody rows = {});

// rows(x) alone, keeping x (not a copy).
Var CheckpointRows(Tape& tape, RowsBody rows, Var x, std::vector<Param*> params);

}  // namespace lapidary

#endif  // LAPIDARY_AUTOGRAD_CHECKPOINT_H_
