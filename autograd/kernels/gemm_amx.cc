// bf16 tiles (AMX): blocks of 32 x 32, see gemm_amx-inl.h. The inner sum is rounded differently
// from vdpbf16ps; it is still one chain in the order of k. Compiled for AMX: nothing here may be a
// function that another file also instantiates.
#include "autograd/kernels/gemm_amx-inl.h"
#include "autograd/kernels/gemm_avx512_bf16-inl.h"
#include "autograd/kernels/gemm_isa.h"

namespace lapidary {
namespace {

// GCC 12's tile intrinsics carry no memory clobber: stores to the configuration or to a panel can
// be dropped or moved past them. Every instruction here is therefore its own asm with one.
struct HardwareTiles {
  static void Configure(const TileConfig& config) {
    asm volatile("ldtilecfg %0" : : "m"(config) : "memory");
  }
  static void Release() { asm volatile("tilerelease" : : : "memory"); }
  template <int kTile>
  static void Zero() {
    asm volatile("tilezero %%tmm%c0" : : "i"(kTile));
  }
  // To L2.
  static void Prefetch(const char* at) { __builtin_prefetch(at, 0, 2); }
  template <int kTile>
  static void Load(const void* base, int64_t stride) {
    asm volatile("tileloadd (%1,%2,1), %%tmm%c0" : : "i"(kTile), "r"(base), "r"(stride) : "memory");
  }
  template <int kTile>
  static void Stream(const void* base, int64_t stride) {
    asm volatile("tileloaddt1 (%1,%2,1), %%tmm%c0"
                 :
                 : "i"(kTile), "r"(base), "r"(stride)
                 : "memory");
  }
  template <int kTile>
  static void Store(void* base, int64_t stride) {
    asm volatile("tilestored %%tmm%c0, (%1,%2,1)"
                 :
                 : "i"(kTile), "r"(base), "r"(stride)
                 : "memory");
  }
  template <int kSum, int kA, int kB>
  static void Multiply() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSum), "i"(kA), "i"(kB));
  }
};

constexpr GemmTable Table() {
  GemmTable t;
  t.layout = PanelLayout::kBf16x32;
  t.tile_cols = kAmxCols;
  t.block_rows = kAmxRows;
  t.chunk = kAmxChunk;
  t.k_unit = 32;
  t.element_bytes = 2;
  t.partials = true;
  t.tails = true;
  t.pack_a = PackA<kAmxChunk, 32>;
  t.pack_b_columns = PackBColumns<32>;
  t.pack_b_rows = PackBRows<32>;
  t.multiply = AmxMultiply<HardwareTiles>;
  return t;
}

constexpr GemmTable kTable = Table();

}  // namespace

const GemmTable kGemmAmxBf16 = kTable;

}  // namespace lapidary
