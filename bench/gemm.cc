// Speed of the matrix products beside the peak of the instructions they use, measured in the same
// run: before and after every repetition. "share" is the median over repetitions of product / peak,
// by the wall clock with all threads; "cpu share" is the same by the CPU time of the process, which
// other programs on the machine disturb less.
//
//   bench_gemm                     the shapes of the 12B's layers, T 1 to 2048, every fast format
//   bench_gemm --quick --json      a selection, below a minute
//   bench_gemm --tokens 512 --formats bf16 q4_0 --directions fwd dx dw --shapes 3840x15360
//   bench_gemm --rank 16           what an adapter on the weight costs beside the product without
//
// "q4_0:units" is the same blocks in units (quant/units.h). The format "openblas" is OpenBLAS in
// float32 on float32 weights, for comparison; its share is of the same peak. A shape is I x O.
// --cpu-time runs on one thread and counts all by CPU time.
#include <cblas.h>
#include <time.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cctype>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "autograd/base/error.h"
#include "autograd/base/parallel.h"
#include "autograd/gemm_group.h"
#include "autograd/kernels/gemm_table.h"
#include "bench/gemm_peak.h"
#include "quant/format.h"
#include "quant/units.h"

namespace lapidary {
namespace {

struct Options {
  std::vector<int64_t> tokens = {1, 128, 512, 2048};
  std::vector<std::string> formats, directions = {"fwd", "dx"};
  // q, k/v and o of sliding and of full layers, gate/up, down.
  std::vector<std::string> shapes = {"3840x4096", "3840x2048", "4096x3840",  "3840x8192",
                                     "3840x512",  "8192x3840", "3840x15360", "15360x3840"};
  std::string isa, compute = "bfloat16";
  int repetitions = 5;
  int64_t rank = 0;
  double seconds = 0;
  bool json = false, cpu_time = false, quick = false;
};

struct Times {
  double wall = 0, cpu = 0;
};
Times Now() {
  const auto read = [](clockid_t clock) {
    timespec t;
    clock_gettime(clock, &t);
    return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
  };
  return {read(CLOCK_MONOTONIC), read(CLOCK_PROCESS_CPUTIME_ID)};
}
Times Since(const Times& start) {
  const Times now = Now();
  return {now.wall - start.wall, now.cpu - start.cpu};
}

// TFLOP/s: of all threads by the wall clock, of one by CPU time.
struct Rate {
  double wall = 0, cpu = 0;
};
Rate RateOf(double flops, const Times& t) { return {flops / t.wall / 1e12, flops / t.cpu / 1e12}; }

Rate Peak(Compute compute) {
  const Isa isa = ActiveIsa();
  std::vector<double> flops(Threads(), 0.0);
  const Times start = Now();
  ParallelFor(Threads(), [&](Range r) {
    for (int64_t t = r.begin; t < r.end; ++t) flops[t] = RunPeakLoop(isa, compute, 15);
  });
  double sum = 0;
  for (double f : flops) sum += f;
  return RateOf(sum, Since(start));
}

double Median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v[v.size() / 2];
}

// A weight of the shape in copies that together exceed the caches, as a pass over a model's layers
// sees it.
struct Weights {
  std::vector<uint8_t> bytes;
  std::vector<WeightView> views;
};

Weights MakeWeights(const Format& format, int64_t o, int64_t i) {
  const int64_t row_bytes = FormatBytes(format, i), size = o * row_bytes;
  const int64_t copies = std::max<int64_t>(1, (int64_t{128} << 20) / size);
  Weights w;
  w.bytes.resize(size * copies);
  const int64_t period = std::min<int64_t>(o, 61);
  std::vector<float> values(period * i);
  uint32_t s = 1;
  for (float& v : values) {
    s = s * 1664525u + 1013904223u;
    v = static_cast<float>(static_cast<int32_t>(s)) / 4e10f;
  }
  QuantizeRows(format, GetScaleRule(format), values.data(), period, i, w.bytes.data());
  for (int64_t r = period; r < o * copies; ++r) {
    std::memcpy(w.bytes.data() + r * row_bytes, w.bytes.data() + r % period * row_bytes, row_bytes);
  }
  for (int64_t c = 0; c < copies; ++c)
    w.views.push_back({format.id, o, i, w.bytes.data() + c * size, row_bytes});
  return w;
}

// The same weights in units.
Weights MakeUnits(const Weights& rows) {
  Weights w;
  int64_t bytes = 0;
  for (const WeightView& view : rows.views) bytes += view.rows * view.row_bytes + 64;
  w.bytes.resize(bytes + 64);
  uint8_t* at = w.bytes.data();
  for (const WeightView& view : rows.views) {
    at += (64 - reinterpret_cast<uintptr_t>(at) % 64) % 64;
    CopyToUnits(view, 0, view.rows, at);
    w.views.push_back(UnitsView(view, at));
    at += view.rows * view.row_bytes;
  }
  return w;
}

constexpr char kUnits[] = ":units";
constexpr char kOpenBlas[] = "openblas";

// The same products by OpenBLAS.
void BlasProduct(const std::string& direction, const float* w, int64_t n, int64_t i, int64_t o,
                 float* x, float* y, float* dw) {
  const int nn = static_cast<int>(n), ii = static_cast<int>(i), oo = static_cast<int>(o);
  if (direction == "fwd")
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, nn, oo, ii, 1, x, ii, w, ii, 0, y, oo);
  if (direction == "dx")
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, nn, ii, oo, 1, y, oo, w, ii, 0, x, ii);
  if (direction == "dw")
    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, oo, ii, nn, 1, y, oo, x, ii, 0, dw, ii);
}

// One shape, format and direction with everything it reads and writes.
struct Case {
  std::string direction, format;
  int64_t i, o, n;
  Compute compute;
  const Weights& weights;
  std::vector<float> x, y, dw, dx, a, b, z, da, db;

  Case(const Options& options, const std::string& d, const std::string& f, int64_t in, int64_t out,
       int64_t rows, const Weights& w)
      : direction(d),
        format(f),
        i(in),
        o(out),
        n(rows),
        compute(options.compute == "float32" ? Compute::kFloat32 : Compute::kBfloat16),
        weights(w),
        x(n * i, 0.5f),
        y(n * o, 0.25f) {
    const int64_t r = options.rank;
    if (direction == "dw") dw.resize(o * i);
    a.assign(r * i, 0.125f);
    b.assign(o * r, 0.125f);
    z.assign(n * r, 0.5f);
    da.resize(r * i);
    db.resize(o * r);
  }

  void Run(int turn, int64_t rank) {
    const WeightView& w = weights.views[turn % weights.views.size()];
    if (format == kOpenBlas) {
      BlasProduct(direction, static_cast<const float*>(w.data), n, i, o, x.data(), y.data(),
                  dw.data());
    } else if (direction == "dw") {
      GemmWeightGrad(y.data(), x.data(), n, o, i, dw.data(), false, compute);
    } else if (direction == "fwd") {
      const GroupPart part = {w, a.data(), b.data(), rank, 2.0f};
      float* const to[] = {y.data()};
      GemmGroupForward(x.data(), n, {&part, 1}, to, z.data(), compute);
    } else {
      const GroupPart part = {w, a.data(), b.data(), rank, 2.0f};
      const GroupPartGrads grads = {y.data(), {da.data(), false}, {db.data(), false}};
      // With an adapter dA reads x, which dx must not be written over.
      if (rank > 0 && dx.empty()) dx.resize(n * i);
      float* const to = rank > 0 ? dx.data() : x.data();
      GemmGroupGrad(x.data(), z.data(), n, {&part, 1}, {&grads, 1}, {to, false}, compute);
    }
  }
};

void RunCase(const Options& options, Case& c) {
  const double flops =
      2.0 * static_cast<double>(c.n) * static_cast<double>(c.i) * static_cast<double>(c.o);
  const auto measure = [&](int turn, int64_t rank) {
    const Times start = Now();
    int calls = 0;
    do {
      c.Run(turn + ++calls, rank);
    } while (Since(start).wall < 0.02);
    return RateOf(flops * calls, Since(start));
  };
  c.Run(0, 0);
  if (options.rank > 0) c.Run(0, options.rank);
  std::vector<double> rates, peaks, shares, cpu_shares, costs;
  for (int r = 0; r < options.repetitions; ++r) {
    const Rate before = Peak(c.compute), rate = measure(r, 0), after = Peak(c.compute);
    rates.push_back(options.cpu_time ? rate.cpu : rate.wall);
    peaks.push_back((options.cpu_time ? before.cpu + after.cpu : before.wall + after.wall) / 2);
    if (peaks.back() > 0) {
      shares.push_back(rates.back() / peaks.back());
      cpu_shares.push_back(2 * rate.cpu / (before.cpu + after.cpu));
    }
    if (options.rank > 0) costs.push_back(rate.cpu / measure(r, options.rank).cpu - 1);
  }
  const double share = shares.empty() ? 0 : Median(shares);
  const double cpu_share = cpu_shares.empty() ? 0 : Median(cpu_shares);
  const double weight_bytes = static_cast<double>(c.o * c.weights.views[0].row_bytes);
  const double seconds = flops / Median(rates) / 1e12;
  if (options.json) {
    nlohmann::ordered_json line = {{"direction", c.direction},
                                   {"format", c.format},
                                   {"I", c.i},
                                   {"O", c.o},
                                   {"T", c.n},
                                   {"isa", IsaName(ActiveIsa())},
                                   {"compute", ComputeName(c.compute)},
                                   {"threads", Threads()},
                                   {"clock", options.cpu_time ? "cpu" : "wall"},
                                   {"tflops", Median(rates)},
                                   {"best_tflops", *std::max_element(rates.begin(), rates.end())},
                                   {"peak_tflops", Median(peaks)},
                                   {"share", share},
                                   {"cpu_share", cpu_share},
                                   {"ms", seconds * 1e3},
                                   {"weight_gb_s", weight_bytes / seconds / 1e9}};
    if (options.rank > 0) {
      line["rank"] = options.rank;
      line["adapter_cost"] = Median(costs);
    }
    std::printf("%s\n", line.dump().c_str());
  } else {
    std::printf(
        "%-4s %-8s %6ldx%-7ld T %5ld  %8.3f TFLOP/s  peak %6.3f  share %5.1f %%  cpu share %5.1f "
        "%%  %9.3f ms  weight %6.1f GB/s",
        c.direction.c_str(), c.format.c_str(), static_cast<long>(c.i), static_cast<long>(c.o),
        static_cast<long>(c.n), Median(rates), Median(peaks), 100 * share, 100 * cpu_share,
        seconds * 1e3, weight_bytes / seconds / 1e9);
    if (options.rank > 0) std::printf("  adapter %+.1f %% cpu", 100 * Median(costs));
    std::printf("\n");
  }
  std::fflush(stdout);
}

// bf16, every block format that has panel functions for the table in use, and OpenBLAS.
std::vector<std::string> FastFormats(Compute compute) {
  std::vector<std::string> names = {"bf16"};
  for (const Format* f : AllFormats()) {
    if (f->block_size > 1 && FindPanelFunction(f->id, ActiveIsa(), compute, GemmSide::kForward)) {
      names.push_back(f->name);
      for (char& ch : names.back()) ch = static_cast<char>(std::tolower(ch));
    }
  }
  names.push_back(kOpenBlas);
  return names;
}

int Main(int argc, char** argv) {
  Options options;
  CLI::App app("Matrix products beside the peak of the machine");
  app.add_option("--tokens", options.tokens, "rows of x");
  app.add_option(
      "--formats", options.formats,
      "formats of the weight, as in the format table, lower case; with :units, blocks in units; "
      "openblas: float32 by OpenBLAS");
  app.add_option("--directions", options.directions, "fwd, dx, dw")
      ->check(CLI::IsMember({"fwd", "dx", "dw"}));
  app.add_option("--shapes", options.shapes, "IxO");
  app.add_option("--isa", options.isa, "instruction set instead of the best one");
  app.add_option("--compute", options.compute)->check(CLI::IsMember({"float32", "bfloat16"}));
  app.add_option("--repetitions", options.repetitions)->check(CLI::PositiveNumber);
  app.add_flag("--json", options.json, "one JSON object a line");
  app.add_flag("--cpu-time", options.cpu_time, "one thread, all by CPU time");
  app.add_option("--rank", options.rank, "also with a LoRA adapter of this rank, fused")
      ->check(CLI::Range(0, 4096));
  app.add_option("--seconds", options.seconds, "begin no case after so long; 0: no limit");
  app.add_flag("--quick", options.quick,
               "two shapes, bf16, q4_0 and openblas, 2 repetitions, at most about 50 s");
  CLI11_PARSE(app, argc, argv);
  if (options.quick) {
    options.shapes = {"3840x15360", "3840x4096"};
    options.formats = {"bf16", "q4_0", kOpenBlas};
    options.repetitions = 2;
    options.seconds = 45;
  }
  for (Isa isa : SupportedIsas()) {
    if (options.isa == IsaName(isa)) SetIsa(isa);
  }
  LAPIDARY_CHECK(options.isa.empty() || options.isa == IsaName(ActiveIsa()),
                 "bench_gemm --isa: must be supported by this CPU; got ", options.isa);
  if (options.cpu_time) SetThreads(1);
  openblas_set_num_threads(Threads());
  if (options.formats.empty()) {
    options.formats =
        FastFormats(options.compute == "float32" ? Compute::kFloat32 : Compute::kBfloat16);
  }
  const Times start = Now();
  int left_out = 0;
  if (!options.json) {
    std::printf("isa %s, compute %s, %d threads%s\n", IsaName(ActiveIsa()), options.compute.c_str(),
                Threads(), options.cpu_time ? ", CPU time" : "");
  }
  for (const std::string& shape : options.shapes) {
    const size_t at = shape.find('x');
    LAPIDARY_CHECK(at != std::string::npos, "bench_gemm --shapes: must be IxO; got ", shape);
    const int64_t i = std::stoll(shape.substr(0, at)), o = std::stoll(shape.substr(at + 1));
    for (const std::string& format : options.formats) {
      const size_t units = format.find(kUnits);
      Weights weights =
          MakeWeights(GetFormat(format == kOpenBlas ? "f32" : format.substr(0, units)), o, i);
      if (units != std::string::npos) weights = MakeUnits(weights);
      for (const std::string& direction : options.directions) {
        for (int64_t n : options.tokens) {
          if (options.seconds > 0 && Since(start).wall > options.seconds) {
            ++left_out;
            continue;
          }
          Case c(options, direction, format, i, o, n, weights);
          RunCase(options, c);
        }
      }
    }
  }
  if (left_out > 0)
    std::fprintf(stderr, "bench_gemm: %d cases left out for want of time\n", left_out);
  return 0;
}

}  // namespace
}  // namespace lapidary

int main(int argc, char** argv) {
  try {
    return lapidary::Main(argc, argv);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 2;
  }
}
