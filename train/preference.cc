#include "train/preference.h"

#include <algorithm>
#include <cmath>

#include "autograd/base/dry_run.h"
#include "autograd/base/error.h"
#include "autograd/ops/basic.h"

namespace lapidary {
namespace {

struct Span {
  int64_t begin = 0, end = 0;
};

std::vector<Span> Documents(const MicroBatch& batch) {
  const std::vector<int32_t>& starts = batch.input.document_starts;
  std::vector<Span> spans;
  for (size_t i = 0; i < starts.size(); ++i) {
    spans.push_back({starts[i], i + 1 < starts.size() ? starts[i + 1] : batch.input.size()});
  }
  LAPIDARY_CHECK(batch.labels.empty() || batch.labels.size() == spans.size(),
                 "preference: a micro-batch must have a label for every answer, or none; got ",
                 batch.labels.size(), " of ", spans.size());
  LAPIDARY_CHECK(!spans.empty() && (!batch.labels.empty() || spans.size() % 2 == 0),
                 "preference: a micro-batch must be pairs of documents; got ", spans.size());
  return spans;
}

// What a model says of the answers: sums of weight * log p, one a document.
struct Answers {
  std::vector<double> log_probs, tokens;
  int64_t correct = 0;
};

Answers Sum(const MicroBatch& batch, const TokenStats& stats) {
  Answers answers;
  for (const Span& span : Documents(batch)) {
    double sum = 0, tokens = 0;
    for (int64_t n = span.begin; n < span.end; ++n) {
      const size_t i = static_cast<size_t>(n);
      sum -= static_cast<double>(batch.weights[i]) * stats.loss[i];
      tokens += batch.weights[i];
      answers.correct += stats.correct[i];
    }
    answers.log_probs.push_back(sum);
    answers.tokens.push_back(std::max(tokens, 1.0));
  }
  return answers;
}

// Of hidden states, whose gradients are not wanted.
Answers Score(Transformer& model, const Tensor& hidden, const MicroBatch& batch,
              const ForwardOptions& forward, int64_t chunk) {
  TokenStats stats;
  CrossEntropyOptions options;
  options.softcap = static_cast<float>(model.config.text.final_logit_softcapping);
  options.chunk = chunk;
  options.compute = forward.compute;
  Tape tape(Tape::Mode::kNoGrad);
  const WeightView head = forward.base_only ? model.head().Plain() : model.head().Current();
  CrossEntropyFrozen(tape.Constant(hidden), head, batch.targets, batch.weights, options, &stats);
  return Sum(batch, stats);
}

Answers Score(Transformer& model, const MicroBatch& batch, const ForwardOptions& forward,
              int64_t chunk) {
  Tape tape(Tape::Mode::kNoGrad);
  const Tensor hidden = Forward(model, tape, batch.input, forward).value();
  return Score(model, hidden, batch, forward, chunk);
}

ForwardOptions Plain(ForwardOptions options, bool base_only) {
  options.training = options.gradient_checkpointing = false;
  options.neftune_noise_alpha = 0;
  options.base_only = base_only;
  return options;
}

// Everything but the policy's own scores.
PreferenceScores Reference(Transformer& model, Transformer* reference, const MicroBatch& batch,
                           const PreferenceConfig& config, const ForwardOptions& forward,
                           int64_t chunk) {
  PreferenceScores scores;
  const size_t documents = Documents(batch).size();
  scores.pairs.resize(batch.labels.empty() ? documents / 2 : 0);
  for (const bool label : batch.labels) scores.answers.push_back({.desirable = label});
  if (!config.HasReference()) return scores;
  LAPIDARY_CHECK(reference, "preference: there must be a reference model; got none");
  const ForwardOptions base = Plain(forward, true), policy = Plain(forward, false);
  const Answers answers = Score(*reference, batch, base, chunk);
  for (size_t i = 0; i < scores.pairs.size(); ++i) {
    scores.pairs[i].ref_chosen = answers.log_probs[2 * i];
    scores.pairs[i].ref_rejected = answers.log_probs[2 * i + 1];
  }
  for (size_t i = 0; i < scores.answers.size(); ++i) {
    scores.answers[i].reference = answers.log_probs[i];
  }
  if (!config.HasKl() || scores.units() < 2) return scores;
  const MicroBatch mixed = MismatchedBatch(batch);
  const Answers now = Score(model, mixed, policy, chunk);
  const Answers then = Score(*reference, mixed, base, chunk);
  double sum = 0;
  for (size_t i = 0; i < now.log_probs.size(); ++i) sum += now.log_probs[i] - then.log_probs[i];
  scores.kl = std::max(0.0, sum / static_cast<double>(now.log_probs.size()));
  return scores;
}

void Fill(const Answers& answers, PreferenceScores* scores) {
  for (size_t i = 0; i < scores->pairs.size(); ++i) {
    PairScores& pair = scores->pairs[i];
    pair.chosen = answers.log_probs[2 * i];
    pair.rejected = answers.log_probs[2 * i + 1];
    pair.chosen_tokens = answers.tokens[2 * i];
    pair.rejected_tokens = answers.tokens[2 * i + 1];
  }
  for (size_t i = 0; i < scores->answers.size(); ++i) {
    scores->answers[i].log_prob = answers.log_probs[i];
  }
  scores->correct = answers.correct;
}

// Derivatives of the sum of losses by each document's log-probability.
std::vector<double> Slopes(const PreferenceConfig& config, const PreferenceScores& scores) {
  std::vector<double> slopes;
  for (const PairScores& pair : scores.pairs) {
    const PairLoss loss = LossOfPair(config, pair, scores.kl);
    slopes.push_back(loss.d_chosen);
    slopes.push_back(loss.d_rejected);
  }
  for (const AnswerScores& a : scores.answers) {
    slopes.push_back(LossOfAnswer(config, a.desirable, a.log_prob, a.reference, scores.kl).slope);
  }
  return slopes;
}

}  // namespace

MicroBatch MismatchedBatch(const MicroBatch& batch) {
  const std::vector<Span> spans = Documents(batch);
  const size_t count = spans.size();
  // Where a document's answer begins: behind the first token that has a trained target.
  std::vector<int64_t> answer;
  for (const Span& span : spans) {
    int64_t n = span.begin;
    while (n < span.end && batch.weights[static_cast<size_t>(n)] == 0) ++n;
    answer.push_back(std::min(n + 1, span.end));
  }
  MicroBatch mixed;
  mixed.names = batch.names;
  mixed.labels = batch.labels;
  std::vector<int64_t> moved(batch.input.ids.size(), -1);  // where a prompt's token goes
  const auto copy = [&](int64_t from) {
    const size_t i = static_cast<size_t>(from);
    mixed.input.ids.push_back(batch.input.ids[i]);
    if (!batch.input.types.empty()) mixed.input.types.push_back(batch.input.types[i]);
    mixed.targets.push_back(batch.targets[i]);
    mixed.weights.push_back(batch.weights[i]);
  };
  for (size_t d = 0; d < count; ++d) {
    const size_t other = (d + count - (batch.labels.empty() ? 2 : 1)) % count;
    mixed.input.document_starts.push_back(static_cast<int32_t>(mixed.input.ids.size()));
    for (int64_t n = spans[d].begin; n < answer[d]; ++n) {
      moved[static_cast<size_t>(n)] = mixed.input.size();
      copy(n);
    }
    // The prompt's last token is followed by the other answer's first.
    const size_t seam = static_cast<size_t>(answer[other] - 1);
    mixed.targets.back() = batch.targets[seam];
    mixed.weights.back() = batch.weights[seam];
    for (int64_t n = answer[other]; n < spans[other].end; ++n) copy(n);
  }
  const auto rows = [&](const std::vector<int64_t>& places) {
    std::vector<int64_t> out;
    if (DryRun()) return places;  // a rehearsal's media lie anywhere
    for (const int64_t place : places) {
      LAPIDARY_CHECK(moved[static_cast<size_t>(place)] >= 0,
                     batch.names.empty() ? "the batch" : batch.names[0],
                     ": answers must be without media under kto; got some; try loss_type "
                     "\"apo_zero_unpaired\"");
      out.push_back(moved[static_cast<size_t>(place)]);
    }
    return out;
  };
  mixed.input.patches = batch.input.patches;
  mixed.input.patch_positions = batch.input.patch_positions;
  mixed.input.patch_rows = rows(batch.input.patch_rows);
  mixed.input.audio_frames = batch.input.audio_frames;
  mixed.input.audio_rows = rows(batch.input.audio_rows);
  return mixed;
}

PreferenceScores ScorePairs(Transformer& model, Transformer* reference, const MicroBatch& batch,
                            const PreferenceConfig& config, const ForwardOptions& forward,
                            int64_t loss_chunk) {
  PreferenceScores scores = Reference(model, reference, batch, config, forward, loss_chunk);
  Fill(Score(model, batch, Plain(forward, false), loss_chunk), &scores);
  return scores;
}

void FigureMeans::Add(const std::string& name, double sum, double count) {
  sums_[name].first += sum;
  sums_[name].second += count;
}

std::map<std::string, double> FigureMeans::Means() const {
  std::map<std::string, double> means;
  for (const auto& [name, sum] : sums_) means[name] = sum.first / std::max(sum.second, 1.0);
  const auto chosen = means.find("rewards/chosen"), rejected = means.find("rewards/rejected");
  if (chosen != means.end() && rejected != means.end()) {
    means["rewards/margins"] = chosen->second - rejected->second;
  }
  return means;
}

double AddPreferenceFigures(const PreferenceConfig& config, const PreferenceScores& scores,
                            FigureMeans* figures) {
  double loss = 0;
  const auto side = [&](bool desirable, double reward, double log_prob) {
    figures->Add(desirable ? "rewards/chosen" : "rewards/rejected", reward, 1);
    figures->Add(desirable ? "logps/chosen" : "logps/rejected", log_prob, 1);
  };
  for (const PairScores& pair : scores.pairs) {
    const PairLoss result = LossOfPair(config, pair, scores.kl);
    loss += result.loss;
    side(true, result.chosen_reward, pair.chosen);
    side(false, result.rejected_reward, pair.rejected);
    figures->Add("rewards/accuracies", result.chosen_reward > result.rejected_reward ? 1 : 0, 1);
  }
  for (const AnswerScores& a : scores.answers) {
    const AnswerLoss result = LossOfAnswer(config, a.desirable, a.log_prob, a.reference, scores.kl);
    loss += result.loss;
    side(a.desirable, result.reward, a.log_prob);
  }
  if (config.HasKl()) figures->Add("kl", scores.kl, 1);
  return loss;
}

StepResult PreferenceGradients(Transformer& model, const std::vector<Param*>& params,
                               const std::vector<MicroBatch>& micro, const StepOptions& options) {
  const PreferenceConfig& config = *options.preference;
  StepResult result;
  FigureMeans figures;
  double units = 0, chosen_tokens = 0;
  for (const MicroBatch& batch : micro) {
    const std::vector<Span> spans = Documents(batch);
    for (size_t d = 0; d < spans.size(); ++d) {
      for (int64_t n = spans[d].begin; n < spans[d].end; ++n) {
        const float weight = batch.weights[static_cast<size_t>(n)];
        result.target_tokens += weight;
        if (d % 2 == 0) chosen_tokens += weight;
      }
    }
    units += static_cast<double>(batch.labels.empty() ? spans.size() / 2 : spans.size());
    result.tokens += batch.input.size();
  }
  LAPIDARY_CHECK(result.target_tokens > 0, RecordsText(micro),
                 ": a step must have a trained token; got none; try `lapidary data inspect`");
  const double nll = config.NllWeight() / std::max(chosen_tokens, 1.0);
  ZeroGrads(params);
  int64_t position = 0;
  double nll_sum = 0;
  for (const MicroBatch& batch : micro) {
    ModelInput input = batch.input;
    SetStepPositions(&input, &position);
    PreferenceScores scores =
        Reference(model, options.reference, batch, config, options.forward, options.loss_chunk);
    Tape tape;
    const Var hidden = Forward(model, tape, input, options.forward);
    Fill(Score(model, hidden.value(), batch, options.forward, options.loss_chunk), &scores);
    const double loss = AddPreferenceFigures(config, scores, &figures);
    LAPIDARY_CHECK(std::isfinite(loss), RecordsText({batch}), ": the loss must be finite; got ",
                   loss, "; try a lower learning_rate, or look at these records");
    result.loss += loss;
    result.correct += scores.correct;
    // The gradient of the loss is that of sum w_n * -log p_n with these w.
    std::vector<float> weights = batch.weights;
    const std::vector<Span> spans = Documents(batch);
    const std::vector<double> slopes = Slopes(config, scores);
    for (size_t d = 0; d < spans.size() && !DryRun(); ++d) {
      double weight = -slopes[d] / units;
      if (batch.labels.empty() && d % 2 == 0) {
        weight += nll;
        nll_sum -= scores.pairs[d / 2].chosen;
      }
      for (int64_t n = spans[d].begin; n < spans[d].end; ++n) {
        weights[static_cast<size_t>(n)] *= static_cast<float>(weight);
      }
    }
    const Var sum = LossSum(model, hidden, batch.targets, weights, options.forward.compute,
                            options.loss_chunk, nullptr);
    if (sum.needs_grad()) tape.Backward(sum);
  }
  result.figures = figures.Means();
  result.loss = result.loss / units + nll * nll_sum;
  if (config.NllWeight() > 0) result.figures["nll_loss"] = nll_sum / std::max(chosen_tokens, 1.0);
  return result;
}

}  // namespace lapidary
