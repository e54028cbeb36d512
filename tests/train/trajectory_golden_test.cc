// Whole training runs against PyTorch and PEFT: the losses, gradient norms and final weights of
// golden/model/*/lora*/ and full/, driven through the trainer's own step.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "model/adapt.h"
#include "model/load.h"
#include "model/tensor_names.h"
#include "tests/golden.h"
#include "tests/model/golden_batch.h"
#include "train/optim/adamw.h"
#include "train/step.h"

namespace lapidary {
namespace {

constexpr double kFirstLoss = 1e-5, kLoss = 1e-4, kNorm = 1e-3, kWeights = 2e-3;

void Expect(const std::string& what, double error, double limit) {
  std::printf("%-100s %.3g (limit %.3g)\n", what.c_str(), error, limit);
  EXPECT_TRUE(error <= limit) << what << ": " << error << " > " << limit;
}

double Relative(double got, double want) { return std::abs(got - want) / std::abs(want); }

std::vector<MicroBatch> ReadBatches(const std::string& folder) {
  const SafetensorsFile file = SafetensorsFile::Open(folder + "/forward.safetensors");
  std::vector<MicroBatch> batches;
  for (int i = 0; golden::Has(file, StrCat("batch", i, ".labels")); ++i) {
    golden::Batch batch = golden::ReadBatch(file, StrCat("batch", i));
    MicroBatch micro;
    micro.input = std::move(batch.input);
    micro.targets = std::move(batch.targets);
    micro.weights = std::move(batch.weights);
    micro.names = {StrCat("batch", i)};
    batches.push_back(std::move(micro));
  }
  return batches;
}

std::string Label(const std::string& folder) {
  const size_t at = folder.rfind("/model/");
  return folder.substr(at == std::string::npos ? 0 : at + 7);
}

// Runs trajectory.json of `folder` on the model. `checkpointing` changes no bit.
void RunTrajectory(Transformer& model, const std::string& folder,
                   const std::vector<MicroBatch>& batches, bool checkpointing) {
  const std::string label = Label(folder) + (checkpointing ? ", checkpointing" : "");
  const nlohmann::json want = nlohmann::json::parse(ReadFile(folder + "/trajectory.json"));
  AdamW optimizer(TrainableParams(model), {.beta1 = want["betas"][0],
                                           .beta2 = want["betas"][1],
                                           .epsilon = want["eps"],
                                           .weight_decay = want["weight_decay"]});
  StepOptions options;
  options.forward.training = true;
  options.forward.gradient_checkpointing = checkpointing;
  options.max_grad_norm = want["clip_grad_norm"];
  double first = 0, loss = 0, norm = 0;
  int steps = 0;
  for (const auto& row : want["steps"]) {
    const size_t index = static_cast<size_t>(row["step"].get<int>() - 1) % batches.size();
    const StepResult got =
        OptimizerStep(model, optimizer, {batches[index]}, want["lr"].get<double>(), options);
    const double error = Relative(got.loss, row["loss"]);
    if (steps++ == 0) first = error;
    if (!(error <= loss)) loss = error;
    if (const double e = Relative(got.grad_norm, row["grad_norm"]); !(e <= norm)) norm = e;
    EXPECT_TRUE(error <= kLoss) << label << " step " << row["step"] << ": loss " << got.loss
                                << " instead of " << row["loss"];
  }
  EXPECT_GT(steps, 0);
  Expect(StrCat(label, ": first loss"), first, kFirstLoss);
  Expect(StrCat(label, ": worst loss of ", steps, " steps"), loss, kLoss);
  Expect(StrCat(label, ": worst gradient norm"), norm, kNorm);
  double final_loss = 0;
  for (size_t i = 0; i < want["final_losses"].size(); ++i) {
    const StepResult got = StepGradients(model, TrainableParams(model), {batches.at(i)}, options);
    if (const double e = Relative(got.loss, want["final_losses"][i]); !(e <= final_loss)) {
      final_loss = e;
    }
  }
  Expect(StrCat(label, ": worst of ", want["final_losses"].size(), " final losses"), final_loss,
         kLoss);
}

struct Compared {
  double worst = 0;
  std::string name;
  int count = 0;

  void Add(const std::string& tensor, const float* got, const std::vector<float>& want) {
    const double error = golden::RelativeL2(got, want.data(), static_cast<int64_t>(want.size()));
    if (!(error <= worst) || count == 0) worst = error, name = tensor;
    ++count;
  }
};

void CheckLora(const std::string& parent, const std::string& folder) {
  LoadedModel loaded = LoadModel(parent + "/model");
  LoadAdapter(loaded.model, folder + "/start", /*trainable=*/true);
  RunTrajectory(loaded.model, folder, ReadBatches(parent), /*checkpointing=*/false);
  const SafetensorsFile end = SafetensorsFile::Open(folder + "/end/adapter_model.safetensors");
  Compared compared;
  const std::vector<NamedTensor> tensors = AdapterTensors(loaded.model);
  for (const NamedTensor& tensor : tensors) {
    ASSERT_TRUE(golden::Has(end, tensor.name)) << tensor.name;
    compared.Add(tensor.name, tensor.values.data(), golden::Floats(end, tensor.name));
  }
  EXPECT_EQ(tensors.size(), end.tensors().size());
  Expect(StrCat(Label(folder), ": ", compared.count, " adapter tensors, worst ", compared.name),
         compared.worst, kWeights);
}

void CheckFull(const std::string& parent, const std::string& folder) {
  LoadedModel loaded = LoadModel(parent + "/model");
  MakeAllTrainable(loaded.model);
  RunTrajectory(loaded.model, folder, ReadBatches(parent), /*checkpointing=*/true);
  std::map<std::string, const Param*> params;
  for (const Param* p : TrainableParams(loaded.model)) params[p->name] = p;
  const SafetensorsFile end = SafetensorsFile::Open(folder + "/end-some-weights.safetensors");
  Compared compared;
  for (const StoredTensor& tensor : end.tensors()) {
    const std::string name = CanonicalTensorName(tensor.name);
    ASSERT_TRUE(params.contains(name)) << name;
    compared.Add(name, params[name]->value.data(), tensor.ReadAll());
  }
  Expect(StrCat(Label(folder), ": ", compared.count, " tensors, worst ", compared.name),
         compared.worst, kWeights);
}

TEST(TrajectoryGolden, EveryFolder) {
  int ran = 0;
  for (const std::string& parent : golden::FindFolders("model")) {
    std::vector<std::string> folders;
    for (const auto& entry : std::filesystem::directory_iterator(parent)) {
      if (std::filesystem::exists(entry.path() / "trajectory.json")) {
        folders.push_back(entry.path().string());
      }
    }
    std::sort(folders.begin(), folders.end());
    if (folders.empty()) std::printf("absent: %s/*/trajectory.json\n", parent.c_str());
    for (const std::string& folder : folders) {
      ++ran;
      if (std::filesystem::exists(folder + "/start")) {
        CheckLora(parent, folder);
      } else {
        CheckFull(parent, folder);
      }
    }
  }
  EXPECT_GT(ran, 0) << "no golden/model/*/*/trajectory.json under any root";
}

}  // namespace
}  // namespace lapidary
