#include "train/export/export.h"

#include <sys/stat.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <set>

#include "autograd/base/error.h"
#include "autograd/base/file.h"
#include "autograd/base/parallel.h"
#include "model/qat.h"
#include "quant/fake_quant.h"
#include "quant/safetensors.h"
#include "train/export/merge.h"
#include "train/export/targets.h"

namespace lapidary {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kChunkValues = 4 << 20;  // 16 MB of float32

uint64_t SystemFreeBytes(const std::string& folder) {
  struct statvfs info;
  if (::statvfs(folder.c_str(), &info) != 0) return UINT64_MAX;  // then the write itself will tell
  return static_cast<uint64_t>(info.f_bavail) * info.f_frsize;
}

// The folder itself or the nearest one above it that exists.
std::string ExistingFolder(fs::path path) {
  path = fs::absolute(path);
  while (!fs::is_directory(path) && path.has_relative_path()) path = path.parent_path();
  return path.string();
}

// The absolute folder that an output's files go to.
fs::path FolderOf(const OutputPlan& plan) {
  const fs::path path = fs::absolute(plan.path).lexically_normal();
  return plan.is_folder && path.has_filename() ? path : path.parent_path();
}

// ---- checks before anything is written
// ----------------------------------------------------------------------------------

bool SamePlace(const std::string& a, const std::string& b) {
  return !a.empty() && !b.empty() && fs::weakly_canonical(a) == fs::weakly_canonical(b);
}

std::vector<std::string> PathsOf(const OutputPlan& plan) {
  std::vector<std::string> paths;
  for (const PlannedFile& file : plan.files) paths.push_back(file.path);
  for (const PlannedCopy& copy : plan.copies) paths.push_back(copy.path);
  return paths;
}

void CheckPaths(const std::vector<OutputPlan>& plans, const ExportRequest& request,
                const Adapter* adapter) {
  std::set<fs::path> seen;
  for (const OutputPlan& plan : plans) {
    LAPIDARY_CHECK(
        !SamePlace(plan.path, request.model) && !(adapter && SamePlace(plan.path, adapter->folder)),
        plan.path,
        ": an output must not be the folder that it is made from; got that one; try another");
    for (const std::string& path : PathsOf(plan)) {
      LAPIDARY_CHECK(seen.insert(fs::weakly_canonical(path)).second, path,
                     ": every output must have its own path; got it twice");
      LAPIDARY_CHECK(!fs::is_directory(path), path, ": must be a file; got a folder");
      LAPIDARY_CHECK(request.overwrite || !fs::exists(path), path,
                     ": must not exist; got a file; try --overwrite or another path");
    }
    if (plan.is_folder) {
      LAPIDARY_CHECK(!fs::exists(plan.path) || fs::is_directory(plan.path), plan.path,
                     ": must be a folder; got a file");
      LAPIDARY_CHECK(request.overwrite || !fs::exists(plan.path) || fs::is_empty(plan.path),
                     plan.path,
                     ": must be an empty or new folder; got one with files in it; try --overwrite "
                     "or another path");
    }
  }
}

void CheckDisk(const std::vector<OutputPlan>& plans, const ExportRequest& request) {
  struct Need {
    std::string folder;
    uint64_t bytes = 0;
  };
  std::map<uint64_t, Need> disks;
  for (const OutputPlan& plan : plans) {
    const std::string folder = ExistingFolder(FolderOf(plan));
    struct stat info;
    const uint64_t device =
        ::stat(folder.c_str(), &info) == 0 ? static_cast<uint64_t>(info.st_dev) : 0;
    Need& need = disks[device];
    need.folder = folder;
    for (const PlannedFile& file : plan.files) need.bytes += file.type->bytes(file.manifest);
    for (const PlannedCopy& copy : plan.copies) need.bytes += fs::file_size(copy.from);
  }
  for (const auto& [device, need] : disks) {
    const uint64_t available =
        request.free_bytes ? request.free_bytes(need.folder) : SystemFreeBytes(need.folder);
    LAPIDARY_CHECK(need.bytes <= available, need.folder, ": the disk must have ", need.bytes,
                   " bytes free for the outputs; got ", available,
                   "; try another disk or fewer formats");
  }
}

void CheckBase(const CheckpointFiles& base, const std::string& where) {
  LAPIDARY_CHECK(base.misshapen.empty(), base.misshapen.front());
  LAPIDARY_CHECK(base.missing.empty(), where, ": must hold ", base.missing.front(),
                 "; got nothing (", base.missing.size(),
                 " tensors are missing); try `lapidary inspect`");
}

// ---- the pass
// -----------------------------------------------------------------------------------------------------------

// A tensor of the base on its way into one file.
struct Consumer {
  FileWriter* writer = nullptr;
  const PlannedTensor* tensor = nullptr;
  const std::string* file = nullptr;
};

// The grids that a run trained on (model/qat.h), as its folder records them.
class TrainedGrids {
 public:
  explicit TrainedGrids(const std::string& folder) {
    const std::optional<QatRecord> record = ReadQatRecord(folder);
    if (!record) return;
    for (const auto& [name, grid] : record->grids) grids_[name] = &GetGrid(grid, folder);
    if (record->scales == "base") scales_ = OpenCheckpoint(folder + "/" + kQatScalesFile);
  }
  const Grid* Find(const std::string& name) const {
    const auto found = grids_.find(name);
    return found == grids_.end() ? nullptr : found->second;
  }
  // The kept scales of a row; null: they follow the values.
  const uint8_t* Scales(const std::string& name, int64_t row) const {
    const StoredTensor* tensor = scales_.Find(name);
    return tensor ? tensor->data + row * tensor->shape[1] : nullptr;
  }
  // Formats of the tensors whose grid is one of blocks.
  std::map<std::string, const Format*> Formats() const {
    std::map<std::string, const Format*> formats;
    for (const auto& [name, grid] : grids_) {
      if (grid->format()) formats[name] = grid->format();
    }
    return formats;
  }
  // Throws Error unless every tensor and every set of scales fits the base.
  void Check(const CheckpointFiles& base, const std::string& folder) const {
    for (const auto& [name, grid] : grids_) {
      const auto found = base.tensors.find(name);
      LAPIDARY_CHECK(found != base.tensors.end() && found->second.shape.size() == 2, folder,
                     ": every tensor of ", kQatRecordFile, " must be a matrix of the base; got ",
                     name, "; try the base model of the run");
      const StoredTensor* scales = scales_.Find(name);
      if (!scales) continue;
      const int64_t cols = found->second.shape[1];
      const int64_t bytes = (grid->block() > 0 ? cols / grid->block() : 1) * grid->scale_bytes();
      LAPIDARY_CHECK(scales->shape == (TensorShape{found->second.shape[0], bytes}) &&
                         scales->bytes == static_cast<uint64_t>(scales->shape[0] * bytes),
                     folder, ": scales of ", name, " must be [", found->second.shape[0], ", ",
                     bytes, "]; got ", ShapeText(scales->shape), "; try the run's own files");
    }
  }

 private:
  std::map<std::string, const Grid*> grids_;
  TensorSet scales_;
};

class Pass {
 public:
  Pass(const CheckpointFiles& base, const AdapterMerge& merge, const TrainedGrids& grids,
       const ExportRequest& request)
      : base_(base), merge_(merge), grids_(grids), request_(request) {
    for (const auto& [name, tensor] : base.tensors) total_ += tensor.bytes;
  }

  void Run(const std::map<std::string, std::vector<Consumer>>& consumers) {
    for (const auto& [name, tensor] : base_.tensors) {
      const auto found = consumers.find(name);
      if (found != consumers.end()) RunTensor(name, tensor, found->second);
      done_ += tensor.bytes;
      if (request_.progress) request_.progress(done_, total_);
    }
  }

  // Whether any value differs from the base's.
  bool changed() const { return changed_; }
  uint64_t total() const { return total_; }

 private:
  void RunTensor(const std::string& name, const StoredTensor& tensor,
                 const std::vector<Consumer>& consumers) {
    const TensorMerge merge = merge_.ForTensor(name);
    const bool whole = std::any_of(consumers.begin(), consumers.end(), [](const Consumer& c) {
      return c.tensor->layout == GgufLayout::kSwapTables;
    });
    const int64_t rows = tensor.rows(), cols = tensor.cols();
    const int64_t chunk =
        whole ? rows : std::max<int64_t>(1, kChunkValues / std::max<int64_t>(1, cols));
    for (int64_t row = 0; row < rows; row += chunk) {
      const int64_t count = std::min(chunk, rows - row);
      ReadChunk(name, tensor, merge, row, count);
      ProjectChunk(name, row, count, cols);
      for (const Consumer& consumer : consumers) Encode(name, tensor, consumer, row, count);
      tensor.DropRows(row, count);
      if (request_.progress) {
        request_.progress(
            done_ + tensor.bytes / static_cast<uint64_t>(rows) * static_cast<uint64_t>(row + count),
            total_);
      }
    }
  }

  // Rows as merged float32 in values_; refuses what is not finite.
  void ReadChunk(const std::string& name, const StoredTensor& tensor, const TensorMerge& merge,
                 int64_t row, int64_t count) {
    const int64_t cols = tensor.cols();
    values_.resize(static_cast<size_t>(count * cols));
    row_max_.assign(static_cast<size_t>(count), 0.0f);
    ParallelFor(
        count,
        [&](Range r) {
          std::vector<float> before;
          for (int64_t i = r.begin; i < r.end; ++i) {
            float* values = values_.data() + i * cols;
            tensor.ReadRows(row + i, 1, values);
            if (merge.touches()) {
              const bool compare = !changed_.load(std::memory_order_relaxed);
              if (compare) before.assign(values, values + cols);
              merge.Row(row + i, values);
              if (compare && std::memcmp(before.data(), values,
                                         static_cast<size_t>(cols) * sizeof(float)) != 0)
                changed_ = true;
            }
            row_max_[static_cast<size_t>(i)] = MaxAbs(values, cols);
          }
        },
        std::max<int64_t>(1, 16384 / std::max<int64_t>(1, cols)));
    for (int64_t i = 0; i < count; ++i) {
      LAPIDARY_CHECK(std::isfinite(row_max_[static_cast<size_t>(i)]), "'", name,
                     "': values must be finite; got ", row_max_[static_cast<size_t>(i)], " in row ",
                     row + i, "; try `lapidary inspect`");
    }
  }

  // The largest magnitude; infinite if a value is not finite.
  static float MaxAbs(const float* values, int64_t n) {
    uint32_t largest = 0;  // as bits: ordered like magnitudes, NaN above infinity
    for (int64_t i = 0; i < n; ++i)
      largest = std::max(largest, std::bit_cast<uint32_t>(values[i]) & 0x7fffffffu);
    return std::bit_cast<float>(std::min(largest, 0x7f800000u));
  }

  // Of a matrix that was trained on a grid, the values that training multiplied with.
  void ProjectChunk(const std::string& name, int64_t row, int64_t count, int64_t cols) {
    grid_ = grids_.Find(name);
    if (!grid_) return;
    LAPIDARY_CHECK(grid_->block() == 0 || cols % grid_->block() == 0, "'", name,
                   "': rows must be whole blocks of ", grid_->block(), "; got ", cols, " columns");
    projected_ = values_;
    ParallelFor(count, [&](Range r) {
      for (int64_t i = r.begin; i < r.end; ++i) {
        float* values = projected_.data() + i * cols;
        const uint8_t* scales = grids_.Scales(name, row + i);
        if (scales) {
          grid_->ProjectOn(scales, values, cols);
        } else {
          grid_->Project(values, cols);
        }
      }
    });
  }

  // The blocks of the grid itself: the codes that training saw.
  void EncodeOnGrid(const std::string& name, int64_t row, int64_t count, int64_t cols,
                    int64_t row_bytes) {
    ParallelFor(count, [&](Range r) {
      for (int64_t i = r.begin; i < r.end; ++i) {
        uint8_t* to = bytes_.data() + i * row_bytes;
        const uint8_t* scales = grids_.Scales(name, row + i);
        if (scales) {
          grid_->Encode(scales, projected_.data() + i * cols, cols, to);
        } else {
          grid_->rule()->quantize(values_.data() + i * cols, cols, to);
        }
      }
    });
  }

  void Encode(const std::string& name, const StoredTensor& tensor, const Consumer& consumer,
              int64_t row, int64_t count) {
    const Format& format = *consumer.tensor->format;
    const int64_t cols = tensor.cols();
    const float largest = *std::max_element(row_max_.begin(), row_max_.end());
    LAPIDARY_CHECK(largest <= format.max_abs, *consumer.file, ": values must fit ", format.name,
                   " (up to ", format.max_abs, "); got ", largest, " in '", name, "'; try bf16");
    bytes_.resize(static_cast<size_t>(count * FormatBytes(format, cols)));
    if (grid_ && grid_->format() == &format && consumer.tensor->layout == GgufLayout::kSame) {
      EncodeOnGrid(name, row, count, cols, FormatBytes(format, cols));
      consumer.writer->Append(bytes_.data(), bytes_.size());
      return;
    }
    const float* values = Arranged(tensor, consumer.tensor->layout, count);
    QuantizeRows(format, GetScaleRule(format), values, count, cols, bytes_.data());
    consumer.writer->Append(bytes_.data(), bytes_.size());
  }

  const float* Arranged(const StoredTensor& tensor, GgufLayout layout, int64_t count) {
    const int64_t cols = tensor.cols();
    const std::vector<float>& values = grid_ ? projected_ : values_;
    if (layout == GgufLayout::kSame) return values.data();
    arranged_.resize(values.size());
    if (layout == GgufLayout::kPatchColumns) {
      const int64_t side = base_.config.vision.model_patch_size();
      ParallelFor(count, [&](Range r) {
        for (int64_t i = r.begin; i < r.end; ++i) {
          PatchToChannelsFirst(values.data() + i * cols, side, arranged_.data() + i * cols);
        }
      });
    } else {
      const int64_t positions = tensor.shape[0];
      for (int64_t i = 0; i < 2 * positions; ++i) {
        std::copy_n(values.data() + i * cols, cols,
                    arranged_.data() + (i % 2 * positions + i / 2) * cols);
      }
    }
    return arranged_.data();
  }

  const CheckpointFiles& base_;
  const AdapterMerge& merge_;
  const TrainedGrids& grids_;
  const ExportRequest& request_;
  uint64_t total_ = 0, done_ = 0;
  std::atomic<bool> changed_{false};
  const Grid* grid_ = nullptr;  // of the tensor at hand
  std::vector<float> values_, projected_, arranged_, row_max_;
  std::vector<uint8_t> bytes_;
};

// Folders made for the outputs; those that are still empty are removed again when the export fails.
class FolderGuard {
 public:
  void Create(const fs::path& folder) {
    if (folder.empty() || fs::exists(folder)) return;
    Create(folder.parent_path());
    std::error_code failure;
    fs::create_directory(folder, failure);
    LAPIDARY_CHECK(!failure, folder.string(), ": must be a folder that can be created; got ",
                   failure.message());
    created_.push_back(folder);
  }
  void Keep() { created_.clear(); }
  ~FolderGuard() {
    std::error_code ignored;
    for (size_t i = created_.size(); i-- > 0;) fs::remove(created_[i], ignored);  // only if empty
  }

 private:
  std::vector<fs::path> created_;
};

void CopyFile(const PlannedCopy& copy) {
  const auto from = MappedFile::Open(copy.from);
  AtomicFile out(copy.path);
  out.Write(from->data(), from->size());
  out.Commit();
}

void AppendGenerated(const PlannedFile& file, FileWriter& writer) {
  for (const PlannedTensor& tensor : file.tensors) {
    if (!tensor.source.empty()) continue;
    const int64_t n = static_cast<int64_t>(tensor.generated.size());
    std::vector<uint8_t> bytes(static_cast<size_t>(FormatBytes(*tensor.format, n)));
    QuantizeRows(*tensor.format, GetScaleRule(*tensor.format), tensor.generated.data(), 1, n,
                 bytes.data());
    writer.Append(bytes.data(), bytes.size());
  }
}

}  // namespace

ExportOutput ParseExportOutput(const std::string& text) {
  const size_t equals = text.find('=');
  LAPIDARY_CHECK(equals != std::string::npos && equals + 1 < text.size(),
                 "export: an output must be FORMAT=PATH; got '", text, "'; try safetensors=merged");
  ExportOutput output{text.substr(0, equals), text.substr(equals + 1)};
  FindExportTarget(output.format);
  return output;
}

ExportReport Export(const ExportRequest& request, const CheckpointFiles& base,
                    const Adapter* adapter) {
  const auto start = std::chrono::steady_clock::now();
  LAPIDARY_CHECK(
      !request.outputs.empty(),
      "export: at least one output must be asked for; got none; try --out safetensors=merged");
  CheckBase(base, request.model);
  const AdapterMerge merge = adapter ? AdapterMerge(*adapter, base.tensors) : AdapterMerge();
  const TrainedGrids grids(adapter ? adapter->folder : request.model);
  grids.Check(base, adapter ? adapter->folder : request.model);
  const std::map<std::string, const Format*> trained = grids.Formats();
  std::vector<OutputPlan> plans;
  for (const ExportOutput& output : request.outputs) {
    const ExportTarget& target = FindExportTarget(output.format);
    LAPIDARY_CHECK(!output.path.empty(), "export: ", output.format, " must have a path; got none");
    plans.push_back(target.plan({base, request.model, adapter, &trained}, target, output.path));
  }
  CheckPaths(plans, request, adapter);
  CheckDisk(plans, request);

  FolderGuard folders;
  std::vector<std::unique_ptr<FileWriter>> writers;
  std::map<std::string, std::vector<Consumer>> consumers;
  for (const OutputPlan& plan : plans) {
    folders.Create(FolderOf(plan));
    for (const PlannedFile& file : plan.files) {
      writers.push_back(file.type->open(file.path, file.manifest));
      AppendGenerated(file, *writers.back());
      for (const PlannedTensor& tensor : file.tensors) {
        if (!tensor.source.empty())
          consumers[tensor.source].push_back({writers.back().get(), &tensor, &file.path});
      }
    }
  }
  Pass pass(base, merge, grids, request);
  ExportReport report;
  if (!consumers.empty()) {
    pass.Run(consumers);
    report.base_bytes = pass.total();
    LAPIDARY_CHECK(
        merge.empty() || pass.changed(), adapter->folder,
        ": the adapter must change the model; got the base's own values; try a later checkpoint");
  }
  for (const std::unique_ptr<FileWriter>& writer : writers) writer->Commit();
  folders.Keep();
  for (const OutputPlan& plan : plans) {
    for (const PlannedFile& file : plan.files) {
      report.files.push_back({plan.format, file.path, fs::file_size(file.path),
                              static_cast<int64_t>(file.tensors.size())});
    }
    for (const PlannedCopy& copy : plan.copies) {
      CopyFile(copy);
      report.files.push_back({plan.format, copy.path, fs::file_size(copy.path), 0});
    }
  }
  report.warnings = base.warnings;
  if (!base.extra.empty()) {
    report.warnings.push_back(StrCat(request.model, ": ", base.extra.size(),
                                     " tensors are not of this architecture and are not ",
                                     "exported; the first is ", base.extra.front()));
  }
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return report;
}

ExportReport Export(const ExportRequest& request) {
  LAPIDARY_CHECK(fs::is_directory(request.model), request.model,
                 ": the model must be a Hugging Face folder; got ",
                 fs::exists(request.model) ? "a file" : "nothing");
  const CheckpointFiles base = OpenCheckpointFiles(request.model);
  if (request.adapter.empty()) return Export(request, base, nullptr);
  const Adapter adapter = OpenAdapter(request.adapter);
  return Export(request, base, &adapter);
}

}  // namespace lapidary
