// How well a model predicts: loss, perplexity and token accuracy, for each kind of record, on a
// data set or on given token ids; and the logits themselves, streamed to a file.
#ifndef LAPIDARY_TRAIN_EVALUATE_H_
#define LAPIDARY_TRAIN_EVALUATE_H_

#include <cstdint>
#include <functional>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "data/loader.h"
#include "model/transformer.h"

namespace lapidary {

struct EvalCounts {
  double loss_sum = 0;      // of weight * -log p(target)
  double loss_squares = 0;  // of weight * (-log p(target))^2
  double weight = 0;
  int64_t targets = 0;  // tokens with a weight
  int64_t correct = 0;  // of them the arg max
  int64_t records = 0;
  int64_t tokens = 0;  // all, soft tokens of media included

  double Loss() const { return weight > 0 ? loss_sum / weight : 0; }  // nats a target
  double Perplexity() const;                                          // exp(Loss())
  double PerplexityError() const;  // its standard error, targets taken as independent
  double Accuracy() const {
    return targets > 0 ? static_cast<double>(correct) / static_cast<double>(targets) : 0;
  }
  void Add(const EvalCounts& other);
};

// One record (or sequence) of an evaluation.
struct RecordCounts {
  std::string where;     // "file:line"
  std::string modality;  // as in EvalResult::by_modality
  std::string group;     // as EvalOptions::group_of says
  int64_t record = 0;    // index in the data set
  EvalCounts counts;
};

struct EvalResult {
  EvalCounts all;
  std::map<std::string, EvalCounts> by_modality;  // "text", "image", "audio", "video", "mixed"
  std::map<std::string, EvalCounts> by_group;     // empty without EvalOptions::group_of
  std::vector<RecordCounts> records;              // in the order of evaluation
  int64_t skipped = 0;                            // records left out
  double seconds = 0;
};

struct EvalOptions {
  Compute compute = Compute::kBfloat16;
  const ActivationPolicy* activations = nullptr;  // as in training; null: by default
  ImageMask image_mask = ImageMask::kSlidingOnly;
  int64_t loss_chunk = 128;
  int64_t max_records = 0;                        // 0: all
  std::function<void(int64_t records)> on_batch;  // progress; may be empty
  // The group of the data set's record of this index; may be empty.
  std::function<std::string(int64_t record)> group_of;
};

// The kind of a record by its media: "text" without any, "mixed" with several kinds.
std::string ModalityOf(int64_t images, int64_t sounds, int64_t videos);

// Everything that the loader gives, one pass.
EvalResult Evaluate(Transformer& model, Loader& loader, const EvalOptions& options);

// A source of single documents that can be asked for in any order, twice.
struct Sequences {
  std::vector<int64_t> lengths;             // tokens of each
  std::function<Batch(int64_t index)> get;  // one document
  int64_t skipped = 0;
};

// Token ids as they are; every token after the first is a target.
Sequences TokenSequences(std::vector<std::vector<int32_t>> ids);
// FILE.json, a list of lists of ids. Throws Error for anything else, an empty list, or an id
// outside [0, vocab_size).
std::vector<std::vector<int32_t>> ReadTokenLists(const std::string& path, int64_t vocab_size);
// The records of a data set in order. Reads all of it once, for the lengths. Throws Error for a
// broken record under kStop, and if none is left.
Sequences DatasetSequences(std::shared_ptr<const Dataset> dataset, const SampleBuilder& builder,
                           OnError on_error, const ProblemCallback& report);

// The same figures from documents one at a time. `logits_path`: if not "", a safetensors file with
// `logits.I` [T, V], float32, softcapped, for the I-th sequence; it is written row block by row
// block and appears when complete.
EvalResult EvaluateSequences(Transformer& model, const Sequences& sequences,
                             const EvalOptions& options, const std::string& logits_path);

// One record before and after.
struct PairRecord {
  RecordCounts first;
  EvalCounts second;
  double kl_sum = 0;
  int64_t same_top = 0;
};

// Two models on the same targets: the second beside the first.
struct PairResult {
  EvalCounts first, second;
  double kl_sum = 0;  // of KL(first || second) in nats, over targets
  double kl_max = 0;
  int64_t same_top = 0;  // targets where the most likely token is the same
  std::vector<PairRecord> records;
  double seconds = 0;

  double Kl() const { return first.targets > 0 ? kl_sum / static_cast<double>(first.targets) : 0; }
  double TopAgreement() const {
    return first.targets > 0 ? static_cast<double>(same_top) / static_cast<double>(first.targets)
                             : 0;
  }
};

// Throws Error if the models' vocabularies differ. Logits exist for kLogitRows tokens at a time.
PairResult EvaluatePair(Transformer& first, Transformer& second, const Sequences& sequences,
                        const EvalOptions& options);

// For --json and reports: {"loss", "perplexity", "token_accuracy", "targets", "records", "tokens"},
// and the same under "by_modality" and, with groups, "by_group".
nlohmann::ordered_json EvalJson(const EvalResult& result);

}  // namespace lapidary

#endif  // LAPIDARY_TRAIN_EVALUATE_H_
