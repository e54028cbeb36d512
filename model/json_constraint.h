// Constrained output: which ids of a vocabulary can come next so that the answer becomes JSON that
// a grammar accepts. Masks are found by walking the pieces of the vocabulary in alphabetical order,
// so that common beginnings are read once, and kept for every state of the grammar.
#ifndef LAPIDARY_MODEL_JSON_CONSTRAINT_H_
#define LAPIDARY_MODEL_JSON_CONSTRAINT_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "model/generate.h"
#include "model/json_grammar.h"

namespace lapidary {

// The bytes of every id, sorted. Built once for a tokenizer. Const and thread-safe.
class PieceTable {
 public:
  // `pieces` by id; an empty one never comes.
  explicit PieceTable(const std::vector<std::string>& pieces);

  struct Entry {
    std::string bytes;
    int32_t id = 0;
    uint32_t common = 0;  // bytes that it has in common with the entry before it
  };
  const std::vector<Entry>& entries() const { return entries_; }
  int64_t ids() const { return static_cast<int64_t>(by_id_.size()); }
  const std::string& bytes(int32_t id) const { return by_id_[static_cast<size_t>(id)]; }

 private:
  std::vector<Entry> entries_;
  std::vector<std::string> by_id_;
};

class JsonConstraint : public TokenConstraint {
 public:
  // `stop_ids` may come where the text is complete, and only there. The table must outlive this.
  JsonConstraint(JsonGrammar grammar, const PieceTable& pieces, std::vector<int32_t> stop_ids);

  void Mask(float* logits, int64_t n) override;
  void Accept(int32_t id) override;
  // Whether what was accepted is a whole text.
  bool complete() const;

 private:
  using Thread = JsonGrammar::Thread;
  using Bits = std::vector<uint64_t>;  // bit id % 64 of word id / 64
  // From one step inside a string: ids that stay inside, and ids that leave it, with the bytes that
  // follow the closing quote.
  struct StringPart {
    Bits inside;
    std::vector<std::pair<int32_t, std::string>> leaving;
  };
  const Bits& MaskOf(const Thread& thread);
  void Walk(const Thread& thread, Bits* bits) const;
  void WalkString(const Thread& thread, Bits* bits);
  const StringPart& StringPartOf(int step);
  void Advance(const std::string& bytes, std::vector<Thread>* threads) const;

  const JsonGrammar grammar_;
  const PieceTable& pieces_;
  const std::vector<int32_t> stop_ids_;
  std::vector<Thread> threads_;
  bool ended_ = false;                 // by a stop id
  std::map<std::string, Bits> masks_;  // by the bytes of a thread
  std::map<int, StringPart> strings_;
};

}  // namespace lapidary

#endif  // LAPIDARY_MODEL_JSON_CONSTRAINT_H_
