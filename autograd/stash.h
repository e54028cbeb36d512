// Where activations wait between the forward and the backward pass: in memory or on disk, as
// float32, bf16 or int8. A stash gives back what it was given: the same bits, but for int8.
#ifndef LAPIDARY_AUTOGRAD_STASH_H_
#define LAPIDARY_AUTOGRAD_STASH_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "autograd/tensor.h"

namespace lapidary {

enum class StashForm {
  kFloat32,
  kBf16,  // values that bf16 represents exactly (the residual stream in bf16 compute): half the
          // bytes, nothing lost
  kInt8,  // a float32 scale per row, max|x| / 127: at most half a scale is lost per value
};

// Bytes that one tensor of `rows` x `cols` takes in a form.
int64_t StashBytes(StashForm form, int64_t rows, int64_t cols);

// Records on disk, in a file without a name that vanishes with the process. A thread of its own
// writes behind and reads ahead: records should be taken in the reverse order of their keeping, as
// a backward pass does; taking one starts reading the one before. At most one waits to be written
// and one is read ahead, so at most two are in memory beside it. One user at a time.
class StashFile {
 public:
  // Reserves `bytes` of disk in `folder`. Throws Error if the folder cannot be written or the disk
  // has less room.
  StashFile(const std::string& folder, int64_t bytes);
  ~StashFile();
  StashFile(const StashFile&) = delete;
  StashFile& operator=(const StashFile&) = delete;

  // Stores the bytes of a tensor, which must not change afterwards; returns the record's number.
  // Throws Error if an earlier write failed (a full disk).
  int64_t Push(Tensor bytes);
  // The tensor of record `id`, which is then gone. Throws Error if it could not be written or read.
  Tensor Pop(int64_t id);
  // Forgets record `id`.
  void Drop(int64_t id);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// How a tensor is kept.
struct StashPolicy {
  StashForm form = StashForm::kFloat32;
  std::shared_ptr<StashFile> file;  // null: in memory
};

// One kept tensor. Movable; dropped without Take, it leaves nothing behind. On disk it is written
// and read in records of some 32 MB, so that what waits for the disk is small beside it.
class Stash {
 public:
  Stash() = default;
  // Keeps x, f32 [rows, ...]. Throws Error if the form is kBf16 and a value is not representable.
  Stash(const Tensor& x, const StashPolicy& policy);
  ~Stash();
  Stash(Stash&& other) noexcept;
  Stash& operator=(Stash&& other) noexcept;

  // The tensor again, f32. Once.
  Tensor Take();

  // Brings the tensor into memory in the form that it is kept in; then Rows gives rows [first,
  // first + count) of it, f32, as often as wanted. (What is in memory needs no Load.)
  void Load();
  Tensor Rows(int64_t first, int64_t count) const;

 private:
  void DropRecords();

  Shape shape_;
  StashForm form_ = StashForm::kFloat32;
  Tensor bytes_;  // in memory: [rows, elements of a row]
  std::shared_ptr<StashFile> file_;
  std::vector<int64_t> records_;  // on disk, of piece_rows_ rows each
  int64_t piece_rows_ = 0;
};

}  // namespace lapidary

#endif  // LAPIDARY_AUTOGRAD_STASH_H_
