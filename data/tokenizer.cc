#include "data/tokenizer.h"

#include <algorithm>
#include <cstring>
#include <mutex>

#include "autograd/base/error.h"
#include "data/bpe.h"
#include "data/unicode.h"

namespace lapidary {

// Longest match of a set of strings, byte by byte.
class TokenTrie {
 public:
  void Add(std::string_view text, int32_t id) {
    int32_t node = 0;
    for (const char c : text) {
      const int32_t next = Child(node, c);
      if (next >= 0) {
        node = next;
        continue;
      }
      nodes_.push_back({});
      const auto made = static_cast<int32_t>(nodes_.size() - 1);
      nodes_[node].children.push_back({static_cast<uint8_t>(c), made});
      node = made;
    }
    LAPIDARY_CHECK(nodes_[node].id < 0 || nodes_[node].id == id,
                   "tokenizer: an added token must have one id; got '", ValidUtf8(text), "' with ",
                   nodes_[node].id, " and ", id);
    nodes_[node].id = id;
    starts_[static_cast<uint8_t>(text[0])] = true;
    if (first_ < 0) first_ = static_cast<uint8_t>(text[0]);
    if (first_ != static_cast<uint8_t>(text[0])) first_ = 256;
  }

  struct Match {
    size_t begin;
    size_t size;
    int32_t id;
  };
  // The leftmost match from `begin` on, the longest of those there.
  std::optional<Match> Find(std::string_view text, size_t begin) const {
    if (nodes_.size() == 1) return std::nullopt;
    for (size_t i = begin; i < text.size(); ++i) {
      if (first_ < 256) {
        const void* found = std::memchr(text.data() + i, first_, text.size() - i);
        if (found == nullptr) return std::nullopt;
        i = static_cast<const char*>(found) - text.data();
      } else if (!starts_[static_cast<uint8_t>(text[i])]) {
        continue;
      }
      std::optional<Match> best;
      int32_t node = 0;
      for (size_t k = i; k < text.size(); ++k) {
        node = Child(node, text[k]);
        if (node < 0) break;
        if (nodes_[node].id >= 0) best = Match{i, k + 1 - i, nodes_[node].id};
      }
      if (best) return best;
    }
    return std::nullopt;
  }

 private:
  struct Node {
    int32_t id = -1;
    std::vector<std::pair<uint8_t, int32_t>> children;
  };
  int32_t Child(int32_t node, char c) const {
    for (const auto& [byte, next] : nodes_[node].children) {
      if (byte == static_cast<uint8_t>(c)) return next;
    }
    return -1;
  }
  std::vector<Node> nodes_ = std::vector<Node>(1);
  bool starts_[256] = {};
  int first_ = -1;  // the one first byte; 256 if there are several
};

// Encoders' working memory, lent to one call at a time, so that concurrent calls each have a cache.
class EncodeScratchPool {
 public:
  struct Buffers {
    BpeScratch bpe;
    BpeOutput output;
    std::string normalized;
    std::vector<int64_t> origin;  // raw byte of each normalized byte
  };
  std::unique_ptr<Buffers> Take() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (free_.empty()) return std::make_unique<Buffers>();
    std::unique_ptr<Buffers> buffers = std::move(free_.back());
    free_.pop_back();
    return buffers;
  }
  void Give(std::unique_ptr<Buffers> buffers) {
    const std::lock_guard<std::mutex> lock(mutex_);
    free_.push_back(std::move(buffers));
  }

 private:
  std::mutex mutex_;
  std::vector<std::unique_ptr<Buffers>> free_;
};

// One call of Encode.
struct Tokenizer::Job {
  EncodeScratchPool::Buffers& buffers;
  bool parse_added;
  bool offsets;
  Encoding& out;
};

namespace {

// Replaces `from` by `to` in `text`; `origin`, unless null, is kept as the raw byte of each byte.
void ReplaceAll(std::string& text, const std::string& from, const std::string& to,
                std::vector<int64_t>* origin) {
  size_t found = text.find(from);
  if (found == std::string::npos) return;
  std::string out;
  std::vector<int64_t> out_origin;
  out.reserve(text.size() + text.size() / 2);
  size_t begin = 0;
  for (; found != std::string::npos; found = text.find(from, begin)) {
    out.append(text, begin, found - begin);
    out += to;
    if (origin != nullptr) {
      out_origin.insert(out_origin.end(), origin->begin() + begin, origin->begin() + found);
      out_origin.insert(out_origin.end(), to.size(), (*origin)[found]);
    }
    begin = found + from.size();
  }
  out.append(text, begin);
  if (origin != nullptr) {
    out_origin.insert(out_origin.end(), origin->begin() + begin, origin->end());
    origin->swap(out_origin);
  }
  text.swap(out);
}

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return -1;
}

// The byte that a token <0xNN> stands for, else -1.
int ByteValue(const std::string& token) {
  if (token.size() != 6 || token.compare(0, 3, "<0x") != 0 || token[5] != '>') return -1;
  const int high = HexDigit(token[3]), low = HexDigit(token[4]);
  return high < 0 || low < 0 ? -1 : high * 16 + low;
}

// One run of byte tokens as text: itself if it is valid UTF-8, else one U+FFFD a byte.
void FlushBytes(std::string& run, std::string& out) {
  if (IsUtf8(run)) {
    out += run;
  } else {
    for (size_t i = 0; i < run.size(); ++i) out += "\xef\xbf\xbd";
  }
  run.clear();
}

}  // namespace

Tokenizer::Tokenizer(TokenizerSpec spec)
    : tokens_(std::move(spec.tokens)),
      replace_(std::move(spec.replace)),
      decode_replace_(std::move(spec.decode_replace)),
      prefix_(std::move(spec.prefix)),
      suffix_(std::move(spec.suffix)),
      raw_added_(std::make_unique<TokenTrie>()),
      normalized_added_(std::make_unique<TokenTrie>()),
      scratch_(std::make_unique<EncodeScratchPool>()) {
  LAPIDARY_CHECK(tokens_.size() < (size_t{1} << 24) && spec.added.size() < (size_t{1} << 20),
                 "tokenizer: there must be fewer than 2^24 tokens; got ", tokens_.size());
  for (const auto& list : {&replace_, &decode_replace_}) {
    for (const auto& [from, to] : *list) {
      LAPIDARY_CHECK(!from.empty(), "tokenizer: a replaced pattern must not be empty");
    }
  }
  const size_t limit = 2 * (tokens_.size() + spec.added.size()) + 1024;
  for (const AddedToken& added : spec.added) {
    LAPIDARY_CHECK(!added.content.empty(), "tokenizer: an added token must not be empty; got id ",
                   added.id);
    LAPIDARY_CHECK(added.id >= 0 && static_cast<size_t>(added.id) < limit, "tokenizer: '",
                   ValidUtf8(added.content), "' must have an id in [0, ", limit, "); got ",
                   added.id);
    const auto id = static_cast<size_t>(added.id);
    if (id >= tokens_.size()) tokens_.resize(id + 1);
    LAPIDARY_CHECK(tokens_[id].empty() || tokens_[id] == added.content, "tokenizer: id ", id,
                   " must be one token; got '", ValidUtf8(tokens_[id]), "' and '",
                   ValidUtf8(added.content), "'");
    tokens_[id] = added.content;
  }
  special_.assign(tokens_.size(), false);
  for (const AddedToken& added : spec.added) {
    special_[added.id] = added.special;
    if (added.normalized) {
      std::string content = added.content;
      for (const auto& [from, to] : replace_) ReplaceAll(content, from, to, nullptr);
      LAPIDARY_CHECK(!content.empty(), "tokenizer: a normalized added token must not be empty");
      normalized_added_->Add(content, added.id);
    } else {
      raw_added_->Add(added.content, added.id);
    }
  }
  for (const int32_t id : prefix_) CheckId(id);
  for (const int32_t id : suffix_) CheckId(id);
  byte_of_.assign(tokens_.size(), -1);
  for (size_t id = 0; id < tokens_.size(); ++id) {
    byte_of_[id] = static_cast<int16_t>(ByteValue(tokens_[id]));
  }
  index_ = std::make_unique<TokenIndex>(tokens_);
  bpe_ = std::make_unique<BpeModel>(tokens_, *index_, spec.merges, spec.byte_fallback, spec.unk,
                                    spec.fuse_unk);
}

Tokenizer::~Tokenizer() = default;

void Tokenizer::CheckId(int32_t id) const {
  LAPIDARY_CHECK(id >= 0 && id < size(), "tokenizer: an id must be in [0, ", size(), "); got ", id);
}

const std::string& Tokenizer::Token(int32_t id) const {
  CheckId(id);
  return tokens_[id];
}

std::optional<int32_t> Tokenizer::Find(std::string_view token) const {
  const int32_t id = index_->Find(token);
  return id < 0 ? std::nullopt : std::optional<int32_t>(id);
}

int32_t Tokenizer::Require(std::string_view token) const {
  const int32_t id = index_->Find(token);
  LAPIDARY_CHECK(id >= 0, "tokenizer: must have the token '", ValidUtf8(token), "'; got ", size(),
                 " tokens without it; try the tokenizer.json of a Gemma 4 checkpoint");
  return id;
}

bool Tokenizer::IsSpecial(int32_t id) const {
  CheckId(id);
  return special_[id];
}

int Tokenizer::ByteOf(int32_t id) const {
  CheckId(id);
  return byte_of_[id];
}

std::string Tokenizer::TokenText(int32_t id) const {
  CheckId(id);
  std::string text = tokens_[id];
  for (const auto& [from, to] : decode_replace_) ReplaceAll(text, from, to, nullptr);
  return text;
}

std::vector<int32_t> Tokenizer::Encode(std::string_view text, const EncodeOptions& options) const {
  Encoding out;
  EncodeInto(text, options, out, false);
  return std::move(out.ids);
}

Encoding Tokenizer::EncodeWithOffsets(std::string_view text, const EncodeOptions& options) const {
  Encoding out;
  EncodeInto(text, options, out, true);
  return out;
}

void Tokenizer::EncodeInto(std::string_view text, const EncodeOptions& options, Encoding& out,
                           bool offsets) const {
  LAPIDARY_CHECK(text.size() < (size_t{1} << 29),
                 "tokenizer: a text must be shorter than 512 MiB; got ", text.size(), " bytes");
  std::unique_ptr<EncodeScratchPool::Buffers> buffers = scratch_->Take();
  Job job{*buffers, options.parse_added, offsets, out};
  const auto add = [&](int32_t id, size_t begin) {
    out.ids.push_back(id);
    if (offsets) out.begins.push_back(static_cast<int64_t>(begin));
  };
  if (options.add_special_tokens) {
    for (const int32_t id : prefix_) add(id, 0);
  }
  size_t begin = 0;
  while (options.parse_added) {
    const auto match = raw_added_->Find(text, begin);
    if (!match) break;
    EncodeSegment(job, text.substr(begin, match->begin - begin), static_cast<int64_t>(begin));
    add(match->id, match->begin);
    begin = match->begin + match->size;
  }
  EncodeSegment(job, text.substr(begin), static_cast<int64_t>(begin));
  if (options.add_special_tokens) {
    for (const int32_t id : suffix_) add(id, text.size());
  }
  scratch_->Give(std::move(buffers));
}

// Text between added tokens; `base` is where it begins.
void Tokenizer::EncodeSegment(Job& job, std::string_view raw, int64_t base) const {
  if (raw.empty()) return;
  std::string& text = job.buffers.normalized;
  std::vector<int64_t>& origin = job.buffers.origin;
  text.assign(raw);
  if (job.offsets) {
    origin.resize(raw.size());
    for (size_t i = 0; i < raw.size(); ++i) origin[i] = base + static_cast<int64_t>(i);
  }
  for (const auto& [from, to] : replace_) {
    ReplaceAll(text, from, to, job.offsets ? &origin : nullptr);
  }
  BpeOutput& output = job.buffers.output;
  const auto words = [&](size_t begin, size_t end) {
    output.ids.clear();
    output.bytes.clear();
    bpe_->Encode(std::string_view(text).substr(begin, end - begin), job.buffers.bpe, output);
    job.out.ids.insert(job.out.ids.end(), output.ids.begin(), output.ids.end());
    if (!job.offsets) return;
    for (const int32_t bytes : output.bytes) {
      job.out.begins.push_back(origin[begin]);
      begin += bytes;
    }
  };
  size_t begin = 0;
  while (job.parse_added) {
    const auto match = normalized_added_->Find(text, begin);
    if (!match) break;
    words(begin, match->begin);
    job.out.ids.push_back(match->id);
    if (job.offsets) job.out.begins.push_back(origin[match->begin]);
    begin = match->begin + match->size;
  }
  words(begin, text.size());
}

std::string Tokenizer::Decode(std::span<const int32_t> ids, bool skip_special) const {
  std::string out, run;
  for (const int32_t id : ids) {
    CheckId(id);
    if ((skip_special && special_[id]) || tokens_[id].empty()) continue;
    if (byte_of_[id] >= 0) {
      run += static_cast<char>(byte_of_[id]);
      continue;
    }
    if (!run.empty()) FlushBytes(run, out);
    out += TokenText(id);
  }
  if (!run.empty()) FlushBytes(run, out);
  return out;
}

StreamDecoder::StreamDecoder(const Tokenizer& tokenizer, bool skip_special)
    : tokenizer_(tokenizer), skip_special_(skip_special) {}

// Gives out the complete characters at the front of the byte run, and U+FFFD for bytes that cannot
// begin one; with `all` also for an unfinished character at its end.
std::string StreamDecoder::TakeBytes(bool all) {
  std::string out;
  size_t i = 0;
  while (i < bytes_.size()) {
    const CodePoint c = DecodeUtf8(bytes_.data() + i, bytes_.size() - i);
    if (c.value >= kInvalidByte && !all) {
      const auto lead = static_cast<uint8_t>(bytes_[i]);
      const size_t need = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : lead >= 0xc2 ? 2 : 1;
      if (lead <= 0xf4 && bytes_.size() - i < need) break;
    }
    AppendUtf8(out, c.value >= kInvalidByte ? 0xfffd : c.value);
    i += c.length;
  }
  bytes_.erase(0, i);
  return out;
}

std::string StreamDecoder::Push(int32_t id) {
  if ((skip_special_ && tokenizer_.IsSpecial(id)) || tokenizer_.Token(id).empty()) return "";
  const int byte = tokenizer_.ByteOf(id);
  if (byte >= 0) {
    bytes_ += static_cast<char>(byte);
    return TakeBytes(false);
  }
  return TakeBytes(true) + tokenizer_.TokenText(id);
}

std::string StreamDecoder::Finish() { return TakeBytes(true); }

}  // namespace lapidary
