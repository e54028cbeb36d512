// Packed training gives what unpacked training gives: documents of one run never see each other and
// positions begin again, so loss and gradients agree within 1e-6.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>

#include "data/audio.h"
#include "data/image.h"
#include "data/loader.h"
#include "model/adapt.h"
#include "tests/quant/temp_folder.h"
#include "train/bundle.h"
#include "train/make_model.h"
#include "train/step.h"

namespace lapidary {
namespace {

constexpr int64_t kRoom = 256;  // tokens of a packed run

std::vector<MicroBatch> AllBatches(const std::shared_ptr<const Dataset>& data,
                                   const SampleBuilder& builder, bool packing, int64_t* runs) {
  LoaderOptions options;
  options.shuffle = false;
  options.epochs = 1;
  options.packing = packing;
  options.max_tokens = packing ? kRoom : 0;
  Loader loader(data, builder, options);
  std::vector<MicroBatch> micro;
  while (const auto batch = loader.Next()) micro.push_back(MakeMicroBatch(*batch));
  EXPECT_TRUE(!packing || loader.utilization() > 0.7);
  *runs = static_cast<int64_t>(micro.size());
  return micro;
}

TEST(Packing, LossAndGradientsAreThoseOfSingleDocuments) {
  const TempFolder folder;
  MakeModel(MakeModelConfig("tiny", 3), folder / "base", {}, [](int64_t, int64_t) {});
  Bundle bundle = OpenBundle(folder / "base");
  MakeAllTrainable(bundle.model);
  const std::vector<Param*> params = TrainableParams(bundle.model);
  const std::string path = folder / "d.jsonl";
  const std::string picture = EncodePng({40, 60, std::vector<uint8_t>(40 * 60 * 3, 99)});
  std::ofstream(folder / "a.png", std::ios::binary) << picture;
  std::ofstream(folder / "s.wav", std::ios::binary) << EncodeWav(std::vector<float>(9000, 0.25f));
  std::ofstream file(path);
  for (int i = 0; i < 9; ++i) {
    const char* media[] = {R"("images":["a.png"],)", R"("audios":["s.wav"],)", ""};
    file << "{" << media[i % 3] << R"("messages":[{"role":"user","content":")"
         << std::string(5 + i * 7 % 20, 'q') << R"( what"},{"role":"assistant","content":"answer )"
         << i * 7919 << R"( is this"}]})"
         << "\n";
  }
  file.close();
  const auto data = Dataset::Open({path});
  SampleOptions samples;
  samples.media = bundle.media;
  samples.image_budget = 70;
  const SampleBuilder builder(bundle.RequireTokenizer(), samples);
  StepOptions options;
  options.forward.compute = Compute::kFloat32;
  options.forward.training = true;

  int64_t single_runs = 0, packed_runs = 0;
  const auto single = AllBatches(data, builder, false, &single_runs);
  const auto packed = AllBatches(data, builder, true, &packed_runs);
  EXPECT_EQ(single_runs, 9);
  EXPECT_LT(packed_runs, single_runs);
  const auto gradients = [&](const std::vector<MicroBatch>& micro, double* loss) {
    for (Param* param : params) param->grad = {};
    *loss = StepGradients(bundle.model, params, micro, options).loss;
    std::vector<std::vector<double>> all;
    for (Param* param : params) {
      const float* g = param->grad.defined() ? param->grad.data() : nullptr;
      all.emplace_back(g, g + (g != nullptr ? param->grad.size() : 0));
    }
    return all;
  };
  double single_loss = 0, packed_loss = 0;
  const auto a = gradients(single, &single_loss), b = gradients(packed, &packed_loss);
  EXPECT_NEAR(packed_loss / single_loss, 1.0, 1e-6);
  double difference = 0, size = 0;
  for (size_t p = 0; p < a.size(); ++p) {
    for (size_t i = 0; i < a[p].size(); ++i) {
      difference += (a[p][i] - b[p][i]) * (a[p][i] - b[p][i]);
      size += a[p][i] * a[p][i];
    }
  }
  EXPECT_GT(size, 0);
  EXPECT_TRUE(std::none_of(a.begin(), a.end(), [](const auto& g) { return g.empty(); }))
      << "pictures and sounds reach all parameters";
  EXPECT_LT(std::sqrt(difference / size), 1e-6);
}

}  // namespace
}  // namespace lapidary
