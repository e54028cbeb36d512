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
constexpr size_t kCacheSlots = 1 << 15;
constexpr size_t kCacheBytes = 46;  // longest piece kept: a word of 15 three-byte characters
constexpr size_t kCacheIds = 12;

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

struct BpeScratch::Cached {
  uint64_t hash = 0;
  uint8_t bytes = 0;  // 0: empty slot
  uint8_t count = 0;
  char text[kCacheBytes];
  uint8_t id_bytes[kCacheIds];
  int32_t ids[kCacheIds];
};

BpeScratch::BpeScratch() : cache(kCacheSlots) {}
BpeScratch::~BpeScratch() = default;

BpeModel::BpeModel(const std::vector<std::string>& tokens, const TokenIndex& index,
                   const std::vector<std::pair<std::string, std::string>>& merges,
                   bool byte_fallback, const std::optional<std::string>& unk, bool fuse_unk)
    : fuse_unk_(fuse_unk), near_(kNear * kNear, false) {
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
    if (token.empty() || token.size() > 4) continue;
    const CodePoint c = DecodeUtf8(token.data(), token.size());
    if (c.value < kInvalidByte && c.length == static_cast<int>(token.size())) {
      character_ids_[c.value] = static_cast<int32_t>(id) + 1;
    }
  }
  // A run of unknown characters is one <unk>, and byte tokens that merge would span any place: then
  // nothing is cut.
  cut_ = all_bytes_ || !fuse_unk;
  merges_.assign(TableSize(merges.size()), Merge{kNone, 0, 0});
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
    AddMerge(static_cast<uint64_t>(l) << 32 | static_cast<uint32_t>(r), static_cast<uint32_t>(rank),
             id);
    AddBigrams(whole);
  }
}

void BpeModel::AddMerge(uint64_t pair, uint32_t rank, int32_t id) {
  uint64_t slot = Mix(pair) & merge_mask_;
  while (merges_[slot].pair != kNone && merges_[slot].pair != pair) slot = (slot + 1) & merge_mask_;
  merges_[slot] = {pair, rank, id};  // of two equal merges the later counts, as in Hugging Face
}

const BpeModel::Merge* BpeModel::FindMerge(int32_t left, int32_t right) const {
  const uint64_t pair = static_cast<uint64_t>(left) << 32 | static_cast<uint32_t>(right);
  for (uint64_t slot = Mix(pair) & merge_mask_;; slot = (slot + 1) & merge_mask_) {
    if (merges_[slot].pair == pair) return &merges_[slot];
    if (merges_[slot].pair == kNone) return nullptr;
  }
}

void BpeModel::AddBigrams(std::string_view token) {
  uint32_t previous = 0;
  for (size_t i = 0; i < token.size();) {
    const CodePoint c = DecodeUtf8(token.data() + i, token.size() - i);
    if (i > 0) {
      const int a = NearIndex(previous), b = NearIndex(c.value);
      if (a >= 0 && b >= 0) {
        near_[a * kNear + b] = true;
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
  if (a >= 0 && b >= 0) return near_[a * kNear + b];
  const uint64_t key = static_cast<uint64_t>(left) << 32 | right;
  for (uint64_t slot = Mix(key) & far_mask_;; slot = (slot + 1) & far_mask_) {
    if (far_[slot] == key) return true;
    if (far_[slot] == kNone) return false;
  }
}

int32_t BpeModel::CharacterId(uint32_t value) const {
  return value < kInvalidByte ? character_ids_[value] - 1 : -1;
}

void BpeModel::Encode(std::string_view text, BpeScratch& scratch, BpeOutput& out) const {
  if (!cut_) {
    EncodePiece(text, scratch, out);
    return;
  }
  size_t begin = 0;
  uint32_t previous = 0;
  for (size_t i = 0; i < text.size();) {
    const auto lead = static_cast<uint8_t>(text[i]);
    const CodePoint c =
        lead < 0x80 ? CodePoint{lead, 1} : DecodeUtf8(text.data() + i, text.size() - i);
    if (i > begin && !Joins(previous, c.value)) {
      EncodePiece(text.substr(begin, i - begin), scratch, out);
      begin = i;
    }
    previous = c.value;
    i += c.length;
  }
  if (begin < text.size()) EncodePiece(text.substr(begin), scratch, out);
}

void BpeModel::EncodePiece(std::string_view piece, BpeScratch& scratch, BpeOutput& out) const {
  BpeScratch::Cached* cached = nullptr;
  uint64_t hash = 0;
  if (piece.size() <= kCacheBytes) {
    hash = HashBytes(piece.data(), piece.size());
    cached = &scratch.cache[hash & (kCacheSlots - 1)];
    if (cached->hash == hash && cached->bytes == piece.size() && !piece.empty() &&
        std::memcmp(cached->text, piece.data(), piece.size()) == 0) {
      out.ids.insert(out.ids.end(), cached->ids, cached->ids + cached->count);
      out.bytes.insert(out.bytes.end(), cached->id_bytes, cached->id_bytes + cached->count);
      return;
    }
  }
  MergePiece(piece, scratch);
  const size_t first = out.ids.size();
  for (const BpeScratch::Symbol& symbol : scratch.symbols) {
    if (symbol.bytes == 0) continue;
    out.ids.push_back(symbol.id);
    out.bytes.push_back(symbol.bytes);
  }
  const size_t count = out.ids.size() - first;
  if (cached != nullptr && !piece.empty() && count <= kCacheIds) {
    cached->hash = hash;
    cached->bytes = static_cast<uint8_t>(piece.size());
    cached->count = static_cast<uint8_t>(count);
    std::memcpy(cached->text, piece.data(), piece.size());
    for (size_t i = 0; i < count; ++i) {
      cached->ids[i] = out.ids[first + i];
      cached->id_bytes[i] = static_cast<uint8_t>(out.bytes[first + i]);
    }
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

// Merges the adjacent pair of lowest rank, leftmost first, until none is left: a heap of candidates
// over a linked list.
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
    const Merge* merge = FindMerge(left.id, symbols[left.next].id);
    if (merge == nullptr) return false;
    heap.push_back(
        {static_cast<uint64_t>(merge->rank) << 32 | static_cast<uint32_t>(position), merge->id});
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
    const Merge* merge = FindMerge(left.id, right.id);
    if (merge == nullptr || merge->id != top.id) continue;
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
