#include "data/bpe.h"

#include <algorithm>
#include <cstring>

#include "autograd/base/error.h"
#include "data/unicode.h"

namespace lapidary {
namespace {

constexpr uint64_t kNone = ~uint64_t{0};
constexpr uint32_t kSpaceMark = 0x2581;
constexpr int kNear = 129;  // ASCII and U+2581
constexpr uint32_t kNoRank = ~uint32_t{0};
constexpr uint32_t kAlphabets = 0x800;  // Latin, Greek, Cyrillic, Hebrew, Arabic, ...
constexpr size_t kCacheSlots = 1 << 16;
constexpr size_t kCacheBytes = 31;  // longest piece kept: a word of 10 three-byte characters
constexpr size_t kCacheIds = 8;
constexpr int32_t kNoId = -1;
constexpr int kIdBits = 20, kRankBits = 24;
constexpr uint32_t kUnknownRank = kNoRank - 1;  // until it is looked up
// Pieces of so many bytes are merged by looking for the lowest rank, longer ones by a heap.
constexpr size_t kShort = 48;
constexpr size_t kAhead = 128;    // pieces that are found before the first is looked up
constexpr size_t kTogether = 16;  // pieces that are merged in turns

uint64_t Mix(uint64_t x) {
  x *= 0x9e3779b97f4a7c15u;
  x ^= x >> 32;
  x *= 0xd6e8feb86659fd93u;
  return x ^ x >> 29;
}

uint64_t HashBytes(const char* p, size_t n) {
  uint64_t hash = n;
  for (; n >= 8; p += 8, n -= 8) {
    uint64_t word;
    std::memcpy(&word, p, 8);
    hash = Mix(hash ^ word);
  }
  uint64_t word = 0;
  std::memcpy(&word, p, n);
  return Mix(hash ^ word);
}

// A power of two that leaves a table of `n` entries at most half full.
uint64_t TableSize(uint64_t n) {
  uint64_t size = 16;
  while (size < 2 * n) size *= 2;
  return size;
}

int NearIndex(uint32_t value) {
  return value < 128 ? static_cast<int>(value) : value == kSpaceMark ? 128 : -1;
}

}  // namespace

TokenIndex::TokenIndex(const std::vector<std::string>& tokens)
    : tokens_(tokens), slots_(TableSize(tokens.size()), -1), mask_(slots_.size() - 1) {
  for (size_t id = 0; id < tokens.size(); ++id) {
    if (tokens[id].empty()) continue;
    uint64_t slot = HashBytes(tokens[id].data(), tokens[id].size()) & mask_;
    for (; slots_[slot] >= 0; slot = (slot + 1) & mask_) {
      LAPIDARY_CHECK(tokens[slots_[slot]] != tokens[id], "tokenizer: tokens must differ; got '",
                     ValidUtf8(tokens[id]), "' with the ids ", slots_[slot], " and ", id);
    }
    slots_[slot] = static_cast<int32_t>(id);
  }
}

int32_t TokenIndex::Find(std::string_view token) const {
  if (token.empty()) return -1;
  for (uint64_t slot = HashBytes(token.data(), token.size()) & mask_; slots_[slot] >= 0;
       slot = (slot + 1) & mask_) {
    if (tokens_[slots_[slot]] == token) return slots_[slot];
  }
  return -1;
}

// The text of a piece as four words: its bytes, zeros, and its length in the last byte.
struct PieceKey {
  uint64_t words[4];
  bool operator==(const PieceKey& other) const {
    return ((words[0] ^ other.words[0]) | (words[1] ^ other.words[1]) |
            (words[2] ^ other.words[2]) | (words[3] ^ other.words[3])) == 0;
  }
  uint64_t Hash() const {
    return Mix((words[0] ^ words[1] * 0x9fb21c651e98df25u) +
               (words[2] ^ words[3] * 0xd6e8feb86659fd93u));
  }
};

// Of bytes [begin, end) of `text`, 1 to kCacheBytes of them.
PieceKey KeyOf(std::string_view text, size_t begin, size_t end) {
  PieceKey key = {};
  const size_t n = end - begin;
  if (begin + 32 <= text.size()) {
    // Whole words, then what is behind the piece goes.
    std::memcpy(key.words, text.data() + begin, 32);
    for (size_t w = 0; w < 4; ++w) {
      const size_t kept = n > 8 * w ? n - 8 * w : 0;
      if (kept < 8) key.words[w] &= (uint64_t{1} << (8 * kept)) - 1;
    }
  } else {
    std::memcpy(key.words, text.data() + begin, n);
  }
  key.words[3] |= static_cast<uint64_t>(n) << 56;
  return key;
}

struct alignas(64) BpeScratch::Cached {
  PieceKey key = {};       // length 0: empty slot
  int32_t ids[kCacheIds];  // ends with kNoId if there are fewer
};

BpeScratch::BpeScratch() : cache(kCacheSlots) {}
BpeScratch::~BpeScratch() = default;

BpeModel::BpeModel(const std::vector<std::string>& tokens, const TokenIndex& index,
                   const std::vector<std::pair<std::string, std::string>>& merges,
                   bool byte_fallback, const std::optional<std::string>& unk, bool fuse_unk)
    : fuse_unk_(fuse_unk),
      first_merges_(kNear * kNear, kNoRank),
      token_bytes_(tokens.size(), 0),
      near_(kNear * kNear, 0),
      alphabets_(kAlphabets * kAlphabets / 64, 0) {
  if (unk) {
    unk_ = index.Find(*unk);
    LAPIDARY_CHECK(unk_ >= 0, "tokenizer: unk_token must be a token; got '", ValidUtf8(*unk), "'");
  }
  std::vector<bool> is_byte(tokens.size(), false);
  all_bytes_ = byte_fallback;
  for (int b = 0; b < 256; ++b) {
    char name[8];
    std::snprintf(name, sizeof name, "<0x%02X>", b);
    byte_ids_[b] = byte_fallback ? index.Find(name) : -1;
    if (byte_ids_[b] >= 0) {
      is_byte[byte_ids_[b]] = true;
    } else {
      all_bytes_ = false;
    }
  }
  LAPIDARY_CHECK(all_bytes_ || unk_ >= 0,
                 "tokenizer: every character must have a token; got neither unk_token nor byte "
                 "tokens <0x00> to <0xFF> with byte_fallback");
  character_ids_.assign(kInvalidByte, 0);
  for (size_t id = 0; id < tokens.size(); ++id) {
    const std::string& token = tokens[id];
    const bool unknown = static_cast<int32_t>(id) == unk_;
    token_bytes_[id] = is_byte[id] ? 1
                       : unknown || token.empty() || token.size() > 255
                           ? 0
                           : static_cast<uint8_t>(token.size());
    if (token.empty() || token.size() > 4) continue;
    const CodePoint c = DecodeUtf8(token.data(), token.size());
    if (c.value < kInvalidByte && c.length == static_cast<int>(token.size())) {
      character_ids_[c.value] = static_cast<int32_t>(id) + 1;
    }
  }
  // A run of unknown characters is one <unk>, and byte tokens that merge would span any place: then
  // nothing is cut.
  cut_ = all_bytes_ || !fuse_unk;
  LAPIDARY_CHECK(tokens.size() < (size_t{1} << kIdBits) && merges.size() < (size_t{1} << kRankBits),
                 "tokenizer: there must be fewer than 2^20 tokens and 2^24 merges; got ",
                 tokens.size(), " and ", merges.size());
  merges_.assign(TableSize(merges.size()), kNone);
  merged_.resize(merges.size());
  merge_mask_ = merges_.size() - 1;
  far_.assign(TableSize(1 << 16), kNone);
  far_mask_ = far_.size() - 1;
  std::string whole;
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const auto& [left, right] = merges[rank];
    whole = left;
    whole += right;
    const int32_t l = index.Find(left), r = index.Find(right), id = index.Find(whole);
    LAPIDARY_CHECK(l >= 0 && r >= 0 && id >= 0, "tokenizer: merge ", rank,
                   ": both parts and their union must be tokens; got '", ValidUtf8(left), "' and '",
                   ValidUtf8(right), "'");
    if (is_byte[l] || is_byte[r]) cut_ = false;
    AddMerge(l, r, static_cast<uint32_t>(rank));
    merged_[rank] = id;
    const CodePoint a = DecodeUtf8(left.data(), left.size());
    const CodePoint b = DecodeUtf8(right.data(), right.size());
    const bool characters =
        a.length == static_cast<int>(left.size()) && b.length == static_cast<int>(right.size());
    const int na = NearIndex(a.value), nb = NearIndex(b.value);
    if (characters && na >= 0 && nb >= 0) {
      first_merges_[na * kNear + nb] = static_cast<uint32_t>(rank);
    }
    AddBigrams(whole);
  }
}

inline uint64_t BpeModel::MergeSlot(int32_t left, int32_t right) const {
  return Mix(static_cast<uint64_t>(left) << kIdBits | static_cast<uint32_t>(right)) & merge_mask_;
}

void BpeModel::AddMerge(int32_t left, int32_t right, uint32_t rank) {
  const uint64_t pair = static_cast<uint64_t>(left) << kIdBits | static_cast<uint32_t>(right);
  uint64_t slot = MergeSlot(left, right);
  while (merges_[slot] != kNone && merges_[slot] >> kRankBits != pair) {
    slot = (slot + 1) & merge_mask_;
  }
  // Of two equal merges the later counts, as in Hugging Face.
  merges_[slot] = pair << kRankBits | rank;
}

inline uint32_t BpeModel::FindMerge(int32_t left, int32_t right, uint64_t slot) const {
  const uint64_t pair = static_cast<uint64_t>(left) << kIdBits | static_cast<uint32_t>(right);
  for (;; slot = (slot + 1) & merge_mask_) {
    const uint64_t merge = merges_[slot];
    if (merge >> kRankBits == pair) return merge & ((uint32_t{1} << kRankBits) - 1);
    if (merge == kNone) return kNoRank;
  }
}

inline uint32_t BpeModel::FindMerge(int32_t left, int32_t right) const {
  return FindMerge(left, right, MergeSlot(left, right));
}

void BpeModel::AddBigrams(std::string_view token) {
  uint32_t previous = 0;
  for (size_t i = 0; i < token.size();) {
    const CodePoint c = DecodeUtf8(token.data() + i, token.size() - i);
    if (i > 0) {
      const int a = NearIndex(previous), b = NearIndex(c.value);
      if (a >= 0 && b >= 0) {
        near_[a * kNear + b] = 1;
      } else if (previous < kAlphabets && c.value < kAlphabets) {
        const uint32_t bit = previous * kAlphabets + c.value;
        alphabets_[bit / 64] |= uint64_t{1} << bit % 64;
      } else {
        if (2 * far_count_ >= far_.size()) {
          std::vector<uint64_t> old(2 * far_.size(), kNone);
          old.swap(far_);
          far_mask_ = far_.size() - 1;
          for (const uint64_t key : old) {
            if (key == kNone) continue;
            uint64_t slot = Mix(key) & far_mask_;
            while (far_[slot] != kNone) slot = (slot + 1) & far_mask_;
            far_[slot] = key;
          }
        }
        const uint64_t key = static_cast<uint64_t>(previous) << 32 | c.value;
        uint64_t slot = Mix(key) & far_mask_;
        while (far_[slot] != kNone && far_[slot] != key) slot = (slot + 1) & far_mask_;
        if (far_[slot] == kNone) ++far_count_;
        far_[slot] = key;
      }
    }
    previous = c.value;
    i += c.length;
  }
}

// Whether some merged token holds the two characters side by side. If not, no merge can cross the
// place between them.
bool BpeModel::Joins(uint32_t left, uint32_t right) const {
  const int a = NearIndex(left), b = NearIndex(right);
  if (a >= 0 && b >= 0) return near_[a * kNear + b] != 0;
  if (left < kAlphabets && right < kAlphabets) {
    const uint32_t bit = left * kAlphabets + right;
    return (alphabets_[bit / 64] >> bit % 64 & 1) != 0;
  }
  const uint64_t key = static_cast<uint64_t>(left) << 32 | right;
  for (uint64_t slot = Mix(key) & far_mask_;; slot = (slot + 1) & far_mask_) {
    if (far_[slot] == key) return true;
    if (far_[slot] == kNone) return false;
  }
}

int32_t BpeModel::CharacterId(uint32_t value) const {
  return value < kInvalidByte ? character_ids_[value] - 1 : -1;
}

// Bytes [begin, end) of a text.
struct BpeModel::Piece {
  size_t begin;
  size_t end;
  PieceKey key;                // of short ones
  BpeScratch::Cached* cached;  // where it is kept if it is anywhere; null: never
};

void BpeModel::Encode(std::string_view text, BpeScratch& scratch, BpeOutput& out) const {
  // Many pieces are found before the first is looked up, so that the memory of the cache and, for
  // those that are not there, of the merges is on its way: both are larger than the core's own.
  std::vector<Piece> pieces;
  pieces.reserve(kAhead);
  const auto add = [&](size_t begin, size_t end) {
    Piece& piece = pieces.emplace_back();
    piece.begin = begin;
    piece.end = end;
    piece.cached = nullptr;
    if (end - begin <= kCacheBytes) {
      piece.key = KeyOf(text, begin, end);
      piece.cached = &scratch.cache[piece.key.Hash() & (kCacheSlots - 1)];
      __builtin_prefetch(piece.cached);
    }
    if (pieces.size() < kAhead) return;
    EncodePieces(text, pieces, scratch, out);
    pieces.clear();
  };
  const char* const data = text.data();
  const size_t size = cut_ ? text.size() : 0;
  size_t begin = 0;
  uint32_t previous = 0;
  int previous_near = -1;
  for (size_t i = 0; i < size;) {
    const auto lead = static_cast<uint8_t>(data[i]);
    CodePoint c = {lead, 1};
    int near = lead;
    if (lead >= 0x80) {
      const bool mark =
          lead == 0xe2 && i + 2 < size && data[i + 1] == '\x96' && data[i + 2] == '\x81';
      c = mark ? CodePoint{kSpaceMark, 3} : DecodeUtf8(data + i, size - i);
      near = mark ? kNear - 1 : -1;
    }
    const bool joins = (near | previous_near) >= 0 ? near_[previous_near * kNear + near] != 0
                                                   : Joins(previous, c.value);
    if (i > begin && !joins) {
      add(begin, i);
      begin = i;
    }
    previous = c.value;
    previous_near = near;
    i += c.length;
  }
  if (begin < text.size()) add(begin, text.size());
  EncodePieces(text, pieces, scratch, out);
}

void BpeModel::EncodePieces(std::string_view text, const std::vector<Piece>& pieces,
                            BpeScratch& scratch, BpeOutput& out) const {
  const auto view = [&](const Piece& piece) {
    return text.substr(piece.begin, piece.end - piece.begin);
  };
  size_t merged = 0, next = 0;  // works done, and the next one to give out
  scratch.pairs.resize(kTogether * kShort);
  scratch.works.resize(kTogether);
  // Merges the short ones among the pieces from `first` on that are not in the cache.
  const auto merge_ahead = [&](size_t first) {
    merged = next = 0;
    for (size_t i = first; i < pieces.size() && merged < kTogether; ++i) {
      const Piece& piece = pieces[i];
      if (piece.end - piece.begin > kShort) continue;
      if (piece.cached != nullptr && piece.cached->key == piece.key) continue;
      scratch.works[merged].piece = static_cast<int32_t>(i);
      StartMerging(view(piece), scratch, merged++);
    }
    MergeTogether(scratch, merged);
  };
  for (size_t i = 0; i < pieces.size(); ++i) {
    const Piece& piece = pieces[i];
    BpeScratch::Cached* cached = piece.cached;
    if (cached != nullptr && cached->key == piece.key) {
      for (const int32_t id : cached->ids) {
        if (id == kNoId) break;
        out.ids.push_back(id);
        out.bytes.push_back(token_bytes_[id]);
      }
      continue;
    }
    const size_t first = out.ids.size();
    if (piece.end - piece.begin > kShort) {
      MergePiece(view(piece), scratch);
      for (const BpeScratch::Symbol& symbol : scratch.symbols) {
        if (symbol.bytes == 0) continue;
        out.ids.push_back(symbol.id);
        out.bytes.push_back(symbol.bytes);
      }
      continue;
    }
    while (next < merged && scratch.works[next].piece < static_cast<int32_t>(i)) ++next;
    if (next == merged || scratch.works[next].piece != static_cast<int32_t>(i)) merge_ahead(i);
    const BpeScratch::Pair* pairs = &scratch.pairs[next * kShort];
    bool known = true;  // <unk> covers more than its id says
    for (int32_t k = 0; k < scratch.works[next].count; ++k) {
      out.ids.push_back(pairs[k].id);
      out.bytes.push_back(pairs[k].bytes);
      known = known && token_bytes_[pairs[k].id] == pairs[k].bytes;
    }
    const size_t count = out.ids.size() - first;
    if (cached == nullptr || count > kCacheIds || !known) continue;
    cached->key = piece.key;
    std::copy_n(&out.ids[first], count, cached->ids);
    if (count < kCacheIds) cached->ids[count] = kNoId;
  }
}

// The characters of `piece` as symbols, before any merge.
void BpeModel::PushSymbols(std::string_view piece, BpeScratch& scratch) const {
  auto& symbols = scratch.symbols;
  symbols.clear();
  bool after_unk = false;
  for (size_t i = 0; i < piece.size();) {
    const CodePoint c = DecodeUtf8(piece.data() + i, piece.size() - i);
    const int32_t id = CharacterId(c.value);
    bool bytes = id < 0;
    for (int k = 0; k < c.length && bytes; ++k) {
      bytes = byte_ids_[static_cast<uint8_t>(piece[i + k])] >= 0;
    }
    if (id >= 0) {
      symbols.push_back({id, 0, 0, c.length});
    } else if (bytes) {
      for (int k = 0; k < c.length; ++k) {
        symbols.push_back({byte_ids_[static_cast<uint8_t>(piece[i + k])], 0, 0, 1});
      }
    } else if (fuse_unk_ && after_unk) {
      symbols.back().bytes += c.length;
    } else {
      symbols.push_back({unk_, 0, 0, c.length});
    }
    after_unk = id < 0 && !bytes;
    i += c.length;
  }
  const auto n = static_cast<int32_t>(symbols.size());
  for (int32_t i = 0; i < n; ++i) {
    symbols[i].previous = i - 1;
    symbols[i].next = i + 1 < n ? i + 1 : -1;
  }
}

// Merging takes the adjacent pair of lowest rank, leftmost first, until none is left. Of few
// symbols the lowest rank is found by looking at all. What takes the time is waiting for the table
// of merges: so several pieces are merged in turns, each asking for the memory of its next turn.
void BpeModel::StartMerging(std::string_view piece, BpeScratch& scratch, size_t work) const {
  PushSymbols(piece, scratch);
  BpeScratch::Work& w = scratch.works[work];
  w.count = static_cast<int32_t>(scratch.symbols.size());
  w.best = 0;
  w.first = true;
  BpeScratch::Pair* pairs = &scratch.pairs[work * kShort];
  size_t byte = 0;
  for (int32_t i = 0; i < w.count; byte += scratch.symbols[i++].bytes) {
    const BpeScratch::Symbol& symbol = scratch.symbols[i];
    pairs[i] = {symbol.id, symbol.bytes, kNoRank};
    if (i + 1 == w.count) break;
    const int32_t right = scratch.symbols[i + 1].id;
    // Two characters of one byte need no search.
    const auto a = static_cast<uint8_t>(piece[byte]);
    const auto b = static_cast<uint8_t>(piece[std::min(byte + 1, piece.size() - 1)]);
    if (a < 128 && b < 128 && symbol.id == CharacterId(a) && right == CharacterId(b)) {
      pairs[i].rank = first_merges_[a * kNear + b];
    } else {
      pairs[i].rank = kUnknownRank;
      __builtin_prefetch(&merges_[MergeSlot(symbol.id, right)]);
    }
  }
}

void BpeModel::MergeTogether(BpeScratch& scratch, size_t works) const {
  for (size_t left = works; left > 0;) {
    // What was asked for is there: the next merge of each piece.
    for (size_t k = 0; k < works; ++k) {
      BpeScratch::Work& w = scratch.works[k];
      if (w.best < 0) continue;
      BpeScratch::Pair* pairs = &scratch.pairs[k * kShort];
      const int32_t last = w.count - 1;
      if (w.first) {
        w.first = false;
        for (int32_t i = 0; i < last; ++i) {
          if (pairs[i].rank == kUnknownRank) {
            pairs[i].rank = FindMerge(pairs[i].id, pairs[i + 1].id);
          }
        }
      } else {
        const int32_t i = w.best;
        if (i > 0) pairs[i - 1].rank = FindMerge(pairs[i - 1].id, pairs[i].id, w.wanted[0]);
        if (i < last) pairs[i].rank = FindMerge(pairs[i].id, pairs[i + 1].id, w.wanted[1]);
      }
      int32_t best = 0;
      for (int32_t i = 1; i < last; ++i) {
        if (pairs[i].rank < pairs[best].rank) best = i;
      }
      w.best = last > 0 && pairs[best].rank != kNoRank ? best : -1;
      if (w.best < 0) {
        --left;
      } else {
        __builtin_prefetch(&merged_[pairs[best].rank]);
      }
    }
    // The merges, and what will be asked next.
    for (size_t k = 0; k < works; ++k) {
      BpeScratch::Work& w = scratch.works[k];
      if (w.best < 0) continue;
      BpeScratch::Pair* pairs = &scratch.pairs[k * kShort];
      const int32_t i = w.best;
      pairs[i].id = merged_[pairs[i].rank];
      pairs[i].bytes += pairs[i + 1].bytes;
      --w.count;
      for (int32_t j = i + 1; j < w.count; ++j) pairs[j] = pairs[j + 1];
      pairs[w.count - 1].rank = kNoRank;
      if (i > 0) {
        w.wanted[0] = MergeSlot(pairs[i - 1].id, pairs[i].id);
        __builtin_prefetch(&merges_[w.wanted[0]]);
      }
      if (i + 1 < w.count) {
        w.wanted[1] = MergeSlot(pairs[i].id, pairs[i + 1].id);
        __builtin_prefetch(&merges_[w.wanted[1]]);
      }
    }
  }
}

// The same by a heap of candidates over a linked list.
void BpeModel::MergePiece(std::string_view piece, BpeScratch& scratch) const {
  PushSymbols(piece, scratch);
  auto& symbols = scratch.symbols;
  auto& heap = scratch.heap;
  heap.clear();
  const auto later = [](const BpeScratch::Candidate& a, const BpeScratch::Candidate& b) {
    return a.order > b.order;
  };
  const auto candidate = [&](int32_t position) {
    const BpeScratch::Symbol& left = symbols[position];
    if (left.next < 0) return false;
    const uint32_t rank = FindMerge(left.id, symbols[left.next].id);
    if (rank == kNoRank) return false;
    heap.push_back(
        {static_cast<uint64_t>(rank) << 32 | static_cast<uint32_t>(position), merged_[rank]});
    return true;
  };
  for (size_t i = 0; i + 1 < symbols.size(); ++i) candidate(static_cast<int32_t>(i));
  std::make_heap(heap.begin(), heap.end(), later);
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), later);
    const BpeScratch::Candidate top = heap.back();
    heap.pop_back();
    const auto position = static_cast<int32_t>(top.order & 0xffffffff);
    BpeScratch::Symbol& left = symbols[position];
    if (left.bytes == 0 || left.next < 0) continue;
    BpeScratch::Symbol& right = symbols[left.next];
    // An outdated candidate is one whose symbols do not make its token any more; like Hugging Face,
    // one that makes the same token of other parts still counts.
    const uint32_t rank = FindMerge(left.id, right.id);
    if (rank == kNoRank || merged_[rank] != top.id) continue;
    left.id = top.id;
    left.bytes += right.bytes;
    right.bytes = 0;
    left.next = right.next;
    if (left.next >= 0) symbols[left.next].previous = position;
    if (left.previous >= 0 && candidate(left.previous)) {
      std::push_heap(heap.begin(), heap.end(), later);
    }
    if (candidate(position)) std::push_heap(heap.begin(), heap.end(), later);
  }
}

}  // namespace lapidary
