// The folder of a run: one run at a time, never mixed with an earlier one, checkpoints that are
// whole or absent.
//   OUT/training_config.json   the configuration that the run uses, written first
//   OUT/metrics.jsonl          one line a logged step or evaluation
//   OUT/checkpoint-N/          complete: renamed into place when everything in it is on disk
//   OUT/tmp-*                  under construction or about to be removed; cleared at the next start
//   OUT/report.html, the final adapter or model
#ifndef LAPIDARY_TRAIN_OUTPUT_FOLDER_H_
#define LAPIDARY_TRAIN_OUTPUT_FOLDER_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "train/config.h"

namespace lapidary {

struct Checkpoint {
  int64_t step = 0;
  std::string folder;
};

// The complete checkpoint with the most steps.
std::optional<Checkpoint> LatestCheckpoint(const std::string& output_dir);

class OutputFolder {
 public:
  // Creates the folder and holds its lock. An earlier run in it: goes on with it if
  // config.resume_from_checkpoint is set, is removed (its own files only) if overwrite_output_dir
  // is, else throws Error. Throws Error too if another process holds the lock, or if the checkpoint
  // to resume from does not exist ("latest" without any checkpoint begins anew).
  explicit OutputFolder(const TrainConfig& config);
  // Releases the lock; a folder that this object created and nothing was written into goes.
  ~OutputFolder();
  OutputFolder(const OutputFolder&) = delete;
  OutputFolder& operator=(const OutputFolder&) = delete;

  const std::string& path() const { return path_; }
  const std::optional<Checkpoint>& resume() const { return resume_; }

  // Calls fill(temporary folder), then makes it checkpoint-<step> in one step, in place of an older
  // one of that name; then removes the oldest beyond `limit` (0: none), never checkpoint-<keep>. If
  // `fill` throws, the checkpoints are as before.
  void AddCheckpoint(int64_t step, const std::function<void(const std::string&)>& fill,
                     int64_t limit, int64_t keep = -1);

  // Puts the adapter or model of checkpoint-<step> at the top of the folder, sharing the bytes.
  // Returns the names, sorted.
  std::vector<std::string> PublishFinal(int64_t step) const;

 private:
  void ClearTemporary() const;
  void Leave() const;
  void Retire(const std::string& folder) const;
  std::string path_;
  int lock_ = -1;
  bool created_ = false;  // by this object: an empty one is taken away again
  std::optional<Checkpoint> resume_;
};

}  // namespace lapidary

#endif  // LAPIDARY_TRAIN_OUTPUT_FOLDER_H_
