// Parts that the record formats share (readers.h): media columns beside the text, and messages in
// the shapes people write them. For .cc files of data/.
#ifndef LAPIDARY_DATA_MESSAGE_READER_H_
#define LAPIDARY_DATA_MESSAGE_READER_H_

#include <array>
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "data/readers.h"
#include "data/record.h"

namespace lapidary {

inline constexpr std::array<MediaKind, 3> kMediaKinds = {MediaKind::kImage, MediaKind::kAudio,
                                                         MediaKind::kVideo};

// Whether a member of `row` is a string, or a list.
bool HasString(const nlohmann::ordered_json& row, const char* key);
bool HasList(const nlohmann::ordered_json& row, const char* key);

// An empty record of this kind that stands at `place`; tools are read for conversations.
Record NewRecord(RecordKind kind, const nlohmann::ordered_json& row, const RecordPlace& place);

// Media of the columns beside the text (`images` or `image`, ...), handed out in order.
class MediaColumns {
 public:
  // Throws Error for media that cannot be named and for a kind with two columns.
  MediaColumns(const nlohmann::ordered_json& row, const RecordPlace& place);

  // Whether the row has a column of this kind, empty or null ones included.
  bool present(MediaKind kind) const { return present_[static_cast<size_t>(kind)]; }
  int64_t left(MediaKind kind) const {
    const auto k = static_cast<size_t>(kind);
    return static_cast<int64_t>(refs_[k].size()) - used_[k];
  }
  int64_t used(MediaKind kind) const { return used_[static_cast<size_t>(kind)]; }
  MediaRef Take(MediaKind kind) {
    const auto k = static_cast<size_t>(kind);
    return std::move(refs_[k][used_[k]++]);
  }
  // The rest, for the marks in the text.
  void TakeAll(Record& record) {
    for (const MediaKind kind : kMediaKinds) {
      while (left(kind) > 0) record.media.push_back(Take(kind));
    }
  }

 private:
  std::array<std::vector<MediaRef>, 3> refs_;
  std::array<int64_t, 3> used_ = {};
  std::array<bool, 3> present_ = {};
};

// Reads messages into a record: media become indices, tool arguments objects, `weight` and
// `train` the record's weights.
class MessageReader {
 public:
  // All three must outlive this.
  MessageReader(Record& record, MediaColumns& columns, const RecordPlace& place)
      : record_(record), columns_(columns), place_(place) {}

  // Appends messages to record.messages. Throws Error "`place.where`: ...".
  void Read(nlohmann::ordered_json messages);
  // The same for the other side of a preference pair: record.rejected.
  void ReadRejected(nlohmann::ordered_json messages);
  // Columns that no part has claimed go in front of the first user's text (sounds behind it),
  // unless the text has marks.
  void PlaceRest();
  // `text` with its <image>, <audio> and <video> tags as parts that take the next file of their
  // column; the text itself if it has none. A kind without a column keeps its tags as text.
  nlohmann::ordered_json TaggedContent(const std::string& text);

 private:
  using Json = nlohmann::ordered_json;
  void Append(Json messages, Json& to, bool weigh);
  void CountMarks(const std::string& text);
  Json Placed(MediaRef ref);
  void Parts(Json& parts, const std::string& where);
  MediaRef Medium(const Json& part, const std::string& type, MediaKind kind,
                  const std::string& where);
  void Arguments(Json& calls, const std::string& where);
  void Weight(const Json& message, const std::string& where);
  void Insert(MediaKind kind);

  Record& record_;
  MediaColumns& columns_;
  const RecordPlace& place_;
  std::array<int64_t, 3> marks_ = {};  // written out in the text
};

}  // namespace lapidary

#endif  // LAPIDARY_DATA_MESSAGE_READER_H_
