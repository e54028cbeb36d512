#include "tests/model/golden_batch.h"

#include <cmath>
#include <cstring>
#include <limits>

namespace lapidary::golden {
namespace {

// Valid rows of padded media features and the rows of the batch where they go.
void AddPatches(const SafetensorsFile& file, const std::string& features,
                const std::string& positions, const std::vector<int64_t>& where,
                std::vector<float>* values, ModelInput* input) {
  if (!Has(file, features)) return;
  const StoredTensor& f = Get(file, features);
  const std::vector<float> all = Floats(file, features);
  const std::vector<int32_t> xy = Ints(file, positions);
  const int64_t width = f.shape.back();
  size_t next = 0;
  for (int64_t row = 0; row < f.rows(); ++row) {
    if (xy[2 * row] < 0) continue;  // padding
    LAPIDARY_CHECK(next < where.size(), features, ": more patches than tokens");
    values->insert(values->end(), all.begin() + row * width, all.begin() + (row + 1) * width);
    input->patch_positions.push_back(xy[2 * row]);
    input->patch_positions.push_back(xy[2 * row + 1]);
    input->patch_rows.push_back(where[next++]);
  }
  LAPIDARY_CHECK(next == where.size(), features, ": fewer patches than tokens; got ", next, " of ",
                 where.size());
}

}  // namespace

const StoredTensor& Get(const SafetensorsFile& file, const std::string& name) {
  for (const StoredTensor& t : file.tensors()) {
    if (t.name == name) return t;
  }
  throw Error(StrCat(file.path(), ": must hold ", name, "; got nothing"));
}

bool Has(const SafetensorsFile& file, const std::string& name) {
  for (const StoredTensor& t : file.tensors()) {
    if (t.name == name) return true;
  }
  return false;
}

std::vector<float> Floats(const SafetensorsFile& file, const std::string& name) {
  return Get(file, name).ReadAll();
}

std::vector<int32_t> Ints(const SafetensorsFile& file, const std::string& name) {
  const StoredTensor& t = Get(file, name);
  const int64_t n = t.elements(), size = static_cast<int64_t>(t.bytes) / std::max<int64_t>(n, 1);
  std::vector<int32_t> values(n);
  for (int64_t i = 0; i < n; ++i) {
    int64_t v = 0;
    std::memcpy(&v, t.data + i * size, size);
    values[i] = size == 1 ? static_cast<int32_t>(v & 0xff) : static_cast<int32_t>(v);
  }
  return values;
}

Batch ReadBatch(const SafetensorsFile& file, const std::string& prefix) {
  Batch batch;
  const StoredTensor& ids = Get(file, prefix + ".input_ids");
  batch.rows = ids.shape.size() == 2 ? ids.shape[0] : 1;
  batch.width = ids.shape.back();
  const std::vector<int32_t> input_ids = Ints(file, prefix + ".input_ids");
  const std::vector<int32_t> types = Has(file, prefix + ".mm_token_type_ids")
                                         ? Ints(file, prefix + ".mm_token_type_ids")
                                         : std::vector<int32_t>(input_ids.size(), 0);
  const std::vector<int32_t> mask = Has(file, prefix + ".attention_mask")
                                        ? Ints(file, prefix + ".attention_mask")
                                        : std::vector<int32_t>(input_ids.size(), 1);
  const bool packed = Has(file, prefix + ".position_ids");
  const std::vector<int32_t> positions =
      packed ? Ints(file, prefix + ".position_ids") : std::vector<int32_t>();
  const std::vector<int32_t> labels = Has(file, prefix + ".labels")
                                          ? Ints(file, prefix + ".labels")
                                          : std::vector<int32_t>(input_ids.size(), -100);
  ModelInput& input = batch.input;
  std::vector<int64_t> by_type[4];
  for (int64_t b = 0; b < batch.rows; ++b) {
    bool first = true;
    for (int64_t t = 0; t < batch.width; ++t) {
      const int64_t i = b * batch.width + t;
      if (!mask[i]) continue;
      const int64_t n = input.size();
      if (first || (packed && positions[i] == 0))
        input.document_starts.push_back(static_cast<int32_t>(n));
      first = false;
      input.ids.push_back(input_ids[i]);
      input.types.push_back(static_cast<uint8_t>(types[i]));
      by_type[types[i] & 3].push_back(n);
      batch.kept.push_back(i);
      // Position t predicts label t + 1 of the same row.
      const bool trained = t + 1 < batch.width && labels[i + 1] != -100 && mask[i + 1];
      batch.targets.push_back(trained ? labels[i + 1] : 0);
      batch.weights.push_back(trained ? 1.0f : 0.0f);
      batch.trained += trained;
    }
  }
  std::vector<float> values;
  AddPatches(file, prefix + ".pixel_values", prefix + ".image_position_ids", by_type[1], &values,
             &input);
  AddPatches(file, prefix + ".pixel_values_videos", prefix + ".video_position_ids", by_type[2],
             &values, &input);
  if (!values.empty()) {
    const int64_t count = static_cast<int64_t>(input.patch_rows.size());
    input.patches =
        Tensor::FromFloats({count, static_cast<int64_t>(values.size()) / count}, values.data());
  }
  if (Has(file, prefix + ".input_features")) {
    const StoredTensor& f = Get(file, prefix + ".input_features");
    const std::vector<float> all = Floats(file, prefix + ".input_features");
    const std::vector<int32_t> valid = Has(file, prefix + ".input_features_mask")
                                           ? Ints(file, prefix + ".input_features_mask")
                                           : std::vector<int32_t>(f.rows(), 1);
    std::vector<float> frames;
    const int64_t width = f.shape.back();
    for (int64_t row = 0; row < f.rows(); ++row) {
      if (valid[row])
        frames.insert(frames.end(), all.begin() + row * width, all.begin() + (row + 1) * width);
    }
    const int64_t count = static_cast<int64_t>(frames.size()) / width;
    LAPIDARY_CHECK(count == static_cast<int64_t>(by_type[3].size()), prefix,
                   ": frames must fill the audio tokens");
    input.audio_frames = Tensor::FromFloats({count, width}, frames.data());
    input.audio_rows = by_type[3];
  }
  return batch;
}

double RelativeL2(const float* a, const float* b, int64_t n) {
  double difference = 0, norm = 0;
  for (int64_t i = 0; i < n; ++i) {
    difference += (static_cast<double>(a[i]) - b[i]) * (static_cast<double>(a[i]) - b[i]);
    norm += static_cast<double>(b[i]) * b[i];
  }
  if (norm == 0) return difference == 0 ? 0 : std::numeric_limits<double>::infinity();
  return std::sqrt(difference / norm);
}

double MaxAbs(const float* a, const float* b, int64_t n) {
  double worst = 0;
  for (int64_t i = 0; i < n; ++i) {
    const double d = std::abs(static_cast<double>(a[i]) - b[i]);
    if (!(d <= worst)) worst = std::isnan(d) ? std::numeric_limits<double>::infinity() : d;
  }
  return worst;
}

std::vector<float> KeptRows(const Batch& batch, const std::vector<float>& full) {
  const int64_t width = static_cast<int64_t>(full.size()) / (batch.rows * batch.width);
  std::vector<float> rows;
  rows.reserve(batch.kept.size() * width);
  for (int64_t i : batch.kept)
    rows.insert(rows.end(), full.begin() + i * width, full.begin() + (i + 1) * width);
  return rows;
}

}  // namespace lapidary::golden
