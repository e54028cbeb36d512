// A tokenizer made on the spot: 256 byte tokens, the printable ASCII characters, a few merges, and
// Gemma's added tokens.
#ifndef LAPIDARY_TESTS_DATA_TINY_TOKENIZER_H_
#define LAPIDARY_TESTS_DATA_TINY_TOKENIZER_H_

#include <cstdio>
#include <memory>
#include <string>

#include "data/tokenizer.h"

namespace lapidary {

inline TokenizerSpec TinyTokenizerSpec() {
  TokenizerSpec spec;
  for (const char* special : {"<pad>",
                              "<eos>",
                              "<bos>",
                              "<unk>",
                              "<|tool>",
                              "<tool|>",
                              "<|tool_call>",
                              "<tool_call|>",
                              "<|tool_response>",
                              "<tool_response|>",
                              "<|\"|>",
                              "<|think|>",
                              "<|channel>",
                              "<channel|>",
                              "<|turn>",
                              "<turn|>",
                              "<|image>",
                              "<|audio>",
                              "<|image|>",
                              "<|audio|>",
                              "<image|>",
                              "<audio|>",
                              "<|video|>"}) {
    spec.added.push_back({static_cast<int32_t>(spec.tokens.size()), special, true, false});
    spec.tokens.push_back(special);
  }
  for (int b = 0; b < 256; ++b) {
    char name[8];
    std::snprintf(name, sizeof name, "<0x%02X>", b);
    spec.tokens.push_back(name);
  }
  spec.tokens.push_back("\xe2\x96\x81");
  spec.tokens.push_back("\n");
  for (char c = '!'; c <= '~'; ++c) spec.tokens.push_back(std::string(1, c));
  const std::pair<const char*, const char*> merges[] = {
      {"t", "h"}, {"th", "e"}, {"\xe2\x96\x81", "the"}, {"e", "r"}, {"l", "l"}, {"\n", "\n"}};
  for (const auto& [left, right] : merges) {
    spec.merges.emplace_back(left, right);
    spec.tokens.push_back(std::string(left) + right);
  }
  return spec;
}

inline std::unique_ptr<Tokenizer> MakeTinyTokenizer() {
  return std::make_unique<Tokenizer>(TinyTokenizerSpec());
}

}  // namespace lapidary

#endif  // LAPIDARY_TESTS_DATA_TINY_TOKENIZER_H_
