// Record formats of other tools: rows of the table in readers.cc. For .cc files of data/.
#ifndef LAPIDARY_DATA_READERS_MORE_H_
#define LAPIDARY_DATA_READERS_MORE_H_

#include <nlohmann/json_fwd.hpp>

#include "data/readers.h"

namespace lapidary {

// TRL: {prompt, chosen, rejected} as strings or lists of messages; without a prompt it is what
// both sides share at their beginning.
bool FitsPreference(const nlohmann::ordered_json& row);
Record ReadPreference(nlohmann::ordered_json row, const RecordPlace& place);

// ShareGPT, LLaMA-Factory and LLaVA: `conversations` of {from, value}; <image>, <audio> and <video>
// tags take the files of the columns in order; function_call and observation turns; top-level
// `system` and `tools`.
bool FitsShareGpt(const nlohmann::ordered_json& row);
Record ReadShareGpt(nlohmann::ordered_json row, const RecordPlace& place);

// Stanford Alpaca: instruction, input ("" or absent: none), output, system, history of pairs.
bool FitsAlpaca(const nlohmann::ordered_json& row);
Record ReadAlpaca(nlohmann::ordered_json row, const RecordPlace& place);

// Pairs of a medium and its text (`text`, `transcription`, `transcript`, `sentence`, or `caption`):
// place.prompt asks, the text is the answer. A text with the medium's mark is raw text instead.
bool FitsAudioText(const nlohmann::ordered_json& row);
Record ReadAudioText(nlohmann::ordered_json row, const RecordPlace& place);
bool FitsImageText(const nlohmann::ordered_json& row);
Record ReadImageText(nlohmann::ordered_json row, const RecordPlace& place);

}  // namespace lapidary

#endif  // LAPIDARY_DATA_READERS_MORE_H_
