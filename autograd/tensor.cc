#include "autograd/tensor.h"

#include <algorithm>
#include <cstring>

#include "autograd/arena.h"
#include "autograd/base/parallel.h"

namespace lapidary {

const char* DTypeName(DType dtype) {
  static constexpr const char* kNames[] = {"f32", "bf16", "i8", "i32"};
  return kNames[static_cast<int>(dtype)];
}

Shape::Shape(std::initializer_list<int64_t> sizes) {
  LAPIDARY_CHECK(sizes.size() <= kMaxRank, "Shape: rank must be at most ", kMaxRank, "; got ",
                 sizes.size());
  for (int64_t size : sizes) {
    LAPIDARY_CHECK(size >= 0, "Shape: sizes must be >= 0; got ", size);
    dims[rank++] = size;
  }
}

bool Shape::operator==(const Shape& other) const {
  return rank == other.rank && std::equal(dims, dims + kMaxRank, other.dims);
}

std::ostream& operator<<(std::ostream& out, const Shape& shape) {
  out << "[";
  for (int i = 0; i < shape.rank; ++i) out << (i ? ", " : "") << shape.dims[i];
  return out << "]";
}

Tensor::Tensor(const Shape& shape, DType dtype)
    : shape_(shape), dtype_(dtype), bytes_(AllocateBytes(shape.size() * SizeOf(dtype))) {}

Tensor Tensor::Zeros(const Shape& shape, DType dtype) {
  Tensor t(shape, dtype);
  uint8_t* bytes = t.data<uint8_t>();
  ParallelFor(
      t.byte_size(),
      [&](Range r) { std::memset(bytes + r.begin, 0, static_cast<size_t>(r.end - r.begin)); },
      1 << 20);
  return t;
}

Tensor Tensor::WithoutBytes(const Shape& shape) {
  Tensor t;
  t.shape_ = shape;
  return t;
}

Tensor Tensor::FromFloats(const Shape& shape, const float* values) {
  Tensor t(shape);
  std::memcpy(t.data(), values, static_cast<size_t>(t.byte_size()));
  return t;
}

Tensor Tensor::Reshaped(const Shape& shape) const {
  LAPIDARY_CHECK(shape.size() == size(), "Reshaped: the number of elements must stay ", size(),
                 "; got ", shape);
  Tensor t = *this;
  t.shape_ = shape;
  return t;
}

Tensor Tensor::Rows(int64_t begin, int64_t count) const {
  LAPIDARY_CHECK(shape_.rank >= 1 && begin >= 0 && count >= 0 && begin <= shape_[0] - count,
                 "Rows: must lie in ", shape_, "; got ", begin, " to ", begin, " + ", count);
  Tensor t = *this;
  t.shape_.dims[0] = count;
  const int64_t row_bytes = shape_[0] > 0 ? byte_size() / shape_[0] : 0;
  t.bytes_ = std::shared_ptr<uint8_t[]>(bytes_, bytes_.get() + begin * row_bytes);
  return t;
}

Tensor Tensor::Clone() const {
  Tensor t(shape_, dtype_);
  std::memcpy(t.data<uint8_t>(), data<uint8_t>(), static_cast<size_t>(byte_size()));
  return t;
}

void Tensor::Fill(float value) {
  LAPIDARY_CHECK(dtype_ == DType::kF32, "Fill: must be an f32 tensor; got ", DTypeName(dtype_));
  std::fill_n(data(), size(), value);
}

}  // namespace lapidary
