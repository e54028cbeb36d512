// The losses of preference training as functions of two answers' log-probabilities, with their
// derivatives. Names, formulas and defaults are TRL's.
//   r = log pi(y | x), q = log pi_ref(y | x), sums over the trained tokens of an answer; c chosen,
//   r rejected; D = (r_c - q_c) - (r_r - q_r); s the logistic function; n tokens of an answer
// dpo     sigmoid      -log s(beta D), smoothed: -(1 - e) log s(beta D) - e log s(-beta D)
//         sigmoid_norm the same with ratios divided by n
//         hinge        max(0, 1 - beta D)
//         ipo          (D' - 1 / (2 beta))^2, D' of ratios divided by n
//         robust       (-(1 - e) log s(beta D) + e log s(-beta D)) / (1 - 2 e)
//         nca_pair, apo_zero, apo_down, sppo_hard: preference_loss.cc
// simpo   -log s(r_c / n_c * beta - r_r / n_r * beta - gamma), smoothed as above, + cpo_alpha * the
//         mean loss of the chosen answers' tokens; no reference
// orpo    the mean loss of the chosen answers' tokens - beta log s(log odds_c / odds_r), odds = p /
//         (1 - p) of p = exp(r / n); no reference
// kto     desirable_weight (1 - s(beta (r_c - q_c - K))), undesirable_weight (1 - s(beta (K - r_r +
//         q_r))), K = max(0, mean r - q of answers to other prompts), no gradient;
//         apo_zero_unpaired: K = 0. Mean over answers, so half of both of a pair
// Sources: Rafailov et al. 2023, arXiv:2305.18290; Azar et al. 2023, 2310.12036; Hong et al. 2024,
// 2403.07691; Ethayarajh et al. 2024, 2402.01306; Meng et al. 2024, 2405.14734.
#ifndef LAPIDARY_TRAIN_PREFERENCE_LOSS_H_
#define LAPIDARY_TRAIN_PREFERENCE_LOSS_H_

#include <string>
#include <vector>

namespace lapidary {

struct PreferenceConfig {
  std::string type = "dpo";  // "orpo", "kto", "simpo"
  double beta = 0.1;
  std::string loss_type = "auto";  // of dpo and kto
  double label_smoothing = 0;
  double simpo_gamma = 0.5;
  double cpo_alpha = 0;
  double desirable_weight = 1;
  double undesirable_weight = 1;

  bool operator==(const PreferenceConfig&) const = default;
  // `loss_type` with "auto" resolved.
  std::string LossType() const;
  // Whether there is a reference model: dpo and kto.
  bool HasReference() const { return type == "dpo" || type == "kto"; }
  // Whether K is measured.
  bool HasKl() const { return type == "kto" && LossType() == "kto"; }
  // Weight of the mean loss of the chosen answers' tokens.
  double NllWeight() const { return type == "orpo" ? 1 : type == "simpo" ? cpo_alpha : 0; }
};

// Every word that loss_type may be.
std::vector<std::string> PreferenceLossTypes();
// Throws Error `where: ...` if loss_type does not go with type, or beta is 0.
void CheckPreference(const PreferenceConfig& config, const std::string& where);

struct PairScores {
  double chosen = 0, rejected = 0;                // r, sums
  double ref_chosen = 0, ref_rejected = 0;        // q; without a reference unused
  double chosen_tokens = 1, rejected_tokens = 1;  // n
};

struct PairLoss {
  double loss = 0;                                // without the term of NllWeight
  double d_chosen = 0, d_rejected = 0;            // derivatives by r
  double chosen_reward = 0, rejected_reward = 0;  // as TRL logs them
};

// kto: one answer.
struct AnswerLoss {
  double loss = 0;
  double slope = 0;   // derivative by r
  double reward = 0;  // as TRL logs it
};
AnswerLoss LossOfAnswer(const PreferenceConfig& config, bool desirable, double log_prob,
                        double reference, double kl);

PairLoss LossOfPair(const PreferenceConfig& config, const PairScores& scores, double kl);

}  // namespace lapidary

#endif  // LAPIDARY_TRAIN_PREFERENCE_LOSS_H_
