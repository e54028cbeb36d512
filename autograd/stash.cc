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

constexpr int64_t kPieceBytes = int64_t{32} << 20;  // of a record on disk

int64_t RowsOf(const Shape& shape) { return shape.rank > 0 ? shape[0] : 1; }
int64_t ColsOf(const Shape& shape) { return RowsOf(shape) > 0 ? shape.size() / RowsOf(shape) : 0; }

// x as a form keeps it, [rows, elements of a row].
Tensor ToBf16(const Tensor& x) {
  Tensor kept({RowsOf(x.shape()), ColsOf(x.shape())}, DType::kBf16);
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

void FromBf16(const Tensor& kept, Tensor* x) {
  const uint16_t* from = kept.data<uint16_t>();
  float* to = x->data();
  ParallelFor(
      x->size(),
      [&](Range r) {
        for (int64_t i = r.begin; i < r.end; ++i) to[i] = F32FromBf16(from[i]);
      },
      kGrain);
}

// A row is its values, then its scale.
Tensor ToInt8(const Tensor& x) {
  const int64_t rows = RowsOf(x.shape()), cols = ColsOf(x.shape());
  Tensor kept({rows, StashBytes(StashForm::kInt8, 1, cols)}, DType::kI8);
  const float* from = x.data();
  int8_t* const bytes = kept.data<int8_t>();
  ParallelFor(rows, [&](Range r) {
    for (int64_t n = r.begin; n < r.end; ++n) {
      const float* row = from + n * cols;
      int8_t* const to = bytes + n * kept.shape()[1];
      float most = 0;
      for (int64_t c = 0; c < cols; ++c) most = std::max(most, std::fabs(row[c]));
      const float scale = most / 127.0f, inverse = scale > 0 ? 1.0f / scale : 0.0f;
      for (int64_t c = 0; c < cols; ++c) {
        const float q = std::nearbyint(row[c] * inverse);
        to[c] = static_cast<int8_t>(std::clamp(q, -127.0f, 127.0f));
      }
      std::memcpy(to + cols, &scale, 4);
    }
  });
  return kept;
}

void FromInt8(const Tensor& kept, Tensor* x) {
  const int64_t rows = RowsOf(x->shape()), cols = ColsOf(x->shape());
  const int8_t* const bytes = kept.data<int8_t>();
  float* const values = x->data();
  ParallelFor(rows, [&](Range r) {
    for (int64_t n = r.begin; n < r.end; ++n) {
      const int8_t* from = bytes + n * kept.shape()[1];
      float* to = values + n * cols;
      float scale;
      std::memcpy(&scale, from + cols, 4);
      for (int64_t c = 0; c < cols; ++c) to[c] = scale * static_cast<float>(from[c]);
    }
  });
}

Tensor Keep(const Tensor& x, StashForm form) {
  if (form == StashForm::kBf16) return ToBf16(x);
  if (form == StashForm::kInt8) return ToInt8(x);
  return x.Reshaped({RowsOf(x.shape()), ColsOf(x.shape())});
}

void CopyBytes(const Tensor& from, Tensor to) {
  ParallelFor(
      from.byte_size(),
      [&](Range r) {
        std::memcpy(to.data<uint8_t>() + r.begin, from.data<uint8_t>() + r.begin,
                    static_cast<size_t>(r.end - r.begin));
      },
      1 << 18);
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
  const int64_t rows = RowsOf(shape_);
  if (!file_ || rows == 0) {
    file_ = nullptr;
    bytes_ = Keep(x, form_);
    return;
  }
  piece_rows_ = std::max<int64_t>(1, kPieceBytes / StashBytes(form_, 1, ColsOf(shape_)));
  const Tensor whole = x.Reshaped({rows, ColsOf(shape_)});
  for (int64_t first = 0; first < rows; first += piece_rows_) {
    records_.push_back(
        file_->Push(Keep(whole.Rows(first, std::min(piece_rows_, rows - first)), form_)));
  }
}

Stash::~Stash() { DropRecords(); }

void Stash::DropRecords() {
  for (const int64_t record : records_) file_->Drop(record);
  records_.clear();
}

Stash::Stash(Stash&& other) noexcept { *this = std::move(other); }

Stash& Stash::operator=(Stash&& other) noexcept {
  if (this == &other) return *this;
  DropRecords();
  shape_ = other.shape_;
  form_ = other.form_;
  bytes_ = std::move(other.bytes_);
  file_ = std::move(other.file_);
  records_ = std::exchange(other.records_, {});
  piece_rows_ = other.piece_rows_;
  return *this;
}

void Stash::Load() {
  if (records_.size() > 1) {
    const int64_t rows = RowsOf(shape_), cols = ColsOf(shape_);
    const DType type = form_ == StashForm::kFloat32 ? DType::kF32
                       : form_ == StashForm::kBf16  ? DType::kBf16
                                                    : DType::kI8;
    bytes_ = Tensor({rows, form_ == StashForm::kInt8 ? cols + 4 : cols}, type);
    while (records_.size() > 1) {
      const int64_t first = static_cast<int64_t>(records_.size() - 1) * piece_rows_;
      CopyBytes(file_->Pop(records_.back()),
                bytes_.Rows(first, std::min(piece_rows_, rows - first)));
      records_.pop_back();
    }
    CopyBytes(file_->Pop(records_[0]), bytes_.Rows(0, piece_rows_));
    records_.clear();
  } else if (!records_.empty()) {
    bytes_ = file_->Pop(records_[0]);
    records_.clear();
  }
}

Tensor Stash::Rows(int64_t first, int64_t count) const {
  LAPIDARY_CHECK(bytes_.defined(), "Stash: must be loaded and not taken; got neither");
  const Tensor kept = bytes_.Rows(first, count);
  Shape shape = shape_;
  if (shape.rank > 0) shape.dims[0] = count;
  if (form_ == StashForm::kFloat32) return kept.Reshaped(shape);
  Tensor x(shape);
  if (form_ == StashForm::kBf16) {
    FromBf16(kept, &x);
  } else {
    FromInt8(kept, &x);
  }
  return x;
}

Tensor Stash::Take() {
  Load();
  LAPIDARY_CHECK(bytes_.defined(), "Stash: must be taken once; got a second time");
  Tensor x = Rows(0, RowsOf(shape_));
  bytes_ = Tensor();
  return x;
}

}  // namespace lapidary
