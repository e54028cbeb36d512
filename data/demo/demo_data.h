// A small multimodal data set, drawn and synthesized on the spot, that a tiny model learns in
// minutes: it carries the quick start and the tests of training. Same options, same bytes.
//
// Two tasks on the same media. "pretrain" asks for plain captions; "catalog" asks for something new
// about the same things, which only fine-tuning can teach (the letters are arbitrary):
//   image  a shape or digit in one of four colors   -> "red circle", "blue 7"    -> its catalog
//   letter, "K" audio  a tone of one of four pitches            -> "low tone"                -> its
//   catalog letter, "J"
//          a word of two vowels, synthesized        -> "a i"                     -> capitals, "A I"
//   video  a shape moving left, right, up or down   -> "left"                    -> compass letter,
//   "W" text   "Set the lamp to 7."                     -> a call of the tool `set`  -> "Find the
//   red circle.": a call of `find` with
//                                                                                   the catalog
//                                                                                   letter
// Files in the folder: TASK.train.jsonl and TASK.eval.jsonl (`messages` records with the extra
// fields modality, task, answer), images/, audio/, video/, and sheet.png, an overview. Training and
// held-out examples share no medium and no sentence.
#ifndef LAPIDARY_DATA_DEMO_DEMO_DATA_H_
#define LAPIDARY_DATA_DEMO_DEMO_DATA_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace lapidary {

struct DemoDataOptions {
  uint64_t seed = 1;
  int64_t size = 400;         // training examples of each modality and task, 8 to 100,000
  int64_t held_out = 64;      // held-out examples of each modality and task, 8 to 10,000
  int64_t image_pixels = 48;  // edge of pictures and frames: a multiple of the model's patch avoids
                              // the resize, 16 to 1024
  int64_t video_frames = 8;   // of a clip, 2 to 64; at 4 per second
  int64_t audio_samples = 5120;  // of a sound at 16 kHz; a multiple of the model's frame avoids
                                 // padding, 1280 to 160,000
  double noise = 0.02;           // of pixels and samples, as a share of the full scale, 0 to 0.5
};

struct DemoDataSummary {
  std::vector<std::pair<std::string, int64_t>> files;  // JSONL file and its number of examples
  int64_t media = 0;                                   // files in images/, audio/, video/
  int64_t bytes = 0;
};

// Throws Error if an option is out of range, or if `folder` has something in it and `overwrite` is
// false.
DemoDataSummary WriteDemoData(const std::string& folder, const DemoDataOptions& options,
                              bool overwrite = false);

}  // namespace lapidary

#endif  // LAPIDARY_DATA_DEMO_DEMO_DATA_H_
