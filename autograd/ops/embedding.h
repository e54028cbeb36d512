// Table look-ups and the insertion of soft tokens.
#ifndef LAPIDARY_AUTOGRAD_OPS_EMBEDDING_H_
#define LAPIDARY_AUTOGRAD_OPS_EMBEDDING_H_

#include <cstdint>
#include <vector>

#include "autograd/tape.h"
#include "autograd/weight.h"

namespace lapidary {

// y[n] = scale * table[ids[n]]; table [V, C] trainable. The gradient is split over rows of the
// table, not over tokens; the row `padding_id` gets none (-1: every row does). Throws Error for an
// id outside [0, V). With a map the rows are mapped first, and the gradient goes straight through.
Var Embedding(Var table, const std::vector<int32_t>& ids, float scale, int32_t padding_id,
              const WeightMap* map = nullptr);

// The same from frozen rows in any format; no gradient.
Tensor EmbeddingFrozen(const WeightView& table, const std::vector<int32_t>& ids, float scale);

// y = x with row rows[j] replaced by the j-th row of s.  x [N, C], s [M, C], rows distinct, [M].
Var ReplaceRows(Var x, Var s, const std::vector<int64_t>& rows);

// y[n] = table[x_n, 0] + table[y_n, 1].  table [P, 2, C]; positions: n pairs (x, y), each in [0,
// P). round_to_bf16: the sum is rounded to bf16.
Var PositionEmbedding(Var table, const std::vector<int32_t>& positions, bool round_to_bf16);

}  // namespace lapidary

#endif  // LAPIDARY_AUTOGRAD_OPS_EMBEDDING_H_
