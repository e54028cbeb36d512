// Generation against the plain forward pass: a cached continuation must give the logits of the
// whole sequence, bit for bit.
#include "model/generate.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "model/load.h"
#include "model/prefix_cache.h"
#include "tests/golden.h"
#include "tests/model/golden_batch.h"

namespace lapidary {
namespace {

// Greedy continuation without a cache.
std::vector<int32_t> GreedyByForward(Transformer& model, ModelInput input, int64_t count,
                                     const std::vector<int32_t>& suppressed, Compute compute) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < count; ++i) {
    Tape tape(Tape::Mode::kNoGrad);
    ForwardOptions options;
    options.compute = compute;
    const Var h = Forward(model, tape, input, options);
    const Tensor last =
        Tensor::FromFloats({1, h.shape()[1]}, h.data() + (h.shape()[0] - 1) * h.shape()[1]);
    const Tensor logits =
        Logits(last, model.head().Current(),
               static_cast<float>(model.config.text.final_logit_softcapping), compute);
    for (int32_t id : suppressed) logits.data()[id] = -1e30f;
    ids.push_back(static_cast<int32_t>(
        std::max_element(logits.data(), logits.data() + logits.size()) - logits.data()));
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
        const std::vector<int32_t> suppressed = {loaded.model.config.eoi_token_id,
                                                 loaded.model.config.eoa_token_id};
        const std::vector<int32_t> want =
            GreedyByForward(loaded.model, batch.input, 30, suppressed, compute);
        for (const int64_t chunk : {1000, 64, 9, 1}) {
          GenerateOptions options;
          options.compute = compute;
          options.max_new_tokens = 30;
          options.stop_ids.clear();
          options.suppress_ids = suppressed;
          options.prefill_chunk = chunk;
          EXPECT_EQ(Generate(loaded.model, batch.input, options, {}).ids, want)
              << folder << " batch " << i << " " << ComputeName(compute) << " prefill chunk "
              << chunk;
          ++ran;
        }
      }
    }
  }
  EXPECT_GT(ran, 0);
}

// The first golden model, and its single-document prompts with media.
struct Prompts {
  Transformer model;
  std::vector<ModelInput> inputs;
};

Prompts ReadPrompts() {
  for (const std::string& folder : golden::FindFolders("model")) {
    if (!std::filesystem::exists(folder + "/forward.safetensors")) continue;
    const SafetensorsFile file = SafetensorsFile::Open(folder + "/forward.safetensors");
    Prompts found{LoadModel(folder + "/model").model, {}};
    for (int i = 0; golden::Has(file, StrCat("batch", i, ".input_ids")); ++i) {
      const golden::Batch batch = golden::ReadBatch(file, StrCat("batch", i));
      if (batch.rows == 1 && batch.input.document_starts.size() <= 1)
        found.inputs.push_back(batch.input);
    }
    if (!found.inputs.empty()) return found;
  }
  throw Error("no golden model with a prompt of one document");
}

void Append(ModelInput* input, const std::vector<int32_t>& ids) {
  input->ids.insert(input->ids.end(), ids.begin(), ids.end());
  if (!input->types.empty()) input->types.resize(input->ids.size(), 0);
}

// Turn after turn, sample after sample, with media: the same tokens with the cache as without, and
// most of the prompt is not computed again. Turns go on from before the end of a prompt, too, as
// the template makes them (an empty thought goes away), and answers are longer than the window.
TEST(Generate, PrefixCacheDoesNotChangeTokens) {
  Prompts golden = ReadPrompts();
  ASSERT_LT(golden.model.config.text.sliding_window, 90);
  for (const Compute compute : {Compute::kFloat32, Compute::kBfloat16}) {
    PrefixCache cache;
    GenerateOptions options;
    options.compute = compute;
    options.do_sample = true;
    options.repetition_penalty = 1.2;
    options.stop_ids.clear();
    for (const ModelInput& first : golden.inputs) {
      ModelInput prompt = first;
      prompt.document_starts.clear();
      cache.Clear();
      for (int turn = 0; turn < 3; ++turn) {
        options.max_new_tokens = turn == 1 ? 90 : 12;
        GenerateResult result;
        for (uint64_t sample = 0; sample < 2; ++sample) {
          options.sample = sample;
          result = Generate(golden.model, prompt, options, {}, &cache);
          EXPECT_EQ(result.ids, Generate(golden.model, prompt, options, {}).ids)
              << "turn " << turn << " sample " << sample;
          if (sample > 0) {
            EXPECT_EQ(result.reused, prompt.size() - 1);
          } else if (turn > 0) {
            EXPECT_GE(result.reused, first.size() - 3);
          }
        }
        if (turn == 1) {  // the end of the prompt changes
          prompt.ids.resize(prompt.ids.size() - 3);
          if (!prompt.types.empty()) prompt.types.resize(prompt.ids.size());
        }
        Append(&prompt, result.ids);
        Append(&prompt, {5, 6, 7, 8, 9, 10, 11});
      }
    }
  }
}

// Broken off before any matrix of any pass: what was written stands, and what the cache keeps does
// not change the tokens that come later.
TEST(Generate, InterruptedAnywhere) {
  Prompts golden = ReadPrompts();
  GenerateOptions options;
  options.max_new_tokens = 6;
  options.prefill_chunk = 5;
  options.stop_ids.clear();
  options.score_prompt = false;
  for (ModelInput prompt : golden.inputs) {
    prompt.document_starts.clear();
    int64_t asked = 0;
    options.go_on = [&] { return ++asked > 0; };
    const std::vector<int32_t> want = Generate(golden.model, prompt, options, {}).ids;
    const int64_t all = asked;
    ASSERT_GT(all, 6 * static_cast<int64_t>(golden.model.layers.size()));
    PrefixCache cache;
    for (int64_t end = 1; end <= all; end += 1 + all / 20) {
      asked = 0;
      options.go_on = [&] { return ++asked < end; };
      std::vector<int32_t> heard;
      const auto hear = [&](int32_t id) {
        heard.push_back(id);
        return true;
      };
      const GenerateResult cut = Generate(golden.model, prompt, options, hear, &cache);
      EXPECT_TRUE(cut.interrupted || cut.reused > 0) << end;
      EXPECT_EQ(cut.ids, heard);
      EXPECT_LE(asked, end);
      EXPECT_TRUE(std::equal(heard.begin(), heard.end(), want.begin())) << end;
      options.go_on = nullptr;
      if (end % 2) EXPECT_EQ(Generate(golden.model, prompt, options, {}, &cache).ids, want) << end;
    }
  }
}

// Another picture under the same ids is another prompt.
TEST(Generate, PrefixCacheLooksAtPictures) {
  Prompts golden = ReadPrompts();
  int seen = 0;
  for (const ModelInput& input : golden.inputs) {
    if (input.patch_rows.empty()) continue;
    ModelInput other = input;
    other.patches = input.patches.Clone();
    other.patches.data()[other.patches.size() - 1] += 0.5f;
    PrefixCache cache;
    GenerateOptions options;
    options.compute = Compute::kFloat32;
    options.max_new_tokens = 4;
    Generate(golden.model, input, options, {}, &cache);
    const GenerateResult result = Generate(golden.model, other, options, {}, &cache);
    EXPECT_EQ(result.ids, Generate(golden.model, other, options, {}).ids);
    // Nothing of the last picture is taken over: soft tokens before it may be.
    EXPECT_LE(result.reused, input.patch_rows.back());
    EXPECT_FALSE(result.reused > 0 && input.types[result.reused - 1] == 1 &&
                 input.types[result.reused] == 1);
    ++seen;
  }
  EXPECT_GT(seen, 0);
}

// Log-probabilities of generated tokens are those that scoring the whole text gives.
TEST(Generate, LogprobsEqualScores) {
  Prompts golden = ReadPrompts();
  ModelInput prompt = golden.inputs[0];
  prompt.document_starts.clear();
  GenerateOptions options;
  options.compute = Compute::kFloat32;
  options.max_new_tokens = 20;
  options.stop_ids.clear();
  options.top_logprobs = 3;
  std::vector<TokenLogprobs> got;
  options.on_logprobs = [&](const TokenLogprobs& l) { got.push_back(l); };
  const int64_t before = prompt.size();
  const GenerateResult result = Generate(golden.model, prompt, options, {});
  Append(&prompt, result.ids);
  std::vector<TokenLogprobs> scores;
  options.score_prompt = true;
  options.prefill_chunk = 50;
  options.max_new_tokens = 0;
  options.on_prompt_logprobs = [&](const std::vector<TokenLogprobs>& all) { scores = all; };
  EXPECT_TRUE(Generate(golden.model, prompt, options, {}).ids.empty());
  ASSERT_EQ(static_cast<int64_t>(scores.size()), prompt.size() - 1);
  for (size_t i = 0; i < got.size(); ++i) {
    const TokenLogprobs& want = scores[static_cast<size_t>(before) - 1 + i];
    EXPECT_EQ(got[i].logprob, want.logprob);
    EXPECT_EQ(got[i].top, want.top);
    EXPECT_EQ(got[i].top[0].first, result.ids[i]);  // greedy
    EXPECT_EQ(got[i].top[0].second, got[i].logprob);
  }
  EXPECT_EQ(got.size(), 20u);
  // One more token behind a scored prompt is the one that comes without scoring.
  options.max_new_tokens = 1;
  const std::vector<int32_t> next = Generate(golden.model, prompt, options, {}).ids;
  options.score_prompt = false;
  EXPECT_EQ(next, Generate(golden.model, prompt, options, {}).ids);
}

}  // namespace
}  // namespace lapidary
