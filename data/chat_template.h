// The chat template of Gemma 4, natively: conversations to text, with the class of every byte and
// whether a fine-tune learns to write it. Follows the canonical Jinja file (SHA-256
// kCanonicalTemplateSha256) and what Transformers does before it, byte for byte (gemma4-12b.md 8).
// Functions are pure and thread-safe.
#ifndef LAPIDARY_DATA_CHAT_TEMPLATE_H_
#define LAPIDARY_DATA_CHAT_TEMPLATE_H_

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace lapidary {

// At inference without thinking, the model's turn begins with an empty thought, which the template
// does not put in front of turns that are already there.
enum class EmptyThought {
  kOmit,    // render as the template does
  kInsert,  // put it, untrained, in front of model turns without a thought: training equals
            // inference
};

// Which thoughts of the model's turns are rendered: those in reasoning members and, but for
// kTemplate, those inside content: <|channel>thought\n...\n<channel|> anywhere, <think>...</think>
// in front.
enum class Thoughts {
  kTemplate,  // as the template does: of reasoning those after the last user message; none of
              // content
  kKeep,      // all. Those in front of content come before the calls, others where they stand; one
              // that is not closed is left out
  kDrop,      // none; `empty_thought` says whether an empty one stands there
  kEmpty,     // an untrained empty thought in the place of every one
};

struct ChatOptions {
  bool add_generation_prompt = false;
  bool enable_thinking = false;
  bool preserve_thinking = false;  // keep thoughts of earlier turns that call tools
  EmptyThought empty_thought = EmptyThought::kOmit;
  Thoughts thoughts = Thoughts::kTemplate;
};

// What emitted a stretch of text. Trained, in model turns only: kContent, kThought, kToolCall,
// kToolResponseOpen, kTurnEnd.
enum class ChatClass {
  kBos,               // <bos>
  kHeader,            // <|turn>ROLE\n
  kSystem,            // <|think|>\n and the text of the system turn
  kToolDeclaration,   // <|tool>...<tool|>
  kContent,           // text of a message
  kThought,           // <|channel>thought\n...\n<channel|>
  kToolCall,          // <|tool_call>...<tool_call|>
  kToolResponseOpen,  // the first <|tool_response> after the calls of a message: it ends generation
  kToolResponse,      // the rest of every response
  kMedia,             // <|image|>, <|audio|>, <|video|>
  kTurnEnd,           // <turn|>
  kNewline,           // the line feed after it
  kGenerationPrompt,  // what add_generation_prompt appends, and inserted empty thoughts
};
// "bos", "header", "system", "tool_decl", "content", ...
const char* ChatClassName(ChatClass c);

// Bytes [begin, end) of the text. Spans follow each other without gaps and cover it.
struct ChatSpan {
  int64_t begin = 0;
  int64_t end = 0;
  ChatClass kind = ChatClass::kContent;
  bool trained = false;
  int64_t message = -1;  // index into the messages given; -1: of no message
};

// Where a content part became a media mark.
struct ChatMedia {
  int64_t offset = 0;   // byte of the text where the mark begins
  int64_t message = 0;  // index into the messages given
  int64_t part = 0;     // index into that message's content
};

struct RenderedChat {
  std::string text;
  std::vector<ChatSpan> spans;
  std::vector<ChatMedia> media;  // in order of the text
  int64_t dropped_thoughts =
      0;  // thoughts of earlier turns, or inside content, that the template leaves out
};

// `messages`: a list of objects with role, content (string or parts), reasoning, tool_calls, ...;
// `tools` may be null. Throws Error where the template (or Transformers before it) fails; the
// message begins "messages[I]: ". Two things that Jinja renders as if nothing were wrong are errors
// here: tool_responses that are no list, and a tool whose function is no object.
RenderedChat RenderChat(const nlohmann::ordered_json& messages, const nlohmann::ordered_json* tools,
                        const ChatOptions& options);

// SHA-256 of the file that RenderChat follows.
extern const char kCanonicalTemplateSha256[];

// A warning if `chat_template` (the bytes of chat_template.jinja) is not the canonical file, naming
// the revision where it is known; nothing if it is.
std::optional<std::string> CheckTemplateRevision(std::string_view chat_template);

}  // namespace lapidary

#endif  // LAPIDARY_DATA_CHAT_TEMPLATE_H_
