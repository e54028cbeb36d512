// What a stash gives back, in memory and on disk, and what it says when the disk is full.
#include "autograd/stash.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <cmath>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <vector>

#include "autograd/base/float16.h"
#include "autograd/base/random.h"

namespace lapidary {
namespace {

Tensor RandomRows(int64_t rows, int64_t cols, uint64_t seed) {
  Tensor t({rows, cols});
  for (int64_t i = 0; i < t.size(); ++i) {
    t.data()[i] = RoundToBf16(RandomNormal({seed, 0, 0}, static_cast<uint64_t>(i)));
  }
  return t;
}

bool SameBytes(const Tensor& a, const Tensor& b) {
  return a.shape() == b.shape() &&
         std::memcmp(a.data(), b.data(), static_cast<size_t>(a.byte_size())) == 0;
}

std::string Folder() { return std::filesystem::temp_directory_path().string(); }

TEST(Stash, ExactFormsGiveTheSameBits) {
  const auto file = std::make_shared<StashFile>(Folder(), 1 << 16);
  for (const StashForm form : {StashForm::kFloat32, StashForm::kBf16}) {
    for (const auto& place : {std::shared_ptr<StashFile>(), file}) {
      const Tensor x = RandomRows(13, 70, 1);
      Stash stash(x, {form, place});
      EXPECT_TRUE(SameBytes(stash.Take(), x));
      EXPECT_THROW(stash.Take(), Error);
    }
  }
}

TEST(Stash, Bf16RefusesWhatItCannotHold) {
  Tensor x = RandomRows(2, 3, 1);
  x.data()[4] = 1.0f + 1e-6f;
  EXPECT_THROW(Stash(x, {StashForm::kBf16, nullptr}), Error);
}

TEST(Stash, Int8IsWithinHalfAScale) {
  Tensor x = RandomRows(5, 64, 2);
  std::fill_n(x.data() + 64, 64, 0.0f);  // a row of zeros
  const Tensor back = Stash(x, {StashForm::kInt8, nullptr}).Take();
  for (int64_t n = 0; n < 5; ++n) {
    float most = 0;
    for (int64_t c = 0; c < 64; ++c) most = std::max(most, std::fabs(x.data()[n * 64 + c]));
    for (int64_t c = 0; c < 64; ++c) {
      EXPECT_LE(std::fabs(x.data()[n * 64 + c] - back.data()[n * 64 + c]), most / 254 * 1.0001f);
    }
  }
}

// Many records, taken in reverse order as a backward pass does, then in an order of their own, some
// dropped: each comes back as it was.
TEST(StashFile, RecordsOfManySizes) {
  const auto file = std::make_shared<StashFile>(Folder(), 0);
  for (int round = 0; round < 3; ++round) {
    std::vector<Tensor> kept;
    std::vector<Stash> stashes;
    for (int i = 0; i < 40; ++i) {
      kept.push_back(RandomRows(1 + i * 7 % 50, 300, static_cast<uint64_t>(i)));
      stashes.emplace_back(kept.back(), StashPolicy{StashForm::kBf16, file});
    }
    for (int i = 39; i >= 0; --i) {
      const int k = round == 1 ? (i * 17 + 5) % 40 : i;
      if (round == 2 && i % 3 == 0) {
        stashes[k] = Stash();
        continue;
      }
      EXPECT_TRUE(SameBytes(stashes[k].Take(), kept[k])) << round << " " << k;
    }
  }
}

TEST(StashFile, NamesAFolderThatIsNotThere) {
  try {
    StashFile file("/nowhere/at/all", 0);
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("/nowhere/at/all"), std::string::npos) << error.what();
  }
}

// A disk with less room than the file needs: refused at once if it is asked for, and said by the
// next call if it shows later.
TEST(StashFile, AFullDiskIsAnError) {
  std::signal(SIGXFSZ, SIG_IGN);
  rlimit before;
  ::getrlimit(RLIMIT_FSIZE, &before);
  const rlimit small = {4096, before.rlim_max};
  ::setrlimit(RLIMIT_FSIZE, &small);
  EXPECT_THROW(StashFile(Folder(), 1 << 20), Error);
  {
    const auto file = std::make_shared<StashFile>(Folder(), 0);
    const Tensor x = RandomRows(10, 1000, 1);
    EXPECT_THROW(
        {
          std::vector<Stash> stashes;
          for (int i = 0; i < 10; ++i) {
            stashes.emplace_back(x, StashPolicy{StashForm::kFloat32, file});
          }
          for (int i = 9; i >= 0; --i) stashes[static_cast<size_t>(i)].Take();
        },
        Error);
  }
  ::setrlimit(RLIMIT_FSIZE, &before);
}

}  // namespace
}  // namespace lapidary
