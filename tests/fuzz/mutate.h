// Seeded mutation of a valid file for fuzz tests: the same seed and iteration give the same bytes,
// so a finding is replayed by its number. LAPIDARY_FUZZ_ITERATIONS sets the number of iterations
// (default 20,000).
#ifndef LAPIDARY_TESTS_FUZZ_MUTATE_H_
#define LAPIDARY_TESTS_FUZZ_MUTATE_H_

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>

#include "autograd/base/random.h"

namespace lapidary::fuzz {

inline int64_t Iterations() {
  const char* text = std::getenv("LAPIDARY_FUZZ_ITERATIONS");
  return text && *text ? std::atoll(text) : 20000;
}

// One to eight edits of `bytes`: flips, random and telling values, removals, repetitions,
// insertions, cuts. Half of the edits go to the first `head` bytes, where the lengths are.
class Mutator {
 public:
  Mutator(uint64_t seed, uint64_t iteration) : key_{seed, iteration, 0} {}

  std::string operator()(std::string bytes, uint64_t head) {
    for (uint64_t edits = 1 + Below(8); edits > 0; --edits) Edit(bytes, head);
    return bytes;
  }

  // Uniform in [0, bound).
  uint64_t Below(uint64_t bound) { return bound == 0 ? 0 : RandomBelow(key_, index_++, bound); }

 private:
  uint64_t Place(const std::string& bytes, uint64_t head) {
    return Below(Below(2) == 0 && head < bytes.size() ? head : bytes.size());
  }

  void Edit(std::string& bytes, uint64_t head) {
    if (bytes.empty()) {
      bytes.push_back(static_cast<char>(Below(256)));
      return;
    }
    const uint64_t at = Place(bytes, head);
    const uint64_t span = 1 + Below(std::min<uint64_t>(16, bytes.size() - at));
    switch (Below(9)) {
      case 0:
        bytes[at] = static_cast<char>(bytes[at] ^ (1 << Below(8)));
        break;
      case 1:
        bytes[at] = static_cast<char>(Below(256));
        break;
      case 2: {
        static constexpr uint64_t kTelling[] = {0,
                                                1,
                                                2,
                                                3,
                                                4,
                                                8,
                                                9,
                                                31,
                                                32,
                                                63,
                                                64,
                                                0x7f,
                                                0x80,
                                                0xff,
                                                0x7fff,
                                                0xffff,
                                                0x7fffffff,
                                                0x80000000,
                                                0xffffffff,
                                                uint64_t{1} << 32,
                                                uint64_t{1} << 62,
                                                ~uint64_t{0} >> 1,
                                                uint64_t{1} << 63,
                                                ~uint64_t{0},
                                                ~uint64_t{0} - 7};
        const uint64_t value = kTelling[Below(std::size(kTelling))];
        const uint64_t width = uint64_t{1} << Below(4);
        std::memcpy(&bytes[at], &value, std::min<uint64_t>(width, bytes.size() - at));
        break;
      }
      case 3:
        bytes.erase(at, span);
        break;
      case 4:
        bytes.insert(at, bytes.substr(Below(bytes.size()), span));
        break;
      case 5:
        for (uint64_t i = 0; i < span; ++i) bytes[at + i] = static_cast<char>(Below(256));
        break;
      case 6:
        bytes.insert(at, 1, "0123456789-{}[]\",:.eE\\ntu\xff"[Below(26)]);
        break;
      case 7:  // a digit or letter becomes another: lengths, offsets and names in text
        if (bytes[at] >= '0' && bytes[at] <= '9') bytes[at] = static_cast<char>('0' + Below(10));
        break;
      default:
        if (Below(4) == 0) bytes.resize(at);
        break;
    }
  }

  RandomKey key_;
  uint64_t index_ = 0;
};

}  // namespace lapidary::fuzz

#endif  // LAPIDARY_TESTS_FUZZ_MUTATE_H_
