// `lapidary generate`: answers to a prompt or a conversation, with pictures, sounds and clips, as
// they are produced.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "autograd/base/error.h"
#include "autograd/base/file.h"
#include "data/dataset.h"
#include "data/readers.h"
#include "recipes/commands.h"
#include "recipes/generate_batch.h"
#include "recipes/model_args.h"
#include "recipes/serve/engine.h"

namespace lapidary {
namespace {

using Json = nlohmann::ordered_json;

struct GenerateArgs {
  BaseFormat base;
  std::string model, adapter, prompt, messages, record, system, json_schema;
  std::vector<std::string> images, audios, videos;
  int64_t max_new_tokens = 256;
  EngineArgs engine;
  BatchArgs batch;
  SamplingArgs sampling;
  bool think = false, raw = false, json = false, json_output = false, special = false;
};

// The conversation that the arguments spell, in the shape of a data set's line. Google's advice:
// pictures before the text, sound after it.
Json Conversation(const GenerateArgs& args) {
  if (!args.messages.empty()) {
    const std::string text =
        args.messages == "-" ? ReadFile("/dev/stdin") : ReadFile(args.messages, 1 << 28);
    Json json = Json::parse(text, nullptr, false);
    LAPIDARY_CHECK(!json.is_discarded(), args.messages, ": must be JSON; got something else");
    if (json.is_array()) json = Json{{"messages", std::move(json)}};
    return json;
  }
  Json parts = Json::array();
  for (const std::string& path : args.images) parts.push_back({{"type", "image"}, {"image", path}});
  for (const std::string& path : args.videos) parts.push_back({{"type", "video"}, {"video", path}});
  parts.push_back({{"type", "text"}, {"text", args.prompt}});
  for (const std::string& path : args.audios) parts.push_back({{"type", "audio"}, {"audio", path}});
  Json messages = Json::array();
  if (!args.system.empty()) messages.push_back({{"role", "system"}, {"content", args.system}});
  messages.push_back({{"role", "user"}, {"content", std::move(parts)}});
  return {{"messages", std::move(messages)}};
}

// Raw text: media stand where their marks do.
Json RawText(const GenerateArgs& args) {
  Json json = {{"text", args.prompt}};
  if (!args.images.empty()) json["images"] = args.images;
  if (!args.audios.empty()) json["audios"] = args.audios;
  if (!args.videos.empty()) json["videos"] = args.videos;
  return json;
}

// The question of a data set's record: its conversation without the answer at the end.
Record QuestionOf(const std::string& place) {
  const size_t colon = place.rfind(':');
  LAPIDARY_CHECK(colon != std::string::npos, "--record: must be FILE:LINE; got ", place);
  const std::shared_ptr<const Dataset> dataset = Dataset::Open({place.substr(0, colon)});
  for (int64_t i = 0; i < dataset->size(); ++i) {
    if (dataset->Where(i) != place) continue;
    return WithoutAnswer(dataset->Read(i), place);
  }
  throw Error(StrCat(place, ": must be a line with a record; got none"));
}

Record ReadRecord(const GenerateArgs& args) {
  if (!args.record.empty()) return QuestionOf(args.record);
  const Json row = args.raw ? RawText(args) : Conversation(args);
  const RecordPlace place{args.messages.empty() ? "prompt" : args.messages, "."};
  for (const RecordFormat& format : RecordFormats()) {
    if (format.fits(row)) return format.read(row, place);
  }
  throw Error(StrCat(place.where,
                     ": must be a list of messages or an object with one; got something else"));
}

GenerateOptions Options(const GenerateArgs& args, const GenerateOptions& defaults) {
  GenerateOptions o = args.sampling.Over(defaults);
  o.max_new_tokens = args.max_new_tokens;
  return o;
}

std::optional<JsonGrammar> Grammar(const GenerateArgs& args) {
  LAPIDARY_CHECK(!args.json_output || args.json_schema.empty(),
                 "generate: --json-output and --json-schema must not stand together; got both");
  if (args.json_output) return JsonGrammar::Any();
  if (args.json_schema.empty()) return std::nullopt;
  return GrammarOfText(ReadFile(args.json_schema, 1 << 24), args.json_schema);
}

// What the answers of a batch depend on.
Json Settings(const GenerateArgs& args, const GenerateOptions& o) {
  return {{"model", args.model},
          {"adapter", args.adapter},
          {"base_format", args.base.mix},
          {"embedding_format", args.base.embedding},
          {"data", args.batch.data},
          {"max_new_tokens", o.max_new_tokens},
          {"do_sample", o.do_sample},
          {"temperature", o.temperature},
          {"top_k", o.top_k},
          {"top_p", o.top_p},
          {"min_p", o.min_p},
          {"repetition_penalty", o.repetition_penalty},
          {"seed", o.seed},
          {"think", args.think},
          {"json", args.json_output},
          {"json_schema", args.json_schema.empty() ? "" : ReadFile(args.json_schema, 1 << 24)},
          {"image_tokens", args.engine.image_tokens},
          {"num_frames", args.engine.num_frames},
          {"image_resize", args.engine.image_resize},
          {"image_mask", args.engine.image_mask},
          {"compute", args.engine.compute}};
}

// Prints text as soon as it is certain: the tail that may still change (part of a character) waits.
class Stream {
 public:
  Stream(const Tokenizer& tokenizer, bool skip_special, bool print)
      : tokenizer_(tokenizer), skip_special_(skip_special), print_(print) {}
  void Add(int32_t id) {
    ids_.push_back(id);
    const std::string text = tokenizer_.Decode(ids_, skip_special_);
    size_t certain = text.size();
    while (certain > 2 && text.compare(certain - 3, 3, "\xef\xbf\xbd") == 0) certain -= 3;
    Show(text, certain);
  }
  std::string Finish() {
    const std::string text = tokenizer_.Decode(ids_, skip_special_);
    Show(text, text.size());
    return text;
  }

 private:
  void Show(const std::string& text, size_t end) {
    if (!print_ || end <= shown_) return;
    std::fwrite(text.data() + shown_, 1, end - shown_, stdout);
    std::fflush(stdout);
    shown_ = end;
  }
  const Tokenizer& tokenizer_;
  const bool skip_special_, print_;
  std::vector<int32_t> ids_;
  size_t shown_ = 0;
};

void RunGenerate(const GenerateArgs& args) {
  const bool batch = !args.batch.data.empty() || !args.batch.out.empty();
  const int given = !args.prompt.empty() + !args.messages.empty() + !args.record.empty() + batch;
  LAPIDARY_CHECK(given == 1,
                 "generate: one of --prompt, --messages, --record and --data must be given; got ",
                 given == 0 ? "none" : "several");
  LAPIDARY_CHECK(!batch || (!args.batch.data.empty() && !args.batch.out.empty()),
                 "generate: --data and --out must be given together; got one");
  const std::optional<JsonGrammar> grammar = Grammar(args);
  LAPIDARY_CHECK(!grammar || !args.think,
                 "generate: JSON must be asked for without --think; got both");
  Engine engine = OpenEngine(args.model, args.adapter, args.base, args.engine);
  GenerateOptions options = Options(args, engine.Defaults());
  if (batch) {
    BatchArgs all = args.batch;
    all.think = args.think;
    const int64_t written = GenerateBatch(engine, options, grammar, all, Settings(args, options));
    std::printf("%lld answers written to %s\n", static_cast<long long>(written), all.out.c_str());
    return;
  }
  const ModelInput prompt = engine.Prompt(ReadRecord(args), args.think);
  std::unique_ptr<TokenConstraint> constraint;
  if (grammar) constraint = engine.Constrain(*grammar);
  options.constraint = constraint.get();
  Stream stream(engine.tokenizer(), !args.special, !args.json);
  const std::vector<int32_t>& stops = options.stop_ids;
  const GenerateResult result = engine.Run(prompt, options, [&](int32_t id) {
    const bool stop = std::find(stops.begin(), stops.end(), id) != stops.end();
    if (!stop || args.special) stream.Add(id);
    return true;
  });
  const std::string text = stream.Finish();
  if (!args.json) {
    std::printf("\n");
    return;
  }
  const double decoded = static_cast<double>(result.ids.size()) - 1;
  std::printf(
      "%s\n",
      Json({{"text", text},
            {"ids", result.ids},
            {"stopped", result.stopped},
            {"prompt_tokens", prompt.size()},
            {"prefill_seconds", result.prefill_seconds},
            {"decode_seconds", result.decode_seconds},
            {"decode_tokens_per_s", decoded > 0 ? Json(decoded / result.decode_seconds) : Json()}})
          .dump(-1, ' ', false, Json::error_handler_t::replace)
          .c_str());
}

}  // namespace

void AddGenerate(CLI::App& cli) {
  CLI::App* app =
      cli.add_subcommand("generate", "answer a prompt, with pictures, sounds and clips");
  auto a = std::make_shared<GenerateArgs>();
  app->add_option("--model", a->model, "Hugging Face folder or .gguf file (its mmproj beside it)")
      ->required();
  app->add_option("--adapter", a->adapter, "PEFT folder to apply");
  AddBaseFormatOptions(app, &a->base);
  app->add_option("--prompt", a->prompt, "what the user says");
  app->add_option("--system", a->system, "system text in front of --prompt");
  app->add_option("--messages", a->messages,
                  "JSON file (- for standard input) with a list of messages, or an object with "
                  "messages and tools");
  app->add_option("--record", a->record,
                  "FILE:LINE of a data set: its question, without the answer");
  app->add_option("--image", a->images, "picture for --prompt; repeatable");
  app->add_option("--audio", a->audios, "sound for --prompt; repeatable");
  app->add_option("--video", a->videos, "clip for --prompt; repeatable");
  app->add_option("--max-new-tokens", a->max_new_tokens, "at most this many")
      ->capture_default_str()
      ->check(CLI::NonNegativeNumber);
  AddSamplingOptions(app, &a->sampling);
  app->add_flag("--json-output", a->json_output,
                "the answer is JSON, whatever the model would say");
  app->add_option("--json-schema", a->json_schema, "file: the answer is JSON that it allows");
  app->add_option("--data", a->batch.data,
                  "answer every record of a data set; a call that was broken off goes on");
  app->add_option("--out", a->batch.out, "JSON Lines that --data writes");
  app->add_option("--num-samples", a->batch.num_samples, "answers to a record of --data")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20));
  app->add_option("--limit", a->batch.limit, "records of --data; 0: all")
      ->check(CLI::NonNegativeNumber);
  app->add_flag("--quiet", a->batch.quiet, "no progress of --data");
  app->add_flag("--think", a->think, "let the model think first");
  app->add_flag(
      "--raw", a->raw,
      "--prompt is raw text: no chat template; media stand at <|image|>, <|audio|>, <|video|>");
  app->add_flag("--special", a->special, "print special tokens too");
  AddEngineOptions(app, &a->engine);
  app->add_flag("--json", a->json, "print one JSON object at the end");
  app->footer(
      "Example:\n  lapidary generate --model gemma-4-12b-it --image cat.jpg --prompt 'Which "
      "animal?'\n"
      "  lapidary generate --model gemma-4-12b-it --data questions.jsonl --out answers.jsonl "
      "--num-samples 4");
  app->callback([a] { RunGenerate(*a); });
}

}  // namespace lapidary
