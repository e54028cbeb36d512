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
  int64_t key_block, key_end;  // the range of key blocks that some row sees (may be empty where a
                               // gradient comes in parts of the keys)
};
struct AttentionKeyBlock {
  int64_t key, keys;         // [key, key + keys)
  int64_t query, query_end;  // the range of queries that see some key of it
  int64_t filled = 0;        // AttentionPack: columns of the block that hold keys already
};

struct AttentionArgs {
  const float *q, *k, *v;  // [N, H, D], [M, G, D] twice; bf16 values already where rounded
  float *o, *lse;          // [N, H, D], log of the sum of exponentials [N, H]
  const float* dout;       // [N, H, D], bf16 values already where rounded
  float* delta;            // [N, H]: sum over d of dout o
  float *dq, *dk, *dv;     // added to, each element one chain over calls; dk, dv may be null
  const int32_t *lo, *hi;  // [N]
  const AttentionRowBlock* row_blocks;
  const AttentionKeyBlock* key_blocks;
  int64_t row_block_count, key_block_count;
  int64_t queries;  // N
  int64_t heads, groups, width;
  float scale;
  bool round;     // probabilities and score gradients are rounded to bf16
  int64_t group;  // the first group of this call
  // Of every key block, the groups of this call one after the other: BlockFloats() each.
  float* const* blocks;
  float* scratch;       // ScratchFloats() of the calling thread
  float* group_memory;  // GroupFloats() of the calling thread; AttentionGradGroup only
  bool backward;        // what AttentionPack lays out
  float* few;           // FewFloats(), shared by all threads; AttentionScores to AttentionValues
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
inline int64_t BlockFloats(const AttentionArgs& a) { return PackedCopies(a) * PanelFloats(a); }
// Memory of one thread: four matrices in panels, two of [64, 64], two vectors of 64.
inline int64_t ScratchFloats(const AttentionArgs& a) {
  return 4 * PanelFloats(a) + 2 * kAttentionRows * kAttentionKeys + 2 * kAttentionRows;
}

// Queries, output gradients and query gradients of all rows of a group, in panels.
inline int64_t GroupFloats(const AttentionArgs& a) {
  return 3 * a.row_block_count * PanelFloats(a);
}

// A single block of rows leaves no rows to share out. Then three kernels, each called when the one
// before has finished, do what AttentionForward does, with its bits, cut by keys and by columns:
// AttentionScores of every key block, AttentionSoftmax of every row, AttentionValues of every panel
// of o. Between them lie the scores [group, key block, row, 64], the factors of what was summed
// before a key block [group, row, key block], and the sums of the rows [group, row].
struct AttentionFew {
  float *scores, *shrink, *sum;
};
inline int64_t FewFloats(const AttentionArgs& a) {
  const int64_t rows = a.groups * a.row_blocks[0].rows;
  return rows * a.key_block_count * (kAttentionKeys + 1) + rows;
}
inline AttentionFew FewOf(const AttentionArgs& a) {
  const int64_t rows = a.groups * a.row_blocks[0].rows;
  float* shrink = a.few + rows * a.key_block_count * kAttentionKeys;
  return {a.few, shrink, shrink + rows * a.key_block_count};
}
inline int64_t PanelCount(const AttentionArgs& a) {
  return (PaddedWidth(a) + kAttentionPanel - 1) / kAttentionPanel;
}

// Ranges: AttentionPack and AttentionGradKV take g * key_block_count + block, AttentionForward and
// AttentionGradQ g * row_block_count + block, g counted from `group`; AttentionDelta takes n H + h;
// AttentionGradGroup, all three gradients of a group in one pass with the bits of the other two,
// takes g; AttentionScores g * key_block_count + block, AttentionSoftmax g * rows + row,
// AttentionValues g * PanelCount() + panel.

}  // namespace lapidary

#endif  // LAPIDARY_AUTOGRAD_KERNELS_ATTENTION_ARGS_H_
