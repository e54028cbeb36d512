#include "train/evaluate.h"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "autograd/base/error.h"
#include "quant/safetensors.h"
#include "tests/golden.h"
#include "tests/message_of.h"
#include "tests/train/tiny_run.h"
#include "train/answers.h"
#include "train/bundle.h"
#include "train/optim/adamw.h"
#include "train/step.h"

namespace lapidary {
namespace {

const tiny::RunPlace& Place() {
  static const tiny::RunPlace place;
  return place;
}

Bundle& Model() {
  static Bundle bundle = OpenBundle(Place().path() + "/base");
  return bundle;
}

EvalOptions Float32() {
  EvalOptions options;
  options.compute = Compute::kFloat32;
  return options;
}

EvalResult OnData(int64_t batch_size) {
  const SampleBuilder builder(Model().RequireTokenizer(), {.media = Model().media});
  LoaderOptions options;
  options.shuffle = false;
  options.epochs = 1;
  options.batch_size = batch_size;
  Loader loader(Dataset::Open({Place().path() + "/train.jsonl"}), builder, options);
  return Evaluate(Model().model, loader, Float32());
}

TEST(Evaluate, TheBatchSizeDoesNotMatter) {
  const EvalResult one = OnData(1), four = OnData(4);
  EXPECT_EQ(one.all.records, 10);
  EXPECT_EQ(one.all.targets, four.all.targets);
  EXPECT_EQ(one.all.correct, four.all.correct);
  EXPECT_NEAR(one.all.Loss(), four.all.Loss(), 1e-6 * one.all.Loss());
  ASSERT_EQ(one.by_modality.size(), 1u);
  EXPECT_EQ(one.by_modality.at("text").targets, one.all.targets);
  EXPECT_NEAR(one.all.Perplexity(), std::exp(one.all.Loss()), 1e-9);
  EXPECT_GT(one.all.targets, 10);
}

// Loss and accuracy follow from the logits in the file.
TEST(Evaluate, SavedLogitsGiveTheSameLoss) {
  const std::vector<std::vector<int32_t>> ids = {{2, 300, 301, 302, 500}, {2, 700, 9, 10}, {2, 5}};
  const std::string path = Place().path() + "/logits.safetensors";
  const EvalResult result = EvaluateSequences(Model().model, TokenSequences(ids), Float32(), path);
  const SafetensorsFile file = SafetensorsFile::Open(path);
  ASSERT_EQ(file.tensors().size(), ids.size());
  double loss = 0;
  int64_t correct = 0, targets = 0;
  for (const StoredTensor& tensor : file.tensors()) {
    const auto& row = ids.at(std::stoul(tensor.name.substr(7)));
    ASSERT_EQ(tensor.shape, (TensorShape{static_cast<int64_t>(row.size()), 2048}));
    const std::vector<float> logits = tensor.ReadAll();
    for (size_t t = 0; t + 1 < row.size(); ++t) {
      const float* z = logits.data() + t * 2048;
      double sum = 0;
      for (int v = 0; v < 2048; ++v) sum += std::exp(static_cast<double>(z[v]));
      loss += std::log(sum) - z[row[t + 1]];
      correct += std::max_element(z, z + 2048) - z == row[t + 1];
      ++targets;
    }
  }
  EXPECT_EQ(result.all.targets, targets);
  EXPECT_EQ(result.all.correct, correct);
  EXPECT_NEAR(result.all.Loss(), loss / static_cast<double>(targets), 1e-5);
}

TEST(Evaluate, DataCanSaveLogitsToo) {
  const SampleBuilder builder(Model().RequireTokenizer(), {.media = Model().media});
  const Sequences sequences = DatasetSequences(Dataset::Open({Place().path() + "/eval.jsonl"}),
                                               builder, OnError::kStop, nullptr);
  const std::string path = Place().path() + "/data-logits.safetensors";
  const EvalResult result = EvaluateSequences(Model().model, sequences, Float32(), path);
  EXPECT_EQ(result.all.records, 3);
  EXPECT_EQ(SafetensorsFile::Open(path).tensors().size(), 3u);
}

TEST(Evaluate, TokenListsAreChecked) {
  const std::string path = Place().path() + "/tokens.json";
  const auto message = [&](const std::string& text) {
    WriteFile(path, text);
    return MessageOf([&] { ReadTokenLists(path, 100); });
  };
  EXPECT_EQ(message("[[1, 2], [3]]"), "no error");
  EXPECT_EQ(message("[1, 2]"), "no error");
  EXPECT_EQ(message("[[1, 100]]"),
            path + ": ids must be integers from 0 to 99; got 100 in sequence 0");
  EXPECT_EQ(message("[[1], [2, \"x\"]]"),
            path + ": ids must be integers from 0 to 99; got \"x\" in sequence 1");
  EXPECT_EQ(message("[[1], []]"), path + ": sequence 1 must be a list of token ids; got []");
  EXPECT_EQ(message("{}"), path +
                               ": must be a JSON list of lists of token ids; got something "
                               "else; try [[2, 105, 106]]");
  EXPECT_EQ(message("[["), path +
                               ": must be a JSON list of lists of token ids; got something that "
                               "is not JSON; try [[2, 105, 106]]");
}

TEST(Evaluate, ModalitiesHaveNames) {
  EXPECT_EQ(ModalityOf(0, 0, 0), "text");
  EXPECT_EQ(ModalityOf(2, 0, 0), "image");
  EXPECT_EQ(ModalityOf(0, 1, 0), "audio");
  EXPECT_EQ(ModalityOf(0, 0, 1), "video");
  EXPECT_EQ(ModalityOf(1, 0, 1), "mixed");
}

// The logits that Transformers computes for golden/gguf's checkpoint, without and with its adapter,
// through the evaluation that `lapidary eval --tokens --save-logits` runs.
TEST(Evaluate, GoldenLogits) {
  int cases = 0;
  for (const std::string& root : golden::Find("gguf")) {
    const std::string want_path = root + "/logits.safetensors";
    if (!std::filesystem::exists(want_path) || !std::filesystem::exists(root + "/hf")) {
      std::printf("absent: %s\n", want_path.c_str());
      continue;
    }
    const SafetensorsFile want = SafetensorsFile::Open(want_path);
    for (const StoredTensor& tensor : want.tensors()) {
      if (tensor.name != "logits" && tensor.name != "logits_lora") continue;
      Bundle bundle =
          OpenBundle(root + "/hf", tensor.name == "logits_lora" ? root + "/lora" : std::string());
      const std::string path = Place().path() + "/golden-logits.safetensors";
      EvaluateSequences(bundle.model,
                        TokenSequences(ReadTokenLists(root + "/tokens.json",
                                                      bundle.model.config.text.vocab_size)),
                        Float32(), path);
      const std::vector<float> got = SafetensorsFile::Open(path).tensors().at(0).ReadAll();
      const std::vector<float> expected = tensor.ReadAll();
      ASSERT_EQ(got.size(), expected.size());
      double worst = 0;
      for (size_t i = 0; i < got.size(); ++i) {
        const double error = std::abs(static_cast<double>(got[i]) - expected[i]);
        if (!(error <= worst)) worst = error;
      }
      std::printf("%s %s: largest difference %.3g (limit 2e-4)\n", root.c_str(),
                  tensor.name.c_str(), worst);
      EXPECT_TRUE(worst <= 2e-4) << worst;
      ++cases;
    }
  }
  EXPECT_GT(cases, 0) << "no golden/gguf under any root";
}

// An untrained model answers nothing right; the expected texts are those of the file.
TEST(Answers, ExpectedTextsComeFromTheRecords) {
  AnswerOptions options;
  options.sample.media = Model().media;
  options.compute = Compute::kFloat32;
  const auto dataset = Dataset::Open({Place().path() + "/eval.jsonl"});
  const AnswerResult result = EvaluateAnswers(Model(), *dataset, options);
  ASSERT_EQ(result.answers.size(), 3u);
  EXPECT_EQ(result.answers[0].expected, "amber and a little more");
  EXPECT_EQ(result.answers[1].expected, "basalt");
  EXPECT_EQ(result.answers[1].question, "stone 1?");
  EXPECT_EQ(result.all.total, 3);
  EXPECT_EQ(result.all.correct, 0);
  const AnswerOptions swapped = [&] {
    AnswerOptions o = options;
    o.swap_media = true;
    return o;
  }();
  EXPECT_EQ(EvaluateAnswers(Model(), *dataset, swapped).all.total, 0);  // no media to swap
}

// A step whose loss is not finite names its records and changes nothing.
TEST(Step, ANotFiniteLossNamesTheRecords) {
  Bundle bundle = OpenBundle(Place().path() + "/base");
  MakeAllTrainable(bundle.model);
  AdamW optimizer(TrainableParams(bundle.model), {});
  MicroBatch micro = MakeMicroBatch(TokenSequences({{2, 300, 301}}).get(0));
  micro.names = {"train.jsonl:1", "train.jsonl:2", "train.jsonl:3", "train.jsonl:4",
                 "train.jsonl:5"};
  Param& norm = bundle.model.norm;
  const float before = norm.value.data()[0];
  norm.value.data()[0] = NAN;
  EXPECT_EQ(MessageOf([&] { OptimizerStep(bundle.model, optimizer, {micro}, 1e-3, {}); }),
            "train.jsonl:1, train.jsonl:2, train.jsonl:3, train.jsonl:4 and 1 more: the loss must "
            "be finite; got nan; try a lower learning_rate, or look at these records");
  norm.value.data()[0] = before;
  EXPECT_EQ(optimizer.slots()[0].step, 0);
  micro.weights.assign(micro.weights.size(), 0.0f);
  micro.names = {"train.jsonl:7"};
  EXPECT_EQ(MessageOf([&] { OptimizerStep(bundle.model, optimizer, {micro}, 1e-3, {}); }),
            "train.jsonl:7: a step must have a trained token; got none; try `lapidary data "
            "inspect`");
}

// The gradient of a step does not depend on how it is cut into micro-batches.
TEST(Step, MicroBatchesAddUp) {
  const Sequences sequences =
      TokenSequences({{2, 300, 301, 302, 303, 304, 305}, {2, 700, 9}, {2, 41, 42, 43}});
  Batch together;
  std::vector<MicroBatch> apart;
  for (int64_t i = 0; i < 3; ++i) {
    const Batch one = sequences.get(i);
    apart.push_back(MakeMicroBatch(one));
    Sample sample;
    sample.ids = one.ids;
    sample.weights.assign(one.ids.size(), 1.0f);
    sample.weights[0] = 0;
    sample.types.assign(one.ids.size(), kTextToken);
    together.Add(sample, i);
  }
  const auto gradient = [&](const std::vector<MicroBatch>& micro, double* loss) {
    Bundle bundle = OpenBundle(Place().path() + "/base");
    MakeAllTrainable(bundle.model);
    const std::vector<Param*> params = TrainableParams(bundle.model);
    StepOptions options;
    const StepResult result = StepGradients(bundle.model, params, micro, options);
    *loss = result.loss;
    EXPECT_EQ(result.target_tokens, 6 + 2 + 3);
    std::vector<float> all;
    for (const Param* p : params) {
      if (p->grad.defined()) all.insert(all.end(), p->grad.data(), p->grad.data() + p->grad.size());
    }
    return all;
  };
  double loss[2];
  const std::vector<float> a = gradient({MakeMicroBatch(together)}, &loss[0]);
  const std::vector<float> b = gradient(apart, &loss[1]);
  EXPECT_NEAR(loss[0], loss[1], 1e-6 * loss[0]);
  ASSERT_EQ(a.size(), b.size());
  double difference = 0, norm = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    norm += static_cast<double>(a[i]) * a[i];
  }
  EXPECT_LT(std::sqrt(difference / norm), 1e-5);
}

}  // namespace
}  // namespace lapidary
