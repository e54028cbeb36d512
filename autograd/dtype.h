// Element types of tensors. Activations and gradients are float32; bf16 and int8 hold kept layer
// inputs and frozen weights.
#ifndef LAPIDARY_AUTOGRAD_DTYPE_H_
#define LAPIDARY_AUTOGRAD_DTYPE_H_

#include <cstdint>

namespace lapidary {

enum class DType : uint8_t { kF32, kBf16, kI8, kI32 };

constexpr int64_t SizeOf(DType dtype) {
  return dtype == DType::kBf16 ? 2 : dtype == DType::kI8 ? 1 : 4;
}
const char* DTypeName(DType dtype);  // "f32", "bf16", "i8", "i32"

}  // namespace lapidary

#endif  // LAPIDARY_AUTOGRAD_DTYPE_H_
