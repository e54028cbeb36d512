// What this program calls itself, and the versions of the formats that it writes.
#ifndef LAPIDARY_TRAIN_VERSIONS_H_
#define LAPIDARY_TRAIN_VERSIONS_H_

#include <string>
#include <utility>
#include <vector>

namespace lapidary {

std::string ProgramVersion();  // "0.1.0"
// Format and version, as `lapidary --version` prints them and run cards keep them.
std::vector<std::pair<std::string, std::string>> FormatVersions();
// "GCC 12.2.0, HDF5 1.10.8": what it was built with.
std::string BuildText();

}  // namespace lapidary

#endif  // LAPIDARY_TRAIN_VERSIONS_H_
