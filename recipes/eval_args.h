// What the ways of `lapidary eval` share: its options, the data sets with their names, output.
#ifndef LAPIDARY_RECIPES_EVAL_ARGS_H_
#define LAPIDARY_RECIPES_EVAL_ARGS_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "data/dataset.h"
#include "data/sample.h"
#include "train/answers.h"
#include "train/bundle.h"
#include "train/evaluate.h"
#include "train/evaluation/resampling.h"

namespace lapidary {

struct EvalArgs {
  BaseFormat base;
  std::string model, adapter, reference, reference_adapter, tokens, save_logits;
  std::string compute = "bfloat16", image_mask = "sliding_only", on_error = "stop";
  std::string empty_thought = "insert", on_too_long = "error";
  std::vector<std::string> data, text, compare, shots_data, scores;
  std::string group, out, html, task;
  int64_t limit = 0, batch_size = 1, max_length = 0, loss_chunk = 128;
  std::string image_resize = "hf";
  int64_t image_tokens = 0, num_frames = 0, frame_tokens = 0, show = 0;
  int64_t window = 0, stride = 0, bootstrap = 1000, seed = 42;
  int64_t max_new_tokens = 0, samples = 0;  // 0: as the task says
  double tolerance = 0.01;
  bool answers = false, swap_media = false, no_loss = false, think = false, no_eos = false;
  bool json = false, quiet = false;
};

SampleOptions EvalSampleOptions(const EvalArgs& args, const MediaConfig& media);
EvalOptions MakeEvalOptions(const EvalArgs& args);
AnswerResult RunEvalAnswers(const EvalArgs& args, Bundle& bundle, const Dataset& dataset,
                            bool swap);

// The data sets of --data, each FILE or NAME=FILE, and whose a record is.
struct NamedData {
  std::shared_ptr<const Dataset> dataset;
  std::vector<std::string> names;  // of each source: NAME, or the file's name without its endings
  std::vector<int64_t> ends;       // of each source: the index behind its last record
  const std::string& NameOf(int64_t record) const;
};
// `limit`: of every source, the first records; 0: all.
NamedData OpenNamedData(const std::vector<std::string>& data, int64_t limit);

// Opens a model and prints its warnings to stderr. `writes`: it will write answers.
Bundle OpenForEval(const std::string& model, const std::string& adapter, BaseFormat base,
                   bool writes);

// Prints `text`, or with --json the JSON; writes --out and --html (`page` may be empty).
void DeliverEval(const EvalArgs& args, const std::string& text, const nlohmann::ordered_json& json,
                 const std::function<std::string()>& page);

// `lapidary eval --compare BASE TUNED`.
void RunEvalCompare(const EvalArgs& args);
// `lapidary eval --task TASK`.
void RunEvalTask(const EvalArgs& args);

}  // namespace lapidary

#endif  // LAPIDARY_RECIPES_EVAL_ARGS_H_
