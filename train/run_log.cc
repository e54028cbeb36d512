#include "train/run_log.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "autograd/base/error.h"
#include "autograd/base/file.h"
#include "autograd/base/parallel.h"
#include "autograd/kernels/isa.h"
#include "train/progress.h"

namespace lapidary {
namespace {

// The value of "Key:  value" in a file of /proc; "" if absent.
std::string ProcField(const char* path, const std::string& key) {
  std::ifstream in(path);
  for (std::string line; std::getline(in, line);) {
    if (line.rfind(key, 0) != 0) continue;
    const size_t colon = line.find(':');
    if (colon == std::string::npos) continue;
    const size_t begin = line.find_first_not_of(" \t", colon + 1);
    return begin == std::string::npos ? "" : line.substr(begin);
  }
  return "";
}

int64_t ProcKilobytes(const char* path, const std::string& key) {
  const std::string value = ProcField(path, key);
  return value.empty() ? 0 : std::strtoll(value.c_str(), nullptr, 10) * 1024;
}

}  // namespace

RunLog::RunLog(std::string path, int64_t last_step) : path_(std::move(path)) {
  std::string kept;
  if (last_step >= 0 && std::filesystem::exists(path_)) {
    const std::string all = ReadFile(path_);
    for (size_t begin = 0; begin < all.size();) {
      const size_t end = all.find('\n', begin);
      if (end == std::string::npos) break;  // a line that a crash cut short
      const std::string line = all.substr(begin, end - begin);
      const nlohmann::json json = nlohmann::json::parse(line, nullptr, false);
      if (json.is_object() && json.value("step", int64_t{0}) <= last_step) kept += line + "\n";
      begin = end + 1;
    }
  }
  WriteFile(path_, kept);
  fd_ = ::open(path_.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC);
  LAPIDARY_CHECK(fd_ >= 0, path_, ": cannot open; got ", std::strerror(errno));
}

RunLog::~RunLog() { ::close(fd_); }

void RunLog::Add(const nlohmann::ordered_json& line) {
  const std::string text = line.dump() + "\n";
  for (size_t done = 0; done < text.size();) {
    const ssize_t n = ::write(fd_, text.data() + done, text.size() - done);
    if (n < 0 && errno == EINTR) continue;
    LAPIDARY_CHECK(n >= 0, path_, ": cannot write; got ", std::strerror(errno),
                   errno == ENOSPC ? "; try freeing disk space" : "");
    done += static_cast<size_t>(n);
  }
}

int64_t PeakMemoryBytes() { return ProcKilobytes("/proc/self/status", "VmHWM"); }

std::string MachineText() {
  std::string cpu = ProcField("/proc/cpuinfo", "model name");
  if (cpu.empty()) cpu = "unknown CPU";
  return StrCat(cpu, ", ", Threads(), Threads() == 1 ? " thread, " : " threads, ",
                IsaName(ActiveIsa()), ", ",
                BytesText(static_cast<double>(ProcKilobytes("/proc/meminfo", "MemTotal"))));
}

}  // namespace lapidary
