#include "train/export/merge_report.h"

#include <algorithm>
#include <cmath>

#include "autograd/base/float16.h"

namespace lapidary {

void MergeSums::Add(const MergeSums& other) {
  base += other.base;
  delta += other.delta;
  kept += other.kept;
}

double MergeSums::relative() const { return base > 0 ? std::sqrt(delta / base) : 0; }

double MergeSums::swallowed() const { return delta > 0 ? std::max(0.0, 1 - kept / delta) : 0; }

MergeSums SumRow(const float* before, const float* after, int64_t n) {
  // Lanes in float over short blocks, blocks in double: fixed order, and the loop vectorizes.
  constexpr int kLanes = 16;
  MergeSums sums;
  for (int64_t begin = 0; begin < n; begin += 1024) {
    const int64_t end = std::min(n, begin + 1024);
    float base[kLanes] = {}, delta[kLanes] = {}, kept[kLanes] = {};
    for (int64_t i = begin; i < end; ++i) {
      const int lane = static_cast<int>(i % kLanes);
      const float w = before[i], d = after[i] - w;
      base[lane] += w * w;
      delta[lane] += d * d;
      kept[lane] += d * (RoundToBf16(after[i]) - w);
    }
    for (int lane = 0; lane < kLanes; ++lane) {
      sums.base += static_cast<double>(base[lane]);
      sums.delta += static_cast<double>(delta[lane]);
      sums.kept += static_cast<double>(kept[lane]);
    }
  }
  return sums;
}

MergeSums MergeReport::all() const {
  MergeSums sums;
  for (const auto& [kind, part] : kinds) sums.Add(part);
  return sums;
}

std::string TensorKind(const std::string& name) {
  const size_t end = name.rfind('.');
  if (end == std::string::npos) return name;
  const size_t begin = name.rfind('.', end - 1);
  return begin == std::string::npos ? name.substr(0, end) : name.substr(begin + 1, end - begin - 1);
}

}  // namespace lapidary
