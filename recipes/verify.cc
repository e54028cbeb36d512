// `lapidary verify`: what an export holds against what was trained.
#include "train/export/verify.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "autograd/base/error.h"
#include "recipes/commands.h"
#include "train/bundle.h"
#include "train/evaluate.h"
#include "train/export/export.h"
#include "train/progress.h"
#include "train/session.h"

namespace lapidary {
namespace {

using Json = nlohmann::ordered_json;

struct VerifyArgs {
  std::string source, exported, tokens, imatrix, compute = "bfloat16";
  std::vector<std::string> adapters, data;
  int64_t limit = 0, max_length = 0;
  bool all = false, json = false, quiet = false;
};

// Figures of the tensors of one format.
struct FormatSums {
  int64_t tensors = 0, on_grid = 0, elements = 0;
  double error = 0, norm = 0;
  std::map<std::string, int64_t> rules;
};

std::map<std::string, FormatSums> ByFormat(const VerifyReport& report) {
  std::map<std::string, FormatSums> formats;
  for (const VerifiedTensor& t : report.tensors) {
    FormatSums& sums = formats[t.format];
    ++sums.tensors;
    sums.on_grid += t.on_grid();
    sums.elements += t.elements;
    sums.error += t.error;
    sums.norm += t.norm;
    ++sums.rules[t.on_grid() ? t.rule : "none"];
  }
  return formats;
}

Json ReportJson(const VerifyReport& report) {
  Json tensors = Json::array();
  for (const VerifiedTensor& t : report.tensors) {
    tensors.push_back({{"name", t.name},
                       {"format", t.format},
                       {"on_grid", t.on_grid()},
                       {"rule", t.rule},
                       {"elements", t.elements},
                       {"differing", t.differing},
                       {"relative_error", t.relative()},
                       {"largest_error", t.largest}});
  }
  return {{"whole", report.whole()},
          {"missing", report.missing},
          {"extra", report.extra},
          {"tensors", tensors}};
}

void Print(const VerifyReport& report, bool all) {
  std::printf("%-8s %9s %14s %14s  %s\n", "format", "tensors", "on the grid", "|error|/|W|",
              "scale rules");
  for (const auto& [format, sums] : ByFormat(report)) {
    std::string rules;
    for (const auto& [rule, count] : sums.rules)
      rules += StrCat(rules.empty() ? "" : ", ", rule, " ", count);
    std::printf("%-8s %9lld %14lld %14.2e  %s\n", format.c_str(),
                static_cast<long long>(sums.tensors), static_cast<long long>(sums.on_grid),
                sums.norm > 0 ? std::sqrt(sums.error / sums.norm) : 0.0, rules.c_str());
  }
  for (const VerifiedTensor& t : report.tensors) {
    if (!all && t.on_grid()) continue;
    std::printf("%s %s: %s, %lld of %lld values differ, |error|/|W| %.2e\n",
                t.on_grid() ? "equal" : "off", t.name.c_str(), t.format.c_str(),
                static_cast<long long>(t.differing), static_cast<long long>(t.elements),
                t.relative());
  }
  for (const std::string& name : report.missing) std::printf("missing %s\n", name.c_str());
  for (const std::string& name : report.extra) std::printf("extra %s\n", name.c_str());
  std::printf("%s\n", report.whole() ? "the export is the source, rounded once"
                                     : "the export is not the source rounded once");
}

PairResult Compare(const VerifyArgs& args, const std::vector<AdapterChoice>& adapters) {
  LAPIDARY_CHECK(adapters.size() <= 1 && (adapters.empty() || adapters[0].weight == 1),
                 "verify: --data and --tokens must be with one adapter as it is; got several or a "
                 "weight; try without them");
  Bundle source = OpenBundle(args.source, adapters.empty() ? "" : adapters[0].folder),
         exported = OpenBundle(args.exported);
  EvalOptions options;
  options.compute = ComputeOf(args.compute);
  std::shared_ptr<const Dataset> dataset;
  std::optional<SampleBuilder> builder;
  Sequences sequences;
  if (!args.tokens.empty()) {
    sequences = TokenSequences(ReadTokenLists(args.tokens, source.model.config.text.vocab_size));
  } else {
    dataset = Dataset::Open(args.data);
    SampleOptions sample;
    sample.media = source.media;
    sample.max_length = args.max_length;
    sample.on_too_long = OnTooLong::kDrop;
    builder.emplace(source.RequireTokenizer(), sample);
    sequences = DatasetSequences(dataset, *builder, OnError::kStop, {});
  }
  if (args.limit > 0 && static_cast<int64_t>(sequences.lengths.size()) > args.limit)
    sequences.lengths.resize(static_cast<size_t>(args.limit));
  Progress bar(args.quiet ? nullptr : stderr, "both models",
               static_cast<int64_t>(sequences.lengths.size()));
  options.on_batch = [&](int64_t records) { bar.Update(records, ""); };
  const PairResult pair = EvaluatePair(source.model, exported.model, sequences, options);
  bar.Finish();
  return pair;
}

void Run(const VerifyArgs& args) {
  LAPIDARY_CHECK(args.data.empty() || args.tokens.empty(),
                 "verify: at most one of --data and --tokens must be given; got both");
  std::vector<AdapterChoice> adapters;
  std::vector<AdapterUse> uses;
  for (const std::string& text : args.adapters) {
    adapters.push_back(ParseAdapterChoice(text));
    uses.push_back({OpenAdapter(adapters.back().folder), adapters.back().weight});
  }
  VerifyReport report;
  {
    const CheckpointFiles source = OpenCheckpointFiles(args.source),
                          exported = OpenCheckpointFiles(args.exported);
    std::unique_ptr<const ImportanceMatrix> imatrix;
    if (!args.imatrix.empty())
      imatrix = std::make_unique<const ImportanceMatrix>(ReadImportanceMatrix(args.imatrix));
    std::unique_ptr<Progress> bar;
    report = VerifyTensors(
        source, AdapterMerge(uses, source.tensors), TrainedGrids(uses, args.source, source),
        exported,
        [&](uint64_t done, uint64_t total) {
          if (!bar)
            bar = std::make_unique<Progress>(args.quiet ? nullptr : stderr, "tensors",
                                             static_cast<int64_t>(total));
          bar->Update(static_cast<int64_t>(done), "");
        },
        imatrix.get());
    if (bar) bar->Finish();
  }
  Json json = ReportJson(report);
  if (!args.json) Print(report, args.all);
  if (!args.data.empty() || !args.tokens.empty()) {
    const PairResult pair = Compare(args, adapters);
    json["models"] = {{"loss", pair.first.Loss()},
                      {"export_loss", pair.second.Loss()},
                      {"loss_gap", pair.second.Loss() - pair.first.Loss()},
                      {"kl", pair.Kl()},
                      {"kl_max", pair.kl_max},
                      {"top_agreement", pair.TopAgreement()},
                      {"targets", pair.first.targets}};
    if (!args.json) {
      std::printf(
          "%lld targets: loss %.6f, of the export %.6f, gap %.2e nats; mean KL %.2e, "
          "largest %.2e; same first choice %.2f %%\n",
          static_cast<long long>(pair.first.targets), pair.first.Loss(), pair.second.Loss(),
          pair.second.Loss() - pair.first.Loss(), pair.Kl(), pair.kl_max,
          100 * pair.TopAgreement());
    }
  }
  if (args.json) std::printf("%s\n", json.dump(1).c_str());
  if (!report.whole()) throw CLI::RuntimeError(1);
}

}  // namespace

void AddVerify(CLI::App& cli) {
  CLI::App* app = cli.add_subcommand(
      "verify", "does an export hold what was trained: every tensor, then loss, KL and top-1");
  auto args = std::make_shared<VerifyArgs>();
  app->add_option("source", args->source, "what the export was made from: folder or .gguf")
      ->required();
  app->add_option("export", args->exported, "folder or .gguf (its mmproj beside it)")->required();
  app->add_option("--adapter", args->adapters, "PEFT folder that was merged, or FOLDER=WEIGHT");
  app->add_option("--imatrix", args->imatrix, "importance matrix that the export was made with");
  app->add_option("--data", args->data, "data set on which to run both models");
  app->add_option("--tokens", args->tokens, "the same on a JSON list of lists of token ids");
  app->add_option("--limit", args->limit, "at most so many records")->check(CLI::NonNegativeNumber);
  app->add_option("--max-length", args->max_length, "leave longer records out; 0: none")
      ->check(CLI::NonNegativeNumber);
  app->add_option("--compute", args->compute, "float32 or bfloat16")
      ->capture_default_str()
      ->check(CLI::IsMember({"float32", "bfloat16"}));
  app->add_flag("--all", args->all, "a line for every tensor");
  app->add_flag("--json", args->json, "print one JSON object");
  app->add_flag("--quiet", args->quiet, "no progress bar");
  app->footer(
      "exit code: 0 every tensor is the source rounded once by a rule of its format, 1 not\n"
      "example: lapidary verify gemma-4-12B-it mine.gguf --adapter out --data held-out.jsonl");
  app->callback([args] { Run(*args); });
}

}  // namespace lapidary
