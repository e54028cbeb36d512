// The model against what Transformers and PEFT made of the same checkpoints: every folder of
// golden/model in every root. Each case is printed with its measured error and its limit.
#include "tests/golden.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "model/adapt.h"
#include "model/generate.h"
#include "model/load.h"
#include "model/tensor_names.h"
#include "tests/model/golden_batch.h"

namespace lapidary {
namespace {

using golden::Batch;

constexpr double kLogits = 2e-4, kHidden = 1e-5, kLoss = 1e-5, kGradient = 1e-4;

void Expect(const std::string& what, double error, double limit) {
  std::printf("%-90s %.3g (limit %.3g)\n", what.c_str(), error, limit);
  EXPECT_TRUE(error <= limit) << what << ": " << error << " > " << limit;
}

struct Outcome {
  std::vector<Tensor> hidden;
  Tensor logits;
};

Outcome RunForward(Transformer& model, const Batch& batch, ForwardOptions options) {
  Outcome outcome;
  options.hidden_states = &outcome.hidden;
  Tape tape(Tape::Mode::kNoGrad);
  const Var h = Forward(model, tape, batch.input, options);
  outcome.logits =
      Logits(h.value(), model.head().Current(),
             static_cast<float>(model.config.text.final_logit_softcapping), options.compute);
  return outcome;
}

// Mean loss; gradients stay in the parameters if any is trainable.
double RunLoss(Transformer& model, const Batch& batch, const ForwardOptions& options) {
  ZeroGrads(TrainableParams(model));
  const bool train = !TrainableParams(model).empty();
  Tape tape(train ? Tape::Mode::kRecord : Tape::Mode::kNoGrad);
  const Var sum = LossSum(model, Forward(model, tape, batch.input, options), batch.targets,
                          batch.weights, options.compute, 128, nullptr);
  const double loss = sum.data()[0] / static_cast<double>(batch.trained);
  if (train) {
    Tensor seed(Shape{});
    seed.Fill(1.0f / static_cast<float>(batch.trained));
    tape.Backward(sum, seed.Reshaped(sum.shape()));
  }
  return loss;
}

double MeanKl(const Batch& batch, const std::vector<float>& truth, const float* ours) {
  const int64_t n = batch.input.size(), v = static_cast<int64_t>(truth.size()) / n;
  double total = 0;
  for (int64_t i = 0; i < n; ++i) {
    const float *p = truth.data() + i * v, *q = ours + i * v;
    double zp = 0, zq = 0, sum = 0;
    for (int64_t k = 0; k < v; ++k)
      zp += std::exp(static_cast<double>(p[k])), zq += std::exp(static_cast<double>(q[k]));
    for (int64_t k = 0; k < v; ++k) {
      sum += std::exp(static_cast<double>(p[k])) / zp *
             ((p[k] - std::log(zp)) - (q[k] - std::log(zq)));
    }
    total += sum;
  }
  return total / static_cast<double>(n);
}

// The expected gradient's name in memory or on disk -> our parameter.
std::map<std::string, Param*> ParamsByName(Transformer& model) {
  std::map<std::string, Param*> params;
  ForEachParam(model, [&](Param& p) { params[p.name] = &p; });
  return params;
}

Param* FindParam(const std::map<std::string, Param*>& params, std::string name) {
  if (auto it = params.find(name); it != params.end()) return it->second;
  const std::string magnitude = ".lora_magnitude_vector.weight";  // how named_parameters spells it
  if (name.size() > magnitude.size() &&
      name.compare(name.size() - magnitude.size(), magnitude.size(), magnitude) == 0) {
    return FindParam(params, name.substr(0, name.size() - 7));
  }
  const std::string prefix = "base_model.model.";
  if (const size_t lora = name.find(".lora_");
      lora != std::string::npos) {  // a text-only model's spelling, or the checkpoint's
    const std::string path =
        CanonicalTensorName(name.substr(prefix.size(), lora - prefix.size()) + ".weight");
    const auto it = params.find(prefix + InMemoryModulePath(path.substr(0, path.size() - 7)) +
                                name.substr(lora));
    return it == params.end() ? nullptr : it->second;
  }
  if (name.compare(0, prefix.size(), prefix) == 0) name = name.substr(prefix.size());
  for (const char* part : {".modules_to_save.default", ".modules_to_save"}) {
    if (const size_t at = name.find(part); at != std::string::npos)
      name.erase(at, std::string(part).size());
  }
  const auto it = params.find(CanonicalTensorName(name));
  return it == params.end() ? nullptr : it->second;
}

void ExpectGradients(const std::string& label, Transformer& model, const SafetensorsFile& file,
                     const std::string& prefix) {
  const std::map<std::string, Param*> params = ParamsByName(model);
  double worst = 0;
  std::string worst_name = "none";
  int64_t count = 0;
  for (const StoredTensor& t : file.tensors()) {
    if (t.name.compare(0, prefix.size(), prefix) != 0) continue;
    const std::string name = t.name.substr(prefix.size());
    const Param* p = FindParam(params, name);
    ASSERT_NE(p, nullptr) << label << ": no parameter for " << name;
    const std::vector<float> want = t.ReadAll();
    const std::vector<float> zeros(want.size(), 0.0f);
    ASSERT_EQ(static_cast<int64_t>(want.size()), p->value.size()) << name;
    const float* got = p->grad.defined() ? p->grad.data() : zeros.data();
    const double error = golden::RelativeL2(got, want.data(), static_cast<int64_t>(want.size()));
    EXPECT_TRUE(error <= kGradient) << label << " " << name << ": " << error;
    if (!(error <= worst)) worst = error, worst_name = name;
    ++count;
  }
  EXPECT_GT(count, 0) << label;
  Expect(StrCat(label, " ", count, " tensors, worst ", worst_name), worst, kGradient);
}

std::string Label(const std::string& folder) {
  const size_t slash = folder.rfind('/', folder.rfind("/model/") - 1);
  return folder.substr(slash == std::string::npos ? 0 : slash + 1);
}

// Forward, gradients and long text of one folder.
void CheckForward(const std::string& folder) {
  const std::string label = Label(folder);
  const SafetensorsFile file = SafetensorsFile::Open(folder + "/forward.safetensors");
  const nlohmann::json summary = nlohmann::json::parse(std::ifstream(folder + "/summary.json"));
  LoadedModel loaded = LoadModel(folder + "/model");
  Transformer& model = loaded.model;
  for (int i = 0; golden::Has(file, StrCat("batch", i, ".input_ids")); ++i) {
    const std::string prefix = StrCat("batch", i);
    if (!golden::Has(file, prefix + ".logits")) continue;
    const Batch batch = golden::ReadBatch(file, prefix);
    const Outcome f32 = RunForward(model, batch, {});
    for (size_t k = 0; golden::Has(file, StrCat(prefix, ".hidden.", k)); ++k) {
      const std::vector<float> want =
          golden::KeptRows(batch, golden::Floats(file, StrCat(prefix, ".hidden.", k)));
      ASSERT_LT(k, f32.hidden.size());
      Expect(StrCat(label, " ", prefix, " hidden ", k),
             golden::RelativeL2(f32.hidden[k].data(), want.data(), want.size()), kHidden);
    }
    const std::vector<float> logits =
        golden::KeptRows(batch, golden::Floats(file, prefix + ".logits"));
    Expect(StrCat(label, " ", prefix, " logits"),
           golden::MaxAbs(f32.logits.data(), logits.data(), logits.size()), kLogits);
    if (golden::Has(file, prefix + ".logits_bare_rule")) {
      const std::vector<float> bare =
          golden::KeptRows(batch, golden::Floats(file, prefix + ".logits_bare_rule"));
      const Outcome hf = RunForward(model, batch, {.image_mask = ImageMask::kHfForward});
      Expect(StrCat(label, " ", prefix, " logits, hf_forward"),
             golden::MaxAbs(hf.logits.data(), bare.data(), bare.size()), kLogits);
    }
    if (golden::Has(file, prefix + ".logits_bf16_run")) {
      const std::vector<float> bf16 =
          golden::KeptRows(batch, golden::Floats(file, prefix + ".logits_bf16_run"));
      const Outcome ours = RunForward(model, batch, {.compute = Compute::kBfloat16});
      const double theirs = MeanKl(batch, logits, bf16.data());
      Expect(StrCat(label, " ", prefix, " bf16 mean KL (Transformers in bf16: ", theirs, ")"),
             MeanKl(batch, logits, ours.logits.data()), theirs / 2);
    }
    for (const auto& row : summary["forward"]) {
      if (row["batch"] != i) continue;
      const double want = row["loss"];
      Expect(StrCat(label, " ", prefix, " loss"), std::abs(RunLoss(model, batch, {}) - want) / want,
             kLoss);
    }
  }
}

void CheckGradients(const std::string& folder) {
  const std::string label = Label(folder);
  const SafetensorsFile file = SafetensorsFile::Open(folder + "/forward.safetensors");
  LoadedModel loaded = LoadModel(folder + "/model");
  MakeAllTrainable(loaded.model);
  const Batch batch = golden::ReadBatch(file, "batch0");
  const nlohmann::json summary = nlohmann::json::parse(std::ifstream(folder + "/summary.json"));
  const double want = summary["gradients"]["loss"];
  Expect(label + " full fine-tuning loss", std::abs(RunLoss(loaded.model, batch, {}) - want) / want,
         kLoss);
  ExpectGradients(label + " full gradients", loaded.model,
                  SafetensorsFile::Open(folder + "/gradients.safetensors"), "");
  RunLoss(loaded.model, batch, {.gradient_checkpointing = true});
  ExpectGradients(label + " full gradients, checkpointing", loaded.model,
                  SafetensorsFile::Open(folder + "/gradients.safetensors"), "");
}

void CheckLong(const std::string& folder) {
  const std::string label = Label(folder);
  const SafetensorsFile file = SafetensorsFile::Open(folder + "/long.safetensors");
  LoadedModel loaded = LoadModel(folder + "/model");
  const Batch batch = golden::ReadBatch(file, "batch");
  const Outcome f32 = RunForward(loaded.model, batch, {});
  const StoredTensor& last = golden::Get(file, "logits_last_32");
  const std::vector<float> want = last.ReadAll();
  const int64_t v = last.shape.back(), rows = last.rows();
  Expect(
      label + " long logits",
      golden::MaxAbs(f32.logits.data() + (batch.input.size() - rows) * v, want.data(), want.size()),
      kLogits);
  MakeAllTrainable(loaded.model);
  const double loss = golden::Floats(file, "loss")[0];
  Expect(label + " long loss", std::abs(RunLoss(loaded.model, batch, {}) - loss) / loss, kLoss);
  ExpectGradients(label + " long gradients", loaded.model, file, "grad.");
}

// Rows of different lengths, padded on the left and on the right.
void CheckPadding(const std::string& folder) {
  const SafetensorsFile file = SafetensorsFile::Open(folder + "/padding.safetensors");
  LoadedModel loaded = LoadModel(folder + "/model");
  MakeAllTrainable(loaded.model);
  int sides = 0;
  for (const std::string side : {"left", "right"}) {
    if (!golden::Has(file, side + ".logits")) continue;
    const std::string label = Label(folder) + " padded " + side;
    const Batch batch = golden::ReadBatch(file, side + ".batch");
    EXPECT_LT(batch.input.size(), batch.rows * batch.width) << label << ": no padding";
    const std::vector<float> want = golden::KeptRows(batch, golden::Floats(file, side + ".logits"));
    Expect(
        label + " logits",
        golden::MaxAbs(RunForward(loaded.model, batch, {}).logits.data(), want.data(), want.size()),
        kLogits);
    const double loss = golden::Floats(file, side + ".loss")[0];
    Expect(label + " loss", std::abs(RunLoss(loaded.model, batch, {}) - loss) / loss, kLoss);
    ExpectGradients(label + " gradients", loaded.model, file, "left.grad.");  // of both sides
    ++sides;
  }
  EXPECT_GT(sides, 0) << folder;
}

// Several documents in one row: each gives what it gives alone.
void CheckPacked(const std::string& folder) {
  const std::string label = Label(folder) + " packed";
  const SafetensorsFile file = SafetensorsFile::Open(folder + "/packed.safetensors");
  LoadedModel loaded = LoadModel(folder + "/model");
  const Batch batch = golden::ReadBatch(file, "batch");
  const std::vector<int32_t>& starts = batch.input.document_starts;
  EXPECT_EQ(starts, golden::Ints(file, "batch.document_starts")) << label;
  const std::vector<float> want = golden::KeptRows(batch, golden::Floats(file, "logits"));
  Expect(
      label + " logits",
      golden::MaxAbs(RunForward(loaded.model, batch, {}).logits.data(), want.data(), want.size()),
      kLogits);
  const std::vector<float> sums = golden::Floats(file, "document_loss_sums");
  const std::vector<int32_t> targets = golden::Ints(file, "document_targets");
  ASSERT_EQ(sums.size(), starts.size());
  ASSERT_EQ(targets.size(), starts.size());
  double worst = 0;
  for (size_t d = 0; d < starts.size(); ++d) {
    Batch one = batch;
    const int64_t begin = starts[d],
                  end = d + 1 < starts.size() ? starts[d + 1] : batch.input.size();
    one.trained = 0;
    for (int64_t n = 0; n < batch.input.size(); ++n) {
      if (n < begin || n >= end) one.weights[n] = 0;
      one.trained += one.weights[n] != 0;
    }
    EXPECT_EQ(one.trained, targets[d]) << label << " document " << d;
    if (one.trained == 0) {
      EXPECT_EQ(sums[d], 0) << label << " document " << d;
      continue;
    }
    const double got = RunLoss(loaded.model, one, {}) * static_cast<double>(one.trained);
    worst = std::max(worst, std::abs(got - sums[d]) / sums[d]);
  }
  Expect(StrCat(label, " worst loss of ", starts.size(), " documents"), worst, kLoss);
  MakeAllTrainable(loaded.model);
  const double loss = golden::Floats(file, "loss")[0];
  Expect(label + " loss", std::abs(RunLoss(loaded.model, batch, {}) - loss) / loss, kLoss);
  ExpectGradients(label + " gradients", loaded.model, file, "grad.");
}

void CheckLora(const std::string& folder, const std::string& lora) {
  const std::string label = Label(folder) + " " + std::filesystem::path(lora).filename().string();
  const SafetensorsFile file = SafetensorsFile::Open(folder + "/forward.safetensors");
  LoadedModel loaded = LoadModel(folder + "/model");
  Transformer& model = loaded.model;
  LoadAdapter(model, lora + "/start", /*trainable=*/true);
  const SafetensorsFile logits = SafetensorsFile::Open(lora + "/start-logits.safetensors");
  for (int i = 0; golden::Has(logits, StrCat("logits.", i)); ++i) {
    const Batch batch = golden::ReadBatch(file, StrCat("batch", i));
    const std::vector<float> want =
        golden::KeptRows(batch, golden::Floats(logits, StrCat("logits.", i)));
    const Outcome f32 = RunForward(model, batch, {});
    Expect(StrCat(label, " logits ", i),
           golden::MaxAbs(f32.logits.data(), want.data(), want.size()), kLogits);
  }
  const nlohmann::json trajectory = nlohmann::json::parse(std::ifstream(lora + "/trajectory.json"));
  const Batch batch = golden::ReadBatch(file, "batch0");
  const double want = trajectory["first_gradient_loss"];
  for (const bool checkpointing : {false, true}) {
    const std::string how = checkpointing ? ", checkpointing" : "";
    Expect(label + " loss" + how,
           std::abs(RunLoss(model, batch, {.gradient_checkpointing = checkpointing}) - want) / want,
           kLoss);
    ExpectGradients(label + " gradients" + how, model,
                    SafetensorsFile::Open(lora + "/gradients.safetensors"), "");
  }
}

// The greedy continuations; a smallest margin between the two best logits is stored, so float32
// must give the same tokens.
void CheckGenerate(const std::string& folder) {
  const SafetensorsFile file = SafetensorsFile::Open(folder + "/forward.safetensors");
  LoadedModel loaded = LoadModel(folder + "/model");
  for (const auto& row : nlohmann::json::parse(std::ifstream(folder + "/generate.json"))) {
    Batch batch = golden::ReadBatch(file, StrCat("batch", row["batch"].get<int>()));
    if (batch.rows > 1) {  // row 0 only
      const int64_t n = batch.input.document_starts[1];
      batch.input.ids.resize(n);
      batch.input.types.resize(n);
      batch.input.document_starts.resize(1);
    }
    const std::vector<int32_t> want = row["greedy"];
    // A set that names both rules must agree under both. Which one an older set's `greedy` followed
    // depends on the version of Transformers and on how its generate was called
    // (gemma4-12b.md 3.7): there the tokens must be those of one of the two, whatever the prefill
    // chunk.
    const bool named = row.contains("greedy_bare_rule");
    std::string equal;
    for (const auto& [rule, name] : {std::pair{ImageMask::kSlidingOnly, "sliding layers only"},
                                     {ImageMask::kHfForward, "hf_forward"}}) {
      std::vector<int32_t> whole;
      for (const int64_t chunk : {int64_t{1024}, int64_t{7}}) {
        GenerateOptions options;
        options.compute = Compute::kFloat32;
        options.max_new_tokens = static_cast<int64_t>(want.size());
        options.stop_ids.clear();
        options.suppress_ids = row["suppress_tokens"].get<std::vector<int32_t>>();
        options.prefill_chunk = chunk;
        options.image_mask = rule;
        const std::vector<int32_t> got = Generate(loaded.model, batch.input, options, {}).ids;
        if (whole.empty()) whole = got;
        EXPECT_EQ(got, whole) << folder << ": prefill chunk " << chunk;
      }
      if (named) {
        const char* key = rule == ImageMask::kHfForward ? "greedy_bare_rule" : "greedy";
        EXPECT_EQ(whole, row[key].get<std::vector<int32_t>>()) << folder << ": " << name;
      }
      if (whole == want) equal += std::string(equal.empty() ? "" : " and ") + name;
    }
    std::printf("%s generate batch %d: %zu tokens equal under: %s (smallest margin %.3g)\n",
                Label(folder).c_str(), row["batch"].get<int>(), want.size(),
                equal.empty() ? "NONE" : equal.c_str(), row["smallest_margin"].get<double>());
    EXPECT_FALSE(equal.empty()) << folder;
  }
}

TEST(ModelGolden, EveryFolder) {
  int ran = 0;
  for (const std::string& folder : golden::FindFolders("model")) {
    if (!std::filesystem::exists(folder + "/forward.safetensors")) {
      std::printf("absent: %s/forward.safetensors\n", folder.c_str());
      continue;
    }
    CheckForward(folder);
    ++ran;
    for (const auto& [name, check] : {std::pair{"gradients.safetensors", &CheckGradients},
                                      {"long.safetensors", &CheckLong},
                                      {"padding.safetensors", &CheckPadding},
                                      {"packed.safetensors", &CheckPacked},
                                      {"generate.json", &CheckGenerate}}) {
      if (std::filesystem::exists(folder + "/" + name)) {
        check(folder);
      } else {
        std::printf("absent: %s/%s\n", folder.c_str(), name);
      }
    }
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
      const std::string name = entry.path().filename().string();
      if (name.rfind("lora", 0) == 0 && std::filesystem::exists(entry.path() / "start"))
        CheckLora(folder, entry.path().string());
    }
  }
  EXPECT_GT(ran, 0) << "no golden/model folder under any root";
}

}  // namespace
}  // namespace lapidary
