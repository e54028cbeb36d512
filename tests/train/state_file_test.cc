#include "train/state_file.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "autograd/base/error.h"
#include "autograd/base/file.h"
#include "autograd/base/random.h"
#include "tests/quant/temp_folder.h"

namespace lapidary {
namespace {

class StateFileTest : public testing::Test {
 protected:
  StateFileTest() {
    std::vector<float> values(6 * 5);
    for (size_t i = 0; i < values.size(); ++i) values[i] = RandomNormal({1, 2, 3}, i);
    state_.tensors["model.layers.0.lora_A.weight.exp_avg"] =
        Tensor::FromFloats({6, 5}, values.data());
    state_.tensors["scalar"] = Tensor::FromFloats({}, values.data());
    state_.integers["a.step"] = int64_t{1} << 60;
    state_.integers["b.step"] = -1;
    state_.texts["cursor"] = "{\"epoch\":1}";
    state_.texts["empty"] = "";
  }

  std::string Message() const {
    try {
      ReadStateFile(path_);
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  }

  const TempFolder folder_;
  const std::string path_ = folder_ / "trainer_state.h5";
  StateFile state_;
};

TEST_F(StateFileTest, ReadsWhatItWrote) {
  WriteStateFile(path_, state_);
  const StateFile got = ReadStateFile(path_);
  EXPECT_EQ(got.integers, state_.integers);
  EXPECT_EQ(got.texts, state_.texts);
  ASSERT_EQ(got.tensors.size(), state_.tensors.size());
  for (const auto& [name, tensor] : state_.tensors) {
    const Tensor& other = got.tensors.at(name);
    ASSERT_EQ(other.shape(), tensor.shape()) << name;
    for (int64_t i = 0; i < tensor.size(); ++i) EXPECT_EQ(other.data()[i], tensor.data()[i]);
  }
}

TEST_F(StateFileTest, SameContentsSameBytes) {
  WriteStateFile(path_, state_);
  const std::string first = ReadFile(path_);
  WriteStateFile(path_, state_);
  EXPECT_EQ(ReadFile(path_), first);
}

TEST_F(StateFileTest, OtherBytesAreRefused) {
  WriteFile(path_, "not an HDF5 file at all");
  EXPECT_EQ(Message(), path_ + ": must be an HDF5 file; got another signature");
  WriteFile(path_, "");
  EXPECT_EQ(Message(), path_ + ": must be an HDF5 file; got another signature");
}

// Cut short anywhere, it is an error or, if only the tail of unused space is gone, the same state;
// never a crash.
TEST_F(StateFileTest, CutShort) {
  WriteStateFile(path_, state_);
  const std::string whole = ReadFile(path_);
  int refused = 0;
  for (size_t size = 0; size < whole.size(); size += 61) {
    WriteFile(path_, whole.substr(0, size));
    try {
      const StateFile got = ReadStateFile(path_);
      EXPECT_EQ(got.texts, state_.texts) << size;
    } catch (const Error& error) {
      EXPECT_EQ(std::string(error.what()).find(path_), 0u) << error.what();
      ++refused;
    }
  }
  EXPECT_GT(refused, 5);
}

// Flipped bytes: whatever the library makes of them, an Error or some state, and nothing worse.
TEST_F(StateFileTest, FlippedBytes) {
  WriteStateFile(path_, state_);
  const std::string whole = ReadFile(path_);
  int refused = 0;
  for (uint64_t i = 0; i < 400; ++i) {
    std::string bytes = whole;
    const uint64_t at = RandomBelow({9, 9, 9}, 2 * i, bytes.size());
    bytes[at] = static_cast<char>(RandomBelow({9, 9, 9}, 2 * i + 1, 256));
    WriteFile(path_, bytes);
    try {
      ReadStateFile(path_);
    } catch (const Error&) {
      ++refused;
    }
  }
  EXPECT_GT(refused, 0);
}

TEST_F(StateFileTest, NamesWithSlashesAreRefused) {
  state_.texts["a/b"] = "x";
  EXPECT_THROW(WriteStateFile(path_, state_), Error);
}

}  // namespace
}  // namespace lapidary
