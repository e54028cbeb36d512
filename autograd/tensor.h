// Tensor: a value handle over a shared buffer; contiguous, row-major, rank <= 4. Copies share the
// bytes. Not thread-safe to write through two handles at once; reading is.
#ifndef LAPIDARY_AUTOGRAD_TENSOR_H_
#define LAPIDARY_AUTOGRAD_TENSOR_H_

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <ostream>

#include "autograd/base/error.h"
#include "autograd/dtype.h"

namespace lapidary {

struct Shape {
  static constexpr int kMaxRank = 4;
  int rank = 0;
  int64_t dims[kMaxRank] = {1, 1, 1, 1};

  Shape() = default;  // a scalar
  // Throws Error if there are more than four sizes or a negative one.
  Shape(std::initializer_list<int64_t> sizes);

  // dims[i]; negative i counts from the end.
  int64_t operator[](int i) const { return dims[i < 0 ? rank + i : i]; }
  int64_t size() const { return dims[0] * dims[1] * dims[2] * dims[3]; }
  bool operator==(const Shape& other) const;
};
std::ostream& operator<<(std::ostream& out, const Shape& shape);  // "[3, 37]"

class Tensor {
 public:
  Tensor() = default;  // undefined
  // Contents are undefined until written.
  explicit Tensor(const Shape& shape, DType dtype = DType::kF32);
  static Tensor Zeros(const Shape& shape, DType dtype = DType::kF32);
  // A shape without bytes, as after Release().
  static Tensor WithoutBytes(const Shape& shape);
  static Tensor FromFloats(const Shape& shape, const float* values);

  bool defined() const { return bytes_ != nullptr; }
  const Shape& shape() const { return shape_; }
  DType dtype() const { return dtype_; }
  int64_t size() const { return shape_.size(); }
  int64_t byte_size() const { return size() * SizeOf(dtype_); }

  // The one accessor to the bytes. T must be the element type of dtype().
  template <class T = float>
  T* data() const {
    return reinterpret_cast<T*>(bytes_.get());
  }

  // Rows [begin, begin + count) of the first axis: the same bytes, kept alive by either handle.
  // Throws Error if they lie outside.
  Tensor Rows(int64_t begin, int64_t count) const;
  // Lets go of the bytes; the shape stays.
  void Release() { bytes_.reset(); }

  // The same bytes under another shape of the same size.
  Tensor Reshaped(const Shape& shape) const;
  // A copy with bytes of its own.
  Tensor Clone() const;
  void Fill(float value);  // f32 only

 private:
  Shape shape_;
  DType dtype_ = DType::kF32;
  std::shared_ptr<uint8_t[]> bytes_;
};

}  // namespace lapidary

#endif  // LAPIDARY_AUTOGRAD_TENSOR_H_
