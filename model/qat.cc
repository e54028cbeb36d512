#include "model/qat.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <numeric>
#include <regex>

#include "autograd/base/dry_run.h"
#include "autograd/base/error.h"
#include "autograd/base/file.h"
#include "autograd/base/parallel.h"
#include "model/module_match.h"
#include "quant/fake_quant.h"
#include "quant/q4_grid.h"
#include "quant/safetensors.h"
#include "quant/strict_json.h"

namespace lapidary {
namespace {

constexpr char kNone[] = "none";

void CheckGridName(const std::string& name, const std::string& where) {
  if (name != kNone) GetGrid(name, where);
}

// A rank_pattern of PEFT: a name is the end of a path, or a regular expression for one.
std::string PatternGrid(const QatConfig& config, const std::string& path) {
  for (const auto& [pattern, grid] : config.format_pattern) {
    try {
      if (std::regex_match(path, std::regex("(.*\\.)?(" + pattern + ")"))) return grid;
    } catch (const std::regex_error& error) {
      throw Error(StrCat("qat: format_pattern must be names or regular expressions; got '", pattern,
                         "': ", error.what()));
    }
  }
  return config.format;
}

void CheckFits(const Weight& weight, const std::string& grid_name) {
  const Grid& grid = GetGrid(grid_name, "qat");
  LAPIDARY_CHECK(grid.block() == 0 || weight.cols() % grid.block() == 0, "qat: rows of ",
                 weight.name, " must be whole blocks of ", grid.block(), " for ", grid.name(),
                 "; got ", weight.cols(), " columns; try a grid of smaller blocks");
  LAPIDARY_CHECK(grid.block() <= 256, "qat: a block must be at most 256; got ", grid.block());
}

// Scales of the weight as it is now. `fixed`: of the base alone.
void TakeScales(Weight* weight, bool fixed) {
  FakeWeight& fake = *weight->fake;
  const Grid& grid = *fake.grid;
  const int64_t rows = weight->rows(), cols = weight->cols();
  fake.AllocateScales(rows);
  WeightView view = weight->Plain();
  WeightMap adapter = fake.map;
  adapter.apply = nullptr;
  if (fixed) adapter.rank = 0;
  adapter.block = 1;
  view.map = &adapter;
  const bool q4 = grid.format() && grid.format()->id == kFormatQ4_0;
  ParallelFor(
      rows,
      [&](Range r) {
        std::vector<float> values(static_cast<size_t>(cols));
        for (int64_t i = r.begin; i < r.end; ++i) {
          DequantizeColumns(view, i, 0, cols, values.data());
          uint8_t* to = fake.scale_row(i);
          if (fake.log_steps) {
            grid.Fit(values.data(), cols, to);
            continue;
          }
          grid.Measure(values.data(), cols, to);
          if (fixed && q4) KeepSolvedScales(values.data(), cols, to);
        }
      },
      std::max<int64_t>(1, 16384 / cols));
}

// The base's own scales, if it is stored in the grid's format.
bool CopyScales(Weight* weight) {
  FakeWeight& fake = *weight->fake;
  const Format* format = fake.grid->format();
  const WeightView& view = weight->view;
  if (weight->param || !format || view.format != format->id || fake.grid->scale_bytes() == 0)
    return false;
  const int64_t blocks = view.cols / format->block_size, size = format->head.bytes;
  fake.AllocateScales(view.rows);
  if (DryRun()) return true;
  const WeightFormat& stored = GetWeightFormat(view.format);
  for (int64_t row = 0; row < view.rows; ++row) {
    for (int64_t b = 0; b < blocks; ++b) {
      uint8_t* to = fake.scale_row(row) + b * size;
      if (view.layout == WeightLayout::kRows) {
        std::memcpy(to,
                    static_cast<const uint8_t*>(view.data) + row * view.row_bytes +
                        b * format->block_bytes + format->head.at,
                    static_cast<size_t>(size));
        continue;
      }
      // In units the scales are a piece of their own, or the last of several.
      const uint8_t* at = static_cast<const uint8_t*>(view.data) + row / 32 * 32 * view.row_bytes +
                          b * 32 * format->block_bytes;
      int64_t offset = 0;
      for (const uint8_t* piece = stored.pieces; *piece != 0; ++piece) {
        if (offset >= format->head.at && offset < format->head.at + size) {
          std::memcpy(to + (offset - format->head.at), at + row % 32 * *piece, *piece);
        }
        offset += *piece;
        at += 32 * *piece;
      }
    }
  }
  return true;
}

// Learned scales where they begin: fitted to the weight as it is, of a frozen one without its
// adapter.
void FitFirst(Weight* weight) {
  FakeWeight& fake = *weight->fake;
  TakeScales(weight, /*fixed=*/true);
  fake.first = Tensor(fake.scales.shape(), DType::kI8);
  if (!DryRun())
    std::memcpy(fake.first.data<uint8_t>(), fake.scales.data<uint8_t>(),
                static_cast<size_t>(fake.scales.byte_size()));
}

// Makes the steps of a weight parameters, from the values that it has (of a frozen one without its
// adapter). `linear`: whether it is a linear's.
void BeginLearning(Weight* weight, bool linear) {
  FakeWeight& fake = *weight->fake;
  LAPIDARY_CHECK(
      weight->param || linear,
      "qat: scales \"learned\" must not be of an embedding or a head that is frozen, for "
      "their gradient would be a product with every word of the vocabulary; got ",
      weight->name, "; try embedding_format \"\", or scales \"follow\" or \"base\"");
  const int64_t block = fake.grid->block();
  fake.log_steps = std::make_unique<Param>();
  fake.log_steps->name = weight->name + kLearnedSuffix;
  fake.log_steps->value = Tensor::Zeros({weight->rows(), block > 0 ? weight->cols() / block : 1});
  fake.log_steps->trainable = true;
  FitFirst(weight);
}

// 1 / mean of high * step, of the steps that are not 0; 1 if there are none. Sums by rows, then the
// rows in order.
float GainOfRanges(const FakeWeight& fake) {
  const Grid& grid = *fake.grid;
  const int64_t rows = fake.first.shape()[0], bytes = grid.scale_bytes();
  const int64_t blocks = fake.row_scale_bytes() / bytes;
  std::vector<double> sums(static_cast<size_t>(rows));
  std::vector<int64_t> counts(static_cast<size_t>(rows));
  ParallelFor(
      rows,
      [&](Range r) {
        for (int64_t row = r.begin; row < r.end; ++row) {
          for (int64_t b = 0; b < blocks; ++b) {
            const double step =
                std::fabs(grid.Step(fake.first.data<uint8_t>() + (row * blocks + b) * bytes));
            sums[static_cast<size_t>(row)] += step;
            counts[static_cast<size_t>(row)] += step != 0;
          }
        }
      },
      std::max<int64_t>(1, 4096 / blocks));
  const double sum = std::accumulate(sums.begin(), sums.end(), 0.0);
  const auto count = static_cast<double>(std::accumulate(counts.begin(), counts.end(), int64_t{0}));
  return sum > 0 ? static_cast<float>(count / (sum * static_cast<double>(grid.high()))) : 1.0f;
}

}  // namespace

void CheckQatConfig(const QatConfig& config, const std::string& where) {
  GetGrid(config.format, StrCat(where, ": 'qat.format'"));
  for (const auto& [pattern, grid] : config.format_pattern)
    CheckGridName(grid, StrCat(where, ": 'qat.format_pattern.", pattern, "'"));
  if (!config.embedding_format.empty())
    CheckGridName(config.embedding_format, StrCat(where, ": 'qat.embedding_format'"));
  LAPIDARY_CHECK(config.scales == "follow" || config.scale_refresh_steps == 1, where,
                 ": 'qat.scale_refresh_steps' must be 1 with scales that are kept; got ",
                 config.scale_refresh_steps);
}

QatRecord ResolveQat(Transformer& model, const QatConfig& config) {
  QatRecord record;
  record.scales = config.scales;
  record.scale_refresh_steps = config.scale_refresh_steps;
  record.int8_activations = config.activations == "int8";
  record.int8_kv_cache = config.kv_cache == "int8";
  const bool text_only = model.config.text_only;
  ModuleMatcher targets(ResolveModuleWords(config.target_modules, text_only), "qat: target_modules",
                        text_only);
  ModuleMatcher excluded(config.exclude_modules, "qat: exclude_modules", text_only);
  ForEachLinear(model, [&](Linear& linear) {
    if (!targets.Matches(linear.path)) return;
    if (!config.exclude_modules.empty() && excluded.Matches(linear.path)) return;
    const std::string grid = PatternGrid(config, linear.path);
    if (grid == kNone) return;
    CheckFits(linear.w, grid);
    record.grids[linear.w.name] = grid;
  });
  targets.CheckAllUsed();
  if (!config.embedding_format.empty() && config.embedding_format != kNone) {
    CheckFits(model.embed_tokens, config.embedding_format);
    record.grids[model.embed_tokens.name] = config.embedding_format;
    if (model.lm_head) record.grids[model.lm_head->name] = config.embedding_format;
  }
  LAPIDARY_CHECK(!record.grids.empty(),
                 "qat: target_modules must select at least one module; got none after "
                 "exclude_modules and format_pattern");
  for (const auto& [name, grid] : record.grids) {
    const Grid& g = GetGrid(grid, "qat");
    LAPIDARY_CHECK(config.scales != "learned" || g.learns(),
                   "qat: learned scales must be of a grid with one free step a block (int4_g32, "
                   "int4_g128, int3_g32, int8_channel, q4_0, q8_0); got ",
                   grid, "; try scales \"follow\"");
    LAPIDARY_CHECK(
        (config.scales == "follow" && config.scale_refresh_steps == 1) || g.scale_bytes() > 0,
        "qat: kept scales must be of a grid that offers them; got ", grid,
        "; try scales \"follow\" and scale_refresh_steps 1");
  }
  return record;
}

void AttachQat(Transformer& model, const QatRecord& record, const std::string& scales) {
  TensorSet stored;
  if (!scales.empty()) stored = OpenCheckpoint(scales);
  size_t found = 0;
  ForEachQatWeight(model, [&](Weight& weight, Linear* linear) {
    weight.fake.reset();
    const auto choice = record.grids.find(weight.name);
    if (choice == record.grids.end()) return;
    ++found;
    CheckFits(weight, choice->second);
    if (linear && linear->lora) {
      LAPIDARY_CHECK(linear->lora->dropout == 0,
                     "qat: lora_dropout must be 0, for the adapter is in "
                     "the quantized weight; got ",
                     linear->lora->dropout);
      LAPIDARY_CHECK(!linear->lora->magnitude, "qat: use_dora must be false; got true");
    }
    const Grid& grid = GetGrid(choice->second, "qat");
    weight.fake = std::make_unique<FakeWeight>(grid, weight.cols());
    weight.fake->int8_input = record.int8_activations && linear;
    weight.fake->fixed = record.scales != "follow";
    weight.fake->kept = weight.fake->fixed || grid.block() == 0 || record.scale_refresh_steps > 1;
    if (linear) BindAdapter(*linear);
    if (!weight.fake->fixed) return;
    if (!scales.empty()) {
      const StoredTensor& tensor = stored.Get(weight.name);
      const auto size = static_cast<uint64_t>(weight.rows() * weight.fake->row_scale_bytes());
      LAPIDARY_CHECK(tensor.bytes == size, scales, ": '", weight.name, "' must have ", size,
                     " bytes of scales; got ", tensor.bytes, "; try the run's own file");
      weight.fake->AllocateScales(weight.rows());
      std::memcpy(weight.fake->scale_row(0), tensor.data, size);
    } else if (record.scales == "learned") {
      BeginLearning(&weight, linear != nullptr);
    } else if (!CopyScales(&weight)) {
      TakeScales(&weight, /*fixed=*/true);
    }
  });
  LAPIDARY_CHECK(found == record.grids.size(),
                 "qat: every tensor of the record must be one of the "
                 "model; got ",
                 record.grids.size() - found, " others; try the base of the run");
  model.int8_kv_cache = record.int8_kv_cache;
  RefreshQatScales(model);
}

void DetachQat(Transformer& model) {
  ForEachQatWeight(model, [](Weight& weight, Linear*) { weight.fake.reset(); });
  model.int8_kv_cache = false;
}

void SetQatActive(Transformer& model, bool active) {
  ForEachQatWeight(model, [&](Weight& weight, Linear*) {
    if (weight.fake) weight.fake->on = active;
  });
}

void RefreshQatScales(Transformer& model) {
  ForEachQatWeight(model, [&](Weight& weight, Linear* linear) {
    if (!weight.fake || !weight.fake->kept || weight.fake->fixed) return;
    if (linear) BindAdapter(*linear);
    TakeScales(&weight, /*fixed=*/false);
  });
}

std::vector<Param*> LearnedSteps(Transformer& model) {
  std::vector<Param*> params;
  ForEachQatWeight(model, [&](Weight& weight, Linear*) {
    if (weight.fake && weight.fake->log_steps) params.push_back(weight.fake->log_steps.get());
  });
  return params;
}

void BeginLearnedScales(Transformer& model) {
  ForEachQatWeight(model, [](Weight& weight, Linear*) {
    // A frozen weight's are where they were.
    if (weight.fake && weight.fake->log_steps && weight.param) FitFirst(&weight);
  });
}

void UpdateLearnedScales(Transformer& model) {
  ForEachQatWeight(model, [&](Weight& weight, Linear*) {
    if (!weight.fake || !weight.fake->log_steps) return;
    FakeWeight& fake = *weight.fake;
    const Grid& grid = *fake.grid;
    const int64_t bytes = grid.scale_bytes();
    const float* logs = fake.log_steps->value.data();
    fake.log_gain = weight.param ? GainOfRanges(fake) : 1.0f;
    ParallelFor(
        fake.log_steps->value.size(),
        [&](Range r) {
          for (int64_t i = r.begin; i < r.end; ++i)
            grid.StoreStep(grid.Step(fake.first.data<uint8_t>() + i * bytes) *
                               std::exp(fake.log_gain * logs[i]),
                           fake.scales.data<uint8_t>() + i * bytes);
        },
        4096);
  });
}

void FormStepGradients(Transformer& model) {
  ForEachQatWeight(model, [&](Weight& weight, Linear*) {
    if (!weight.fake || !weight.fake->log_steps || !weight.fake->on) return;
    if (!weight.param || !weight.param->grad.defined()) return;
    FakeWeight& fake = *weight.fake;
    const Grid& grid = *fake.grid;
    Tensor& dlogs = fake.log_steps->grad;
    dlogs = Tensor(fake.log_steps->value.shape());
    const int64_t cols = weight.cols(), steps = dlogs.shape()[1];
    ParallelFor(
        weight.rows(),
        [&](Range r) {
          for (int64_t row = r.begin; row < r.end; ++row) {
            float* d = dlogs.data() + row * steps;
            grid.StepGrad(fake.scale_row(row), weight.param->value.data() + row * cols, cols,
                          weight.param->grad.data() + row * cols, d);
            for (int64_t b = 0; b < steps; ++b) d[b] *= fake.log_gain;
          }
        },
        std::max<int64_t>(1, 16384 / cols));
  });
}

void ForEachSavedScales(Transformer& model, const QatRecord& record,
                        const std::function<void(const std::string& name, Tensor& scales)>& visit) {
  ForEachQatWeight(model, [&](Weight& weight, Linear*) {
    if (!weight.fake || !weight.fake->scales.defined()) return;
    if (weight.fake->log_steps) {
      visit(weight.name + ".qat_scales", weight.fake->first);
    } else if (!weight.fake->fixed && record.scale_refresh_steps > 1) {
      visit(weight.name + ".qat_scales", weight.fake->scales);
    }
  });
}

void WriteQatRecord(const std::string& folder, const QatRecord& record) {
  nlohmann::ordered_json json = {{"format_version", 1},
                                 {"scales", record.scales},
                                 {"scale_refresh_steps", record.scale_refresh_steps},
                                 {"activations", record.int8_activations ? "int8" : kNone},
                                 {"kv_cache", record.int8_kv_cache ? "int8" : kNone},
                                 {"projected", record.projected},
                                 {"tensors", record.grids}};
  WriteFile(folder + "/" + kQatRecordFile, json.dump(1) + "\n");
}

std::optional<QatRecord> ReadQatRecord(const std::string& folder) {
  const std::string path = folder + "/" + kQatRecordFile;
  if (!std::filesystem::exists(path)) return std::nullopt;
  const nlohmann::json json = ReadJsonFile(path);
  QatRecord record;
  try {
    LAPIDARY_CHECK(json.at("format_version") == 1, path, ": format_version must be 1; got ",
                   json.at("format_version").dump(), "; try a newer version of this program");
    record.scales = json.at("scales").get<std::string>();
    record.scale_refresh_steps = json.at("scale_refresh_steps").get<int64_t>();
    record.int8_activations = json.at("activations") == "int8";
    record.int8_kv_cache = json.at("kv_cache") == "int8";
    record.projected = json.at("projected").get<bool>();
    record.grids = json.at("tensors").get<std::map<std::string, std::string>>();
  } catch (const nlohmann::json::exception& error) {
    throw Error(StrCat(path, ": must be as this program wrote it; got ", error.what()));
  }
  LAPIDARY_CHECK(record.scales == "follow" || record.scales == "base" || record.scales == "learned",
                 path, ": scales must be follow, base or learned; got '", record.scales, "'");
  for (const auto& [name, grid] : record.grids) GetGrid(grid, StrCat(path, ": '", name, "'"));
  return record;
}

void WriteQatScales(const std::string& folder, Transformer& model, const QatRecord& record) {
  if (record.scales == "follow") return;
  UpdateLearnedScales(model);
  std::map<std::string, const Weight*> weights;
  std::vector<TensorSpec> specs;
  ForEachQatWeight(model, [&](Weight& weight, Linear*) {
    if (!weight.fake) return;
    weights[weight.name] = &weight;
    specs.push_back({weight.name, "U8", {weight.rows(), weight.fake->row_scale_bytes()}});
  });
  SafetensorsWriter writer(folder + "/" + kQatScalesFile, specs);
  for (const TensorSpec& spec : writer.order()) {
    const Tensor& scales = weights.at(spec.name)->fake->scales;
    writer.Append(scales.data<uint8_t>(), static_cast<uint64_t>(scales.byte_size()));
  }
  writer.Commit();
}

}  // namespace lapidary
