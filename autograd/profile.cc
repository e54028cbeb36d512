#include "autograd/profile.h"

namespace lapidary {
namespace {

bool enabled = false;
std::map<std::string, ProfileEntry>& Entries() {
  static std::map<std::string, ProfileEntry> entries;
  return entries;
}

}  // namespace

void EnableProfile(bool on) { enabled = on; }
const std::map<std::string, ProfileEntry>& ProfileEntries() { return Entries(); }
void ResetProfile() { Entries().clear(); }

ProfileScope::ProfileScope(const char* name, bool backward)
    : name_(enabled ? name : nullptr), backward_(backward) {
  if (name_) start_ = std::chrono::steady_clock::now();
}

ProfileScope::~ProfileScope() {
  if (!name_) return;
  ProfileEntry& entry = Entries()[backward_ ? std::string(name_) + "'" : std::string(name_)];
  ++entry.calls;
  entry.seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
}

}  // namespace lapidary
