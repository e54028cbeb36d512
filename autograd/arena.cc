#include "autograd/arena.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <map>
#include <mutex>
#include <vector>

#include "autograd/base/error.h"

namespace lapidary {
namespace {

constexpr int64_t kLarge = 1 << 21;  // from here on, ask for huge pages

// Sizes are rounded up to 1/8 of their power of two, so at most 12.5 % is lost and blocks fit
// again.
int64_t RoundSize(int64_t bytes) {
  if (bytes <= 512) return 512;
  const int64_t step = static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(bytes))) / 8;
  return (bytes + step - 1) / step * step;
}

struct Arena {
  std::mutex mutex;
  std::map<int64_t, std::vector<uint8_t*>> free;  // by rounded size
  ArenaStats stats;

  uint8_t* Take(int64_t size) {
    {
      std::lock_guard<std::mutex> lock(mutex);
      stats.live_bytes += size;
      stats.high_water_bytes = std::max(stats.high_water_bytes, stats.live_bytes);
      auto it = free.find(size);
      if (it != free.end() && !it->second.empty()) {
        uint8_t* block = it->second.back();
        it->second.pop_back();
        return block;
      }
      stats.reserved_bytes += size;
    }
    const int64_t alignment = size >= kLarge ? kLarge : 64;
    const int64_t padded = (size + alignment - 1) / alignment * alignment;
    void* block = std::aligned_alloc(static_cast<size_t>(alignment), static_cast<size_t>(padded));
    if (!block) {
      std::lock_guard<std::mutex> lock(mutex);
      stats.live_bytes -= size;
      stats.reserved_bytes -= size;
      throw Error(StrCat("memory: must have ", size, " bytes for a tensor; got none beside ",
                         stats.live_bytes,
                         " bytes in use; try a shorter sequence or gradient_checkpointing"));
    }
    if (size >= kLarge) ::madvise(block, static_cast<size_t>(padded), MADV_HUGEPAGE);
    return static_cast<uint8_t*>(block);
  }

  void Give(uint8_t* block, int64_t size) {
    std::lock_guard<std::mutex> lock(mutex);
    stats.live_bytes -= size;
    free[size].push_back(block);
  }
};

// Never destroyed: tensors in static storage may outlive everything else.
Arena& TheArena() {
  static Arena* arena = new Arena;
  return *arena;
}

}  // namespace

std::shared_ptr<uint8_t[]> AllocateBytes(int64_t bytes) {
  LAPIDARY_CHECK(bytes >= 0 && bytes < (int64_t{1} << 46),
                 "memory: a tensor must have a sensible size; got ", bytes, " bytes");
  const int64_t size = RoundSize(bytes);
  uint8_t* block = TheArena().Take(size);
  return std::shared_ptr<uint8_t[]>(block, [size](uint8_t* b) { TheArena().Give(b, size); });
}

ArenaStats GetArenaStats() {
  std::lock_guard<std::mutex> lock(TheArena().mutex);
  return TheArena().stats;
}

void ResetHighWater() {
  std::lock_guard<std::mutex> lock(TheArena().mutex);
  TheArena().stats.high_water_bytes = TheArena().stats.live_bytes;
}

void TrimArena() {
  Arena& arena = TheArena();
  std::lock_guard<std::mutex> lock(arena.mutex);
  for (auto& [size, blocks] : arena.free) {
    for (uint8_t* block : blocks) {
      std::free(block);
      arena.stats.reserved_bytes -= size;
    }
  }
  arena.free.clear();
}

}  // namespace lapidary
