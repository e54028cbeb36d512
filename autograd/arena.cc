#include "autograd/arena.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <exception>
#include <map>
#include <mutex>
#include <thread>
#include <vector>

#include "autograd/base/error.h"

namespace lapidary {
namespace {

constexpr int64_t kLarge =
    1 << 20;  // from here on a mapping of its own, which goes back to the system when freed
constexpr int64_t kHuge = 1 << 23;  // from here on, ask for huge pages

// Small sizes are rounded up to 1/8 of their power of two, large ones to 1/64, so that blocks fit
// again and little is lost.
int64_t RoundSize(int64_t bytes) {
  if (bytes <= 512) return 512;
  const int64_t parts = bytes < kLarge ? 8 : 64;
  const int64_t step = static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(bytes))) / parts;
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
  int64_t budget = 0;

  // A free block of at least `size` and at most 1/32 more (a quarter if small), or none. The lock
  // is held.
  Block Reuse(int64_t size) {
    const int64_t most = size + size / (size < kLarge ? 4 : 32);
    for (auto it = free.lower_bound(size); it != free.end() && it->first <= most; ++it) {
      if (it->second.empty()) continue;
      const Block block = {it->second.back(), it->first};
      it->second.pop_back();
      return block;
    }
    return {nullptr, 0};
  }

  // Steps of many lengths leave blocks of many sizes behind: free ones go back to the system,
  // largest first, until `size` more bytes stay within the budget. The lock is held.
  void Shrink(int64_t size) {
    const int64_t limit =
        budget > 0 ? budget : stats.high_water_bytes + stats.high_water_bytes / 10;
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

// A dry run's tensors all have the same bytes, which mean nothing: as many as the largest one asks
// for, and none of them touched by what runs in ParallelFor.
class DryBytes {
 public:
  ~DryBytes() {
    for (const Block& block : blocks_) ::munmap(block.bytes, static_cast<size_t>(block.size));
  }
  // Null if the system has no addresses left.
  uint8_t* Get(int64_t size) {
    if (!blocks_.empty() && blocks_.back().size >= size) return blocks_.back().bytes;
    const int64_t want =
        std::max<int64_t>(size, blocks_.empty() ? 1 << 20 : 2 * blocks_.back().size);
    void* bytes = ::mmap(nullptr, static_cast<size_t>(want), PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (bytes == MAP_FAILED) return nullptr;
    blocks_.push_back({static_cast<uint8_t*>(bytes), want});
    return blocks_.back().bytes;
  }

 private:
  std::vector<Block> blocks_;
};
thread_local DryBytes* dry_bytes = nullptr;

std::shared_ptr<uint8_t[]> DryAllocate(int64_t size) {
  uint8_t* bytes = dry_bytes->Get(size);
  LAPIDARY_CHECK(bytes, "memory: a plan must have ", size, " addresses; got none");
  DryRunCounts* counts = DryRunSlot();
  counts->live_bytes += size;
  counts->high_water_bytes = std::max(counts->high_water_bytes, counts->live_bytes);
  return std::shared_ptr<uint8_t[]>(bytes,
                                    [counts, size](uint8_t*) { counts->live_bytes -= size; });
}

// Never destroyed: tensors in static storage may outlive everything else.
Arena& TheArena() {
  static Arena* arena = new Arena;
  return *arena;
}

}  // namespace

std::shared_ptr<uint8_t[]> AllocateBytes(int64_t bytes) {
  LAPIDARY_CHECK(bytes >= 0 && bytes < (int64_t{1} << 46),
                 "memory: a tensor must have a sensible size; got ", bytes, " bytes");
  if (DryRun()) return DryAllocate(RoundSize(bytes));
  const Block block = TheArena().Take(RoundSize(bytes));
  return std::shared_ptr<uint8_t[]>(block.bytes,
                                    [size = block.size](uint8_t* b) { TheArena().Give(b, size); });
}

ArenaStats GetArenaStats() {
  if (const DryRunCounts* dry = DryRunSlot()) {
    return {dry->live_bytes, dry->high_water_bytes, dry->live_bytes};
  }
  std::lock_guard<std::mutex> lock(TheArena().mutex);
  return TheArena().stats;
}

void ResetHighWater() {
  if (DryRunCounts* dry = DryRunSlot()) {
    dry->high_water_bytes = dry->live_bytes;
    return;
  }
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

void SetArenaBudget(int64_t bytes) {
  std::lock_guard<std::mutex> lock(TheArena().mutex);
  TheArena().budget = bytes;
}

DryRunCounts CountMemory(const std::function<void()>& body) {
  DryRunCounts counts;
  std::exception_ptr error;
  std::thread thread([&] {  // what a thread caches (tables, buffers) goes with it
    DryBytes bytes;
    dry_bytes = &bytes;
    DryRunSlot() = &counts;
    try {
      body();
    } catch (...) {
      error = std::current_exception();
    }
  });
  thread.join();
  if (error) std::rethrow_exception(error);
  return counts;
}

}  // namespace lapidary
