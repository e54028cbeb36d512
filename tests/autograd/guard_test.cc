// Kernels touch nothing beyond their arrays: every array ends where an unreadable page begins, with
// sizes that leave partial vectors. A masked move that is made of whole ones would be caught here
// (it also races with the thread that owns the neighboring elements).
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>

#include "autograd/base/float16.h"
#include "autograd/gemm.h"
#include "autograd/kernels/kernels.h"
#include "tests/autograd/run_op.h"

namespace lapidary {
namespace {

// `count` values of T that end at an unreadable page, ones.
template <class T>
class Guarded {
 public:
  explicit Guarded(int64_t count, T value = T(1)) {
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    const size_t bytes = static_cast<size_t>(count) * sizeof(T);
    inside_ = (bytes + page - 1) / page * page;
    base_ =
        mmap(nullptr, inside_ + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base_ == MAP_FAILED) throw std::bad_alloc();
    whole_ = inside_ + page;
    mprotect(static_cast<char*>(base_) + inside_, page, PROT_NONE);
    data_ = reinterpret_cast<T*>(static_cast<char*>(base_) + inside_ - bytes);
    std::fill_n(data_, count, value);
  }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;
  ~Guarded() { munmap(base_, whole_); }
  T* get() const { return data_; }

 private:
  void* base_ = nullptr;
  size_t inside_ = 0, whole_ = 0;
  T* data_ = nullptr;
};

using Floats = Guarded<float>;

class KernelEdges : public EveryIsa {};
LAPIDARY_ON_EVERY_ISA(KernelEdges);

TEST_P(KernelEdges, ElementsAndRows) {
  const Kernels& k = KernelsFor(GetParam());
  for (const int64_t cols : {1, 3, 5, 7, 9, 17, 31, 66}) {
    const int64_t rows = 3, n = rows * cols;
    const Floats x(n), z(n), w(cols), b(cols), y(n), y2(n), y3(n), stat(rows), stat2(rows);
    const Floats column(cols), column2(cols);
    k.Add({x.get(), z.get(), y.get()}, {0, n});
    k.Scale({x.get(), y.get(), 2.0f, true}, {0, n});
    k.RoundBf16({x.get(), y.get()}, {0, n});
    k.Softcap({y.get(), 2.0f}, {0, n});
    k.GeGlu({x.get(), z.get(), y.get(), nullptr, nullptr, nullptr}, {0, n});
    k.GeGluGrad({x.get(), z.get(), nullptr, x.get(), y.get(), y2.get()}, {0, n});
    k.AddBias({x.get(), b.get(), y.get(), cols}, {0, rows});
    k.SumRows({x.get(), column.get(), rows, cols}, {0, cols});
    k.ScaleColumns({x.get(), w.get(), b.get(), y.get(), nullptr, nullptr, nullptr, rows, cols},
                   {0, rows});
    const RmsNormArgs rms = {x.get(),  w.get(),      y.get(), stat.get(), z.get(),
                             y2.get(), column.get(), rows,    cols,       1e-6f};
    k.RmsNorm(rms, {0, rows});
    k.RmsNormGradX(rms, {0, rows});
    k.RmsNormGradW(rms, {0, cols});
    const LayerNormArgs layer = {x.get(),     w.get(), b.get(),  y.get(),      stat.get(),
                                 stat2.get(), z.get(), y2.get(), column.get(), column2.get(),
                                 rows,        cols,    1e-6f};
    k.LayerNorm(layer, {0, rows});
    k.LayerNormGradX(layer, {0, rows});
    k.LayerNormGradW(layer, {0, cols});
    k.AdamW({y.get(), y2.get(), y3.get(), x.get(), 1e-2, 0.9, 0.99, 1e-8, 0.1, 0.1, 0.01, 1.0f},
            {0, n});
    const Guarded<int32_t> target(rows, 0);
    const Guarded<uint8_t> correct(rows, 0);
    k.CrossEntropyRows(
        {y.get(), target.get(), x.get(), stat.get(), correct.get(), cols, 2.0f, true}, {0, rows});
    // Half a head is a partial vector too.
    const Floats cos(rows * cols), sin(rows * cols), wide(rows * 2 * cols), out(rows * 2 * cols);
    k.Rope({wide.get(), out.get(), cos.get(), sin.get(), 1, 2 * cols, 1.0f, true}, {0, rows});
  }
}

TEST_P(KernelEdges, MatrixProducts) {
  for (const Compute compute : {Compute::kFloat32, Compute::kBfloat16}) {
    for (const int64_t n : {1, 5, 7, 33}) {
      for (const int64_t i : {1, 3, 19, 33}) {
        for (const int64_t o : {1, 5, 18, 37}) {
          const Floats x(n * i), y(n * o), w(o * i), dw(o * i);
          const Guarded<uint16_t> stored(o * i, Bf16FromF32(1.0f));
          for (const WeightView& view : {F32View(w.get(), o, i), Bf16View(stored.get(), o, i)}) {
            GemmForward(x.get(), n, view, y.get(), false, compute);
            ASSERT_EQ(y.get()[n * o - 1], static_cast<float>(i));
            std::fill_n(y.get(), n * o, 1.0f);
            GemmInputGrad(y.get(), n, view, x.get(), false, compute);
            ASSERT_EQ(x.get()[n * i - 1], static_cast<float>(o));
            std::fill_n(x.get(), n * i, 1.0f);
          }
          GemmWeightGrad(y.get(), x.get(), n, o, i, dw.get(), false, compute);
          ASSERT_EQ(dw.get()[o * i - 1], static_cast<float>(n));
        }
      }
    }
  }
}

TEST(GuardDeathTest, AReadBeyondTheEndIsCaught) {
  const Floats x(37);
  volatile float sink = x.get()[36];
  EXPECT_DEATH(sink = x.get()[37], "");
  (void)sink;
}

}  // namespace
}  // namespace lapidary
