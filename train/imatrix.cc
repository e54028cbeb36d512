#include "train/imatrix.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <span>
#include <unordered_map>

#include "autograd/base/error.h"
#include "autograd/base/parallel.h"
#include "model/gguf_names.h"
#include "train/micro_batch.h"

namespace lapidary {
namespace {

// The sums of one input, which several matrices share.
struct InputSums {
  std::vector<std::string> names;  // GGUF
  std::vector<double> squares;     // by column
  int64_t count = 0;
};

class Collector {
 public:
  void Add(std::span<Linear* const> linears, const Tensor& x) {
    InputSums& sums = Of(linears, x.shape()[1]);
    if (sums.names.empty()) return;
    const int64_t rows = x.shape()[0], cols = x.shape()[1];
    LAPIDARY_CHECK(static_cast<int64_t>(sums.squares.size()) == cols, linears[0]->path,
                   ": inputs must have ", sums.squares.size(), " columns; got ", cols);
    // Threads own columns: every column is summed token after token.
    constexpr int64_t kColumns = 64;
    ParallelFor(
        cols,
        [&](Range r) {
          double* to = sums.squares.data();
          for (int64_t t = 0; t < rows; ++t) {
            const float* row = x.data() + t * cols;
            for (int64_t c = r.begin; c < r.end; ++c)
              to[c] += static_cast<double>(row[c]) * static_cast<double>(row[c]);
          }
        },
        kColumns);
    sums.count += rows;
  }

  ImportanceMatrix Result() const {
    ImportanceMatrix matrix;
    for (const auto& [linear, sums] : sums_) {
      ImportanceEntry entry;
      entry.counts = {sums.count};
      for (const double square : sums.squares) {
        entry.sums.push_back(static_cast<float>(square));
        LAPIDARY_CHECK(std::isfinite(entry.sums.back()), linear->path,
                       ": inputs must be finite; got ", square,
                       " as a sum of squares; try `lapidary inspect` on the model");
      }
      for (const std::string& name : sums.names) matrix.entries[name] = entry;
    }
    return matrix;
  }

 private:
  InputSums& Of(std::span<Linear* const> linears, int64_t cols) {
    const auto [found, is_new] = sums_.try_emplace(linears[0]);
    InputSums& sums = found->second;
    if (!is_new) return sums;
    for (const Linear* linear : linears) {
      const std::optional<GgufTensorPlace> place = FindGgufPlace(linear->path + ".weight");
      if (place && !place->mmproj) sums.names.push_back(place->name);
    }
    if (!sums.names.empty()) sums.squares.resize(static_cast<size_t>(cols));
    return sums;
  }

  std::unordered_map<const Linear*, InputSums> sums_;  // by the first of those that share an input
};

}  // namespace

ImportanceMatrix MeasureImportance(Transformer& model,
                                   const std::function<std::optional<Batch>()>& next,
                                   const ImportanceOptions& options) {
  LAPIDARY_CHECK(options.chunk_size > 0, "imatrix: a chunk must have a token; got ",
                 options.chunk_size);
  Collector collector;
  const LinearObserver observer = [&](std::span<Linear* const> linears, const Tensor& x) {
    collector.Add(linears, x);
  };
  ForwardOptions forward;
  forward.compute = options.compute;
  forward.image_mask = options.image_mask;
  forward.observer = &observer;
  int64_t tokens = 0;
  while (const std::optional<Batch> batch = next()) {
    const MicroBatch micro = MakeMicroBatch(*batch);
    Tape tape(Tape::Mode::kNoGrad);
    Forward(model, tape, micro.input, forward);
    tokens += batch->size();
    if (options.on_batch) options.on_batch(tokens);
  }
  LAPIDARY_CHECK(tokens > 0, "imatrix: there must be tokens to measure with; got none");
  ImportanceMatrix matrix = collector.Result();
  matrix.chunk_size = options.chunk_size;
  matrix.chunk_count = (tokens + options.chunk_size - 1) / options.chunk_size;
  return matrix;
}

std::vector<std::vector<int32_t>> TextChunks(const Tokenizer& tokenizer, std::string text,
                                             int64_t chunk_size, int64_t max_chunks,
                                             bool parse_special, const std::string& where) {
  LAPIDARY_CHECK(chunk_size >= 2, "imatrix: a chunk must have two tokens; got ", chunk_size);
  if (!text.empty() && text.back() == '\n') text.pop_back();
  const int32_t bos = tokenizer.Require("<bos>");
  std::vector<int32_t> ids = tokenizer.Encode(text, {.parse_added = parse_special});
  ids.insert(ids.begin(), bos);
  const int64_t tokens = static_cast<int64_t>(ids.size());
  int64_t count = tokens / chunk_size;
  if (max_chunks > 0) count = std::min(count, max_chunks);
  LAPIDARY_CHECK(count > 0, where, ": must have ", chunk_size, " tokens, a whole chunk; got ",
                 tokens, "; try a longer text or a smaller --ctx-size");
  std::vector<std::vector<int32_t>> chunks;
  for (int64_t i = 0; i < count; ++i) {
    const auto begin = ids.begin() + i * chunk_size;
    chunks.emplace_back(begin, begin + chunk_size)[0] = bos;
  }
  return chunks;
}

std::function<std::optional<Batch>()> TokenBatches(std::vector<std::vector<int32_t>> documents,
                                                   int64_t max_tokens) {
  auto next = std::make_shared<size_t>(0);
  return [documents = std::move(documents), next, max_tokens]() -> std::optional<Batch> {
    Batch batch;
    while (*next < documents.size()) {
      const std::vector<int32_t>& ids = documents[*next];
      if (batch.size() > 0 && batch.size() + static_cast<int64_t>(ids.size()) > max_tokens) break;
      Sample sample;
      sample.ids = ids;
      sample.weights.assign(ids.size(), 0.0f);
      sample.types.assign(ids.size(), kTextToken);
      sample.where = StrCat("chunk ", *next);
      batch.Add(sample, static_cast<int64_t>((*next)++));
    }
    if (batch.size() == 0) return std::nullopt;
    return batch;
  };
}

}  // namespace lapidary
