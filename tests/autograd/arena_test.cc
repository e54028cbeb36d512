// Step memory: blocks come back, sizes that vary do not pile up.
#include "autograd/arena.h"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

namespace lapidary {
namespace {

TEST(Arena, CountsLiveAndHighWater) {
  const ArenaStats before = GetArenaStats();
  {
    const auto a = AllocateBytes(3 << 20);
    const auto b = AllocateBytes(100);
    EXPECT_GE(GetArenaStats().live_bytes, before.live_bytes + (3 << 20) + 100);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(a.get()) % 64, 0u);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(b.get()) % 64, 0u);
    std::memset(a.get(), 1, 3 << 20);
  }
  EXPECT_EQ(GetArenaStats().live_bytes, before.live_bytes);
  EXPECT_GE(GetArenaStats().high_water_bytes, before.live_bytes + (3 << 20) + 100);
}

TEST(Arena, FreedBlockIsHandedOutAgain) {
  uint8_t* first = nullptr;
  {
    const auto a = AllocateBytes(5 << 20);
    first = a.get();
  }
  EXPECT_EQ(AllocateBytes(5 << 20).get(), first);
}

// A hundred steps, each of another length: what is reserved stays near what one step needs.
TEST(Arena, VaryingSizesDoNotPileUp) {
  TrimArena();
  ResetHighWater();
  for (int step = 0; step < 100; ++step) {
    std::vector<std::shared_ptr<uint8_t[]>> blocks;
    for (int i = 0; i < 10; ++i)
      blocks.push_back(AllocateBytes((1 << 20) + 40'000 * ((step * 37 + i * 11) % 101)));
  }
  const ArenaStats stats = GetArenaStats();
  EXPECT_LE(stats.reserved_bytes, stats.high_water_bytes + stats.high_water_bytes / 10);
  TrimArena();
  EXPECT_EQ(GetArenaStats().reserved_bytes, GetArenaStats().live_bytes);
}

}  // namespace
}  // namespace lapidary
