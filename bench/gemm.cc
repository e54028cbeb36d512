// Speed of the matrix products beside the peak of the instructions they use, measured in the same
// run: before and after every repetition. "share" is the median over repetitions of product / peak.
//
//   bench_gemm --tokens 512 2048 --formats bf16 q4_0 --directions fwd dx dw --shapes 3840x15360
//   --json
//
// "q4_0:units" is the same blocks in units (quant/units.h). The format "openblas" is OpenBLAS in
// float32 on float32 weights, for comparison; its share is of the same peak. A shape is I x O.
// --cpu-time counts the process's CPU time and runs on one thread: for machines that others use at
// the same time.
#include "autograd/gemm.h"

#include <cblas.h>
#include <time.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "autograd/base/error.h"
#include "autograd/base/parallel.h"
#include "autograd/kernels/isa.h"
#include "bench/gemm_peak.h"
#include "quant/format.h"
#include "quant/units.h"

namespace lapidary {
namespace {

struct Options {
  std::vector<int64_t> tokens = {512, 2048};
  std::vector<std::string> formats = {"bf16", "q4_0"}, directions = {"fwd", "dx"};
  std::vector<std::string> shapes = {"3840x15360", "15360x3840", "3840x4096", "3840x2048",
                                     "3840x8192"};
  std::string isa, compute = "bfloat16";
  int repetitions = 5;
  bool json = false, cpu_time = false;
};

double Seconds(bool cpu) {
  timespec t;
  clock_gettime(cpu ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

// TFLOP/s of all threads.
double Peak(Compute compute, bool cpu) {
  const Isa isa = ActiveIsa();
  std::vector<double> flops(Threads(), 0.0);
  const double start = Seconds(cpu);
  ParallelFor(Threads(), [&](Range r) {
    for (int64_t t = r.begin; t < r.end; ++t) flops[t] = RunPeakLoop(isa, compute, 15);
  });
  double sum = 0;
  for (double f : flops) sum += f;
  return sum / (Seconds(cpu) - start) / 1e12;
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

void RunCase(const Options& options, const std::string& direction, const std::string& format,
             int64_t i, int64_t o, int64_t n, const Weights& weights) {
  const Compute compute = options.compute == "float32" ? Compute::kFloat32 : Compute::kBfloat16;
  std::vector<float> x(n * i, 0.5f), y(n * o, 0.25f), dw;
  if (direction == "dw") dw.resize(o * i);
  const auto product = [&](int repetition) {
    const WeightView& w = weights.views[repetition % weights.views.size()];
    if (format == kOpenBlas) {
      BlasProduct(direction, static_cast<const float*>(w.data), n, i, o, x.data(), y.data(),
                  dw.data());
      return;
    }
    if (direction == "fwd") GemmForward(x.data(), n, w, y.data(), false, compute);
    if (direction == "dx") GemmInputGrad(y.data(), n, w, x.data(), false, compute);
    if (direction == "dw") GemmWeightGrad(y.data(), x.data(), n, o, i, dw.data(), false, compute);
  };
  const double flops =
      2.0 * static_cast<double>(n) * static_cast<double>(i) * static_cast<double>(o);
  product(0);
  std::vector<double> rates, peaks, shares;
  for (int r = 0; r < options.repetitions; ++r) {
    const double before = Peak(compute, options.cpu_time);
    const double start = Seconds(options.cpu_time);
    int calls = 0;
    do {
      product(++calls + r);
    } while (Seconds(options.cpu_time) - start < 0.02);
    const double rate = flops * calls / (Seconds(options.cpu_time) - start) / 1e12;
    const double after = Peak(compute, options.cpu_time);
    rates.push_back(rate);
    peaks.push_back((before + after) / 2);
    if (peaks.back() > 0) shares.push_back(rate / peaks.back());
  }
  const double share = shares.empty() ? 0 : Median(shares);
  const double weight_bytes = static_cast<double>(o * weights.views[0].row_bytes);
  const double seconds = flops / Median(rates) / 1e12;
  if (options.json) {
    const nlohmann::json line = {{"direction", direction},
                                 {"format", format},
                                 {"I", i},
                                 {"O", o},
                                 {"T", n},
                                 {"isa", IsaName(ActiveIsa())},
                                 {"compute", ComputeName(compute)},
                                 {"threads", Threads()},
                                 {"tflops", Median(rates)},
                                 {"best_tflops", *std::max_element(rates.begin(), rates.end())},
                                 {"peak_tflops", Median(peaks)},
                                 {"share", share},
                                 {"ms", seconds * 1e3},
                                 {"weight_gb_s", weight_bytes / seconds / 1e9}};
    std::printf("%s\n", line.dump().c_str());
  } else {
    std::printf(
        "%-4s %-8s %6ldx%-7ld T %5ld  %8.3f TFLOP/s  peak %6.3f  share %5.1f %%  %9.3f ms  weight "
        "%6.1f GB/s\n",
        direction.c_str(), format.c_str(), static_cast<long>(i), static_cast<long>(o),
        static_cast<long>(n), Median(rates), Median(peaks), 100 * share, seconds * 1e3,
        weight_bytes / seconds / 1e9);
  }
  std::fflush(stdout);
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
  app.add_flag("--cpu-time", options.cpu_time, "CPU time on one thread");
  CLI11_PARSE(app, argc, argv);
  for (Isa isa : SupportedIsas()) {
    if (options.isa == IsaName(isa)) SetIsa(isa);
  }
  LAPIDARY_CHECK(options.isa.empty() || options.isa == IsaName(ActiveIsa()),
                 "bench_gemm --isa: must be supported by this CPU; got ", options.isa);
  if (options.cpu_time) SetThreads(1);
  openblas_set_num_threads(Threads());
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
        for (int64_t n : options.tokens) RunCase(options, direction, format, i, o, n, weights);
      }
    }
  }
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
