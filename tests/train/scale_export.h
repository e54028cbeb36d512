// Learned scales of a run beside the compressed-tensors folder that was made of it.
#ifndef LAPIDARY_TESTS_TRAIN_SCALE_EXPORT_H_
#define LAPIDARY_TESTS_TRAIN_SCALE_EXPORT_H_

#include <gtest/gtest.h>

#include <cstring>
#include <string>

#include "quant/safetensors.h"
#include "train/export/export.h"

namespace lapidary {

// Exports `request`, to which the output is added, and compares every scale bit for bit.
inline void ExpectScalesShip(ExportRequest request, const std::string& run,
                             const std::string& out) {
  request.outputs = {{"compressed-tensors", out}};
  Export(request);
  const TensorSet scales = OpenCheckpoint(run + "/qat_scales.safetensors");
  const TensorSet files = OpenCheckpoint(out);
  int compared = 0;
  for (const StoredTensor& t : scales.tensors()) {
    const StoredTensor& held = files.Get(t.name.substr(0, t.name.rfind('.')) + ".weight_scale");
    ASSERT_EQ(held.bytes, t.bytes);
    EXPECT_EQ(std::memcmp(held.data, t.data, t.bytes), 0) << t.name;
    ++compared;
  }
  EXPECT_GT(compared, 5);
}

}  // namespace lapidary

#endif  // LAPIDARY_TESTS_TRAIN_SCALE_EXPORT_H_
