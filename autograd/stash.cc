#include "autograd/stash.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <utility>

#include "autograd/base/float16.h"
#include "autograd/base/parallel.h"

namespace lapidary {
namespace {

constexpr int64_t kGrain = 1 << 14;

int64_t RowsOf(const Shape& shape) { return shape.rank > 0 ? shape[0] : 1; }
int64_t ColsOf(const Shape& shape) { return RowsOf(shape) > 0 ? shape.size() / RowsOf(shape) : 0; }

Tensor ToBf16(const Tensor& x) {
  Tensor kept(x.shape(), DType::kBf16);
  const float* from = x.data();
  uint16_t* to = kept.data<uint16_t>();
  std::atomic<bool> exact{true};
  ParallelFor(
      x.size(),
      [&](Range r) {
        uint32_t lost = 0;
        for (int64_t i = r.begin; i < r.end; ++i) {
          uint32_t bits;
          std::memcpy(&bits, from + i, 4);
          lost |= bits;
          to[i] = static_cast<uint16_t>(bits >> 16);
        }
        if (lost & 0xffffu) exact = false;
      },
      kGrain);
  LAPIDARY_CHECK(exact, "checkpoint: inputs kept as bf16 must be representable in it");
  return kept;
}

Tensor FromBf16(const Tensor& kept, const Shape& shape) {
  Tensor x(shape);
  const uint16_t* from = kept.data<uint16_t>();
  float* to = x.data();
  ParallelFor(
      x.size(),
      [&](Range r) {
        for (int64_t i = r.begin; i < r.end; ++i) to[i] = F32FromBf16(from[i]);
      },
      kGrain);
  return x;
}

// Rows of int8 values, then the rows' scales.
Tensor ToInt8(const Tensor& x) {
  const int64_t rows = RowsOf(x.shape()), cols = ColsOf(x.shape());
  Tensor kept(Shape{StashBytes(StashForm::kInt8, rows, cols)}, DType::kI8);
  const float* from = x.data();
  int8_t* to = kept.data<int8_t>();
  int8_t* const scales = to + rows * cols;
  ParallelFor(rows, [&](Range r) {
    for (int64_t n = r.begin; n < r.end; ++n) {
      const float* row = from + n * cols;
      float most = 0;
      for (int64_t c = 0; c < cols; ++c) most = std::max(most, std::fabs(row[c]));
      const float scale = most / 127.0f, inverse = scale > 0 ? 1.0f / scale : 0.0f;
      std::memcpy(scales + n * 4, &scale, 4);
      for (int64_t c = 0; c < cols; ++c) {
        const float q = std::nearbyint(row[c] * inverse);
        to[n * cols + c] = static_cast<int8_t>(std::clamp(q, -127.0f, 127.0f));
      }
    }
  });
  return kept;
}

Tensor FromInt8(const Tensor& kept, const Shape& shape) {
  Tensor x(shape);
  const int64_t rows = RowsOf(shape), cols = ColsOf(shape);
  const int8_t* from = kept.data<int8_t>();
  float* to = x.data();
  ParallelFor(rows, [&](Range r) {
    for (int64_t n = r.begin; n < r.end; ++n) {
      float scale;
      std::memcpy(&scale, from + rows * cols + n * 4, 4);
      for (int64_t c = n * cols; c < (n + 1) * cols; ++c) {
        to[c] = scale * static_cast<float>(from[c]);
      }
    }
  });
  return x;
}

}  // namespace

int64_t StashBytes(StashForm form, int64_t rows, int64_t cols) {
  switch (form) {
    case StashForm::kFloat32:
      return rows * cols * 4;
    case StashForm::kBf16:
      return rows * cols * 2;
    case StashForm::kInt8:
      break;
  }
  return rows * (cols + 4);
}

Stash::Stash(const Tensor& x, const StashPolicy& policy)
    : shape_(x.shape()), form_(policy.form), file_(policy.file) {
  bytes_ = form_ == StashForm::kFloat32 ? x : form_ == StashForm::kBf16 ? ToBf16(x) : ToInt8(x);
  if (file_) record_ = file_->Push(std::move(bytes_));
}

Stash::~Stash() {
  if (record_ >= 0) file_->Drop(record_);
}

Stash::Stash(Stash&& other) noexcept { *this = std::move(other); }

Stash& Stash::operator=(Stash&& other) noexcept {
  if (record_ >= 0) file_->Drop(record_);
  shape_ = other.shape_;
  form_ = other.form_;
  bytes_ = std::move(other.bytes_);
  file_ = std::move(other.file_);
  record_ = std::exchange(other.record_, -1);
  return *this;
}

Tensor Stash::Take() {
  if (record_ >= 0) bytes_ = file_->Pop(std::exchange(record_, -1));
  const Tensor kept = std::move(bytes_);
  bytes_ = Tensor();
  LAPIDARY_CHECK(kept.defined(), "Stash: must be taken once; got a second time");
  return form_ == StashForm::kFloat32 ? kept
         : form_ == StashForm::kBf16  ? FromBf16(kept, shape_)
                                      : FromInt8(kept, shape_);
}

}  // namespace lapidary
