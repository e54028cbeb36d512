// Preference training: the formulas against TRL and against differences, the step against TRL on
// the tiny model, and what is promised of it.
#include "train/preference.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <nlohmann/json.hpp>

#include "autograd/base/file.h"
#include "autograd/base/parallel.h"
#include "model/adapt.h"
#include "model/load.h"
#include "tests/golden.h"

namespace lapidary {
namespace {

using Json = nlohmann::json;

PreferenceConfig ConfigOf(const Json& json) {
  PreferenceConfig config;
  config.type = json.at("type");
  config.beta = json.at("beta");
  config.loss_type = json.value("loss_type", config.loss_type);
  config.label_smoothing = json.value("label_smoothing", config.label_smoothing);
  config.simpo_gamma = json.value("simpo_gamma", config.simpo_gamma);
  config.cpo_alpha = json.value("cpo_alpha", config.cpo_alpha);
  config.desirable_weight = json.value("desirable_weight", config.desirable_weight);
  config.undesirable_weight = json.value("undesirable_weight", config.undesirable_weight);
  return config;
}

// --- the formulas ---

struct Compared {
  double loss = 0, reward = 0, slope = 0;
  double Worst() const { return std::max({loss, reward, slope}); }
};

double Relative(double got, double want) {
  return std::abs(got - want) / std::max(std::abs(want), 1e-3);
}

// Our figures against a stored case.
Compared Compare(const Json& all, const Json& c, const PreferenceConfig& config) {
  const size_t n = all.at("chosen").size();
  Compared worst;
  double loss = 0, chosen = 0, rejected = 0;
  for (size_t i = 0; i < n; ++i) {
    const PairScores scores = {.chosen = all.at("chosen")[i],
                               .rejected = all.at("rejected")[i],
                               .ref_chosen = all.at("ref_chosen")[i],
                               .ref_rejected = all.at("ref_rejected")[i],
                               .chosen_tokens = all.at("chosen_tokens")[i],
                               .rejected_tokens = all.at("rejected_tokens")[i]};
    const PairLoss pair = LossOfPair(config, scores, c.at("kl"));
    const double count = static_cast<double>(n);
    loss += pair.loss / count;
    chosen += pair.chosen_reward / count;
    rejected += pair.rejected_reward / count;
    worst.slope = std::max({worst.slope, Relative(pair.d_chosen / count, c.at("d_chosen")[i]),
                            Relative(pair.d_rejected / count, c.at("d_rejected")[i])});
  }
  worst.loss = Relative(loss, c.at("loss"));
  worst.reward = std::max(Relative(chosen, c.at("chosen_reward")),
                          Relative(rejected, c.at("rejected_reward")));
  return worst;
}

TEST(PreferenceLoss, IsTrls) {
  int count = 0;
  for (const std::string& path : golden::Find("training/preference.json")) {
    const Json all = Json::parse(ReadFile(path));
    for (const Json& c : all.at("cases")) {
      const PreferenceConfig config = ConfigOf(c.at("config"));
      const Compared worst = Compare(all, c, config);
      std::printf("%s: loss %.2g, rewards %.2g, derivatives %.2g\n", c.at("config").dump().c_str(),
                  worst.loss, worst.reward, worst.slope);
      EXPECT_LT(worst.Worst(), 1e-5) << c.at("config");
      ++count;
      // A planted mistake shows.
      PreferenceConfig wrong = config;
      wrong.beta *= 1.05;
      EXPECT_GT(Compare(all, c, wrong).Worst(), 1e-3) << c.at("config");
    }
  }
  EXPECT_GE(count, 17);
}

TEST(PreferenceLoss, DerivativesAreThoseOfTheLoss) {
  std::vector<PreferenceConfig> configs;
  for (const std::string type : {"dpo", "kto", "orpo", "simpo"}) {
    for (const std::string& loss_type : PreferenceLossTypes()) {
      PreferenceConfig config;
      config.type = type;
      config.loss_type = loss_type;
      config.beta = 0.7;
      config.label_smoothing = 0.1;
      config.desirable_weight = 1.3;
      try {
        CheckPreference(config, "test");
      } catch (const Error&) {
        continue;  // not a loss of this type
      }
      configs.push_back(config);
    }
  }
  ASSERT_EQ(configs.size(), 15u);
  const PairScores start = {-7, -9, -7.5, -8.2, 5, 4};
  for (const PreferenceConfig& config : configs) {
    const auto loss = [&](double dc, double dr) {
      PairScores scores = start;
      scores.chosen += dc;
      scores.rejected += dr;
      return LossOfPair(config, scores, 0.3).loss;
    };
    const double h = 1e-5;
    const PairLoss pair = LossOfPair(config, start, 0.3);
    EXPECT_NEAR(pair.d_chosen, (loss(h, 0) - loss(-h, 0)) / (2 * h), 1e-7)
        << config.type << " " << config.loss_type;
    EXPECT_NEAR(pair.d_rejected, (loss(0, h) - loss(0, -h)) / (2 * h), 1e-7)
        << config.type << " " << config.loss_type;
  }
}

// --- a step on the tiny model ---

// The stored pairs as a micro-batch: chosen and rejected in turn, answers trained.
MicroBatch Pairs(const Json& pairs, size_t first, size_t count) {
  MicroBatch batch;
  for (size_t i = first; i < first + count; ++i) {
    for (const char* side : {"chosen", "rejected"}) {
      std::vector<int32_t> ids = pairs[i].at("prompt");
      const size_t prompt = ids.size();
      for (const auto& id : pairs[i].at(side)) ids.push_back(id.get<int32_t>());
      batch.input.document_starts.push_back(static_cast<int32_t>(batch.input.ids.size()));
      for (size_t n = 0; n < ids.size(); ++n) {
        const bool last = n + 1 == ids.size();
        batch.input.ids.push_back(ids[n]);
        batch.targets.push_back(last ? 0 : ids[n + 1]);
        batch.weights.push_back(!last && n + 1 >= prompt ? 1.0f : 0.0f);
      }
      batch.names.push_back(StrCat("pairs:", i + 1));
    }
  }
  return batch;
}

struct Tiny {
  Json want;
  LoadedModel loaded;
  std::vector<Param*> params;
};

std::unique_ptr<Tiny> OpenTiny(const std::string& path) {
  auto tiny = std::make_unique<Tiny>();
  tiny->want = Json::parse(ReadFile(path));
  const std::string folder = path.substr(0, path.rfind("/training/")) + "/model/tiny";
  tiny->loaded = LoadModel(folder + "/model");
  LoadAdapter(tiny->loaded.model, folder + "/lora/start", /*trainable=*/true);
  tiny->params = TrainableParams(tiny->loaded.model);
  return tiny;
}

StepOptions OptionsFor(Tiny& tiny, const PreferenceConfig& config) {
  StepOptions options;
  options.loss_chunk = 64;
  options.forward.training = true;
  options.preference = &config;
  options.reference = config.HasReference() ? &tiny.loaded.model : nullptr;
  return options;
}

std::string PathOfTiny() {
  const std::vector<std::string> found = golden::Find("training/tiny.json");
  LAPIDARY_CHECK(!found.empty(), "golden/training/tiny.json: must exist; got none");
  return found[0];
}

TEST(PreferenceStep, IsTrlsOnTheTinyModel) {
  const auto tiny = OpenTiny(PathOfTiny());
  const MicroBatch batch = Pairs(tiny->want.at("pairs"), 0, 3);
  for (const Json& c : tiny->want.at("cases")) {
    const PreferenceConfig config = ConfigOf(c.at("config"));
    const StepResult got =
        PreferenceGradients(tiny->loaded.model, tiny->params, {batch}, OptionsFor(*tiny, config));
    EXPECT_LT(Relative(got.loss, c.at("loss")), 1e-5) << c.at("config");
    EXPECT_NEAR(got.figures.at("rewards/chosen"), c.at("chosen_reward"), 2e-5) << c.at("config");
    EXPECT_NEAR(got.figures.at("rewards/rejected"), c.at("rejected_reward"), 2e-5);
    double square = 0, off = 0;
    int found = 0;
    for (const Param* param : tiny->params) {
      ASSERT_TRUE(param->grad.defined()) << param->name;
      double sum = 0;
      for (int64_t i = 0; i < param->grad.size(); ++i) {
        sum += static_cast<double>(param->grad.data()[i]) * param->grad.data()[i];
      }
      square += sum;
      for (size_t k = 0; k < tiny->want.at("names").size(); ++k) {
        if (tiny->want.at("names")[k] != param->name) continue;
        ++found;
        off = std::max(off, std::abs(std::sqrt(sum) - c.at("gradient_norms")[k].get<double>()));
      }
    }
    const double norm = c.at("grad_norm");
    std::printf("%s: loss %.2g, gradient norm %.2g, worst tensor %.2g of it\n",
                c.at("config").dump().c_str(), Relative(got.loss, c.at("loss")),
                Relative(std::sqrt(square), norm), off / norm);
    EXPECT_EQ(found, static_cast<int>(tiny->params.size()));
    EXPECT_LT(Relative(std::sqrt(square), norm), 1e-4) << c.at("config");
    EXPECT_LT(off / norm, 1e-4) << c.at("config");
  }
}

// The stored answers with labels as a micro-batch.
MicroBatch Answers(const Json& records) {
  MicroBatch batch;
  for (const Json& record : records) {
    std::vector<int32_t> ids = record.at("prompt");
    const size_t prompt = ids.size();
    for (const auto& id : record.at("completion")) ids.push_back(id.get<int32_t>());
    batch.input.document_starts.push_back(static_cast<int32_t>(batch.input.ids.size()));
    for (size_t n = 0; n < ids.size(); ++n) {
      const bool last = n + 1 == ids.size();
      batch.input.ids.push_back(ids[n]);
      batch.targets.push_back(last ? 0 : ids[n + 1]);
      batch.weights.push_back(!last && n + 1 >= prompt ? 1.0f : 0.0f);
    }
    batch.labels.push_back(record.at("label").get<bool>());
    batch.names.push_back(StrCat("answers:", batch.labels.size()));
  }
  return batch;
}

TEST(PreferenceStep, IsTrlsKtoOfAnswersWithLabels) {
  const auto tiny = OpenTiny(PathOfTiny());
  const Json& want = tiny->want.at("unpaired");
  const MicroBatch batch = Answers(want.at("records"));
  for (const Json& c : want.at("cases")) {
    const PreferenceConfig config = ConfigOf(c.at("config"));
    const StepResult got =
        PreferenceGradients(tiny->loaded.model, tiny->params, {batch}, OptionsFor(*tiny, config));
    EXPECT_LT(Relative(got.loss, c.at("loss")), 1e-5) << c.at("config");
    EXPECT_NEAR(got.figures.at("rewards/chosen"), c.at("chosen_reward"), 2e-5) << c.at("config");
    EXPECT_NEAR(got.figures.at("rewards/rejected"), c.at("rejected_reward"), 2e-5);
    EXPECT_NEAR(got.figures.at("rewards/margins"),
                c.at("chosen_reward").get<double>() - c.at("rejected_reward").get<double>(), 4e-5);
    EXPECT_EQ(got.figures.contains("kl"), config.HasKl());
    if (config.HasKl()) {
      EXPECT_NEAR(got.figures.at("kl"), want.at("kl"), 2e-5);
    }
    double square = 0, wanted = 0, off = 0;
    for (const Json& norm : c.at("gradient_norms")) wanted += std::pow(norm.get<double>(), 2);
    ASSERT_EQ(c.at("gradient_norms").size(), tiny->params.size());
    for (const Param* param : tiny->params) {
      double sum = 0;
      for (int64_t i = 0; i < param->grad.size(); ++i) {
        sum += static_cast<double>(param->grad.data()[i]) * param->grad.data()[i];
      }
      square += sum;
      for (size_t k = 0; k < tiny->want.at("names").size(); ++k) {
        if (tiny->want.at("names")[k] != param->name) continue;
        off = std::max(off, std::abs(std::sqrt(sum) - c.at("gradient_norms")[k].get<double>()));
      }
    }
    std::printf("%s: loss %.2g, gradient norm %.2g, worst tensor %.2g of it\n",
                c.at("config").dump().c_str(), Relative(got.loss, c.at("loss")),
                Relative(std::sqrt(square), std::sqrt(wanted)), off / std::sqrt(wanted));
    EXPECT_LT(Relative(std::sqrt(square), std::sqrt(wanted)), 1e-4) << c.at("config");
    EXPECT_LT(off / std::sqrt(wanted), 1e-4) << c.at("config");
    // A planted mistake shows: the labels the other way round.
    MicroBatch wrong = batch;
    wrong.labels.flip();
    const double other =
        PreferenceGradients(tiny->loaded.model, tiny->params, {wrong}, OptionsFor(*tiny, config))
            .loss;
    EXPECT_GT(Relative(other, c.at("loss")), 1e-4);
  }
}

// Answers of one kind alone have no figures of the other, and a batch of one has no K.
TEST(PreferenceStep, AnswersOfOneKindAlone) {
  const auto tiny = OpenTiny(PathOfTiny());
  PreferenceConfig config;
  config.type = "kto";
  Json records = tiny->want.at("unpaired").at("records");
  records = Json::array({records[0]});
  const StepResult got = PreferenceGradients(tiny->loaded.model, tiny->params, {Answers(records)},
                                             OptionsFor(*tiny, config));
  EXPECT_TRUE(got.figures.contains("rewards/chosen"));
  EXPECT_FALSE(got.figures.contains("rewards/rejected"));
  EXPECT_FALSE(got.figures.contains("rewards/margins"));
  EXPECT_EQ(got.figures.at("kl"), 0);
  EXPECT_TRUE(std::isfinite(got.loss));
}

std::vector<float> Gradients(const Tiny& tiny) {
  std::vector<float> all;
  for (const Param* p : tiny.params) {
    all.insert(all.end(), p->grad.data(), p->grad.data() + p->grad.size());
  }
  return all;
}

// The gradient of the fused step against differences of the loss that ScorePairs measures.
TEST(PreferenceStep, GradientsAreThoseOfTheLoss) {
  const auto tiny = OpenTiny(PathOfTiny());
  Transformer& model = tiny->loaded.model;
  const MicroBatch batch = Pairs(tiny->want.at("pairs"), 0, 3);
  for (const std::string type : {"dpo", "orpo", "simpo"}) {
    PreferenceConfig config;
    config.type = type;
    config.beta = 0.8;
    const StepOptions options = OptionsFor(*tiny, config);
    const auto loss = [&] {
      const PreferenceScores scores =
          ScorePairs(model, options.reference, batch, config, options.forward, 64);
      FigureMeans figures;
      double value = AddPreferenceFigures(config, scores, &figures) / 3, sum = 0, tokens = 0;
      for (const PairScores& pair : scores.pairs) {
        sum -= pair.chosen;
        tokens += pair.chosen_tokens;
      }
      return value + config.NllWeight() * sum / tokens;
    };
    const StepResult step = PreferenceGradients(model, tiny->params, {batch}, options);
    EXPECT_NEAR(step.loss, loss(), 1e-6);
    // Along the gradient itself the loss changes by its squared length.
    double square = 0;
    for (const float g : Gradients(*tiny)) square += static_cast<double>(g) * g;
    const auto move = [&](double by) {
      for (Param* p : tiny->params) {
        for (int64_t i = 0; i < p->value.size(); ++i) {
          p->value.data()[i] += static_cast<float>(by * p->grad.data()[i]);
        }
      }
    };
    const double h = 2e-3 / std::sqrt(square);
    move(h);
    const double above = loss();
    move(-2 * h);
    const double below = loss();
    move(h);
    EXPECT_NEAR((above - below) / (2 * h) / square, 1.0, 0.01) << type;
  }
}

TEST(PreferenceStep, SameBitsForThreadsChunksAndRecomputation) {
  const auto tiny = OpenTiny(PathOfTiny());
  Transformer& model = tiny->loaded.model;
  const MicroBatch batch = Pairs(tiny->want.at("pairs"), 0, 3);
  for (const std::string type : {"dpo", "kto"}) {
    PreferenceConfig config;
    config.type = type;
    StepOptions options = OptionsFor(*tiny, config);
    PreferenceGradients(model, tiny->params, {batch}, options);
    const std::vector<float> want = Gradients(*tiny);
    const int before = Threads();
    SetThreads(before == 1 ? 2 : 1);
    options.loss_chunk = 128;
    options.forward.gradient_checkpointing = true;
    PreferenceGradients(model, tiny->params, {batch}, options);
    SetThreads(before);
    EXPECT_EQ(Gradients(*tiny), want) << type;
  }
}

// Three pairs in one micro-batch, or in two: the mean is over the pairs of the step.
TEST(PreferenceStep, MicroBatchesChangeRoundingOnly) {
  const auto tiny = OpenTiny(PathOfTiny());
  Transformer& model = tiny->loaded.model;
  const Json& pairs = tiny->want.at("pairs");
  for (const std::string type : {"dpo", "orpo"}) {
    PreferenceConfig config;
    config.type = type;
    const StepOptions options = OptionsFor(*tiny, config);
    const double one = PreferenceGradients(model, tiny->params, {Pairs(pairs, 0, 3)}, options).loss;
    const std::vector<float> want = Gradients(*tiny);
    const double two =
        PreferenceGradients(model, tiny->params, {Pairs(pairs, 0, 1), Pairs(pairs, 1, 2)}, options)
            .loss;
    EXPECT_NEAR(one, two, 1e-6);
    const std::vector<float> got = Gradients(*tiny);
    double off = 0, all = 0;
    for (size_t i = 0; i < want.size(); ++i) {
      off += std::pow(want[i] - got[i], 2);
      all += std::pow(want[i], 2);
    }
    EXPECT_LT(std::sqrt(off / all), 1e-5);
  }
}

TEST(PreferenceStep, MixedPairsForTheKl) {
  const auto tiny = OpenTiny(PathOfTiny());
  const Json& pairs = tiny->want.at("pairs");
  const MicroBatch mixed = MismatchedBatch(Pairs(pairs, 0, 3));
  // Document 0: the first prompt with the last pair's chosen answer.
  std::vector<int32_t> want = pairs[0].at("prompt");
  const size_t prompt = want.size();
  for (const auto& id : pairs[2].at("chosen")) want.push_back(id.get<int32_t>());
  ASSERT_EQ(mixed.input.document_starts[1], static_cast<int32_t>(want.size()));
  for (size_t n = 0; n < want.size(); ++n) {
    EXPECT_EQ(mixed.input.ids[n], want[n]);
    const bool trained = n + 1 >= prompt && n + 1 < want.size();
    EXPECT_EQ(mixed.weights[n], trained ? 1.0f : 0.0f);
    if (trained) {
      EXPECT_EQ(mixed.targets[n], want[n + 1]);
    }
  }
  PreferenceConfig config;
  config.type = "kto";
  const PreferenceScores scores =
      ScorePairs(tiny->loaded.model, &tiny->loaded.model, Pairs(pairs, 0, 3), config, {}, 64);
  EXPECT_NEAR(scores.kl, tiny->want.at("kl"), 2e-5);
  EXPECT_NEAR(scores.pairs[1].chosen, tiny->want.at("policy")[2], 1e-4);
  EXPECT_NEAR(scores.pairs[1].ref_rejected, tiny->want.at("reference")[3], 1e-4);
}

TEST(PreferenceStep, ABrokenStepNamesItsRecords) {
  const auto tiny = OpenTiny(PathOfTiny());
  PreferenceConfig config;
  MicroBatch batch = Pairs(tiny->want.at("pairs"), 0, 2);
  std::fill(batch.weights.begin(), batch.weights.end(), 0.0f);
  std::string message;
  try {
    PreferenceGradients(tiny->loaded.model, tiny->params, {batch}, OptionsFor(*tiny, config));
  } catch (const Error& error) {
    message = error.what();
  }
  EXPECT_EQ(message,
            "pairs:1, pairs:2: a step must have a trained token; got none; try `lapidary data "
            "inspect`");
}

}  // namespace
}  // namespace lapidary
