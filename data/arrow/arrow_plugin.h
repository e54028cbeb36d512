// What the plug-in for Parquet and Arrow files (data/arrow/arrow_plugin.cc, a shared object of its
// own that is loaded when such a file is opened) offers to data/rows_arrow.cc. Both are built
// together, so C++ types cross the border; errors are texts, not exceptions.
#ifndef LAPIDARY_DATA_ARROW_ARROW_PLUGIN_H_
#define LAPIDARY_DATA_ARROW_ARROW_PLUGIN_H_

#include <nlohmann/json.hpp>
#include <string>

namespace lapidary {

// Changes with the signature of the entry point.
inline constexpr int kArrowPluginVersion = 1;

// Called for every row in order; false stops.
using ArrowRowCallback = bool (*)(void* context, nlohmann::ordered_json&& row);

// Reads all rows of a Parquet file or an Arrow IPC file or stream, in bounded memory. False with a
// reason in `error` (without the path) when it is broken or of a type that has no JSON.
using ReadArrowFunction = bool (*)(const char* path, ArrowRowCallback row, void* context,
                                   std::string* error);
inline constexpr const char* kReadArrowSymbol = "lapidary_read_arrow_1";

}  // namespace lapidary

#endif  // LAPIDARY_DATA_ARROW_ARROW_PLUGIN_H_
