// The optimizer's memory on disk: one HDF5 file of named arrays, integers and texts, which
// any HDF5 reader opens. The image is built in memory and stored through AtomicFile, so the file is
// whole or absent. The same contents give the same bytes.
#ifndef LAPIDARY_TRAIN_STATE_FILE_H_
#define LAPIDARY_TRAIN_STATE_FILE_H_

#include <cstdint>
#include <map>
#include <string>

#include "autograd/tensor.h"

namespace lapidary {

// Names may hold any character but '/'. Layout: one dataset a name in the root group; tensors are
// little-endian float32, uint16 (f32's upper halves: bf16) or uint8 (codes) in their shape,
// integers scalar int64, texts fixed-length strings.
struct StateFile {
  std::map<std::string, Tensor> tensors;
  std::map<std::string, int64_t> integers;
  std::map<std::string, std::string> texts;
};

// Throws Error if the file cannot be written.
void WriteStateFile(const std::string& path, const StateFile& state);

// Throws Error naming the path if the file is not HDF5, or holds anything of another type, rank or
// absurd size.
StateFile ReadStateFile(const std::string& path);

}  // namespace lapidary

#endif  // LAPIDARY_TRAIN_STATE_FILE_H_
