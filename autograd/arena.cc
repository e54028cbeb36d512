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

constexpr int64_t kLarge =
    1 << 20;  // from here on a mapping of its own, which goes back to the system when freed
constexpr int64_t kHuge = 1 << 23;  // from here on, ask for huge pages

// Sizes are rounded up to 1/8 of their power of two, so at most 12.5 % is lost and blocks fit
// again.
int64_t RoundSize(int64_t bytes) {
  if (bytes <= 512) return 512;
  const int64_t step = static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(bytes))) / 8;
  return (bytes + step - 1) / step * step;
}

void* Obtain(int64_t size) {
  if (size < kLarge) return std::aligned_alloc(64, static_cast<size_t>((size + 63) / 64 * 64));
  void* block = ::mmap(nullptr, static_cast<size_t>(size), PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (block == MAP_FAILED) return nullptr;
  if (size >= kHuge) ::madvise(block, static_cast<size_t>(size), MADV_HUGEPAGE);
  return block;
}

void Release(uint8_t* block, int64_t size) {
  if (size < kLarge) {
    std::free(block);
  } else {
    ::munmap(block, static_cast<size_t>(size));
  }
}

struct Block {
  uint8_t* bytes;
  int64_t size;
};

struct Arena {
  std::mutex mutex;
  std::map<int64_t, std::vector<uint8_t*>> free;  // by size
  ArenaStats stats;

  // A free block of at least `size` and at most a quarter more, or none. The lock is held.
  Block Reuse(int64_t size) {
    for (auto it = free.lower_bound(size); it != free.end() && it->first <= size + size / 4; ++it) {
      if (it->second.empty()) continue;
      const Block block = {it->second.back(), it->first};
      it->second.pop_back();
      return block;
    }
    return {nullptr, 0};
  }

  // Steps of many lengths leave blocks of many sizes behind: free ones go back to the system,
  // largest first, until `size` more bytes stay within a tenth of what was ever live at once. The
  // lock is held.
  void Shrink(int64_t size) {
    const int64_t limit = stats.high_water_bytes + stats.high_water_bytes / 10;
    for (auto it = free.rbegin(); it != free.rend() && stats.reserved_bytes + size > limit; ++it) {
      while (!it->second.empty() && stats.reserved_bytes + size > limit) {
        Release(it->second.back(), it->first);
        it->second.pop_back();
        stats.reserved_bytes -= it->first;
      }
    }
  }

  void Count(int64_t size) {
    stats.live_bytes += size;
    stats.high_water_bytes = std::max(stats.high_water_bytes, stats.live_bytes);
  }

  Block Take(int64_t size) {
    {
      std::lock_guard<std::mutex> lock(mutex);
      if (const Block block = Reuse(size); block.bytes) {
        Count(block.size);
        return block;
      }
      Count(size);
      Shrink(size);
      stats.reserved_bytes += size;
    }
    void* block = Obtain(size);
    if (!block) {
      std::lock_guard<std::mutex> lock(mutex);
      stats.live_bytes -= size;
      stats.reserved_bytes -= size;
      throw Error(StrCat("memory: must have ", size, " bytes for a tensor; got none beside ",
                         stats.live_bytes,
                         " bytes in use; try a shorter sequence or gradient_checkpointing"));
    }
    return {static_cast<uint8_t*>(block), size};
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
  const Block block = TheArena().Take(RoundSize(bytes));
  return std::shared_ptr<uint8_t[]>(block.bytes,
                                    [size = block.size](uint8_t* b) { TheArena().Give(b, size); });
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
      Release(block, size);
      arena.stats.reserved_bytes -= size;
    }
  }
  arena.free.clear();
}

}  // namespace lapidary
