#include "train/versions.h"

#include <H5public.h>

#include "autograd/base/error.h"
#include "data/prepared_file.h"

namespace lapidary {

std::string ProgramVersion() { return LAPIDARY_VERSION; }

std::vector<std::pair<std::string, std::string>> FormatVersions() {
  return {
      {"safetensors", "metadata format \"pt\" (MLX folders: \"mlx\")"},
      {"GGUF", "3, general.quantization_version 2, architecture gemma4"},
      {"PEFT adapter_config.json", "0.21.2"},
      {"compressed-tensors", "pack-quantized"},
      {"qat_config.json", "1"},
      {"prepared data (HDF5)", std::to_string(kPreparedVersion)},
      {"trainer_state.json", "the keys of Transformers 5"},
      {"TensorBoard events", "brain.Event:2"},
      {"run_card.json", "1"},
  };
}

std::string BuildText() {
  return StrCat(
#ifdef __clang__
      "Clang ", __clang_major__, ".", __clang_minor__,
#else
      "GCC ", __GNUC__, ".", __GNUC_MINOR__, ".", __GNUC_PATCHLEVEL__,
#endif
      ", HDF5 ", H5_VERS_MAJOR, ".", H5_VERS_MINOR, ".", H5_VERS_RELEASE);
}

}  // namespace lapidary
