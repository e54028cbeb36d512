// Where a step's time goes: wall seconds and calls by op name, forward and backward. Off unless
// enabled; costs two clock reads per op when on. Every thread profiles itself: enable and read on
// the one that owns the tape.
#ifndef LAPIDARY_AUTOGRAD_PROFILE_H_
#define LAPIDARY_AUTOGRAD_PROFILE_H_

#include <chrono>
#include <cstdint>
#include <map>
#include <string>

namespace lapidary {

struct ProfileEntry {
  int64_t calls = 0;
  double seconds = 0;
};

void EnableProfile(bool on);
// By name; backward entries have "'" appended ("matmul'"). Seconds are a scope's own: those of
// scopes inside it are counted there ("gemm" is inside every matrix product, the ops of a layer
// inside "checkpoint'").
const std::map<std::string, ProfileEntry>& ProfileEntries();
void ResetProfile();

class ProfileScope {
 public:
  explicit ProfileScope(const char* name, bool backward = false);
  ~ProfileScope();
  ProfileScope(const ProfileScope&) = delete;
  ProfileScope& operator=(const ProfileScope&) = delete;

 private:
  const char* name_;  // null: off
  bool backward_;
  double inner_seconds_ = 0;
  ProfileScope* outer_ = nullptr;
  std::chrono::steady_clock::time_point start_;
};

}  // namespace lapidary

#endif  // LAPIDARY_AUTOGRAD_PROFILE_H_
