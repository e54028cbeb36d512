#include "data/sample_cut.h"

#include <algorithm>

namespace lapidary {
namespace {

// The last cut at or before `cut` that is inside no item.
int64_t OutsideItems(int64_t cut, const SampleLayout& layout) {
  for (const SampleLayout::Item& item : layout.items) {
    if (item.begin < cut && cut < item.end) cut = item.begin;
  }
  return cut;
}

// Pieces of raw text.
std::vector<SampleSlice> Pieces(int64_t size, int64_t limit, const SampleLayout& layout) {
  std::vector<SampleSlice> slices;
  for (int64_t begin = 0; begin < size;) {
    int64_t end = OutsideItems(std::min(begin + limit, size), layout);
    if (end > begin) {
      slices.push_back({0, begin, end});
      begin = end;
      continue;
    }
    // A medium that no piece can hold.
    for (const SampleLayout::Item& item : layout.items) {
      if (item.begin == begin) end = item.end;
    }
    begin = end;
  }
  return slices;
}

void TakeRows(const MediaRows& from, int64_t begin, int64_t end, int64_t shift, MediaRows& to) {
  const auto place = [&](int64_t token) {
    return std::lower_bound(from.places.begin(), from.places.end(), token) - from.places.begin();
  };
  const int64_t first = place(begin), last = place(end);
  to.features = from.features;
  if (!from.rows.empty()) {
    to.rows.insert(to.rows.end(), from.rows.begin() + first * from.features,
                   from.rows.begin() + last * from.features);
  }
  if (!from.positions.empty()) {
    to.positions.insert(to.positions.end(), from.positions.begin() + first * 2,
                        from.positions.begin() + last * 2);
  }
  for (int64_t r = first; r < last; ++r) to.places.push_back(from.places[r] + shift);
}

}  // namespace

std::vector<SampleSlice> TruncateSlices(int64_t limit, const SampleLayout& layout) {
  return {{0, 0, OutsideItems(limit, layout)}};
}

std::vector<SampleSlice> CutSlices(int64_t size, int64_t limit, const SampleLayout& layout) {
  int64_t cut = 0;
  for (size_t t = 1; t < layout.turns.size(); ++t) {
    const int64_t begin = layout.turns[t].begin;
    if (begin <= std::min(limit, size)) cut = begin;
  }
  // At least an exchange, or the cut would leave a bare question.
  const bool answered = cut > 0 && layout.turns.size() > 2 && cut >= layout.turns[2].begin;
  return answered ? std::vector<SampleSlice>{{0, 0, cut}} : TruncateSlices(limit, layout);
}

std::vector<SampleSlice> SplitSlices(int64_t size, int64_t limit, const SampleLayout& layout) {
  if (layout.turns.empty()) return Pieces(size, limit, layout);
  const int64_t prefix = layout.turns[0].begin;
  std::vector<int64_t> exchanges = {prefix};  // where a user's turn begins
  for (size_t t = 1; t < layout.turns.size(); ++t) {
    if (layout.turns[t].user) exchanges.push_back(layout.turns[t].begin);
  }
  exchanges.push_back(size);
  std::vector<SampleSlice> slices;
  for (size_t e = 0; e + 1 < exchanges.size();) {
    const int64_t begin = exchanges[e], room = limit - prefix;
    size_t next = e + 1;
    while (next + 1 < exchanges.size() && exchanges[next + 1] - begin <= room) ++next;
    const int64_t end = OutsideItems(std::min(exchanges[next], begin + room), layout);
    if (end > begin) slices.push_back({prefix, begin, end});
    e = next;
  }
  return slices;
}

Sample TakeSlice(const Sample& sample, const SampleLayout& layout, const SampleSlice& slice) {
  Sample part;
  part.where = sample.where;
  part.dropped_thoughts = slice.begin <= slice.prefix ? sample.dropped_thoughts : 0;
  const auto take = [&](int64_t begin, int64_t end) {
    const int64_t shift = part.size() - begin;
    TakeRows(sample.vision, begin, end, shift, part.vision);
    TakeRows(sample.audio, begin, end, shift, part.audio);
    part.ids.insert(part.ids.end(), sample.ids.begin() + begin, sample.ids.begin() + end);
    part.weights.insert(part.weights.end(), sample.weights.begin() + begin,
                        sample.weights.begin() + end);
    part.types.insert(part.types.end(), sample.types.begin() + begin, sample.types.begin() + end);
    for (const SampleLayout::Item& item : layout.items) {
      if (item.begin < begin || item.end > end) continue;
      (item.kind == MediaKind::kImage   ? part.images
       : item.kind == MediaKind::kAudio ? part.sounds
                                        : part.videos) += 1;
    }
  };
  if (slice.begin > slice.prefix) take(0, slice.prefix);
  take(slice.begin > slice.prefix ? slice.begin : 0, slice.end);
  return part;
}

}  // namespace lapidary
