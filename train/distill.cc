#include "train/distill.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <numeric>

#include "autograd/base/error.h"
#include "autograd/base/parallel.h"
#include "quant/safetensors.h"

namespace lapidary {
namespace {

class ModelTeacher final : public DistillTeacher {
 public:
  ModelTeacher(const DistillConfig& config, Transformer* model) : config_(config), model_(*model) {}

  Teacher Of(const MicroBatch& batch, const ForwardOptions& options) override {
    ForwardOptions plain = options;
    plain.base_only = true;
    plain.training = false;
    Tape tape(Tape::Mode::kNoGrad);
    Teacher teacher;
    teacher.hidden = Forward(model_, tape, batch.input, plain).value();
    teacher.head = model_.head().Plain();
    teacher.softcap = static_cast<float>(model_.config.text.final_logit_softcapping);
    teacher.mix = static_cast<float>(config_.mix);
    teacher.temperature = static_cast<float>(config_.temperature);
    return teacher;
  }

 private:
  const DistillConfig config_;
  Transformer& model_;
};

// The documents of a micro-batch: name, first row, rows.
struct Document {
  std::string name;
  int64_t begin = 0, size = 0;
};
std::vector<Document> Documents(const MicroBatch& batch) {
  std::vector<int64_t> starts(batch.input.document_starts.begin(),
                              batch.input.document_starts.end());
  if (starts.empty()) starts = {0};
  LAPIDARY_CHECK(starts.size() == batch.names.size(),
                 "distillation: every document must have a name; got ", batch.names.size(), " for ",
                 starts.size());
  std::vector<Document> documents;
  for (size_t i = 0; i < starts.size(); ++i) {
    const int64_t end = i + 1 < starts.size() ? starts[i + 1] : batch.input.size();
    documents.push_back({batch.names[i], starts[i], end - starts[i]});
  }
  return documents;
}

class FileTeacher final : public DistillTeacher {
 public:
  FileTeacher(const DistillConfig& config, int64_t vocab) : config_(config) {
    const std::string& path = config.teacher;
    set_ = OpenCheckpoint(path);
    LAPIDARY_CHECK(config.temperature == 1, path,
                   ": the temperature of a stored teacher must be 1; got ", config.temperature);
    for (const StoredTensor& tensor : set_.tensors()) {
      const size_t bar = tensor.name.rfind('|');
      const std::string part = bar == std::string::npos ? "" : tensor.name.substr(bar + 1);
      const bool known = part == "ids" || part == "log_probs" || part == "tokens";
      LAPIDARY_CHECK(known && tensor.shape.size() == (part == "tokens" ? 1u : 2u) &&
                         tensor.dtype == (part == "log_probs" ? "F32" : "I32"),
                     path, ": tensors must be those of distill-cache; got '", tensor.name, "' ",
                     tensor.dtype, " ", ShapeText(tensor.shape), "; try making it again");
      if (part == "tokens") continue;
      if (k_ == 0) k_ = tensor.shape[1];
      LAPIDARY_CHECK(tensor.shape[1] == k_ && k_ >= 1 && k_ <= 256, path,
                     ": every record must have the same number of tokens, 1 to 256; got ",
                     tensor.shape[1], " in '", tensor.name, "'");
      if (part != "ids") continue;
      for (int64_t i = 0; i < tensor.elements(); ++i) {
        const int32_t id = At<int32_t>(tensor, i);
        LAPIDARY_CHECK(id >= 0 && id < vocab, path, ": tokens must be in [0, ", vocab, "); got ",
                       id, " in '", tensor.name,
                       "'; try the cache of a model with this vocabulary");
      }
    }
  }

  Teacher Of(const MicroBatch& batch, const ForwardOptions&) override {
    Teacher teacher;
    teacher.k = k_;
    teacher.mix = static_cast<float>(config_.mix);
    const int64_t n = batch.input.size();
    teacher.ids.assign(static_cast<size_t>(n * k_), 0);
    teacher.log_probs.assign(static_cast<size_t>(n * k_), 0.0f);
    for (const Document& document : Documents(batch)) {
      const StoredTensor* ids = set_.Find(document.name + "|ids");
      const StoredTensor* log_probs = set_.Find(document.name + "|log_probs");
      const StoredTensor* tokens = set_.Find(document.name + "|tokens");
      const auto check = [&](bool ok, const char* what) {
        LAPIDARY_CHECK(ok, config_.teacher, ": must hold ", document.name,
                       " as it is trained; got ", what,
                       "; try distill-cache with this configuration");
      };
      check(ids && log_probs && tokens, "no such record");
      check(tokens->shape[0] == document.size, "another number of tokens");
      for (int64_t i = 0; i < document.size; ++i)
        check(At<int32_t>(*tokens, i) == batch.input.ids[document.begin + i], "other tokens");
      int64_t row = 0;
      for (int64_t i = document.begin; i < document.begin + document.size; ++i) {
        if (batch.weights[i] == 0) continue;
        check(row < ids->shape[0] && row < log_probs->shape[0], "fewer trained tokens");
        std::memcpy(teacher.ids.data() + i * k_, ids->data + row * k_ * 4,
                    static_cast<size_t>(k_) * 4);
        std::memcpy(teacher.log_probs.data() + i * k_, log_probs->data + row * k_ * 4,
                    static_cast<size_t>(k_) * 4);
        ++row;
      }
      check(row == ids->shape[0], "more trained tokens");
    }
    return teacher;
  }

 private:
  template <class T>
  static T At(const StoredTensor& tensor, int64_t i) {
    T value;
    std::memcpy(&value, tensor.data + i * static_cast<int64_t>(sizeof(T)), sizeof(T));
    return value;
  }

  const DistillConfig config_;
  TensorSet set_;
  int64_t k_ = 0;
};

// The k likeliest tokens of softcapped scores, likeliest first, the lower id on ties.
void TopTokens(const float* z, int64_t vocab, int64_t k, int32_t* ids, float* log_probs) {
  std::vector<int32_t> order(static_cast<size_t>(vocab));
  std::iota(order.begin(), order.end(), 0);
  const auto likelier = [&](int32_t a, int32_t b) {
    return z[a] > z[b] || (z[a] == z[b] && a < b);
  };
  std::partial_sort(order.begin(), order.begin() + k, order.end(), likelier);
  const double top = z[order[0]];
  double total = 0;
  for (int64_t i = 0; i < vocab; ++i) total += std::exp(static_cast<double>(z[i]) - top);
  for (int64_t j = 0; j < k; ++j) {
    ids[j] = order[static_cast<size_t>(j)];
    log_probs[j] = static_cast<float>(static_cast<double>(z[ids[j]]) - top - std::log(total));
  }
}

struct CachedRecord {
  std::vector<int32_t> tokens, ids;
  std::vector<float> log_probs;
};

}  // namespace

std::unique_ptr<DistillTeacher> TeacherFromModel(const DistillConfig& config, Transformer* model) {
  return std::make_unique<ModelTeacher>(config, model);
}

std::unique_ptr<DistillTeacher> TeacherFromFile(const DistillConfig& config, int64_t vocab_size) {
  return std::make_unique<FileTeacher>(config, vocab_size);
}

int64_t WriteDistillCache(Transformer& model, const ForwardOptions& options, int64_t k,
                          const std::function<MicroBatch()>& next, const std::string& path) {
  const int64_t vocab = model.head().rows();
  LAPIDARY_CHECK(k >= 1 && k <= std::min<int64_t>(256, vocab), path,
                 ": tokens a position must be from 1 to ", std::min<int64_t>(256, vocab), "; got ",
                 k);
  constexpr int64_t kRows = 64;
  std::map<std::string, CachedRecord> records;
  for (MicroBatch batch = next(); batch.input.size() > 0; batch = next()) {
    Tape tape(Tape::Mode::kNoGrad);
    const Tensor hidden = Forward(model, tape, batch.input, options).value();
    const int64_t cols = hidden.shape()[1];
    for (const Document& document : Documents(batch)) {
      CachedRecord& record = records[document.name];
      LAPIDARY_CHECK(record.tokens.empty(), path, ": every record must come once; got ",
                     document.name, " twice");
      const auto first = batch.input.ids.begin() + document.begin;
      record.tokens.assign(first, first + document.size);
      std::vector<int64_t> rows;
      for (int64_t i = 0; i < document.size; ++i) {
        if (batch.weights[document.begin + i] != 0) rows.push_back(document.begin + i);
      }
      const int64_t count = static_cast<int64_t>(rows.size());
      record.ids.resize(static_cast<size_t>(count * k));
      record.log_probs.resize(record.ids.size());
      for (int64_t begin = 0; begin < count; begin += kRows) {
        const int64_t size = std::min(kRows, count - begin);
        Tensor x({size, cols});
        for (int64_t i = 0; i < size; ++i)
          std::copy_n(hidden.data() + rows[begin + i] * cols, cols, x.data() + i * cols);
        const Tensor z =
            Logits(x, model.head().Current(),
                   static_cast<float>(model.config.text.final_logit_softcapping), options.compute);
        ParallelFor(size, [&](Range r) {
          for (int64_t i = r.begin; i < r.end; ++i) {
            TopTokens(z.data() + i * vocab, vocab, k, record.ids.data() + (begin + i) * k,
                      record.log_probs.data() + (begin + i) * k);
          }
        });
      }
    }
  }
  LAPIDARY_CHECK(!records.empty(), path, ": there must be a record to store; got none");
  std::vector<TensorSpec> specs;
  for (const auto& [name, record] : records) {
    const int64_t count = static_cast<int64_t>(record.ids.size()) / k;
    specs.push_back({name + "|ids", "I32", {count, k}});
    specs.push_back({name + "|log_probs", "F32", {count, k}});
    specs.push_back({name + "|tokens", "I32", {static_cast<int64_t>(record.tokens.size())}});
  }
  SafetensorsWriter writer(path, specs);
  for (const TensorSpec& spec : writer.order()) {
    const size_t bar = spec.name.rfind('|');
    const CachedRecord& record = records.at(spec.name.substr(0, bar));
    const std::string part = spec.name.substr(bar + 1);
    if (part == "log_probs") {
      writer.Append(record.log_probs.data(), record.log_probs.size() * 4);
    } else {
      const std::vector<int32_t>& values = part == "ids" ? record.ids : record.tokens;
      writer.Append(values.data(), values.size() * 4);
    }
  }
  writer.Commit();
  return static_cast<int64_t>(records.size());
}

}  // namespace lapidary
