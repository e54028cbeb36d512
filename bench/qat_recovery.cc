// How much of what quantization costs is won back by training on the grid. One command:
//   bench_qat_recovery [--results FILE] [--text PATH ...] [--seeds 3] [--pretrain 700]
//                      [--steps 1000] [--grids q4_0,int3_g32,mxfp4] [--arms ...] [--json]
// A small model (4 layers, 256 wide) is pre-trained on text of this machine (by default the headers
// of its C++ library), then taken on for the same steps, on the same data, in several ways:
//   control    full fine-tuning in full precision
//   rounded    the control, its matrices rounded to nearest (ggml's own bytes where it has the
//              format)
//   fitted     the control, rounded with scales of the least squared error; grids that learn
//   data       QAT: full fine-tuning on the grid, from the same start as the control, on the data
//   distilled  the same, the loss half the data's and half (--mix) the divergence from the control,
//              the very model whose quality is to be kept
//   learned    as data, with learned scales (LSQ); grids that learn
//   both       distilled with learned scales; grids that learn
//   twin       trained as distilled but in full precision, then rounded to nearest: what of a gain
//              is distillation's own
// Held-out text, of files that are not trained on: perplexity, KL(control || arm), how often the
// likeliest token is the control's. Share recovered of the loss:
//   (rounded - QAT) / (rounded - control)
// The steps, and to be on the grid from the first of them (--qat-start 0), were chosen with --split
// validation, other files than those of the test, which is what is printed by default. Control and
// arms have the same rate. A distilled arm can come out above the control: soft targets help any
// student, which is what the twin shows.
// The matrices of the decoder layers are on the grid, embedding and norms are not. Everything is a
// function of the seed; printed are all seeds, their mean and spread. With --results every arm is
// written down when it is done, with the weights of start and control beside the file (FILE.d), and
// a run that is stopped goes on from there.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "autograd/base/error.h"
#include "autograd/base/file.h"
#include "autograd/base/random.h"
#include "autograd/base/sha256.h"
#include "autograd/kernels/isa.h"
#include "data/tokenizer.h"
#include "model/load.h"
#include "model/qat.h"
#include "quant/fake_quant.h"
#include "train/bundle.h"
#include "train/distill.h"
#include "train/make_model.h"
#include "train/optim/adamw.h"
#include "train/schedule.h"
#include "train/step.h"

namespace lapidary {
namespace {

namespace fs = std::filesystem;

struct Args {
  std::vector<std::string> text = {"/usr/include/c++"};
  std::string grids = "q4_0,int3_g32,mxfp4", arms = "data,distilled,twin";
  std::string split = "test";
  std::string results, folder;
  std::string start_key, control_key;  // what they depend on
  int64_t seeds = 3, pretrain = 700, steps = 1000, tokens = 1024, held_out = 96;
  double pretrain_rate = 2e-3, rate = 3e-4, qat_rate = 3e-4, qat_start = 0, mix = 0.5;
  bool json = false;
};

constexpr int64_t kSequence = 256;

std::vector<std::string> Split(const std::string& list) {
  std::vector<std::string> words;
  std::stringstream in(list);
  for (std::string word; std::getline(in, word, ',');) words.push_back(word);
  return words;
}

// What is done to the start (or, untrained, to the control).
struct Arm {
  const char* name;
  bool trains, distills, learns;
  bool rounded = false;  // trained in full precision, rounded in the end
  bool Suits(const Grid& grid) const { return !learns || grid.learns(); }
};

const Arm& ArmNamed(const std::string& name) {
  static constexpr Arm kArms[] = {
      {"fitted", false, false, true},   {"data", true, false, false},
      {"distilled", true, true, false}, {"learned", true, false, true},
      {"both", true, true, true},       {"twin", true, true, false, true}};
  for (const Arm& arm : kArms) {
    if (arm.name == name) return arm;
  }
  throw Error(
      StrCat("--arms: must be of fitted, data, distilled, learned, both, twin; got '", name, "'"));
}

// What is done already: one line of JSON for each arm of a seed, under the
// settings that it was made with.
class Results {
 public:
  Results(const Args& args, std::string settings) : path_(args.results), settings_(settings) {
    if (path_.empty() || !fs::exists(path_)) return;
    std::stringstream in(ReadFile(path_));
    for (std::string line; std::getline(in, line);) {
      const auto one = nlohmann::ordered_json::parse(line);
      if (one.at("settings") != settings_) continue;
      done_[one.at("seed").get<uint64_t>()][one.at("grid")][one.at("arm")] = one.at("figures");
    }
  }
  const nlohmann::ordered_json* Find(uint64_t seed, const std::string& grid,
                                     const std::string& arm) const {
    const auto s = done_.find(seed);
    if (s == done_.end() || !s->second.count(grid) || !s->second.at(grid).count(arm))
      return nullptr;
    return &s->second.at(grid).at(arm);
  }
  void Add(uint64_t seed, const std::string& grid, const std::string& arm,
           const nlohmann::ordered_json& figures) {
    done_[seed][grid][arm] = figures;
    if (path_.empty()) return;
    const nlohmann::ordered_json line = {{"settings", settings_},
                                         {"seed", seed},
                                         {"grid", grid},
                                         {"arm", arm},
                                         {"figures", figures}};
    std::string text = fs::exists(path_) ? ReadFile(path_) : std::string();
    WriteFile(path_, text + line.dump() + "\n");
  }
  bool kept() const { return !path_.empty(); }

 private:
  const std::string path_, settings_;
  std::map<uint64_t, std::map<std::string, std::map<std::string, nlohmann::ordered_json>>> done_;
};

std::vector<std::string> TextFiles(const std::vector<std::string>& paths) {
  std::vector<std::string> files;
  for (const std::string& path : paths) {
    if (fs::is_regular_file(path)) files.push_back(path);
    if (!fs::is_directory(path)) continue;
    for (const auto& entry : fs::recursive_directory_iterator(path)) {
      if (entry.is_regular_file() && !entry.is_symlink() && entry.file_size() > 2000)
        files.push_back(entry.path().string());
    }
  }
  std::sort(files.begin(), files.end());
  return files;
}

// Runs of kSequence + 1 tokens. Of ten files one is for validation, on which settings are chosen,
// and one for the test, which is what is reported; nothing is trained on either.
struct Corpus {
  std::vector<std::vector<int32_t>> train, held_out;
};

Corpus ReadCorpus(const Args& args, const Tokenizer& tokenizer) {
  Corpus corpus;
  const std::vector<std::string> files = TextFiles(args.text);
  constexpr size_t kMost = size_t{12} << 20;  // of text
  size_t bytes = 0;
  for (size_t i = 0; i < files.size() && bytes < kMost; ++i) {
    const std::string text = ReadFile(files[i], uint64_t{1} << 26);
    bytes += text.size();
    const std::vector<int32_t> ids = tokenizer.Encode(text);
    const bool validation = i % 10 == 3, test = i % 10 == 7;
    if ((validation || test) && test != (args.split == "test")) continue;
    auto& to = validation || test ? corpus.held_out : corpus.train;
    for (size_t at = 0; at + kSequence + 1 <= ids.size(); at += kSequence)
      to.emplace_back(ids.begin() + static_cast<std::ptrdiff_t>(at),
                      ids.begin() + static_cast<std::ptrdiff_t>(at + kSequence + 1));
  }
  LAPIDARY_CHECK(
      corpus.train.size() >= 100 && corpus.held_out.size() >= 8,
      "bench_qat_recovery: the text must give 100 runs to train on and 8 to hold out; got ",
      corpus.train.size(), " and ", corpus.held_out.size(), "; try --text FOLDER");
  return corpus;
}

MicroBatch BatchOf(const std::vector<const std::vector<int32_t>*>& runs) {
  MicroBatch batch;
  for (const auto* run : runs) {
    batch.input.document_starts.push_back(static_cast<int32_t>(batch.input.ids.size()));
    batch.input.ids.insert(batch.input.ids.end(), run->begin(), run->end() - 1);
    batch.targets.insert(batch.targets.end(), run->begin() + 1, run->end());
    batch.names.push_back("text");
  }
  batch.weights.assign(batch.targets.size(), 1.0f);
  return batch;
}

using Snapshot = std::vector<std::vector<float>>;

Snapshot Save(Transformer& model) {
  Snapshot all;
  for (const Param* p : TrainableParams(model))
    all.emplace_back(p->value.data(), p->value.data() + p->value.size());
  return all;
}
void Restore(Transformer& model, const Snapshot& snapshot) {
  size_t i = 0;
  for (Param* p : TrainableParams(model)) {
    std::copy(snapshot[i].begin(), snapshot[i].end(), p->value.data());
    ++i;
  }
}

class Recovery {
 public:
  Recovery(const Args& args, uint64_t seed, Results* results)
      : args_(args), seed_(seed), results_(*results) {
    ModelConfig config = ParseModelConfig(ShapeText(), "the shape of the bench");
    const std::string folder = StrCat(args.folder, "/seed-", seed);
    MakeModelOptions options;
    options.seed = seed;
    options.overwrite = true;
    MakeModel(config, folder, options, [](int64_t, int64_t) {});
    bundle_ = OpenBundle(folder);
    MakeAllTrainable(bundle_.model);
    teacher_ = OpenBundle(folder);
    MakeAllTrainable(teacher_.model);
    corpus_ = ReadCorpus(args, bundle_.RequireTokenizer());
    for (int64_t i = 0; i < args.held_out; ++i) {
      held_out_.push_back(&corpus_.held_out[RandomBelow({0, 0, 5}, static_cast<uint64_t>(i),
                                                        corpus_.held_out.size())]);
    }
  }

  // Steps on the data, from `first` on in its order.
  // Fake quantization, if there is any, is on from step `qat_from` of them on.
  void Train(int64_t first, int64_t steps, double rate, int64_t warmup, DistillTeacher* teacher,
             int64_t qat_from = 0) {
    Transformer& model = bundle_.model;
    std::vector<Param*> params = TrainableParams(model);
    for (Param* learned : LearnedSteps(model)) params.push_back(learned);
    AdamW optimizer(params, {.beta2 = 0.95, .weight_decay = 0.01}, DecaysByName);
    StepOptions options;
    options.forward.training = true;
    options.forward.compute = Compute::kBfloat16;
    options.teacher = teacher;
    ScheduleOptions schedule;
    schedule.type = "cosine";
    schedule.learning_rate = rate;
    schedule.total_steps = steps;
    schedule.warmup_steps = warmup;
    for (int64_t step = 0; step < steps; ++step) {
      std::vector<const std::vector<int32_t>*> runs;
      for (int64_t i = 0; i < args_.tokens / kSequence; ++i) {
        const auto at = static_cast<uint64_t>((first + step) * (args_.tokens / kSequence) + i);
        runs.push_back(&corpus_.train[RandomBelow({seed_, 0, 3}, at, corpus_.train.size())]);
      }
      SetQatActive(model, step >= qat_from);
      if (step == qat_from) BeginLearnedScales(model);
      RefreshQatScales(model);
      UpdateLearnedScales(model);
      OptimizerStep(model, optimizer, {BatchOf(runs)}, LearningRate(schedule, step), options);
    }
  }

  struct Figures {
    double loss = 0, kl = 0, top1 = 0;
  };

  // Against the control's probabilities, kept in control_.
  Figures Evaluate(bool is_control) {
    Transformer& model = bundle_.model;
    RefreshQatScales(model);
    UpdateLearnedScales(model);
    Figures figures;
    int64_t count = 0;
    if (is_control) control_.clear();
    for (size_t i = 0; i < held_out_.size(); ++i) {
      const MicroBatch batch = BatchOf({held_out_[i]});
      Tape tape(Tape::Mode::kNoGrad);
      ForwardOptions forward;
      forward.compute = Compute::kBfloat16;
      const Tensor hidden = Forward(model, tape, batch.input, forward).value();
      const Tensor logits = Logits(hidden, model.head().Current(), 30.0f, Compute::kBfloat16);
      const int64_t vocab = logits.shape()[1];
      std::vector<float> log_probs(static_cast<size_t>(logits.size()));
      for (int64_t n = 0; n < logits.shape()[0]; ++n) {
        const float* z = logits.data() + n * vocab;
        const double top = *std::max_element(z, z + vocab);
        double total = 0;
        for (int64_t v = 0; v < vocab; ++v) total += std::exp(static_cast<double>(z[v]) - top);
        for (int64_t v = 0; v < vocab; ++v)
          log_probs[static_cast<size_t>(n * vocab + v)] =
              static_cast<float>(static_cast<double>(z[v]) - top - std::log(total));
        const float* q = log_probs.data() + n * vocab;
        figures.loss -= static_cast<double>(q[batch.targets[static_cast<size_t>(n)]]);
        ++count;
        if (is_control) continue;
        const float* p = control_[i].data() + n * vocab;
        for (int64_t v = 0; v < vocab; ++v)
          figures.kl += std::exp(static_cast<double>(p[v])) * (static_cast<double>(p[v]) - q[v]);
        figures.top1 += std::max_element(p, p + vocab) - p == std::max_element(q, q + vocab) - q;
      }
      if (is_control) control_.push_back(std::move(log_probs));
    }
    figures.loss /= static_cast<double>(count);
    figures.kl /= static_cast<double>(count);
    figures.top1 = is_control ? 1 : figures.top1 / static_cast<double>(count);
    return figures;
  }

  // The control's matrices replaced by what a plain quantization of them holds.
  void RoundToNearest(const Grid& grid) {
    ForEachLinear(bundle_.model, [&](Linear& linear) {
      if (linear.path.find(".layers.") == std::string::npos) return;
      float* w = linear.w.param->value.data();
      const int64_t rows = linear.w.rows(), cols = linear.w.cols();
      if (!grid.format()) {
        for (int64_t r = 0; r < rows; ++r) grid.Project(w + r * cols, cols);
        return;
      }
      std::vector<uint8_t> bytes(static_cast<size_t>(rows * FormatBytes(*grid.format(), cols)));
      QuantizeRows(*grid.format(), GetScaleRule(*grid.format(), "ggml"), w, rows, cols,
                   bytes.data());
      DequantizeRows(*grid.format(), bytes.data(), rows, cols, w);
    });
  }

  // All arms, those that are missing computed.
  nlohmann::ordered_json Run() {
    const Snapshot start = Stored("start", args_.start_key, [&] {
      Say("pre-training");
      Train(0, args_.pretrain, args_.pretrain_rate, args_.pretrain / 10, nullptr);
    });
    Restore(bundle_.model, start);
    const Snapshot control = Stored("control", args_.control_key, [&] {
      Say("control");
      Train(args_.pretrain, args_.steps, args_.rate, args_.steps / 20, nullptr);
    });
    Restore(teacher_.model, control);
    Restore(bundle_.model, start);
    const double before = Evaluate(true).loss;
    Restore(bundle_.model, control);
    const Figures full = Evaluate(true);
    nlohmann::ordered_json out = {
        {"seed", seed_}, {"start_loss", before}, {"control_loss", full.loss}};
    for (const std::string& name : Split(args_.grids)) {
      const Grid& grid = GetGrid(name, "--grids");
      const auto arm = [&](const std::string& which, const std::function<void()>& make) {
        const nlohmann::ordered_json* done = results_.Find(seed_, name, which);
        if (!done) {
          Say(name + ", " + which);
          make();
          const Figures f = Evaluate(false);
          DetachQat(bundle_.model);
          results_.Add(
              seed_, name, which,
              {{"loss", f.loss}, {"perplexity", std::exp(f.loss)}, {"kl", f.kl}, {"top1", f.top1}});
          done = results_.Find(seed_, name, which);
        }
        out[name][which] = *done;
      };
      arm("rounded", [&] {
        Restore(bundle_.model, control);
        RoundToNearest(grid);
      });
      for (const std::string& which : Split(args_.arms)) {
        if (!ArmNamed(which).Suits(grid)) continue;
        arm(which, [&] { MakeArm(ArmNamed(which), name, start, control); });
        auto& figures = out[name][which];
        const double rounded = out[name]["rounded"]["loss"], kl = out[name]["rounded"]["kl"];
        figures["recovered"] = (rounded - figures["loss"].get<double>()) / (rounded - full.loss);
        figures["recovered_kl"] = (kl - figures["kl"].get<double>()) / kl;
      }
    }
    return out;
  }

 private:
  void Say(const std::string& what) const {
    std::fprintf(stderr, "seed %llu: %s\n", static_cast<unsigned long long>(seed_), what.c_str());
  }

  void MakeArm(const Arm& arm, const std::string& grid, const Snapshot& start,
               const Snapshot& control) {
    std::unique_ptr<DistillTeacher> teacher;
    if (arm.distills) teacher = TeacherFromModel({"base", args_.mix, 1}, &teacher_.model);
    if (arm.rounded) {
      Restore(bundle_.model, Stored("twin", StrCat(args_.control_key, ", mix ", args_.mix), [&] {
                Restore(bundle_.model, start);
                Train(args_.pretrain, args_.steps, args_.rate, args_.steps / 20, teacher.get());
              }));
      return RoundToNearest(GetGrid(grid, "--grids"));
    }
    Restore(bundle_.model, arm.trains ? start : control);
    QatConfig qat;
    qat.format = grid;
    if (arm.learns) qat.scales = "learned";
    AttachQat(bundle_.model, ResolveQat(bundle_.model, qat));
    if (!arm.trains) return;
    Train(args_.pretrain, args_.steps, args_.qat_rate, args_.steps / 20, teacher.get(),
          static_cast<int64_t>(args_.qat_start * static_cast<double>(args_.steps)));
  }

  // The weights that `make` leaves, or those that an earlier run left.
  Snapshot Stored(const std::string& name, const std::string& key,
                  const std::function<void()>& make) {
    const std::string path =
        StrCat(args_.folder, "/", name, "-", seed_, "-", Sha256Hex(key).substr(0, 12), ".f32");
    if (!results_.kept() || !fs::exists(path)) {
      make();
      Snapshot made = Save(bundle_.model);
      if (!results_.kept()) return made;
      std::string bytes;
      for (const std::vector<float>& values : made)
        bytes.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
      WriteFile(path, bytes);
      return made;
    }
    const std::string bytes = ReadFile(path, uint64_t{1} << 32);
    Snapshot snapshot = Save(bundle_.model);
    size_t at = 0;
    for (std::vector<float>& values : snapshot) {
      const size_t size = values.size() * sizeof(float);
      LAPIDARY_CHECK(at + size <= bytes.size(), path, ": must hold the model; got ", bytes.size(),
                     " bytes; try removing it");
      std::memcpy(values.data(), bytes.data() + at, size);
      at += size;
    }
    return snapshot;
  }

  static std::string ShapeText() {
    nlohmann::json config = nlohmann::json::parse(MakeModelConfig("tiny", 4).json);
    auto& text = config["text_config"];
    text["intermediate_size"] = 1024;
    return config.dump();
  }

  const Args& args_;
  const uint64_t seed_;
  Results& results_;
  Bundle bundle_, teacher_;
  Corpus corpus_;
  std::vector<const std::vector<int32_t>*> held_out_;
  std::vector<std::vector<float>> control_;
};

void PrintTable(const Args& args, const std::vector<nlohmann::ordered_json>& runs) {
  std::printf("%zu seeds, %lld steps of pre-training, %lld on at %g, QAT at %g, %s split, %s\n",
              runs.size(), static_cast<long long>(args.pretrain),
              static_cast<long long>(args.steps), args.rate, args.qat_rate, args.split.c_str(),
              IsaName(ActiveIsa()));
  for (const auto& run : runs) {
    std::printf("seed %d: perplexity %.3f at the start, control %.3f\n", run["seed"].get<int>(),
                std::exp(run["start_loss"].get<double>()),
                std::exp(run["control_loss"].get<double>()));
  }
  std::printf("%-12s %-10s %10s %9s %8s   %s\n", "grid", "arm", "perplexity", "KL", "top-1",
              "recovered of the loss: each seed; mean, spread");
  std::vector<std::string> arms = Split(args.arms);
  arms.insert(arms.begin(), "rounded");
  for (const std::string& name : Split(args.grids)) {
    for (const std::string& arm : arms) {
      if (!runs[0][name].contains(arm)) continue;
      double perplexity = 0, kl = 0, top1 = 0, mean = 0, low = 1e9, high = -1e9;
      std::string shares;
      for (const auto& run : runs) {
        const auto& f = run[name][arm];
        perplexity += f["perplexity"].get<double>();
        kl += f["kl"].get<double>();
        top1 += f["top1"].get<double>();
        if (!f.contains("recovered")) continue;
        const double share = 100 * f["recovered"].get<double>();
        mean += share;
        low = std::min(low, share);
        high = std::max(high, share);
        char digits[32];
        std::snprintf(digits, sizeof(digits), "%.1f ", share);
        shares += digits;
      }
      const double n = static_cast<double>(runs.size());
      std::printf("%-12s %-10s %10.3f %9.5f %7.2f%%   ", name.c_str(), arm.c_str(), perplexity / n,
                  kl / n, 100 * top1 / n);
      if (!shares.empty()) std::printf("%s; %.1f %%, %.1f", shares.c_str(), mean / n, high - low);
      std::printf("\n");
    }
  }
}

int Run(Args args) {
  args.start_key =
      StrCat("text ", nlohmann::json(args.text).dump(), ", pretrain ", args.pretrain, " at ",
             args.pretrain_rate, ", tokens ", args.tokens, ", ", IsaName(ActiveIsa()));
  args.control_key = StrCat(args.start_key, ", steps ", args.steps, " at ", args.rate);
  Results results(
      args, StrCat(args.control_key, ", qat at ", args.qat_rate, " from ", args.qat_start, ", mix ",
                   args.mix, ", ", args.split, " of ", args.held_out));
  const bool kept = results.kept();
  args.folder = kept ? args.results + ".d"
                     : (fs::temp_directory_path() / StrCat("qat-recovery-", ::getpid())).string();
  std::vector<nlohmann::ordered_json> runs;
  for (int64_t seed = 1; seed <= args.seeds; ++seed)
    runs.push_back(Recovery(args, static_cast<uint64_t>(seed), &results).Run());
  if (!kept) fs::remove_all(args.folder);
  if (args.json) {
    std::printf("%s\n", nlohmann::ordered_json(runs).dump(1).c_str());
  } else {
    PrintTable(args, runs);
  }
  return 0;
}

}  // namespace
}  // namespace lapidary

int main(int argc, char** argv) {
  lapidary::Args args;
  CLI::App app("Pre-trains a small model and measures what training on a grid wins back",
               "bench_qat_recovery");
  app.add_option("--text", args.text, "files or folders of text");
  app.add_option("--results", args.results, "JSON lines; what is there already is not run again");
  app.add_option("--grids", args.grids, "separated by commas");
  app.add_option("--arms", args.arms, "of fitted, data, distilled, learned, both, twin");
  app.add_option("--split", args.split, "the text that figures are of")
      ->check(CLI::IsMember({"test", "validation"}));
  app.add_option("--seeds", args.seeds)->check(CLI::Range(1, 100));
  app.add_option("--pretrain", args.pretrain, "steps")->check(CLI::Range(10, 1000000));
  app.add_option("--steps", args.steps, "steps of every arm")->check(CLI::Range(10, 1000000));
  app.add_option("--tokens", args.tokens, "of a step")->check(CLI::Range(256, 1 << 20));
  app.add_option("--held-out", args.held_out, "runs of 256 tokens")->check(CLI::Range(8, 100000));
  app.add_option("--rate", args.rate, "peak learning rate of the control");
  app.add_option("--qat-rate", args.qat_rate, "peak learning rate of the other arms");
  app.add_option("--qat-start", args.qat_start,
                 "share of the steps that the other arms train as the control does")
      ->check(CLI::Range(0.0, 0.99));
  app.add_option("--mix", args.mix, "share of the teacher's term")->check(CLI::Range(0.0, 1.0));
  app.add_flag("--json", args.json);
  CLI11_PARSE(app, argc, argv);
  try {
    return lapidary::Run(args);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 2;
  }
}
