#include "train/layer_blocks.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "autograd/base/error.h"
#include "quant/safetensors.h"
#include "train/resume.h"
#include "train/save_model.h"
#include "train/trainable.h"

namespace lapidary {
namespace {

namespace fs = std::filesystem;

// Takes what trains of some layers from a file: matrices stay in it, mapped.
void TakeLayers(Transformer& model, const TrainConfig& config, const std::vector<int64_t>& layers,
                const std::shared_ptr<const TensorSet>& set) {
  const auto trains = NotFrozen(config);
  const auto find = [&](const std::string& name) {
    return InLayers(layers, name) && trains(name) ? &set->Get(name) : nullptr;
  };
  ForEachLinear(model, [&](Linear& linear) {
    Weight& w = linear.w;
    const StoredTensor* t = find(w.name);
    if (!t) return;
    LAPIDARY_CHECK(t->rows() == w.rows() && t->cols() == w.cols() && t->format, set->where(), ": '",
                   w.name, "' must be [", w.rows(), ", ", w.cols(), "] of floats; got ",
                   ShapeText(t->shape), " of ", t->dtype);
    w.param.reset();
    w.view = {t->format->id, t->rows(), t->cols(), t->data, FormatBytes(*t->format, t->cols())};
    w.owner = set;
  });
  ForEachParam(model, [&](Param& p) {
    const StoredTensor* t = find(p.name);
    if (!t) return;
    LAPIDARY_CHECK(t->elements() == p.value.size(), set->where(), ": '", p.name, "' must have ",
                   p.value.size(), " values; got ", t->elements());
    t->ReadRows(0, t->rows(), p.value.data());
    p.trainable = false;
  });
}

std::shared_ptr<const TensorSet> OpenTensors(const std::string& path) {
  return std::make_shared<const TensorSet>(OpenCheckpoint(path));
}

}  // namespace

LayerBlocks::LayerBlocks(const TrainConfig& config, Transformer* model,
                         const std::optional<Checkpoint>& resume)
    : config_(config),
      model_(*model),
      schedule_(*config.block_coordinate, static_cast<int64_t>(model->layers.size()),
                static_cast<uint64_t>(config.seed)),
      folder_(config.output_dir + "/tmp-blocks"),
      file_of_(static_cast<size_t>(schedule_.blocks())) {
  CheckGroupPatterns(model_, config_);
  if (resume) {
    Restore(resume->folder, resume->step);
  } else {
    Enter(0);
  }
}

LayerBlocks::~LayerBlocks() {
  std::error_code error;
  fs::remove_all(folder_, error);
}

void LayerBlocks::Restore(const std::string& checkpoint, int64_t step) {
  block_ = CheckpointBlock(checkpoint);
  LAPIDARY_CHECK(block_ >= 0 && block_ < schedule_.blocks(), checkpoint,
                 ": must be a checkpoint of one of ", schedule_.blocks(), " blocks; got block ",
                 block_, "; try the block_coordinate of the run");
  const std::vector<bool> visited = schedule_.Visited(step);
  std::shared_ptr<const TensorSet> set;
  for (int64_t block = 0; block < schedule_.blocks(); ++block) {
    if (block == block_ || !visited[static_cast<size_t>(block)]) continue;
    if (!set) set = OpenTensors(checkpoint);
    TakeLayers(model_, config_, schedule_.Layers(block), set);
  }
  MakeTrainable(model_, config_, schedule_.Layers(block_));
}

void LayerBlocks::Enter(int64_t step) {
  if (block_ >= 0) Leave();
  block_ = schedule_.BlockAt(step);
  MakeTrainable(model_, config_, schedule_.Layers(block_));
  std::string& file = file_of_[static_cast<size_t>(block_)];
  std::error_code error;
  if (!file.empty()) fs::remove(file, error);  // its values are in memory
  file.clear();
}

void LayerBlocks::Leave() {
  std::error_code error;
  fs::create_directories(folder_, error);
  LAPIDARY_CHECK(!error, folder_, ": cannot create the folder; got ", error.message());
  const std::string file = StrCat(folder_, "/block-", block_, "-", files_, ".safetensors");
  SaveParams(TrainableParams(model_), file, config_.save_dtype);
  TakeLayers(model_, config_, schedule_.Layers(block_), OpenTensors(file));
  ++files_;
  file_of_[static_cast<size_t>(block_)] = file;
}

}  // namespace lapidary
