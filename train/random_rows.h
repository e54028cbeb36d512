// Rows of random matrices, fast: what make-model fills checkpoints with.
#ifndef LAPIDARY_TRAIN_RANDOM_ROWS_H_
#define LAPIDARY_TRAIN_RANDOM_ROWS_H_

#include <cstdint>

#include "autograd/base/random.h"

namespace lapidary {

// `count` values of a row, rounded to bf16. Value c of row `row` is deviation * sqrt(3) * s, s the
// sum of four uniform numbers in [-1/2, 1/2) of 16 bits: words 2 (c % 2) and 2 (c % 2) + 1 of
// RandomBits(key, row * ceil(count / 2) + c / 2). Roughly normal, at most 2 sqrt(3) deviations.
// Many generators side by side; the same bits on every machine.
void RandomRow(const RandomKey& key, int64_t row, int64_t count, float deviation, float* out);

}  // namespace lapidary

#endif  // LAPIDARY_TRAIN_RANDOM_ROWS_H_
