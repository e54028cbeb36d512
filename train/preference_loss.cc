#include "train/preference_loss.h"

#include <algorithm>
#include <cmath>

#include "autograd/base/error.h"

namespace lapidary {
namespace {

double Sigmoid(double x) {
  return x >= 0 ? 1 / (1 + std::exp(-x)) : std::exp(x) / (1 + std::exp(x));
}
double LogSigmoid(double x) { return std::min(x, 0.0) - std::log1p(std::exp(-std::abs(x))); }

// log(1 - exp(x)) of x < 0.
double Log1mExp(double x) {
  return x > -M_LN2 ? std::log(-std::expm1(x)) : std::log1p(-std::exp(x));
}

// A value with its derivatives by two variables.
struct Value {
  double loss = 0, d_chosen = 0, d_rejected = 0;
};

// -(1 - e) log s(x) - e log s(-x), and its derivative.
void Smoothed(double x, double e, double* loss, double* slope) {
  *loss = -(1 - e) * LogSigmoid(x) - e * LogSigmoid(-x);
  *slope = Sigmoid(x) - (1 - e);
}

// DPO's losses of the chosen and the rejected log-ratio.
Value DpoLoss(const PreferenceConfig& config, const std::string& type, double chosen,
              double rejected) {
  const double beta = config.beta, e = config.label_smoothing;
  const double x = beta * (chosen - rejected);
  double loss = 0, slope = 0;  // of x, where the loss is a function of it
  if (type == "sigmoid" || type == "sigmoid_norm") {
    Smoothed(x, e, &loss, &slope);
  } else if (type == "hinge") {
    loss = std::max(0.0, 1 - x);
    slope = x < 1 ? -1 : 0;
  } else if (type == "ipo") {
    const double gap = chosen - rejected - 1 / (2 * beta);
    return {gap * gap, 2 * gap, -2 * gap};
  } else if (type == "robust") {
    loss = (-(1 - e) * LogSigmoid(x) + e * LogSigmoid(-x)) / (1 - 2 * e);
    slope = (-(1 - e) * Sigmoid(-x) - e * Sigmoid(x)) / (1 - 2 * e);
  } else if (type == "nca_pair") {
    const double c = beta * chosen, r = beta * rejected;
    return {-LogSigmoid(c) - 0.5 * LogSigmoid(-c) - 0.5 * LogSigmoid(-r),
            beta * (-Sigmoid(-c) + 0.5 * Sigmoid(c)), beta * 0.5 * Sigmoid(r)};
  } else if (type == "apo_zero") {
    const double c = Sigmoid(beta * chosen), r = Sigmoid(beta * rejected);
    return {1 - c + r, -beta * c * (1 - c), beta * r * (1 - r)};
  } else if (type == "apo_down") {
    const double c = Sigmoid(beta * chosen), d = Sigmoid(x);
    const double of_gap = beta * d * (1 - d);
    return {c + 1 - d, beta * c * (1 - c) - of_gap, of_gap};
  } else {  // sppo_hard
    const double c = chosen - 0.5 / beta, r = rejected + 0.5 / beta;
    return {c * c + r * r, 2 * c, 2 * r};
  }
  return {loss, beta * slope, -beta * slope};
}

const std::vector<std::string>& DpoTypes() {
  static const std::vector<std::string> types = {"sigmoid",  "sigmoid_norm", "hinge",
                                                 "ipo",      "robust",       "nca_pair",
                                                 "apo_zero", "apo_down",     "sppo_hard"};
  return types;
}

bool Has(const std::vector<std::string>& words, const std::string& word) {
  return std::find(words.begin(), words.end(), word) != words.end();
}

PairLoss OrpoLoss(const PreferenceConfig& config, const PairScores& s) {
  // A probability of 1 has no odds: an answer that is certain to the last bit counts as nearly so.
  const double c = std::min(s.chosen / s.chosen_tokens, -1e-12);
  const double r = std::min(s.rejected / s.rejected_tokens, -1e-12);
  const double odds = (c - r) - (Log1mExp(c) - Log1mExp(r));
  const double slope = -config.beta * Sigmoid(-odds);
  return {.loss = -config.beta * LogSigmoid(odds),
          .d_chosen = slope / -std::expm1(c) / s.chosen_tokens,
          .d_rejected = -slope / -std::expm1(r) / s.rejected_tokens,
          .chosen_reward = config.beta * c,
          .rejected_reward = config.beta * r};
}

PairLoss SimpoLoss(const PreferenceConfig& config, const PairScores& s) {
  const double c = s.chosen / s.chosen_tokens, r = s.rejected / s.rejected_tokens;
  double loss = 0, slope = 0;
  Smoothed(config.beta * (c - r) - config.simpo_gamma, config.label_smoothing, &loss, &slope);
  return {.loss = loss,
          .d_chosen = config.beta * slope / s.chosen_tokens,
          .d_rejected = -config.beta * slope / s.rejected_tokens,
          .chosen_reward = config.beta * c,
          .rejected_reward = config.beta * r};
}

}  // namespace

std::string PreferenceConfig::LossType() const {
  if (loss_type != "auto") return loss_type;
  return type == "dpo" ? "sigmoid" : type;
}

std::vector<std::string> PreferenceLossTypes() {
  std::vector<std::string> types = {"auto"};
  types.insert(types.end(), DpoTypes().begin(), DpoTypes().end());
  types.insert(types.end(), {"kto", "apo_zero_unpaired"});
  return types;
}

void CheckPreference(const PreferenceConfig& config, const std::string& where) {
  const std::string& word = config.loss_type;
  const bool fits = word == "auto" || (config.type == "dpo" && Has(DpoTypes(), word)) ||
                    (config.type == "kto" && (word == "kto" || word == "apo_zero_unpaired"));
  LAPIDARY_CHECK(fits, where, ": 'loss.loss_type' must be one of loss.type \"", config.type,
                 "\"; got '", word, "'; try leaving it out");
  LAPIDARY_CHECK(config.beta > 0, where, ": 'loss.beta' must be above 0; got ", config.beta,
                 "; try 0.1");
}

AnswerLoss LossOfAnswer(const PreferenceConfig& config, bool desirable, double log_prob,
                        double reference, double kl) {
  const double ratio = log_prob - reference, k = config.HasKl() ? kl : 0;
  const double sign = desirable ? 1 : -1;
  const double weight = desirable ? config.desirable_weight : config.undesirable_weight;
  const double s = Sigmoid(sign * config.beta * (ratio - k));
  return {.loss = weight * (1 - s),
          .slope = -sign * weight * config.beta * s * (1 - s),
          .reward = config.beta * ratio};
}

PairLoss LossOfPair(const PreferenceConfig& config, const PairScores& s, double kl) {
  if (config.type == "orpo") return OrpoLoss(config, s);
  if (config.type == "simpo") return SimpoLoss(config, s);
  const double chosen = s.chosen - s.ref_chosen, rejected = s.rejected - s.ref_rejected;
  PairLoss result;
  result.chosen_reward = config.beta * chosen;
  result.rejected_reward = config.beta * rejected;
  const std::string type = config.LossType();
  if (config.type == "kto") {
    const AnswerLoss c = LossOfAnswer(config, true, s.chosen, s.ref_chosen, kl);
    const AnswerLoss r = LossOfAnswer(config, false, s.rejected, s.ref_rejected, kl);
    result.loss = 0.5 * (c.loss + r.loss);
    result.d_chosen = 0.5 * c.slope;
    result.d_rejected = 0.5 * r.slope;
    return result;
  }
  const bool mean = type == "ipo" || type == "sigmoid_norm";
  const double nc = mean ? s.chosen_tokens : 1, nr = mean ? s.rejected_tokens : 1;
  const Value value = DpoLoss(config, type, chosen / nc, rejected / nr);
  result.loss = value.loss;
  result.d_chosen = value.d_chosen / nc;
  result.d_rejected = value.d_rejected / nr;
  return result;
}

}  // namespace lapidary
