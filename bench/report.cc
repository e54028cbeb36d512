// Turns what bench/run.sh measured in a folder into its results.md and results.json.
//   bench_report FOLDER
// Reads machine.json, gemm.jsonl, step-*.json, lengths.jsonl, generate.json, llama.json,
// torch-*.json and plan.jsonl; all but the first may be absent, and the table says what was not
// measured.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "autograd/base/error.h"
#include "autograd/base/file.h"

namespace lapidary {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr int64_t kMostBytes = 1 << 26;

// One value per line, or one value in all.
std::vector<Json> ReadValues(const fs::path& path) {
  std::vector<Json> values;
  if (!fs::exists(path)) return values;
  const std::string text = ReadFile(path.string(), kMostBytes);
  const auto parse = [&](const std::string& part) {
    Json value = Json::parse(part, nullptr, false);
    LAPIDARY_CHECK(!value.is_discarded(), path.string(), ": must be JSON; got '",
                   part.substr(0, 40), "'; try removing it and run.sh again");
    values.push_back(std::move(value));
  };
  if (path.extension() != ".jsonl") {
    parse(text);
    return values;
  }
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (!line.empty()) parse(line);
  }
  return values;
}

// Values of step-512.json, step-2048.json, ... in the order of their tokens.
std::vector<Json> ReadSeries(const fs::path& folder, const std::string& prefix) {
  std::vector<Json> all;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (name.rfind(prefix, 0) == 0 && entry.path().extension() == ".json")
      all.push_back(ReadValues(entry.path()).front());
  }
  std::sort(all.begin(), all.end(),
            [](const Json& a, const Json& b) { return a.at("tokens") < b.at("tokens"); });
  return all;
}

std::string Number(double value, int digits) {
  char text[64];
  std::snprintf(text, sizeof text, "%.*f", digits, value);
  return text;
}
// With thousands separators.
std::string Count(int64_t value) {
  const std::string digits = std::to_string(value);
  std::string text;
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) text += ',';
    text += digits[i];
  }
  return text;
}
// Three digits.
std::string Rate(double value) { return Number(value, value < 10 ? 2 : value < 100 ? 1 : 0); }

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t half = values.size() / 2;
  return values.size() % 2 ? values[half] : (values[half - 1] + values[half]) / 2;
}

void MachineTable(const Json& m, std::string& md) {
  md += StrCat("# ", m.at("cpu").get<std::string>(), ", ", m.at("date").get<std::string>(), "\n\n");
  md += StrCat(m.at("threads").get<int>(), " threads of ", m.at("cores").get<int>(),
               " cores, kernels `", m.at("isa").get<std::string>(), "`, ",
               Number(m.at("memory_gb").get<double>(), 1), " GB of memory, Linux ",
               m.at("kernel").get<std::string>(), ", commit ", m.at("commit").get<std::string>(),
               ", load average at the start ", Number(m.at("load").get<double>(), 1),
               ". Made by `bench/run.sh", m.at("quick").get<bool>() ? " --quick" : "",
               "`; GB = 10^9 bytes.\n");
}

void StepTable(const Json& machine, const std::vector<Json>& steps, std::string& md) {
  const int layers = machine.at("layers").get<int>();
  md += StrCat("\n## Training step\n\nLoRA of rank 16 on every text linear, Q4_0 base with random ",
               "weights, ",
               layers == 48 ? "the whole 12B" : StrCat(layers, " of the 12B's 48 layers"),
               ", full vocabulary, bfloat16 compute, every layer recomputed.\n\n");
  if (steps.empty()) {
    md += "Not measured.\n";
    return;
  }
  const bool share = std::any_of(steps.begin(), steps.end(),
                                 [](const Json& s) { return s.contains("share_of_peak"); });
  md += StrCat("| tokens | step | tokens/s | peak memory |", share ? " share of peak |" : "",
               "\n|---|---|---|---|", share ? "---|" : "", "\n");
  for (const Json& s : steps) {
    md += StrCat("| ", Count(s.at("tokens").get<int64_t>()), " | ",
                 Rate(s.at("step_s").get<double>()), " s | ", Rate(s.at("tok_s").get<double>()),
                 " | ", Number(s.at("peak_rss_gb").get<double>(), 2), " GB |");
    if (share) {
      md += s.contains("share_of_peak")
                ? StrCat(" ", Number(100 * s.at("share_of_peak").get<double>(), 0), " % |")
                : " |";
    }
    md += "\n";
  }
  if (steps.front().contains("ready_s")) {
    md += StrCat("\nReady to train ", Number(steps.back().at("ready_s").get<double>(), 1),
                 " s after the file is opened, from the page cache.\n");
  }
}

// A step by length, on a slice.
void LengthTable(const std::vector<Json>& lines, std::string& md) {
  md += "\n## A step by length\n\n";
  if (lines.empty()) {
    md += "Not measured.\n";
    return;
  }
  md +=
      StrCat("Six layers (five sliding, one full), Q4_0, everything recomputed, one sequence.\n\n",
             "| tokens | step | tokens/s | matrix products | attention | rest | peak memory |\n",
             "|---|---|---|---|---|---|---|\n");
  for (const Json& s : lines) {
    const auto percent = [&s](const char* name) {
      return StrCat(Number(100 * s.at(name).get<double>(), 1), " % | ");
    };
    md += StrCat("| ", Count(s.at("tokens").get<int64_t>()), " | ",
                 Rate(s.at("step_s").get<double>()), " s | ", Rate(s.at("tok_s").get<double>()),
                 " | ", percent("gemm_share"), percent("attention_share"), percent("rest_share"),
                 Number(s.at("peak_rss_gb").get<double>(), 2), " GB |\n");
  }
}

// "op_seconds": {name: seconds} of the last step.
void ProfileTable(const std::vector<Json>& steps, std::string& md) {
  std::map<std::string, std::map<int64_t, double>> rows;
  std::vector<int64_t> columns;
  std::map<int64_t, double> totals;
  for (const Json& s : steps) {
    if (!s.contains("op_seconds")) continue;
    const int64_t tokens = s.at("tokens").get<int64_t>();
    columns.push_back(tokens);
    for (const auto& [name, seconds] : s.at("op_seconds").items()) {
      rows[name][tokens] = seconds.get<double>();
      totals[tokens] += seconds.get<double>();
    }
  }
  if (rows.empty()) return;
  md += "\n### Time by op\n\n| op |";
  for (const int64_t t : columns) md += StrCat(" ", Count(t), " tokens |");
  md += "\n|---|";
  for (size_t i = 0; i < columns.size(); ++i) md += "---|";
  md += "\n";
  std::vector<std::pair<double, std::string>> order;
  for (const auto& [name, row] : rows) {
    double most = 0;
    for (const auto& [tokens, seconds] : row) most = std::max(most, seconds / totals[tokens]);
    order.emplace_back(most, name);
  }
  std::sort(order.rbegin(), order.rend());
  for (const auto& [most, name] : order) {
    if (most < 0.002) continue;
    md += StrCat("| ", name, " |");
    for (const int64_t t : columns) {
      const auto found = rows[name].find(t);
      md += found == rows[name].end()
                ? " |"
                : StrCat(" ", Number(100 * found->second / totals[t], 1), " % |");
    }
    md += "\n";
  }
}

// Median over shapes of the share of the peak, a row per format and direction.
void GemmTable(const std::vector<Json>& lines, std::string& md) {
  md += "\n## Matrix products\n\n";
  if (lines.empty()) {
    md += "Not measured.\n";
    return;
  }
  struct Cell {
    std::vector<double> shares, rates;
  };
  std::vector<std::string> formats;
  std::set<int64_t> tokens;
  std::set<std::string> shapes;
  std::map<std::pair<std::string, std::string>, std::map<int64_t, Cell>> cells;
  std::vector<double> peaks;
  for (const Json& line : lines) {
    const std::string format = line.at("format"), direction = line.at("direction");
    if (std::find(formats.begin(), formats.end(), format) == formats.end())
      formats.push_back(format);
    const int64_t t = line.at("T").get<int64_t>();
    tokens.insert(t);
    shapes.insert(StrCat(line.at("I").get<int64_t>(), " x ", line.at("O").get<int64_t>()));
    Cell& cell = cells[{format, direction}][t];
    cell.shares.push_back(line.at("share").get<double>());
    cell.rates.push_back(line.at("tflops").get<double>());
    peaks.push_back(line.at("peak_tflops").get<double>());
  }
  md += StrCat("Median over ", shapes.size(),
               " shapes of the model: share of the peak measured beside ", "each product (median ",
               Number(Median(peaks), 3), " TFLOP/s), and TFLOP/s.\n\n");
  md += "| weight | product |";
  for (const int64_t t : tokens) md += StrCat(" T = ", Count(t), " |");
  md += "\n|---|---|";
  for (size_t i = 0; i < tokens.size(); ++i) md += "---|";
  md += "\n";
  for (const std::string& format : formats) {
    for (const auto& [direction, words] : {std::pair<std::string, std::string>{"fwd", "forward"},
                                           {"dx", "input gradient"},
                                           {"dw", "weight gradient"}}) {
      const auto row = cells.find({format, direction});
      if (row == cells.end()) continue;
      md += StrCat("| ", format == "openblas" ? std::string("float32, OpenBLAS") : format, " | ",
                   words, " |");
      for (const int64_t t : tokens) {
        const auto cell = row->second.find(t);
        md += cell == row->second.end()
                  ? " |"
                  : StrCat(" ", Number(100 * Median(cell->second.shares), 0), " %, ",
                           Number(Median(cell->second.rates), 3), " |");
      }
      md += "\n";
    }
  }
}

// llama-bench -o json: an array with avg_ts (tokens a second) for n_prompt and n_gen.
double LlamaRate(const Json& runs, const char* kind) {
  for (const Json& run : runs) {
    if (run.value(kind, 0) > 0 && run.contains("avg_ts")) return run.at("avg_ts").get<double>();
  }
  return 0;
}

void GenerateTable(const std::vector<Json>& ours, const std::vector<Json>& llama, std::string& md) {
  md += "\n## Generation\n\n";
  if (ours.empty()) {
    md += "Not measured.\n";
    return;
  }
  const Json& g = ours.front();
  const double prefill = g.at("prefill_tok_s"), decode = g.at("decode_tok_s");
  md += StrCat("The same model, a prompt of ", Count(g.at("prompt_tokens").get<int64_t>()),
               " tokens, then ", Count(g.at("new_tokens").get<int64_t>()), " more.\n\n");
  if (llama.empty()) {
    md += StrCat("| | tokens/s |\n|---|---|\n| prefill | ", Rate(prefill), " |\n| decoding | ",
                 Rate(decode), " |\n");
    return;
  }
  const double their_prefill = LlamaRate(llama.front(), "n_prompt");
  const double their_decode = LlamaRate(llama.front(), "n_gen");
  const auto row = [](const char* name, double a, double b) {
    return StrCat("| ", name, " | ", Rate(a), " | ", Rate(b), " | ", b > 0 ? Number(a / b, 2) : "",
                  " |\n");
  };
  md += StrCat("| | tokens/s | llama.cpp | ratio |\n|---|---|---|---|\n",
               row("prefill", prefill, their_prefill), row("decoding", decode, their_decode));
}

void TorchTable(const std::vector<Json>& runs, std::string& md) {
  md += "\n## Beside PyTorch + PEFT\n\n";
  if (runs.empty()) {
    md += "Not measured (`bench/run.sh --venv DIR`).\n";
    return;
  }
  const Json& versions = runs.front().at("versions");
  md += StrCat("The same LoRA step on ", runs.front().at("layers").get<int>(),
               " layers of the 12B's geometry with its vocabulary, bfloat16 weights, programs ",
               "alternating, medians; PyTorch ", versions.at("torch").get<std::string>(),
               ", Transformers ", versions.at("transformers").get<std::string>(), ", PEFT ",
               versions.at("peft").get<std::string>(), ".\n\n");
  md +=
      "| tokens | layers | Lapidary | PyTorch | faster by | memory | PyTorch's |\n"
      "|---|---|---|---|---|---|---|\n";
  for (const Json& run : runs) {
    const Json &a = run.at("ours"), &b = run.at("torch");
    md +=
        StrCat("| ", Count(run.at("tokens").get<int64_t>()), " | ",
               run.at("checkpointing").get<bool>() ? "recomputed" : "kept", " | ",
               Rate(a.at("median_s").get<double>()), " s | ", Rate(b.at("median_s").get<double>()),
               " s | ", Number(run.at("speedup").get<double>(), 2), " | ",
               Number(a.at("peak_rss_gb").get<double>(), 1), " GB | ",
               Number(b.at("peak_rss_gb").get<double>(), 1), " GB |\n");
  }
}

// {"config": words, "planned_gb": x, "measured_gb": y} a line.
void PlanTable(const std::vector<Json>& lines, std::string& md) {
  md += "\n## Plan against measured peak memory\n\n";
  if (lines.empty()) {
    md += "Not measured.\n";
    return;
  }
  md += "LoRA training of two layers of the 12B with its vocabulary (`bench/plan_check.sh`).\n\n";
  md += "| configuration | plan | measured | difference |\n|---|---|---|---|\n";
  for (const Json& line : lines) {
    const double plan = line.at("planned_gb"), measured = line.at("measured_gb");
    md += StrCat("| ", line.at("config").get<std::string>(), " | ", Number(plan, 2), " GB | ",
                 Number(measured, 2), " GB | ", Number(100 * (measured / plan - 1), 1), " % |\n");
  }
}

void Run(const fs::path& folder) {
  const std::vector<Json> machine = ReadValues(folder / "machine.json");
  LAPIDARY_CHECK(!machine.empty(), "bench_report: the folder must hold machine.json; got ",
                 folder.string(), " without; try bench/run.sh");
  const std::vector<Json> gemm = ReadValues(folder / "gemm.jsonl");
  const std::vector<Json> steps = ReadSeries(folder, "step-");
  const std::vector<Json> torch = ReadSeries(folder, "torch-");
  const std::vector<Json> generate = ReadValues(folder / "generate.json");
  const std::vector<Json> llama = ReadValues(folder / "llama.json");
  const std::vector<Json> plan = ReadValues(folder / "plan.jsonl");
  const std::vector<Json> lengths = ReadValues(folder / "lengths.jsonl");
  std::string md;
  MachineTable(machine.front(), md);
  StepTable(machine.front(), steps, md);
  ProfileTable(steps, md);
  LengthTable(lengths, md);
  GemmTable(gemm, md);
  GenerateTable(generate, llama, md);
  TorchTable(torch, md);
  PlanTable(plan, md);
  const Json all = {{"machine", machine.front()},
                    {"steps", steps},
                    {"lengths", lengths},
                    {"gemm", gemm},
                    {"generate", generate.empty() ? Json() : generate.front()},
                    {"llama", llama.empty() ? Json() : llama.front()},
                    {"torch", torch},
                    {"plan", plan}};
  WriteFile((folder / "results.json").string(), all.dump(1) + "\n");
  WriteFile((folder / "results.md").string(), md);
  std::fputs(md.c_str(), stdout);
}

}  // namespace
}  // namespace lapidary

int main(int argc, char** argv) {
  if (argc != 2 || argv[1][0] == '-') {
    std::fprintf(stderr, "usage: bench_report FOLDER (of bench/run.sh)\n");
    return 2;
  }
  try {
    lapidary::Run(argv[1]);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 2;
  }
}
