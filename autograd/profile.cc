#include "autograd/profile.h"

namespace lapidary {
namespace {

thread_local bool enabled = false;
thread_local ProfileScope* innermost = nullptr;
std::map<std::string, ProfileEntry>& Entries() {
  thread_local std::map<std::string, ProfileEntry> entries;
  return entries;
}

}  // namespace

void EnableProfile(bool on) { enabled = on; }
const std::map<std::string, ProfileEntry>& ProfileEntries() { return Entries(); }
void ResetProfile() { Entries().clear(); }

ProfileScope::ProfileScope(const char* name, bool backward)
    : name_(enabled ? name : nullptr), backward_(backward) {
  if (!name_) return;
  outer_ = innermost;
  innermost = this;
  start_ = std::chrono::steady_clock::now();
}

ProfileScope::~ProfileScope() {
  if (!name_) return;
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  innermost = outer_;
  if (outer_) outer_->inner_seconds_ += seconds;
  ProfileEntry& entry = Entries()[backward_ ? std::string(name_) + "'" : std::string(name_)];
  ++entry.calls;
  entry.seconds += seconds - inner_seconds_;
}

}  // namespace lapidary
