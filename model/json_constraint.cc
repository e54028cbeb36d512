#include "model/json_constraint.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "autograd/base/error.h"

namespace lapidary {
namespace {

constexpr size_t kMaxMasks = 512;  // of 32 kB each at 262,144 ids

void SetBit(std::vector<uint64_t>* bits, int32_t id) {
  (*bits)[static_cast<size_t>(id) / 64] |= uint64_t{1} << (id % 64);
}

std::string KeyOf(const JsonGrammar::Thread& thread) {
  return std::string(reinterpret_cast<const char*>(thread.data()),
                     thread.size() * sizeof(JsonGrammar::Frame));
}

}  // namespace

PieceTable::PieceTable(const std::vector<std::string>& pieces) : by_id_(pieces) {
  for (size_t id = 0; id < pieces.size(); ++id) {
    if (!pieces[id].empty()) entries_.push_back({pieces[id], static_cast<int32_t>(id), 0});
  }
  std::sort(entries_.begin(), entries_.end(), [](const Entry& a, const Entry& b) {
    return a.bytes != b.bytes ? a.bytes < b.bytes : a.id < b.id;
  });
  for (size_t i = 1; i < entries_.size(); ++i) {
    const std::string &a = entries_[i - 1].bytes, &b = entries_[i].bytes;
    const size_t most = std::min(a.size(), b.size());
    entries_[i].common = static_cast<uint32_t>(
        std::mismatch(a.begin(), a.begin() + static_cast<int64_t>(most), b.begin()).first -
        a.begin());
  }
}

JsonConstraint::JsonConstraint(JsonGrammar grammar, const PieceTable& pieces,
                               std::vector<int32_t> stop_ids)
    : grammar_(std::move(grammar)),
      pieces_(pieces),
      stop_ids_(std::move(stop_ids)),
      threads_{grammar_.Start()} {}

bool JsonConstraint::complete() const {
  return std::any_of(threads_.begin(), threads_.end(),
                     [&](const Thread& t) { return grammar_.Complete(t); });
}

void JsonConstraint::Advance(const std::string& bytes, std::vector<Thread>* threads) const {
  std::vector<Thread> next;
  for (const char c : bytes) {
    next.clear();
    for (const Thread& t : *threads) grammar_.Step(t, static_cast<uint8_t>(c), &next);
    threads->swap(next);
    if (threads->empty()) return;
  }
}

void JsonConstraint::Accept(int32_t id) {
  LAPIDARY_CHECK(!ended_, "constrained output: must end at a stop id; got another token");
  if (std::find(stop_ids_.begin(), stop_ids_.end(), id) != stop_ids_.end()) {
    LAPIDARY_CHECK(complete(), "constrained output: must be complete at its end; got a stop id");
    ended_ = true;
    return;
  }
  LAPIDARY_CHECK(id >= 0 && id < pieces_.ids() && !pieces_.bytes(id).empty(),
                 "constrained output: ids must have text; got ", id);
  Advance(pieces_.bytes(id), &threads_);
  LAPIDARY_CHECK(!threads_.empty(), "constrained output: a token must fit the grammar; got ", id);
  std::sort(threads_.begin(), threads_.end(),
            [](const Thread& a, const Thread& b) { return KeyOf(a) < KeyOf(b); });
  threads_.erase(std::unique(threads_.begin(), threads_.end()), threads_.end());
}

// Pieces in order, with the threads after each of their bytes; what fails at a byte is passed over
// with all that begins the same way.
void JsonConstraint::Walk(const Thread& thread, Bits* bits) const {
  std::vector<std::vector<Thread>> at = {{thread}};  // after so many bytes
  size_t alive = 0;                                  // bytes of the last piece that were read
  bool failed = false;                               // at the byte behind them
  for (const PieceTable::Entry& e : pieces_.entries()) {
    if (failed && e.common > alive) continue;
    alive = std::min<size_t>(alive, e.common);
    failed = false;
    while (alive < e.bytes.size()) {
      if (at.size() < alive + 2) at.emplace_back();
      std::vector<Thread>& next = at[alive + 1];
      next.clear();
      for (const Thread& t : at[alive])
        grammar_.Step(t, static_cast<uint8_t>(e.bytes[alive]), &next);
      if (next.empty()) {
        failed = true;
        break;
      }
      ++alive;
    }
    if (!failed) SetBit(bits, e.id);
  }
}

const JsonConstraint::StringPart& JsonConstraint::StringPartOf(int step) {
  const auto found = strings_.find(step);
  if (found != strings_.end()) return found->second;
  StringPart part;
  part.inside.resize(static_cast<size_t>(pieces_.ids() + 63) / 64);
  std::vector<int> at = {step};
  for (const PieceTable::Entry& e : pieces_.entries()) {
    at.resize(std::min<size_t>(at.size(), e.common + 1));
    for (size_t i = at.size() - 1; i < e.bytes.size() && at.back() < JsonGrammar::kStringClosed;
         ++i)
      at.push_back(JsonGrammar::StringStep(at.back(), static_cast<uint8_t>(e.bytes[i])));
    if (at.back() == JsonGrammar::kStringClosed) {
      part.leaving.emplace_back(e.id, e.bytes.substr(at.size() - 1));
    } else if (at.back() != JsonGrammar::kStringBroken) {
      SetBit(&part.inside, e.id);
    }
  }
  return strings_.emplace(step, std::move(part)).first->second;
}

void JsonConstraint::WalkString(const Thread& thread, Bits* bits) {
  const StringPart& part = StringPartOf(thread.back().step);
  *bits = part.inside;
  const Thread outside(thread.begin(), thread.end() - 1);
  std::map<std::string, bool> fits;  // what follows the quote
  for (const auto& [id, rest] : part.leaving) {
    const auto [it, fresh] = fits.try_emplace(rest, false);
    if (fresh) {
      std::vector<Thread> threads = {outside};
      Advance(rest, &threads);
      it->second = !threads.empty();
    }
    if (it->second) SetBit(bits, id);
  }
}

const JsonConstraint::Bits& JsonConstraint::MaskOf(const Thread& thread) {
  const std::string key = KeyOf(thread);
  const auto found = masks_.find(key);
  if (found != masks_.end()) return found->second;
  if (masks_.size() >= kMaxMasks) masks_.clear();
  Bits bits(static_cast<size_t>(pieces_.ids() + 63) / 64);
  if (grammar_.InString(thread)) {
    WalkString(thread, &bits);
  } else if (!thread.empty()) {
    Walk(thread, &bits);
  }
  return masks_.emplace(key, std::move(bits)).first->second;
}

void JsonConstraint::Mask(float* logits, int64_t n) {
  Bits allowed(static_cast<size_t>(std::max(n, pieces_.ids()) + 63) / 64);
  for (const Thread& thread : threads_) {
    const Bits& bits = MaskOf(thread);
    for (size_t w = 0; w < bits.size(); ++w) allowed[w] |= bits[w];
  }
  // An id that ends the answer does nothing else.
  for (const int32_t id : stop_ids_) {
    if (id < 0 || id >= n) continue;
    allowed[static_cast<size_t>(id) / 64] &= ~(uint64_t{1} << (id % 64));
    if (complete()) SetBit(&allowed, id);
  }
  bool any = false;
  for (int64_t id = 0; id < n; ++id) {
    if (allowed[static_cast<size_t>(id) / 64] >> (id % 64) & 1) {
      any = any || std::isfinite(logits[id]);
    } else {
      logits[id] = -std::numeric_limits<float>::infinity();
    }
  }
  LAPIDARY_CHECK(any,
                 "constrained output: the vocabulary must have a token that can come next; "
                 "got none; try another schema, or a tokenizer with byte tokens");
}

}  // namespace lapidary
