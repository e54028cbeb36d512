// Arguments of the attention kernels, and the partition of its work that all tables share. A "row"
// is one (query, head) pair of a key/value group: with R = H / G heads a group, row r of group g is
// query r / R, head g R + r % R. Rows come in blocks of up to 64 and keys in blocks of 64 counted
// from the start of their document, so both loops are small matrix products.
#ifndef LAPIDARY_AUTOGRAD_KERNELS_ATTENTION_ARGS_H_
#define LAPIDARY_AUTOGRAD_KERNELS_ATTENTION_ARGS_H_

#include <cstdint>

namespace lapidary {

inline constexpr int64_t kAttentionRows = 64;  // at most, a block
// Softmax sums run over blocks of 64 keys; changing it changes every golden.
inline constexpr int64_t kAttentionKeys = 64;

struct AttentionRowBlock {
  int64_t row, rows;           // [row, row + rows) of every group, all of one document
  int64_t key_block, key_end;  // the range of key blocks that some row sees
};
struct AttentionKeyBlock {
  int64_t key, keys;         // [key, key + keys)
  int64_t query, query_end;  // the range of queries that see some key of it
};

struct AttentionArgs {
  const float *q, *k, *v;  // [N, H, D], [M, G, D] twice; bf16 values already where rounded
  float *o, *lse;          // [N, H, D], log of the sum of exponentials [N, H]
  const float* dout;       // [N, H, D], bf16 values already where rounded
  float* delta;            // [N, H]: sum over d of dout o
  float *dq, *dk, *dv;     // added to; dk, dv may be null
  const int32_t *lo, *hi;  // [N]
  const AttentionRowBlock* row_blocks;
  const AttentionKeyBlock* key_blocks;
  int64_t row_block_count, key_block_count;
  int64_t queries;  // N
  int64_t heads, groups, width;
  float scale;
  bool round;           // probabilities and score gradients are rounded to bf16
  int64_t group;        // the first group of this call
  float* packed;        // PackedFloats() for every group of this call
  float* scratch;       // ScratchFloats() of the calling thread
  float* group_memory;  // GroupFloats() of the calling thread; AttentionGradGroup only
  bool backward;        // what AttentionPack lays out
};

// Matrices of up to 64 rows of `width` floats are laid out in panels of 64 columns, one after the
// other, each [64, PanelWidth()]; columns beyond the width are 0. So a panel is both a left operand
// and a compact right operand of a small product.
inline constexpr int64_t kAttentionPanel = 64;
inline int64_t PaddedWidth(const AttentionArgs& a) { return (a.width + 15) / 16 * 16; }
inline int64_t PanelFloats(const AttentionArgs& a) { return kAttentionRows * PaddedWidth(a); }

// AttentionPack makes of every key block, PanelFloats() each: keys transposed [width, 64] and
// values; backward also values transposed and keys. A unit is a key block of a group.
inline int64_t PackedCopies(const AttentionArgs& a) { return a.backward ? 4 : 2; }
inline int64_t PackedFloats(const AttentionArgs& a) {  // of one group
  return a.key_block_count * PackedCopies(a) * PanelFloats(a);
}
// Memory of one thread: four matrices in panels, two of [64, 64], two vectors of 64.
inline int64_t ScratchFloats(const AttentionArgs& a) {
  return 4 * PanelFloats(a) + 2 * kAttentionRows * kAttentionKeys + 2 * kAttentionRows;
}

// Queries, output gradients and query gradients of all rows of a group, in panels.
inline int64_t GroupFloats(const AttentionArgs& a) {
  return 3 * a.row_block_count * PanelFloats(a);
}

// Ranges: AttentionPack and AttentionGradKV take g * key_block_count + block, AttentionForward and
// AttentionGradQ g * row_block_count + block, g counted from `group`; AttentionDelta takes n H + h;
// AttentionGradGroup, all three gradients of a group in one pass with the bits of the other two,
// takes g.

}  // namespace lapidary

#endif  // LAPIDARY_AUTOGRAD_KERNELS_ATTENTION_ARGS_H_
