// Where a sample that is too long may be cut, and cutting it. For .cc files of data/.
#ifndef LAPIDARY_DATA_SAMPLE_CUT_H_
#define LAPIDARY_DATA_SAMPLE_CUT_H_

#include <cstdint>
#include <vector>

#include "data/record.h"
#include "data/sample.h"

namespace lapidary {

// Where things stand in the tokens of a sample.
struct SampleLayout {
  struct Item {  // tokens [begin, end) of one medium, its marks included
    int64_t begin = 0;
    int64_t end = 0;
    MediaKind kind = MediaKind::kImage;
  };
  struct Turn {  // where a turn begins
    int64_t begin = 0;
    bool user = false;
  };
  std::vector<Item> items;
  std::vector<Turn> turns;  // of a conversation, without the system turn in front
};

// Tokens [0, prefix) and [begin, end).
struct SampleSlice {
  int64_t prefix = 0;
  int64_t begin = 0;
  int64_t end = 0;
};

// One slice of at most `limit` tokens that cuts no item.
std::vector<SampleSlice> TruncateSlices(int64_t limit, const SampleLayout& layout);
// The same at the beginning of a turn; at a token where there is no turn (raw text) or the first
// one does not fit.
std::vector<SampleSlice> CutSlices(int64_t size, int64_t limit, const SampleLayout& layout);
// Slices of at most `limit` tokens that together hold the sample (OnTooLong::kSplit). Fewer tokens
// only where a single exchange or medium is longer than the limit: its end is left out.
std::vector<SampleSlice> SplitSlices(int64_t size, int64_t limit, const SampleLayout& layout);

Sample TakeSlice(const Sample& sample, const SampleLayout& layout, const SampleSlice& slice);

}  // namespace lapidary

#endif  // LAPIDARY_DATA_SAMPLE_CUT_H_
