// IFEval (Zhou et al. 2023, arXiv:2311.07911): does an answer follow instructions that a program
// can check? A row has `instruction_id_list` and `kwargs` as google/IFEval has them; the checks are
// those of lm-evaluation-harness (tests hold them to its verdicts on stored answers), with two
// differences that its own libraries force: languages are told by CLD2 instead of langdetect (which
// draws random numbers), and sentences by Punkt's rules with a list of common abbreviations instead
// of NLTK's trained English model.
#ifndef LAPIDARY_TRAIN_EVALUATION_IFEVAL_H_
#define LAPIDARY_TRAIN_EVALUATION_IFEVAL_H_

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace lapidary {

// "prompt_strict", "instruction_strict", "prompt_loose", "instruction_loose".
std::vector<std::string> IfevalMetrics();

// The sums of one record, a row for each metric. Loose: the best of eight readings of the answer
// (without its first or last line, without asterisks). Throws Error beginning with `where` for an
// unknown instruction or missing arguments.
std::vector<std::vector<double>> IfevalRows(const nlohmann::ordered_json& row,
                                            const std::string& answer, const std::string& where);

// Whether one instruction is followed.
bool FollowsInstruction(const std::string& id, const nlohmann::ordered_json& arguments,
                        const std::string& prompt, const std::string& answer,
                        const std::string& where);

// Their names, for people.
std::string IfevalInstructions(const nlohmann::ordered_json& row);

// Sentences as Punkt counts them, and NLTK's words (its Treebank rules).
int64_t CountSentences(const std::string& text);
std::vector<std::string> TreebankWords(const std::string& text);
// ISO 639-1 code, "" if it cannot be told.
std::string LanguageOf(const std::string& text);

}  // namespace lapidary

#endif  // LAPIDARY_TRAIN_EVALUATION_IFEVAL_H_
