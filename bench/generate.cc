// Prefill and decode rates on a checkpoint: a prompt of random tokens, head on its last token only,
// then greedy decoding token by token.
//   bench_generate MODEL [--prompt 512] [--new 64] [--repeat 3] [--chunk 1024]
//   [--compute bfloat16|float32] [--profile] [--json]
// With LAPIDARY_THREADS=1 by processor time, which other programs disturb less. Prints the median
// of the repetitions and the share of attention in a decode step; bench/compare_llama.sh sets
// llama.cpp beside it.
#include "model/generate.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "autograd/base/parallel.h"
#include "autograd/base/random.h"
#include "autograd/kernels/isa.h"
#include "autograd/profile.h"
#include "bench/peak.h"
#include "model/load.h"

namespace lapidary {
namespace {

struct GenerateBench {
  std::string model, compute = "bfloat16";
  int64_t prompt = 512, tokens = 64, repeat = 3, chunk = 1024;
  bool profile = false, json = false;
};

double Median(std::vector<double> x) {
  std::sort(x.begin(), x.end());
  return x[x.size() / 2];
}

int Run(const GenerateBench& args) {
  LoadedModel loaded = LoadModel(args.model, {.units = true});
  Transformer& model = loaded.model;
  ModelInput prompt;
  const uint64_t range = static_cast<uint64_t>(model.config.text.vocab_size - 30);
  for (int64_t i = 0; i < args.prompt; ++i) {
    const uint64_t id = RandomBelow({7, 0, 0}, static_cast<uint64_t>(i), range);
    prompt.ids.push_back(static_cast<int32_t>(10 + id));
  }
  prompt.document_starts = {0};
  GenerateOptions options;
  options.compute = args.compute == "float32" ? Compute::kFloat32 : Compute::kBfloat16;
  options.max_new_tokens = args.tokens;
  options.stop_ids.clear();
  options.prefill_chunk = args.chunk;
  std::vector<double> prefill, decode;
  for (int64_t i = 0; i <= args.repeat; ++i) {  // the first one warms up
    const double start = bench::Now();
    double first = 0;
    ResetProfile();
    Generate(model, prompt, options, [&](int32_t) {
      if (first == 0) first = bench::Now();
      EnableProfile(true);  // times by op are those of decoding
      return true;
    });
    EnableProfile(false);
    if (i == 0) continue;
    prefill.push_back(first - start);
    decode.push_back(bench::Now() - first);
  }
  const double steps = static_cast<double>(args.tokens - 1);
  double last = 0;
  for (const auto& [name, entry] : ProfileEntries()) last += entry.seconds;
  const double prefill_rate = static_cast<double>(args.prompt) / Median(prefill);
  const double decode_rate = steps / Median(decode);
  const auto share = [&](const char* name) {
    const auto it = ProfileEntries().find(name);
    return it == ProfileEntries().end() ? 0.0 : it->second.seconds / last;
  };
  if (args.json) {
    std::printf("%s\n", nlohmann::ordered_json({{"model", args.model},
                                                {"isa", IsaName(ActiveIsa())},
                                                {"threads", Threads()},
                                                {"compute", args.compute},
                                                {"prompt_tokens", args.prompt},
                                                {"new_tokens", args.tokens},
                                                {"prefill_tok_s", prefill_rate},
                                                {"decode_tok_s", decode_rate},
                                                {"decode_gemm_share", share("gemm")},
                                                {"decode_attention_share", share("attention")}})
                            .dump()
                            .c_str());
    return 0;
  }
  std::printf(
      "%s, %d threads, %s: prefill of %lld tokens %.1f tokens/s; decoding %lld more %.2f tokens/s, "
      "of which matrix products %.1f %%, attention %.1f %%\n",
      IsaName(ActiveIsa()), Threads(), args.compute.c_str(), static_cast<long long>(args.prompt),
      prefill_rate, static_cast<long long>(args.tokens), decode_rate, 100 * share("gemm"),
      100 * share("attention"));
  if (args.profile) {
    std::vector<std::pair<double, std::string>> rows;
    for (const auto& [name, entry] : ProfileEntries()) rows.emplace_back(entry.seconds, name);
    std::sort(rows.rbegin(), rows.rend());
    for (const auto& [time, name] : rows) {
      std::printf("  %-24s %8.3f ms a token %5.1f %%\n", name.c_str(), 1e3 * time / steps,
                  100 * time / last);
    }
  }
  return 0;
}

}  // namespace
}  // namespace lapidary

int main(int argc, char** argv) {
  lapidary::GenerateBench args;
  CLI::App app("Times prefill and decoding", "bench_generate");
  app.add_option("model", args.model)->required();
  app.add_option("--prompt", args.prompt, "tokens of the prompt")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app.add_option("--new", args.tokens, "tokens to decode")
      ->check(CLI::Range(2, 1 << 16))
      ->capture_default_str();
  app.add_option("--repeat", args.repeat)->check(CLI::Range(1, 1000))->capture_default_str();
  app.add_option("--chunk", args.chunk, "tokens of the prompt at a time")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app.add_option("--compute", args.compute)
      ->check(CLI::IsMember({"float32", "bfloat16"}))
      ->capture_default_str();
  app.add_flag("--profile", args.profile, "time by op of a decode step");
  app.add_flag("--json", args.json);
  CLI11_PARSE(app, argc, argv);
  try {
    return lapidary::Run(args);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 2;
  }
}
