#include "train/evaluate.h"

#include <chrono>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>

#include "autograd/base/file.h"
#include "autograd/base/parallel.h"
#include "quant/safetensors.h"
#include "train/evaluate_adapter.h"
#include "train/micro_batch.h"

namespace lapidary {
namespace {

using Clock = std::chrono::steady_clock;
using Json = nlohmann::ordered_json;

// Rows of logits computed at once: 128 x 262,144 x 4 bytes = 134 MB.
constexpr int64_t kLogitRows = 128;

double Since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

ForwardOptions MakeForwardOptions(const EvalOptions& options) {
  ForwardOptions forward;
  forward.compute = options.compute;
  forward.image_mask = options.image_mask;
  forward.activations = options.activations;
  return forward;
}

// Runs one batch, adds its documents to the result and returns the hidden states.
Tensor RunBatch(Transformer& model, const Batch& batch, const EvalOptions& options,
                EvalResult* result) {
  const MicroBatch micro = MakeMicroBatch(batch);
  Tape tape(Tape::Mode::kNoGrad);
  const Var hidden = Forward(model, tape, micro.input, MakeForwardOptions(options));
  TokenStats stats;
  if (batch.Targets() > 0) {
    LossSum(model, hidden, micro.targets, micro.weights, options.compute, options.loss_chunk,
            &stats);
  }
  for (size_t d = 0; d < batch.documents.size(); ++d) {
    const BatchDocument& document = batch.documents[d];
    const int64_t end =
        d + 1 < batch.documents.size() ? batch.documents[d + 1].begin : batch.size();
    EvalCounts counts;
    counts.records = 1;
    counts.tokens = end - document.begin;
    for (int64_t i = document.begin; i < end; ++i) {
      const float weight = micro.weights[static_cast<size_t>(i)];
      if (weight == 0) continue;
      const double loss = stats.loss[static_cast<size_t>(i)];
      counts.loss_sum += static_cast<double>(weight) * loss;
      counts.loss_squares += static_cast<double>(weight) * loss * loss;
      counts.weight += weight;
      counts.correct += stats.correct[static_cast<size_t>(i)];
      ++counts.targets;
    }
    LAPIDARY_CHECK(std::isfinite(counts.loss_sum), document.where,
                   ": the loss must be finite; got ", counts.loss_sum,
                   "; try `lapidary inspect` on the model");
    RecordCounts record = {document.where,
                           ModalityOf(document.images, document.sounds, document.videos), "",
                           document.record, counts};
    if (options.group_of) {
      record.group = options.group_of(document.record);
      result->by_group[record.group].Add(counts);
    }
    result->all.Add(counts);
    result->by_modality[record.modality].Add(counts);
    result->records.push_back(std::move(record));
  }
  return hidden.value();
}

Json CountsJson(const EvalCounts& counts) {
  return {{"loss", counts.Loss()},
          {"perplexity", counts.Perplexity()},
          {"token_accuracy", counts.Accuracy()},
          {"targets", counts.targets},
          {"records", counts.records},
          {"tokens", counts.tokens}};
}

}  // namespace

double EvalCounts::Perplexity() const { return std::exp(Loss()); }

double EvalCounts::PerplexityError() const {
  if (!(weight > 1)) return 0;
  const double variance = loss_squares / weight - Loss() * Loss();
  return variance > 0 ? std::sqrt(variance / (weight - 1)) * Perplexity() : 0;
}

void EvalCounts::Add(const EvalCounts& other) {
  loss_sum += other.loss_sum;
  loss_squares += other.loss_squares;
  weight += other.weight;
  targets += other.targets;
  correct += other.correct;
  records += other.records;
  tokens += other.tokens;
}

std::string ModalityOf(int64_t images, int64_t sounds, int64_t videos) {
  const int kinds = (images > 0) + (sounds > 0) + (videos > 0);
  if (kinds > 1) return "mixed";
  return images > 0 ? "image" : sounds > 0 ? "audio" : videos > 0 ? "video" : "text";
}

EvalResult Evaluate(Transformer& model, Loader& loader, const EvalOptions& options) {
  const Clock::time_point start = Clock::now();
  EvalResult result;
  while (options.max_records == 0 || result.all.records < options.max_records) {
    const std::optional<Batch> batch = loader.Next();
    if (!batch) break;
    RunBatch(model, *batch, options, &result);
    if (options.on_batch) options.on_batch(result.all.records);
  }
  result.skipped = loader.skipped();
  result.seconds = Since(start);
  return result;
}

Sequences TokenSequences(std::vector<std::vector<int32_t>> ids) {
  Sequences sequences;
  for (const auto& list : ids) sequences.lengths.push_back(static_cast<int64_t>(list.size()));
  sequences.get = [ids = std::move(ids)](int64_t index) {
    Sample sample;
    sample.ids = ids[static_cast<size_t>(index)];
    sample.weights.assign(sample.ids.size(), 1.0f);
    sample.weights[0] = 0;
    sample.types.assign(sample.ids.size(), kTextToken);
    sample.where = StrCat("sequence ", index);
    return MakeBatch(sample);
  };
  return sequences;
}

std::vector<std::vector<int32_t>> ReadTokenLists(const std::string& path, int64_t vocab_size) {
  const nlohmann::json json =
      nlohmann::json::parse(ReadFile(path, uint64_t{1} << 30), nullptr, false);
  const auto is_list = [](const nlohmann::json& j) { return j.is_array() && !j.empty(); };
  LAPIDARY_CHECK(is_list(json), path, ": must be a JSON list of lists of token ids; got ",
                 json.is_discarded() ? "something that is not JSON" : "something else",
                 "; try [[2, 105, 106]]");
  std::vector<std::vector<int32_t>> lists;
  const nlohmann::json rows = json[0].is_array() ? json : nlohmann::json::array({json});
  for (const nlohmann::json& row : rows) {
    LAPIDARY_CHECK(is_list(row), path, ": sequence ", lists.size(),
                   " must be a list of token ids; got ", row.dump().substr(0, 40));
    std::vector<int32_t>& list = lists.emplace_back();
    for (const nlohmann::json& id : row) {
      LAPIDARY_CHECK(
          id.is_number_integer() && id.get<int64_t>() >= 0 && id.get<int64_t>() < vocab_size, path,
          ": ids must be integers from 0 to ", vocab_size - 1, "; got ", id.dump().substr(0, 40),
          " in sequence ", lists.size() - 1);
      list.push_back(id.get<int32_t>());
    }
  }
  return lists;
}

Sequences DatasetSequences(std::shared_ptr<const Dataset> dataset, const SampleBuilder& builder,
                           OnError on_error, const ProblemCallback& report) {
  Sequences sequences;
  std::vector<int64_t> used;
  for (int64_t i = 0; i < dataset->size(); ++i) {
    std::string note;
    try {
      const BuiltSample built = builder.Build(dataset->Read(i));
      note = built.note;
      if (built.sample) {
        used.push_back(i);
        sequences.lengths.push_back(built.sample->size());
      } else {
        ++sequences.skipped;
      }
    } catch (const Error& error) {
      if (on_error == OnError::kStop) throw;
      note = StrCat(error.what(), "; record skipped");
      ++sequences.skipped;
    }
    if (!note.empty() && report) report({dataset->Where(i), note});
  }
  LAPIDARY_CHECK(!used.empty(), dataset->Where(0),
                 ": the data set must have a record that can be used; got ", dataset->size(),
                 " records, none of them usable");
  sequences.get = [dataset, &builder, used](int64_t index) {
    const int64_t record = used[static_cast<size_t>(index)];
    BuiltSample built = builder.Build(dataset->Read(record));
    Batch batch;
    batch.Add(*built.sample, record);
    return batch;
  };
  return sequences;
}

EvalResult EvaluateSequences(Transformer& model, const Sequences& sequences,
                             const EvalOptions& options, const std::string& logits_path) {
  const Clock::time_point start = Clock::now();
  const int64_t count = static_cast<int64_t>(sequences.lengths.size());
  const int64_t vocab = model.config.text.vocab_size;
  const float softcap = static_cast<float>(model.config.text.final_logit_softcapping);
  EvalResult result;
  result.skipped = sequences.skipped;
  // The file's order decides the order of computation, so that nothing need be kept.
  std::optional<SafetensorsWriter> writer;
  std::vector<int64_t> order;
  if (!logits_path.empty()) {
    std::vector<TensorSpec> specs;
    for (int64_t i = 0; i < count; ++i) {
      specs.push_back(
          {StrCat("logits.", i), "F32", {sequences.lengths[static_cast<size_t>(i)], vocab}});
    }
    writer.emplace(logits_path, specs);
    for (const TensorSpec& spec : writer->order()) order.push_back(std::stoll(spec.name.substr(7)));
  } else {
    for (int64_t i = 0; i < count; ++i) order.push_back(i);
  }
  for (const int64_t index : order) {
    const Batch batch = sequences.get(index);
    const Tensor hidden = RunBatch(model, batch, options, &result);
    const int64_t width = hidden.shape()[1];
    for (int64_t row = 0; writer && row < batch.size(); row += kLogitRows) {
      const int64_t rows = std::min(kLogitRows, batch.size() - row);
      const Tensor part = Tensor::FromFloats({rows, width}, hidden.data() + row * width);
      const Tensor logits = Logits(part, model.head().Current(), softcap, options.compute);
      writer->Append(logits.data(), static_cast<uint64_t>(logits.byte_size()));
    }
    if (options.on_batch) options.on_batch(result.all.records);
  }
  if (writer) writer->Commit();
  result.seconds = Since(start);
  return result;
}

namespace {

// KL(p || q) in nats of two rows of logits, and whether their largest is the same token.
double RowKl(const float* p, const float* q, int64_t n, bool* same_top) {
  const auto top = [n](const float* x) { return std::max_element(x, x + n) - x; };
  const int64_t p_top = top(p), q_top = top(q);
  *same_top = p_top == q_top;
  const double p_max = static_cast<double>(p[p_top]), q_max = static_cast<double>(q[q_top]);
  double p_sum = 0, q_sum = 0;
  for (int64_t i = 0; i < n; ++i) {
    p_sum += std::exp(static_cast<double>(p[i]) - p_max);
    q_sum += std::exp(static_cast<double>(q[i]) - q_max);
  }
  const double p_log = p_max + std::log(p_sum), q_log = q_max + std::log(q_sum);
  double kl = 0;
  for (int64_t i = 0; i < n; ++i) {
    const double a = static_cast<double>(p[i]) - p_log, b = static_cast<double>(q[i]) - q_log;
    kl += std::exp(a) * (a - b);
  }
  return std::max(0.0, kl);
}

// `use`: called with false in front of the first model's pass, with true in front of the second's.
PairResult EvaluateTwo(Transformer& first, Transformer& second,
                       const std::function<void(bool)>& use, const Sequences& sequences,
                       const EvalOptions& options) {
  const Clock::time_point start = Clock::now();
  const int64_t vocab = first.config.text.vocab_size;
  LAPIDARY_CHECK(second.config.text.vocab_size == vocab,
                 "the models must have the same vocabulary; got ", vocab, " and ",
                 second.config.text.vocab_size, " tokens");
  PairResult pair;
  for (int64_t i = 0; i < static_cast<int64_t>(sequences.lengths.size()); ++i) {
    const Batch batch = sequences.get(i);
    EvalResult counts[2];
    if (use) use(false);
    const Tensor before = RunBatch(first, batch, options, &counts[0]);
    if (use) use(true);
    const Tensor hidden[2] = {before, RunBatch(second, batch, options, &counts[1])};
    PairRecord record = {counts[0].records.at(0), counts[1].all};
    for (int64_t row = 0; row < batch.size(); row += kLogitRows) {
      const int64_t rows = std::min(kLogitRows, batch.size() - row);
      const auto weights = batch.weights.begin() + row;
      if (std::none_of(weights, weights + rows, [](float w) { return w != 0; })) continue;
      const auto logits = [&](Transformer& model, const Tensor& all) {
        const int64_t width = all.shape()[1];
        const Tensor part = Tensor::FromFloats({rows, width}, all.data() + row * width);
        return Logits(part, model.head().Current(),
                      static_cast<float>(model.config.text.final_logit_softcapping),
                      options.compute);
      };
      const Tensor p = logits(first, hidden[0]), q = logits(second, hidden[1]);
      std::vector<double> kl(static_cast<size_t>(rows));
      std::vector<uint8_t> same(static_cast<size_t>(rows));
      ParallelFor(rows, [&](Range r) {
        for (int64_t k = r.begin; k < r.end; ++k) {
          if (weights[k] == 0) continue;
          bool top = false;
          kl[static_cast<size_t>(k)] =
              RowKl(p.data() + k * vocab, q.data() + k * vocab, vocab, &top);
          same[static_cast<size_t>(k)] = top;
        }
      });
      for (size_t k = 0; k < kl.size(); ++k) {
        record.kl_sum += kl[k];
        pair.kl_max = std::max(pair.kl_max, kl[k]);
        record.same_top += same[k];
      }
    }
    pair.first.Add(counts[0].all);
    pair.second.Add(counts[1].all);
    pair.kl_sum += record.kl_sum;
    pair.same_top += record.same_top;
    pair.records.push_back(std::move(record));
    if (options.on_batch) options.on_batch(i + 1);
  }
  pair.seconds = Since(start);
  return pair;
}

}  // namespace

PairResult EvaluatePair(Transformer& first, Transformer& second, const Sequences& sequences,
                        const EvalOptions& options) {
  return EvaluateTwo(first, second, {}, sequences, options);
}

PairResult EvaluateAdapter(Transformer& model, const std::function<void(bool with)>& use,
                           const Sequences& sequences, const EvalOptions& options) {
  return EvaluateTwo(model, model, use, sequences, options);
}

Json EvalJson(const EvalResult& result) {
  Json json = CountsJson(result.all);
  json["skipped"] = result.skipped;
  json["seconds"] = result.seconds;
  Json parts = Json::object();
  for (const auto& [name, counts] : result.by_modality) parts[name] = CountsJson(counts);
  json["by_modality"] = parts;
  if (result.by_group.empty()) return json;
  Json groups = Json::object();
  for (const auto& [name, counts] : result.by_group) groups[name] = CountsJson(counts);
  json["by_group"] = groups;
  return json;
}

}  // namespace lapidary
