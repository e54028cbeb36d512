// Measuring an importance matrix (quant/imatrix.h): for every matrix of the text decoder the
// squares of its inputs, by column, summed over the tokens of a text or of a data set. What
// `lapidary imatrix` writes and `lapidary export --imatrix` reads; the same numbers as
// llama-imatrix, but for rounding: that tool sums in float32 and keeps keys and values in float16
// (run it with -ctk f32 -ctv f32 -fa off to compare), and it leaves out up to 15 tokens of a batch
// of several chunks (-b as large as -c does not).
#ifndef LAPIDARY_TRAIN_IMATRIX_H_
#define LAPIDARY_TRAIN_IMATRIX_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "data/batch.h"
#include "data/tokenizer.h"
#include "model/transformer.h"
#include "quant/imatrix.h"

namespace lapidary {

struct ImportanceOptions {
  Compute compute = Compute::kBfloat16;
  ImageMask image_mask = ImageMask::kSlidingOnly;
  int64_t chunk_size = 512;                      // tokens that count as a chunk, in the file
  std::function<void(int64_t tokens)> on_batch;  // progress: tokens so far; may be empty
};

// Everything that `next` gives (nothing: the end). Matrices are named as in GGUF; matrices of the
// embedders and the head are left out, as llama-imatrix leaves out what it does not quantize with.
// Sums in float64, token after token: the same for any number of threads. chunk_count is the number
// of tokens in chunks, rounded up. Throws Error if an input is not finite or nothing came.
ImportanceMatrix MeasureImportance(Transformer& model,
                                   const std::function<std::optional<Batch>()>& next,
                                   const ImportanceOptions& options);

// Documents of exactly chunk_size tokens, as llama-imatrix cuts a text: <bos> and the text are
// tokenized as one (one newline at its end is left out; the text of special tokens is plain text
// unless `parse_special`), the rest of the last chunk is dropped, and the first token of each chunk
// is replaced by <bos>. At most `max_chunks` unless 0. Throws Error if there is not one whole
// chunk.
std::vector<std::vector<int32_t>> TextChunks(const Tokenizer& tokenizer, std::string text,
                                             int64_t chunk_size, int64_t max_chunks,
                                             bool parse_special, const std::string& where);

// Batches of at most `max_tokens` tokens of those documents (at least one).
std::function<std::optional<Batch>()> TokenBatches(std::vector<std::vector<int32_t>> documents,
                                                   int64_t max_tokens);

}  // namespace lapidary

#endif  // LAPIDARY_TRAIN_IMATRIX_H_
