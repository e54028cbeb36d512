// The tokenizer of Gemma 4: byte-pair merges over whole paragraphs with byte fallback, and added
// tokens cut out first (gemma4-12b.md 7). Exact against the Hugging Face library for the pipeline
// described here.
//   text -> cut at added tokens (leftmost, longest) -> replace (" " -> U+2581) -> BPE over code
//   points -> ids
// The text between two added tokens is one word for BPE. It is cut where two neighbouring
// characters occur together in no token: no merge can cross such a place, so the pieces give the
// same ids and can be cached. Everything is const and thread-safe.
#ifndef LAPIDARY_DATA_TOKENIZER_H_
#define LAPIDARY_DATA_TOKENIZER_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lapidary {

// A string that is cut out of the text before anything else.
struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool special = true;      // left out by Decode(ids, skip_special)
  bool normalized = false;  // looked for after the replacements instead of before
};

// What a tokenizer is made of. ParseTokenizerJson fills it from tokenizer.json; from a GGUF fill
// `tokens`, `merges`, `added`, `unk` and `prefix`: the defaults of the rest are Gemma's.
struct TokenizerSpec {
  std::vector<std::string> tokens;  // by id; an empty string is an id without a token
  std::vector<std::pair<std::string, std::string>> merges;  // left and right part, best rank first
  std::vector<AddedToken> added;
  std::vector<std::pair<std::string, std::string>> replace = {{" ", "\xe2\x96\x81"}};  // encoding
  std::vector<std::pair<std::string, std::string>> decode_replace = {{"\xe2\x96\x81", " "}};
  bool byte_fallback = true;  // an unknown character becomes its bytes <0x00> ... <0xFF>
  std::optional<std::string> unk = "<unk>";  // used where a byte token is missing as well
  bool fuse_unk = true;                      // a run of unknown characters is one <unk>
  std::vector<int32_t> prefix;  // ids that Encode puts around the text if add_special_tokens
  std::vector<int32_t> suffix;
};

// Reads tokenizer.json. `where` goes into messages. Throws Error for broken files and for stages
// that are not the ones above (another model than BPE, other normalizers, pre-tokenizers, decoders,
// post-processors; lstrip and the like).
TokenizerSpec ParseTokenizerJson(std::string_view bytes, const std::string& where);

struct EncodeOptions {
  bool add_special_tokens = false;  // put spec.prefix and spec.suffix around the text
  bool parse_added = true;          // false: the text of added tokens is text like any other
};

// Tokens and the byte of the text at which each begins. The bytes of one character that became byte
// tokens count singly.
struct Encoding {
  std::vector<int32_t> ids;
  std::vector<int64_t> begins;
};

class BpeModel;
class TokenIndex;
class TokenTrie;
class EncodeScratchPool;

class Tokenizer {
 public:
  // Throws Error if the parts contradict each other (a merge of unknown tokens, an added token with
  // two ids, ...).
  explicit Tokenizer(TokenizerSpec spec);
  ~Tokenizer();
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  // `text` should be UTF-8; a byte that is not becomes its byte token (or <unk>).
  std::vector<int32_t> Encode(std::string_view text, const EncodeOptions& options = {}) const;
  Encoding EncodeWithOffsets(std::string_view text, const EncodeOptions& options = {}) const;

  // A maximal run of byte tokens that is not valid UTF-8 as a whole gives one U+FFFD a byte, as in
  // Hugging Face. Throws Error for an id outside [0, size()); ids without a token give nothing.
  std::string Decode(std::span<const int32_t> ids, bool skip_special = false) const;

  // Number of ids: the largest one plus 1.
  int32_t size() const { return static_cast<int32_t>(tokens_.size()); }
  // The token as it is spelled in the file (U+2581 for a space, <0x0A> for a byte).
  const std::string& Token(int32_t id) const;
  std::optional<int32_t> Find(std::string_view token) const;
  // Find, or Error "tokenizer: must have '<bos>'; ...".
  int32_t Require(std::string_view token) const;
  // Whether Decode leaves the id out when special tokens are skipped.
  bool IsSpecial(int32_t id) const;
  // The text that one token stands for when decoded, byte tokens aside.
  std::string TokenText(int32_t id) const;
  // The byte of a byte token, else -1.
  int ByteOf(int32_t id) const;
  // What add_special_tokens puts in front.
  const std::vector<int32_t>& prefix() const { return prefix_; }

 private:
  struct Job;
  void CheckId(int32_t id) const;
  void EncodeInto(std::string_view text, const EncodeOptions& options, Encoding& out,
                  bool offsets) const;
  void EncodeSegment(Job& job, std::string_view raw, int64_t base) const;

  std::vector<std::string> tokens_;
  std::vector<bool> special_;
  std::vector<int16_t> byte_of_;  // byte value of <0xNN>, else -1
  std::vector<std::pair<std::string, std::string>> replace_;
  std::vector<std::pair<std::string, std::string>> decode_replace_;
  std::vector<int32_t> prefix_;
  std::vector<int32_t> suffix_;
  std::unique_ptr<TokenIndex> index_;
  std::unique_ptr<BpeModel> bpe_;
  std::unique_ptr<TokenTrie> raw_added_;
  std::unique_ptr<TokenTrie> normalized_added_;
  std::unique_ptr<EncodeScratchPool> scratch_;
};

// Decodes ids one by one and gives text as soon as it is complete. The pieces together equal Decode
// of all ids, except that a broken run of byte tokens keeps its complete characters.
class StreamDecoder {
 public:
  // `tokenizer` must outlive this.
  explicit StreamDecoder(const Tokenizer& tokenizer, bool skip_special = false);
  // New text, possibly none.
  std::string Push(int32_t id);
  // What is still held back.
  std::string Finish();

 private:
  std::string TakeBytes(bool all);
  const Tokenizer& tokenizer_;
  bool skip_special_;
  std::string bytes_;  // of byte tokens, not yet given out
};

}  // namespace lapidary

#endif  // LAPIDARY_DATA_TOKENIZER_H_
