// Which base an adapter was trained on, told from the weights themselves, so that moving, renaming
// or re-sharding a checkpoint changes nothing and another revision of it is noticed.
#ifndef LAPIDARY_MODEL_BASE_FINGERPRINT_H_
#define LAPIDARY_MODEL_BASE_FINGERPRINT_H_

#include <optional>
#include <string>

#include "model/load.h"
#include "quant/adapter.h"

namespace lapidary {

// The first 32 hexadecimal digits of the SHA-256 over every tensor of the architecture in the order
// of canonical names: name, type, shape, and 4,096 bytes each of its beginning, middle and end (all
// of a tensor up to 12,288). So it is cheap: 8 MB are read of the 12B. Another numeric type or a
// quantized file of the same model is another base. A change between the samples is not seen.
std::string BaseFingerprint(const CheckpointFiles& files);

// "FOLDER: was trained on another base than PATH (...)", or nothing if the adapter records no base
// or this one. `folder`: the adapter's; `path`: the base that `files` were opened from.
std::optional<std::string> OtherBaseWarning(const AdapterConfig& adapter, const std::string& folder,
                                            const CheckpointFiles& files, const std::string& path);

}  // namespace lapidary

#endif  // LAPIDARY_MODEL_BASE_FINGERPRINT_H_
