// Distillation: training towards the probabilities of a teacher, alone or beside the data. The
// teacher is the base itself, without adapters and fake quantization, in the same process; or the
// likeliest tokens of any model, stored beforehand (`lapidary distill-cache`).
#ifndef LAPIDARY_TRAIN_DISTILL_H_
#define LAPIDARY_TRAIN_DISTILL_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "autograd/ops/loss.h"
#include "model/transformer.h"
#include "quant/tensor_file.h"
#include "train/micro_batch.h"

namespace lapidary {

struct DistillConfig {
  std::string teacher = "base";  // or a file of `lapidary distill-cache`
  double mix = 1.0;              // share of the teacher's term; the rest is the data's
  double temperature = 1.0;      // of both; of a file 1

  bool operator==(const DistillConfig&) const = default;
};

// What a step asks for the teacher's view of a micro-batch.
class DistillTeacher {
 public:
  virtual ~DistillTeacher() = default;
  // For the rows of `batch`, under the same forward options. Throws Error naming a record that the
  // teacher does not know.
  virtual Teacher Of(const MicroBatch& batch, const ForwardOptions& options) = 0;
};

// `model` as it is without adapters and fake quantization; it must outlive the teacher. In full
// fine-tuning, whose weights move, a second, frozen copy of the base.
std::unique_ptr<DistillTeacher> TeacherFromModel(const DistillConfig& config, Transformer* model);
// From a file. Throws Error if it is broken or of another vocabulary.
std::unique_ptr<DistillTeacher> TeacherFromFile(const DistillConfig& config, int64_t vocab_size);

// Writes the k likeliest tokens of every trained position of every batch that `next` gives (empty
// micro-batch: the end), by record: for the record's name, "NAME|ids" I32 and "NAME|log_probs" F32
// [targets, k], "NAME|tokens" I32 [tokens], the record's ids. Returns the number of records.
// Memory: what is written, and 64 rows of scores.
int64_t WriteDistillCache(Transformer& model, const ForwardOptions& options, int64_t k,
                          const std::function<MicroBatch()>& next, const std::string& path);

}  // namespace lapidary

#endif  // LAPIDARY_TRAIN_DISTILL_H_
