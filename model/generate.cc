#include "model/generate.h"

#include <algorithm>
#include <chrono>
#include <limits>

#include "model/sampler.h"

namespace lapidary {
namespace {

using Clock = std::chrono::steady_clock;

double Seconds(Clock::time_point since) {
  return std::chrono::duration<double>(Clock::now() - since).count();
}

// Tokens [begin, end) of the prompt with the media that stand there.
ModelInput Slice(const ModelInput& prompt, int64_t begin, int64_t end) {
  ModelInput part;
  part.ids.assign(prompt.ids.begin() + begin, prompt.ids.begin() + end);
  if (!prompt.types.empty())
    part.types.assign(prompt.types.begin() + begin, prompt.types.begin() + end);
  const auto rows = [&](const std::vector<int64_t>& from, const Tensor& features,
                        std::vector<int64_t>* to, Tensor* taken,
                        const std::vector<int32_t>* positions) {
    std::vector<float> values;
    const int64_t width = features.defined() ? features.shape()[1] : 0;
    for (size_t i = 0; i < from.size(); ++i) {
      if (from[i] < begin || from[i] >= end) continue;
      to->push_back(from[i] - begin);
      values.insert(values.end(), features.data() + static_cast<int64_t>(i) * width,
                    features.data() + static_cast<int64_t>(i + 1) * width);
      if (positions)
        part.patch_positions.insert(part.patch_positions.end(), positions->begin() + 2 * i,
                                    positions->begin() + 2 * i + 2);
    }
    if (!to->empty())
      *taken = Tensor::FromFloats({static_cast<int64_t>(to->size()), width}, values.data());
  };
  rows(prompt.patch_rows, prompt.patches, &part.patch_rows, &part.patches, &prompt.patch_positions);
  rows(prompt.audio_rows, prompt.audio_frames, &part.audio_rows, &part.audio_frames, nullptr);
  return part;
}

bool InImage(const ModelInput& input, int64_t i) {
  return !input.types.empty() && (input.types[i] == 1 || input.types[i] == 2);
}

// Where a piece of the prompt that starts at `begin` may end: not inside an image.
int64_t ChunkEnd(const ModelInput& prompt, int64_t begin, int64_t chunk) {
  int64_t end = std::min(prompt.size(), begin + chunk);
  if (end < prompt.size() && InImage(prompt, end) && InImage(prompt, end - 1)) {
    int64_t back = end;
    while (back > begin && InImage(prompt, back - 1)) --back;
    if (back > begin) return back;
    while (end < prompt.size() && InImage(prompt, end))
      ++end;  // an image longer than the chunk goes in one piece
  }
  return end;
}

void CheckOptions(const GenerateOptions& o) {
  LAPIDARY_CHECK(o.max_new_tokens >= 0, "generate: max_new_tokens must be >= 0; got ",
                 o.max_new_tokens);
  LAPIDARY_CHECK(!o.do_sample || o.temperature > 0, "generate: temperature must be > 0; got ",
                 o.temperature, "; try greedy decoding");
  LAPIDARY_CHECK(o.top_k >= 0, "generate: top_k must be >= 0; got ", o.top_k);
  LAPIDARY_CHECK(o.top_p > 0 && o.top_p <= 1, "generate: top_p must be above 0 and at most 1; got ",
                 o.top_p);
  LAPIDARY_CHECK(o.prefill_chunk >= 1, "generate: prefill_chunk must be >= 1; got ",
                 o.prefill_chunk);
}

}  // namespace

GenerateResult Generate(Transformer& model, const ModelInput& prompt,
                        const GenerateOptions& options,
                        const std::function<bool(int32_t)>& on_token) {
  CheckOptions(options);
  LAPIDARY_CHECK(prompt.size() > 0, "generate: the prompt must have at least one token; got none");
  LAPIDARY_CHECK(prompt.document_starts.size() <= 1,
                 "generate: the prompt must be one document; got ", prompt.document_starts.size());
  KvCache cache;
  ForwardOptions forward;
  forward.compute = options.compute;
  forward.image_mask = options.image_mask;
  forward.activations = options.activations;
  forward.cache = &cache;
  forward.last_only = true;
  const float softcap = static_cast<float>(model.config.text.final_logit_softcapping);
  // Runs one piece and returns the logits after its last token (only there is the head needed).
  const auto run = [&](const ModelInput& piece, bool want_logits) {
    Tape tape(Tape::Mode::kNoGrad);
    const Var last = Forward(model, tape, piece, forward);
    if (!want_logits) return Tensor();
    Tensor logits = Logits(last.value(), model.head().Current(), softcap, options.compute);
    for (int32_t id : options.suppress_ids) {
      if (id >= 0 && id < logits.size())
        logits.data()[id] = -std::numeric_limits<float>::infinity();
    }
    return logits;
  };
  GenerateResult result;
  const Clock::time_point start = Clock::now();
  Tensor logits;
  for (int64_t begin = 0; begin < prompt.size();) {
    const int64_t end = ChunkEnd(prompt, begin, options.prefill_chunk);
    logits = run(Slice(prompt, begin, end), end == prompt.size());
    begin = end;
  }
  result.prefill_seconds = Seconds(start);
  const Clock::time_point decode = Clock::now();
  while (static_cast<int64_t>(result.ids.size()) < options.max_new_tokens) {
    const int64_t n = logits.size();
    const int32_t id = options.do_sample ? SampleToken(logits.data(), n, options,
                                                       static_cast<int64_t>(result.ids.size()))
                                         : ArgMax(logits.data(), n);
    result.ids.push_back(id);
    result.stopped =
        std::find(options.stop_ids.begin(), options.stop_ids.end(), id) != options.stop_ids.end();
    if ((on_token && !on_token(id)) || result.stopped) break;
    if (static_cast<int64_t>(result.ids.size()) == options.max_new_tokens) break;
    ModelInput next;
    next.ids = {id};
    logits = run(next, true);
  }
  result.decode_seconds = Seconds(decode);
  return result;
}

}  // namespace lapidary
