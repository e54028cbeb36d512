#include "autograd/base/memory_info.h"

#include <malloc.h>
#include <sys/resource.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <sstream>

namespace lapidary {
namespace {

// "Name:   123 kB" in a file of /proc, in bytes; -1 if absent.
int64_t ProcBytes(const char* path, const std::string& name) {
  std::ifstream in(path);
  for (std::string line; std::getline(in, line);) {
    if (line.compare(0, name.size() + 1, name + ":") == 0) {
      return std::strtoll(line.c_str() + name.size() + 1, nullptr, 10) * 1024;
    }
  }
  return -1;
}

// The number in a file; -1 if there is none ("max").
int64_t NumberIn(const std::string& path) {
  std::ifstream in(path);
  int64_t number = -1;
  return in >> number ? number : -1;
}

// The process's group in the version 2 hierarchy, "/" and below; "" if there is none.
std::string ControlGroup() {
  std::ifstream in("/proc/self/cgroup");
  for (std::string line; std::getline(in, line);) {
    if (line.compare(0, 3, "0::") == 0) return line.substr(3);
  }
  return "";
}

}  // namespace

int64_t ResidentBytes() { return std::max<int64_t>(ProcBytes("/proc/self/status", "VmRSS"), 0); }

MemoryRoom AvailableMemory() {
  const int64_t mine = ResidentBytes();
  MemoryRoom room = {std::max<int64_t>(ProcBytes("/proc/meminfo", "MemAvailable"), 0) + mine,
                     "MemAvailable"};
  const auto take = [&](int64_t bytes, const char* from) {
    if (bytes >= 0 && bytes < room.bytes) room = {bytes, from};
  };
  // Every group above limits too. What a group has cached of files it can give up.
  for (std::string group = ControlGroup(); !group.empty();) {
    const std::string folder = "/sys/fs/cgroup" + group;
    if (const int64_t most = NumberIn(folder + "/memory.max"); most >= 0) {
      std::ifstream stat(folder + "/memory.stat");
      int64_t taken = 0;
      for (std::string key, value; stat >> key >> value;) {
        if (key == "anon" || key == "kernel" || key == "shmem") {
          taken += std::strtoll(value.c_str(), nullptr, 10);
        }
      }
      take(std::max<int64_t>(most - taken, 0) + mine, "cgroup memory.max");
    }
    if (group == "/") break;
    const size_t slash = group.rfind('/');
    group = slash == 0 ? "/" : group.substr(0, slash);
  }
  rlimit limit;
  if (::getrlimit(RLIMIT_DATA, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY) {
    take(static_cast<int64_t>(limit.rlim_cur), "RLIMIT_DATA");
  }
  if (::getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY) {
    take(static_cast<int64_t>(limit.rlim_cur), "RLIMIT_AS");
  }
  return room;
}

void TuneHeap() {
#if defined(__GLIBC__)
  ::mallopt(M_MMAP_THRESHOLD, 1 << 18);
  ::mallopt(M_TRIM_THRESHOLD, 1 << 20);
  ::mallopt(M_ARENA_MAX, 2);
#endif
}

void TrimHeap() {
#if defined(__GLIBC__)
  ::malloc_trim(0);
#endif
}

}  // namespace lapidary
