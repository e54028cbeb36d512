#include "quant/tensor_file.h"

#include <sstream>

#include "autograd/base/dry_run.h"
#include "autograd/base/error.h"
#include "autograd/base/parallel.h"

namespace lapidary {

std::string ShapeText(const TensorShape& shape) {
  std::string out = "[";
  for (size_t i = 0; i < shape.size(); ++i) out += StrCat(i ? ", " : "", shape[i]);
  return out + "]";
}

int64_t ElementCount(const TensorShape& shape, const std::string& where) {
  int64_t count = 1;
  bool empty = false;
  for (const int64_t axis : shape) {
    LAPIDARY_CHECK(axis >= 0, where, ": axes must not be negative; got ", ShapeText(shape));
    if (axis == 0) empty = true;
    LAPIDARY_CHECK(!__builtin_mul_overflow(count, axis == 0 ? 1 : axis, &count), where,
                   ": the number of elements must fit 63 bits; got shape ", ShapeText(shape));
  }
  return empty ? 0 : count;
}

int64_t StoredTensor::elements() const { return ElementCount(shape, name); }

int64_t StoredTensor::rows() const {
  if (shape.empty()) return 1;
  int64_t rows = 1;
  for (size_t i = 0; i + 1 < shape.size(); ++i) rows *= shape[i];
  return rows;
}

void StoredTensor::ReadRows(int64_t row, int64_t count, float* out) const {
  LAPIDARY_CHECK(format, "'", name, "': must be in a format that can be read as float32; got ",
                 dtype);
  LAPIDARY_CHECK(row >= 0 && count >= 0 && row <= rows() && count <= rows() - row, "'", name,
                 "': rows must lie inside the tensor; got ", row, " + ", count, " of ", rows());
  if (make_rows) {
    make_rows(row, count, out);
    return;
  }
  const int64_t row_bytes = FormatBytes(*format, cols());
  // A row of whole blocks follows the last one without a gap, so a range of rows is one run of
  // blocks.
  format->dequantize(data + row * row_bytes, count * cols(), out);
}

std::vector<float> StoredTensor::ReadAll() const {
  std::vector<float> out(static_cast<size_t>(elements()));
  LAPIDARY_CHECK(format, "'", name, "': must be in a format that can be read as float32; got ",
                 dtype);
  if (DryRun()) {  // small tables, whose values decide what follows
    ReadRows(0, rows(), out.data());
  } else if (!out.empty()) {
    ParallelFor(
        rows(), [&](Range r) { ReadRows(r.begin, r.end - r.begin, out.data() + r.begin * cols()); },
        std::max<int64_t>(1, 16384 / cols()));
  }
  return out;
}

void StoredTensor::DropRows(int64_t row, int64_t count) const {
  if (!file || !format) return;
  const int64_t row_bytes = FormatBytes(*format, cols());
  file->DropPages(
      static_cast<uint64_t>(data - file->data()) + static_cast<uint64_t>(row * row_bytes),
      static_cast<uint64_t>(count * row_bytes));
}

TensorSet::TensorSet(std::string where, std::vector<StoredTensor> tensors,
                     std::vector<std::string> warnings,
                     std::vector<std::shared_ptr<const void>> owners) {
  auto state = std::make_shared<State>();
  state->where = std::move(where);
  state->tensors = std::move(tensors);
  state->warnings = std::move(warnings);
  state->owners = std::move(owners);
  for (size_t i = 0; i < state->tensors.size(); ++i) {
    LAPIDARY_CHECK(state->index.emplace(state->tensors[i].name, i).second, state->where,
                   ": tensor names must be unique; got '", state->tensors[i].name, "' twice");
  }
  state_ = std::move(state);
}

const StoredTensor* TensorSet::Find(std::string_view name) const {
  const auto found = state_->index.find(std::string(name));
  return found == state_->index.end() ? nullptr : &state_->tensors[found->second];
}

const StoredTensor& TensorSet::Get(std::string_view name) const {
  const StoredTensor* tensor = Find(name);
  LAPIDARY_CHECK(tensor, where(), ": '", name, "' must be in the file; got ", tensors().size(),
                 " other tensors");
  return *tensor;
}

const StoredTensor& TensorSet::Get(std::string_view name, const TensorShape& shape) const {
  const StoredTensor& tensor = Get(name);
  LAPIDARY_CHECK(tensor.shape == shape, where(), ": '", name, "' must be ", ShapeText(shape),
                 "; got ", ShapeText(tensor.shape), "; try the config.json saved with it");
  LAPIDARY_CHECK(tensor.format, where(), ": '", name,
                 "' must be in a format that can be read as float32; got ", tensor.dtype);
  return tensor;
}

}  // namespace lapidary
