// Noise on embeddings: Jain et al. 2023, and as TRL's hook has it: uniform in +-alpha / sqrt(tokens
// * width), while training only.
#include <gtest/gtest.h>

#include <cmath>

#include "model/load.h"
#include "tests/train/tiny_run.h"

namespace lapidary {
namespace {

class Neftune : public ::testing::Test {
 protected:
  // What the first layer sees, for documents of 40 and 200 tokens.
  std::vector<float> Embeddings(double alpha, bool training, uint64_t seed = 5, uint64_t step = 2) {
    ModelInput input;
    for (int i = 0; i < 240; ++i) input.ids.push_back(10 + i % 50);
    input.document_starts = {0, 40};
    ForwardOptions options;
    options.training = training;
    options.neftune_noise_alpha = alpha;
    options.seed = seed;
    options.step = step;
    std::vector<Tensor> hidden;
    options.hidden_states = &hidden;
    Tape tape(Tape::Mode::kNoGrad);
    Forward(model_, tape, input, options);
    return {hidden[0].data(), hidden[0].data() + hidden[0].size()};
  }

  const tiny::RunPlace place_;
  Transformer model_ = LoadModel(place_.path() + "/base").model;
};

TEST_F(Neftune, IsUniformInTheReferencesBounds) {
  const int64_t width = model_.config.text.hidden_size;
  const std::vector<float> plain = Embeddings(0, true);
  for (const double alpha : {5.0, 15.0}) {
    const std::vector<float> noisy = Embeddings(alpha, true);
    ASSERT_EQ(noisy.size(), static_cast<size_t>(240 * width));
    for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, 40}, {40, 240}}) {
      // transformers: mag_norm = alpha / sqrt(size(1) * size(2)), uniform_(-mag_norm, mag_norm).
      const double bound = alpha / std::sqrt(static_cast<double>((end - begin) * width));
      double most = 0, sum = 0, squares = 0;
      for (int64_t i = begin * width; i < end * width; ++i) {
        const double noise =
            static_cast<double>(noisy[static_cast<size_t>(i)]) - plain[static_cast<size_t>(i)];
        most = std::max(most, std::abs(noise));
        sum += noise;
        squares += noise * noise;
      }
      const double n = static_cast<double>((end - begin) * width);
      // The embeddings are of order 1: their sum with the noise is rounded.
      EXPECT_LE(most, bound * 1.0001 + 1e-6);
      EXPECT_GT(most, bound * 0.99);
      EXPECT_NEAR(sum / n, 0, 4 * bound / std::sqrt(3 * n));
      EXPECT_NEAR(squares / n / (bound * bound / 3), 1, 0.06);
    }
  }
}

TEST_F(Neftune, IsOffInEvaluationAndAnotherInEveryStep) {
  EXPECT_EQ(Embeddings(15, false), Embeddings(0, false));
  EXPECT_EQ(Embeddings(15, true), Embeddings(15, true));
  EXPECT_NE(Embeddings(15, true), Embeddings(15, true, 5, 3));
  EXPECT_NE(Embeddings(15, true), Embeddings(15, true, 6, 2));
}

// A run's held-out loss before training does not know of it, its training loss does.
TEST(NeftuneRun, EvaluatesWithoutIt) {
  const tiny::RunPlace place;
  const auto losses = [&](const std::string& out, const std::string& alpha) {
    const TrainSummary summary = Train(
        place.Config(out, {"max_steps=1", "lora.lora_dropout=0", "neftune_noise_alpha=" + alpha,
                           "dataset.eval=" + place.path() + "/eval.jsonl"}),
        {});
    return std::pair<double, double>(summary.log[0].at("eval_loss").get<double>(),
                                     summary.log[1].at("loss").get<double>());
  };
  const auto [eval_plain, loss_plain] = losses("plain", "0");
  const auto [eval_noisy, loss_noisy] = losses("noisy", "30");
  EXPECT_EQ(eval_plain, eval_noisy);
  EXPECT_NE(loss_plain, loss_noisy);
}

}  // namespace
}  // namespace lapidary
