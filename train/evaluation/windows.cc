#include "train/evaluation/windows.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "autograd/base/error.h"
#include "autograd/base/file.h"

namespace lapidary {
namespace {

constexpr uint64_t kTextLimit = uint64_t{1} << 32;

void CheckWindow(const WindowOptions& o, int64_t tokens, const std::string& where) {
  LAPIDARY_CHECK(o.window >= 4, "--ppl-window: must be at least 4 tokens; got ", o.window);
  LAPIDARY_CHECK(o.stride >= 0 && o.stride < o.window,
                 "--ppl-stride: must be from 0 to less than the window of ", o.window, "; got ",
                 o.stride);
  LAPIDARY_CHECK(tokens / 2 >= o.window, where, ": must have at least two windows of ", o.window,
                 " tokens; got ", tokens, " tokens; try a smaller --ppl-window");
}

}  // namespace

Sequences WindowSequences(const std::vector<int32_t>& ids, const WindowOptions& options,
                          const std::string& where) {
  const int64_t tokens = static_cast<int64_t>(ids.size());
  CheckWindow(options, tokens, where);
  const int64_t window = options.window, stride = options.stride;
  const int64_t step = stride > 0 ? stride : window;
  const int64_t count = stride > 0 ? (tokens - window + stride - 1) / stride : tokens / window;
  // The first scored target, counted from the window's start.
  const int64_t scored = stride > 0 ? window - stride : window / 2 + 1;
  Sequences sequences;
  // Strided windows may reach beyond the end: the last ones are the last whole windows then.
  std::vector<int64_t> begins;
  for (int64_t i = 0; i < count && i * step + window <= tokens; ++i) begins.push_back(i * step);
  sequences.lengths.assign(begins.size(), window);
  const auto run = std::make_shared<const std::vector<int32_t>>(ids);
  sequences.get = [=](int64_t index) {
    const int64_t begin = begins[static_cast<size_t>(index)];
    Sample sample;
    sample.ids.assign(run->begin() + begin, run->begin() + begin + window);
    if (options.bos >= 0 && stride == 0) sample.ids[0] = options.bos;
    sample.weights.assign(static_cast<size_t>(window), 0.0f);
    std::fill(sample.weights.begin() + scored, sample.weights.end(), 1.0f);
    sample.types.assign(static_cast<size_t>(window), kTextToken);
    sample.where = StrCat(where, " window ", index);
    return MakeBatch(sample);
  };
  return sequences;
}

Sequences JoinSequences(std::vector<Sequences> parts) {
  Sequences all;
  std::vector<std::pair<size_t, int64_t>> places;  // part, index in it
  for (size_t p = 0; p < parts.size(); ++p) {
    for (size_t i = 0; i < parts[p].lengths.size(); ++i) {
      places.emplace_back(p, static_cast<int64_t>(i));
      all.lengths.push_back(parts[p].lengths[i]);
    }
    all.skipped += parts[p].skipped;
  }
  all.get = [parts = std::move(parts), places = std::move(places)](int64_t index) {
    const auto& [part, at] = places[static_cast<size_t>(index)];
    return parts[part].get(at);
  };
  return all;
}

std::vector<int32_t> ReadTextRun(const std::string& path, const Tokenizer& tokenizer,
                                 int32_t* bos) {
  *bos = tokenizer.Find("<bos>").value_or(-1);
  std::vector<int32_t> ids = tokenizer.Encode(
      ReadFile(path, kTextLimit), EncodeOptions{.add_special_tokens = false, .parse_added = false});
  if (*bos >= 0) ids.insert(ids.begin(), *bos);
  return ids;
}

}  // namespace lapidary
