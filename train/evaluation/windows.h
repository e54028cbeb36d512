// Perplexity of running text: a long run of tokens in windows of the same length. The figures are
// those of llama.cpp's llama-perplexity for the same model, file and sizes.
#ifndef LAPIDARY_TRAIN_EVALUATION_WINDOWS_H_
#define LAPIDARY_TRAIN_EVALUATION_WINDOWS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "data/tokenizer.h"
#include "train/evaluate.h"

namespace lapidary {

struct WindowOptions {
  int64_t window = 512;  // tokens the model sees at once, at least 4
  // 0: disjoint windows, of each the second half is scored (targets window/2 + 1 and on; the rest
  // of the run that fills no window is left out), as `llama-perplexity -c window`. Above 0: a
  // window every `stride` tokens, of each the last `stride` targets are scored, as
  // `llama-perplexity -c (window - stride/2) --ppl-stride stride`.
  int64_t stride = 0;
  // Takes the place of a disjoint window's first token; -1: none. Strided windows keep theirs, as
  // there.
  int32_t bos = -1;
};

// One sequence a window, named "WHERE window I". Throws Error if a size is out of range or there
// are fewer than two windows of tokens.
Sequences WindowSequences(const std::vector<int32_t>& ids, const WindowOptions& options,
                          const std::string& where);
// Several runs one after the other; no window crosses from one to the next.
Sequences JoinSequences(std::vector<Sequences> parts);

// A text file as such a run: <bos> in front where the tokenizer or the vocabulary has one, spelled
// control tokens are text like any other. `bos` is set to its id, or -1.
std::vector<int32_t> ReadTextRun(const std::string& path, const Tokenizer& tokenizer, int32_t* bos);

}  // namespace lapidary

#endif  // LAPIDARY_TRAIN_EVALUATION_WINDOWS_H_
