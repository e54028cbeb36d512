// Reads the batches of golden/model/<name>/ (tests/golden/README.md) into the model's flat input:
// rows of a batch become documents, padding is dropped, media go where their tokens stand.
#ifndef LAPIDARY_TESTS_MODEL_GOLDEN_BATCH_H_
#define LAPIDARY_TESTS_MODEL_GOLDEN_BATCH_H_

#include <string>
#include <vector>

#include "model/input.h"
#include "quant/safetensors.h"

namespace lapidary::golden {

struct Batch {
  ModelInput input;
  std::vector<int32_t> targets;  // [N] the next label, 0 where untrained
  std::vector<float> weights;    // [N] 1 where trained
  int64_t trained = 0;           // sum of weights
  int64_t rows = 0, width = 0;   // [B, T] of the file
  std::vector<int64_t> kept;     // [N] index into B * T of every kept token
};

// Values of a tensor by name; throws Error if it is absent.
const StoredTensor& Get(const SafetensorsFile& file, const std::string& name);
bool Has(const SafetensorsFile& file, const std::string& name);
std::vector<float> Floats(const SafetensorsFile& file, const std::string& name);
std::vector<int32_t> Ints(const SafetensorsFile& file, const std::string& name);  // I32, I64 or U8

// The batch whose tensors are called `prefix`.input_ids, `prefix`.labels, ...
Batch ReadBatch(const SafetensorsFile& file, const std::string& prefix);

// ||a - b|| / ||b||
double RelativeL2(const float* a, const float* b, int64_t n);
// max |a - b|; not a number counts as infinite
double MaxAbs(const float* a, const float* b, int64_t n);
// Rows of `full` [B * T, width] that a batch kept, [N, width].
std::vector<float> KeptRows(const Batch& batch, const std::vector<float>& full);

}  // namespace lapidary::golden

#endif  // LAPIDARY_TESTS_MODEL_GOLDEN_BATCH_H_
