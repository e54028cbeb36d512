// Byte-pair merging over the code points of a text, with a cache of pieces. Used by tokenizer.h,
// which explains the pipeline.
#ifndef LAPIDARY_DATA_BPE_H_
#define LAPIDARY_DATA_BPE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lapidary {

// Token strings to ids: open addressing over strings that live elsewhere.
class TokenIndex {
 public:
  // `tokens` by id must outlive this and not move; empty ones are left out. Throws Error if two are
  // equal.
  explicit TokenIndex(const std::vector<std::string>& tokens);
  int32_t Find(std::string_view token) const;  // -1 if there is none

 private:
  const std::vector<std::string>& tokens_;
  std::vector<int32_t> slots_;
  uint64_t mask_ = 0;
};

// Working memory of one encoder: buffers and the cache of pieces. Not thread-safe.
class BpeScratch {
 public:
  BpeScratch();
  ~BpeScratch();

 private:
  friend class BpeModel;
  struct Symbol {
    int32_t id;
    int32_t previous;
    int32_t next;
    int32_t bytes;  // 0: merged into its left neighbour
  };
  struct Candidate {
    uint64_t order;  // rank << 32 | position
    int32_t id;      // of the merged token
  };
  // A short piece that is being merged: see BpeModel::MergeTogether.
  struct Pair {
    int32_t id;
    int32_t bytes;
    uint32_t rank;  // of merging it with the one behind it
  };
  struct Work {
    int32_t piece;  // of those found ahead
    int32_t count;
    int32_t best;        // where the next merge is; -1: there is none
    uint64_t wanted[2];  // slots of merges to look up at best - 1 and best
    bool first;          // all pairs that have no rank yet are looked up
  };
  // A slot of the cache, replaced by whatever hashes to it.
  struct Cached;
  std::vector<Symbol> symbols;
  std::vector<Pair> pairs;  // kShort of each Work
  std::vector<Work> works;
  std::vector<Candidate> heap;
  std::vector<Cached> cache;
};

// What merging gives for a piece of text: ids, and the bytes of the text that each covers.
struct BpeOutput {
  std::vector<int32_t> ids;
  std::vector<int32_t> bytes;
};

class BpeModel {
 public:
  // `index` is over the same tokens. Throws Error for a merge whose parts or
  // result are not tokens.
  BpeModel(const std::vector<std::string>& tokens, const TokenIndex& index,
           const std::vector<std::pair<std::string, std::string>>& merges, bool byte_fallback,
           const std::optional<std::string>& unk, bool fuse_unk);

  // Appends the tokens of `text` (after replacements, without added tokens). Characters without a
  // token become byte tokens, else <unk>, else nothing.
  void Encode(std::string_view text, BpeScratch& scratch, BpeOutput& out) const;

 private:
  uint64_t MergeSlot(int32_t left, int32_t right) const;  // where FindMerge begins to look
  uint32_t FindMerge(int32_t left, int32_t right, uint64_t slot) const;  // rank, or kNoRank
  uint32_t FindMerge(int32_t left, int32_t right) const;
  void AddMerge(int32_t left, int32_t right, uint32_t rank);
  void AddBigrams(std::string_view token);
  bool Joins(uint32_t left, uint32_t right) const;
  struct Piece;
  void EncodePieces(std::string_view text, const std::vector<Piece>& pieces, BpeScratch& scratch,
                    BpeOutput& out) const;
  void MergePiece(std::string_view piece, BpeScratch& scratch) const;
  void StartMerging(std::string_view piece, BpeScratch& scratch, size_t work) const;
  void MergeTogether(BpeScratch& scratch, size_t works) const;
  void PushSymbols(std::string_view piece, BpeScratch& scratch) const;
  int32_t CharacterId(uint32_t value) const;

  bool fuse_unk_ = true;
  bool cut_ = true;  // texts may be cut into pieces: see Joins
  int32_t unk_ = -1;
  bool all_bytes_ = false;              // every byte has its token
  int32_t byte_ids_[256];               // -1: none, or no byte fallback
  std::vector<int32_t> character_ids_;  // by code point: id + 1, 0 if none
  // Open addressing; kNone is free. Left id (20 bits), right id (20), rank (24): the table is what
  // merging waits for, so it is small.
  std::vector<uint64_t> merges_;
  uint64_t merge_mask_ = 0;
  std::vector<int32_t> merged_;         // id by rank
  std::vector<uint32_t> first_merges_;  // rank of two characters of near_
  std::vector<uint8_t> token_bytes_;    // that an id covers; 0: cannot be told from the id
  // Pairs of neighbouring characters inside tokens that merging makes: a table for ASCII and
  // U+2581, bits for the alphabets below U+0800, a set for the rest.
  std::vector<uint8_t> near_;
  std::vector<uint64_t> alphabets_;
  std::vector<uint64_t> far_;
  uint64_t far_mask_ = 0;
  uint64_t far_count_ = 0;
};

}  // namespace lapidary

#endif  // LAPIDARY_DATA_BPE_H_
