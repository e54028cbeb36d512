// Perplexity of running text against llama.cpp's llama-perplexity (golden/eval/perplexity.json).
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "autograd/base/file.h"
#include "tests/golden.h"
#include "tests/quant/temp_folder.h"
#include "train/bundle.h"
#include "train/evaluation/windows.h"

namespace lapidary {
namespace {

TEST(PerplexityGolden, EqualsLlamaPerplexity) {
  int cases = 0;
  for (const std::string& path : golden::Find("eval/perplexity.json")) {
    const nlohmann::json golden = nlohmann::json::parse(ReadFile(path));
    const std::string root = path.substr(0, path.size() - 20);
    Bundle bundle = OpenBundle(root + golden.at("model").get<std::string>());
    const TempFolder folder;
    const std::string text = folder.path() + "/text.txt";
    WriteFile(text, golden.at("text").get<std::string>());
    for (const auto& c : golden.at("cases")) {
      WindowOptions windows = {c.at("window"), c.at("stride"), -1};
      const std::vector<int32_t> ids = ReadTextRun(text, bundle.RequireTokenizer(), &windows.bos);
      ASSERT_GE(windows.bos, 0);
      Sequences sequences = WindowSequences(ids, windows, "text");
      EXPECT_EQ(sequences.lengths.size(), c.at("windows").get<size_t>());
      EvalOptions options;
      options.compute = Compute::kFloat32;
      const EvalCounts all = EvaluateSequences(bundle.model, sequences, options, "").all;
      const double want = std::log(c.at("perplexity").get<double>());
      std::printf("window %d stride %d: loss %.7f, llama.cpp %.7f, difference %.2e (limit 1e-4)\n",
                  c.at("window").get<int>(), c.at("stride").get<int>(), all.Loss(), want,
                  std::abs(all.Loss() - want));
      EXPECT_TRUE(std::abs(all.Loss() - want) < 1e-4);
      if (c.contains("error")) {
        const double error = c.at("error");
        EXPECT_NEAR(all.PerplexityError(), error, 1e-3 * error);
      }
      ++cases;
    }
  }
  EXPECT_GT(cases, 0) << "no golden/eval/perplexity.json under any root";
}

}  // namespace
}  // namespace lapidary
