// Generation against the plain forward pass: a cached continuation must give the logits of the whole sequence, bit for bit.
#include "model/generate.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "model/load.h"
#include "tests/golden.h"
#include "tests/model/golden_batch.h"

namespace lapidary {
namespace {

// Greedy continuation without a cache.
std::vector<int32_t> GreedyByForward(Transformer& model, ModelInput input, int64_t count, const std::vector<int32_t>& suppressed,
                                     Compute compute) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < count; ++i) {
    Tape tape(Tape::Mode::kNoGrad);
    ForwardOptions options;
    options.compute = compute;
    const Var h = Forward(model, tape, input, options);
    const Tensor last = Tensor::FromFloats({1, h.shape()[1]}, h.data() + (h.shape()[0] - 1) * h.shape()[1]);
    const Tensor logits =
        Logits(last, model.head().Current(), static_cast<float>(model.config.text.final_logit_softcapping), compute);
    for (int32_t id : suppressed) logits.data()[id] = -1e30f;
    ids.push_back(static_cast<int32_t>(std::max_element(logits.data(), logits.data() + logits.size()) - logits.data()));
    input.ids.push_back(ids.back());
    if (!input.types.empty()) input.types.push_back(0);
  }
  return ids;
}

TEST(Generate, CachedEqualsWholeForward) {
  int ran = 0;
  for (const std::string& folder : golden::FindFolders("model")) {
    if (!std::filesystem::exists(folder + "/forward.safetensors")) continue;
    const SafetensorsFile file = SafetensorsFile::Open(folder + "/forward.safetensors");
    LoadedModel loaded = LoadModel(folder + "/model");
    for (int i = 0; golden::Has(file, StrCat("batch", i, ".input_ids")); ++i) {
      const golden::Batch batch = golden::ReadBatch(file, StrCat("batch", i));
      if (batch.rows != 1 || batch.input.document_starts.size() != 1) continue;
      for (const Compute compute : {Compute::kFloat32, Compute::kBfloat16}) {
        const std::vector<int32_t> suppressed = {loaded.model.config.eoi_token_id, loaded.model.config.eoa_token_id};
        const std::vector<int32_t> want = GreedyByForward(loaded.model, batch.input, 30, suppressed, compute);
        for (const int64_t chunk : {1000, 64, 9, 1}) {
          GenerateOptions options;
          options.compute = compute;
          options.max_new_tokens = 30;
          options.stop_ids.clear();
          options.suppress_ids = suppressed;
          options.prefill_chunk = chunk;
          EXPECT_EQ(Generate(loaded.model, batch.input, options, {}).ids, want)
              << folder << " batch " << i << " " << ComputeName(compute) << " prefill chunk " << chunk;
          ++ran;
        }
      }
    }
  }
  EXPECT_GT(ran, 0);
}

}  // namespace
}  // namespace lapidary
