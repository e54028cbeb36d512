// From a data set to micro-batches, in the background. What comes is a pure function of (data set,
// builder options, seed, batch options): the same on every run, with any number of threads, and
// after resuming from a cursor.
//   order of epoch e   a permutation drawn from (seed, e), or the order of the file
//   batching           `batch_size` documents, fewer where `max_tokens` would be exceeded; with
//                      packing: as many as fit, the oldest first, then always the longest that
//                      fits, out of a window
//                      grouped by length: those of a window that are nearest in length to the
//                      oldest
// A batch never mixes epochs.
#ifndef LAPIDARY_DATA_LOADER_H_
#define LAPIDARY_DATA_LOADER_H_

#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "data/batch.h"
#include "data/dataset.h"
#include "data/sample.h"
#include "data/sample_source.h"

namespace lapidary {

struct LoaderOptions {
  uint64_t seed = 0;
  bool shuffle = true;
  int64_t epochs = 0;            // 0: without end
  int64_t batch_size = 1;        // documents in a micro-batch; without packing
  int64_t max_tokens = 0;        // tokens in a micro-batch; 0: any. A longer document comes alone
  bool packing = false;          // fill micro-batches up to max_tokens (which must be set)
  bool group_by_length = false;  // without packing: batches of like lengths
  int64_t pack_window = 16;      // documents from which packing and grouping choose
  int64_t prefetch = 8;          // documents built ahead
  int64_t prefetch_bytes = 1 << 29;   // memory that documents built ahead may take, but for one
  int threads = 1;                    // that build documents
  OnError on_error = OnError::kStop;  // broken records
  ProblemCallback report = {};  // told of every record skipped, dropped or cut, in order, from Next
};

// Not thread-safe; Next runs on the caller's thread and only copies what the threads have built.
class Loader {
 public:
  // `builder` must outlive this. `cursor`, unless null, is what Cursor gave: Next continues there.
  // Throws Error for options out of range and for a cursor of other data, seed or order.
  Loader(std::shared_ptr<const Dataset> dataset, const SampleBuilder& builder,
         LoaderOptions options, const nlohmann::ordered_json* cursor = nullptr);
  // The same from any source of samples, a prepared file say.
  Loader(std::shared_ptr<const SampleSource> source, LoaderOptions options,
         const nlohmann::ordered_json* cursor = nullptr);
  ~Loader();
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  // The next micro-batch; none after the last epoch. Throws Error for a broken record (kStop), and
  // if a whole epoch gave no document.
  std::optional<Batch> Next();

  // Where the next call of Next stands: small, JSON.
  nlohmann::ordered_json Cursor() const;

  // Micro-batches of epoch `epoch`, exact unless lengths cannot be told from the headers of media
  // (lossy sound). Where every micro-batch has batch_size documents and nothing can be dropped this
  // costs nothing, else it reads every record once.
  int64_t BatchesInEpoch(int64_t epoch);

  // Records left out so far (dropped or broken), those before the cursor included.
  int64_t skipped() const;

  // Seconds that Next has waited for documents to be built: what a step loses to its data.
  double wait_seconds() const;
  // Tokens of the micro-batches so far over the tokens they had room for (max_tokens each); 0
  // without max_tokens.
  double utilization() const;

  // Order of the records of a plain data set in an epoch (Dataset::Order knows mixtures).
  static std::vector<int64_t> Order(int64_t records, uint64_t seed, int64_t epoch, bool shuffle);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lapidary

#endif  // LAPIDARY_DATA_LOADER_H_
