#include "quant/panels.h"

#include <array>
#include <cstddef>
#include <utility>

#include "autograd/base/error.h"
#include "autograd/kernels/gemm_table.h"
#include "quant/format.h"
#include "quant/units.h"

namespace lapidary {
namespace {

// autograd's registry holds plain functions without context, so each format gets a slot and each
// slot a function.
constexpr size_t kSlots = 48;
std::array<const Format*, kSlots>& Slots() {
  static std::array<const Format*, kSlots> slots = {};
  return slots;
}

template <size_t kSlot>
void DequantizeSlot(const void* row, int64_t begin, int64_t end, float* out) {
  const Format& f = *Slots()[kSlot];
  f.dequantize(static_cast<const uint8_t*>(row) + begin / f.block_size * f.block_bytes, end - begin,
               out);
}

template <size_t... kSlot>
constexpr auto SlotFunctions(std::index_sequence<kSlot...>) {
  using Function = void (*)(const void*, int64_t, int64_t, float*);
  return std::array<Function, sizeof...(kSlot)>{DequantizeSlot<kSlot>...};
}

[[maybe_unused]] void RegisterPanels(Isa isa, Compute compute, const PanelList& list) {
  for (const FormatPanels* row = list.begin; row != list.begin + list.count; ++row) {
    RegisterPanelFunction(row->format, isa, compute, GemmSide::kForward, row->panels.forward,
                          row->layout);
    RegisterPanelFunction(row->format, isa, compute, GemmSide::kInputGrad, row->panels.input_grad,
                          row->layout);
    if (row->few_rows)
      RegisterFewRowsFunction(row->format, isa, compute, row->layout, row->few_rows);
  }
}

struct AtStart {
  AtStart() { RegisterQuantFormats(); }
};
const AtStart at_start;

}  // namespace

// The name that the library's link option asks for, so that this file is never dropped.
extern "C" {
extern const int lapidary_quant_formats_registered;
const int lapidary_quant_formats_registered = 1;
}

void RegisterQuantFormats() {
  static constexpr auto kFunctions = SlotFunctions(std::make_index_sequence<kSlots>());
  const std::vector<const Format*>& formats = AllFormats();
  LAPIDARY_CHECK(formats.size() <= kSlots, "RegisterQuantFormats: the format table must fit ",
                 kSlots, " slots; got ", formats.size(), "; try a larger kSlots");
  for (size_t i = 0; i < formats.size(); ++i) {
    const Format& f = *formats[i];
    Slots()[i] = &f;
    // autograd's own reading of the plain types stays.
    if (f.id == kFormatF32 || f.id == kFormatF16 || f.id == kFormatBF16) continue;
    RegisterWeightFormat(
        {f.id, f.name, f.block_size, f.block_bytes, kFunctions[i], UnitPieces(f.id)});
  }
#if defined(__x86_64__)
  RegisterPanels(Isa::kAvx2, Compute::kFloat32, kPanelsAvx2);
  RegisterPanels(Isa::kAvx2, Compute::kBfloat16, kPanelsAvx2Round);
  for (Isa isa : {Isa::kAvx512, Isa::kAvx512Bf16, Isa::kAmx}) {
    RegisterPanels(isa, Compute::kFloat32, kPanelsAvx512);
  }
  RegisterPanels(Isa::kAvx512, Compute::kBfloat16, kPanelsAvx512Round);
  RegisterPanels(Isa::kAvx512Bf16, Compute::kBfloat16, kPanelsPairs);
  RegisterPanels(Isa::kAmx, Compute::kBfloat16, kPanelsTiles);
#elif defined(__aarch64__)
  RegisterPanels(Isa::kNeon, Compute::kFloat32, kPanelsNeon);
  RegisterPanels(Isa::kNeon, Compute::kBfloat16, kPanelsNeonRound);
#endif
}

}  // namespace lapidary
