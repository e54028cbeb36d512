#include "train/data_tally.h"

#include <algorithm>
#include <nlohmann/json.hpp>

namespace lapidary {
namespace {

// "file:line" without the line.
std::string FileOf(const std::string& where) {
  const size_t colon = where.rfind(':');
  const bool line = colon != std::string::npos && colon + 1 < where.size() &&
                    where.find_first_not_of("0123456789", colon + 1) == std::string::npos;
  return line ? where.substr(0, colon) : where;
}

// The next of 1, 2, ..., 8, 9, 10, ..., 16, 18, 20, ..., 32, 36, ...
int64_t ClassOf(int64_t length) {
  int64_t step = 1;
  while (length > 16 * step) step *= 2;
  return (length + step - 1) / step * step;
}

}  // namespace

void DataTally::Add(const std::vector<Batch>& batches) {
  for (const Batch& batch : batches) {
    tokens_ += batch.size();
    trained_ += batch.Targets();
    vision_ += static_cast<int64_t>(batch.vision.places.size());
    sound_ += static_cast<int64_t>(batch.audio.places.size());
    for (size_t i = 0; i < batch.documents.size(); ++i) {
      const BatchDocument& document = batch.documents[i];
      const int64_t end =
          i + 1 < batch.documents.size() ? batch.documents[i + 1].begin : batch.size();
      const int64_t length = end - document.begin;
      ++samples_;
      images_ += document.images;
      sounds_ += document.sounds;
      videos_ += document.videos;
      longest_ = std::max(longest_, length);
      ++lengths_[ClassOf(length)];
      if (!document.where.empty()) ++files_[FileOf(document.where)];
    }
  }
}

nlohmann::ordered_json DataTally::ToJson() const {
  nlohmann::ordered_json json = {{"samples", samples_},
                                 {"tokens", tokens_},
                                 {"trained_tokens", trained_},
                                 {"vision_tokens", vision_},
                                 {"sound_tokens", sound_},
                                 {"images", images_},
                                 {"sounds", sounds_},
                                 {"videos", videos_},
                                 {"longest", longest_},
                                 {"files", nlohmann::ordered_json::object()},
                                 {"lengths", nlohmann::ordered_json::array()}};
  for (const auto& [file, count] : files_) json["files"][file] = count;
  for (const auto& [length, count] : lengths_) json["lengths"].push_back({length, count});
  return json;
}

}  // namespace lapidary
