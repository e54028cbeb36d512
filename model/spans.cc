// Attention masks as ranges of keys (gemma4-12b.md 3.7).
#include <algorithm>

#include "model/transformer.h"

namespace lapidary {

AttentionSpans MakeSpans(const ModelInput& input, int64_t window, bool blocks, bool hf_rule) {
  const int64_t n = input.size();
  AttentionSpans spans;
  spans.lo.resize(n);
  spans.hi.resize(n);
  spans.begin.resize(n);
  size_t next_document = 0;
  int64_t document = 0;
  int64_t block_begin = 0, block_end = 0;  // the run of image tokens around q, or empty
  for (int64_t q = 0; q < n; ++q) {
    if (next_document < input.document_starts.size() && input.document_starts[next_document] == q) {
      document = q;
      ++next_document;
    }
    const bool media = !input.types.empty() && (input.types[q] == 1 || input.types[q] == 2);
    if (media && q >= block_end) {
      // A block is a maximal run of image or video tokens inside one document; both kinds together,
      // as Transformers counts it.
      const int64_t limit =
          next_document < input.document_starts.size() ? input.document_starts[next_document] : n;
      block_begin = q;
      block_end = q;
      while (block_end < limit && (input.types[block_end] == 1 || input.types[block_end] == 2))
        ++block_end;
    }
    int64_t lo = window > 0 ? std::max(document, q - window + 1) : document;
    int64_t hi = q + 1;
    if (media && blocks) {
      hi = block_end;
      if (hf_rule) lo = std::min(lo, block_begin);
    }
    spans.lo[q] = static_cast<int32_t>(lo);
    spans.hi[q] = static_cast<int32_t>(hi);
    spans.begin[q] = static_cast<int32_t>(document);
  }
  return spans;
}

}  // namespace lapidary
