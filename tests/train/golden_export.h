// Tests that export the checkpoint of golden/gguf: its folder, its adapter, changed copies of the
// adapter, and a folder for what comes out.
#ifndef LAPIDARY_TESTS_TRAIN_GOLDEN_EXPORT_H_
#define LAPIDARY_TESTS_TRAIN_GOLDEN_EXPORT_H_

#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "autograd/base/error.h"
#include "quant/adapter.h"
#include "tests/golden.h"
#include "tests/quant/temp_folder.h"

namespace lapidary {

class GoldenExport : public testing::Test {
 protected:
  void SetUp() override {
    const std::vector<std::string> roots = golden::Find("gguf");
    ASSERT_FALSE(roots.empty()) << "golden/gguf is needed";
    model_ = roots[0] + "/hf";
    adapter_ = roots[0] + "/lora";
  }
  // A copy of the golden adapter with a change.
  std::string Changed(
      const std::function<void(AdapterConfig&, std::vector<NamedTensor>&)>& change) {
    const Adapter adapter = OpenAdapter(adapter_);
    AdapterConfig config = adapter.config;
    std::vector<NamedTensor> tensors;
    for (const StoredTensor& t : adapter.tensors.tensors())
      tensors.push_back({t.name, t.shape, t.ReadAll()});
    change(config, tensors);
    const std::string folder = out_ / StrCat("adapter-", ++count_);
    WriteAdapter(folder, config, tensors);
    return folder;
  }
  std::string model_, adapter_;
  TempFolder out_;
  int count_ = 0;
};

}  // namespace lapidary

#endif  // LAPIDARY_TESTS_TRAIN_GOLDEN_EXPORT_H_
