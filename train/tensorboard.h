// TensorBoard event files: TFRecord frames around protocol buffers of tensorflow.Event, scalars
// only. One file a process; a run that goes on writes a new file into the same folder, beginning
// with a session start, at which readers forget what older files say of later steps.
//
// A frame, little-endian: u64 length; u32 mask(crc32c(those 8 bytes)); data; u32 mask(crc32c(data))
// with mask(c) = (c >> 15 | c << 17) + 0xa282ead8.
// Source: tensorflow/tensorflow tensorflow/core/util/event.proto, lib/io/record_writer.cc.
#ifndef LAPIDARY_TRAIN_TENSORBOARD_H_
#define LAPIDARY_TRAIN_TENSORBOARD_H_

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lapidary {

// CRC-32C (Castagnoli); "123456789" gives 0xE3069283.
uint32_t Crc32c(std::string_view bytes);
// A frame with `data` in it.
std::string TfRecord(std::string_view data);

using Scalars = std::vector<std::pair<std::string, double>>;  // tag, value

// tensorflow.Event messages.
std::string VersionEvent(double wall_time);
std::string SessionStartEvent(double wall_time, int64_t step);
std::string ScalarsEvent(double wall_time, int64_t step, const Scalars& scalars);

// The numbers of a line of metrics.jsonl under the tags of Hugging Face's Trainer: "loss" is
// "train/loss", "eval_loss" is "eval/loss"; the step and what is no number are left out.
Scalars ScalarsOf(const nlohmann::ordered_json& line);

class EventWriter {
 public:
  // Creates FOLDER/events.out.tfevents.SECONDS.HOST.PID.N. `step`: that an earlier run into the
  // folder came to and this one goes on from; 0: a new run.
  EventWriter(const std::string& folder, int64_t step);
  ~EventWriter();
  EventWriter(const EventWriter&) = delete;
  EventWriter& operator=(const EventWriter&) = delete;

  // Appends a line of metrics.jsonl. Throws Error naming the file if it cannot (disk full).
  void Add(const nlohmann::ordered_json& line);
  const std::string& path() const { return path_; }

 private:
  void Append(const std::string& data);
  std::string path_;
  int fd_ = -1;
};

// Where a run's events go: `logging_dir`, or OUTPUT/runs/DATE_HOST; of a run that goes on the
// newest such folder.
std::string EventFolder(const std::string& logging_dir, const std::string& output_dir,
                        bool resumed);

}  // namespace lapidary

#endif  // LAPIDARY_TRAIN_TENSORBOARD_H_
