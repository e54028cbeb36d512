// Reading the JSON of a request, member by member: what is missing, of another type, out of range
// or unknown is an ApiError that names it.
#ifndef LAPIDARY_RECIPES_SERVE_REQUEST_H_
#define LAPIDARY_RECIPES_SERVE_REQUEST_H_

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "recipes/serve/api.h"

namespace lapidary {

class RequestReader {
 public:
  using Json = nlohmann::ordered_json;

  // Throws ApiError unless `body` is one JSON object.
  explicit RequestReader(const std::string& body);

  // The member, or null if it is absent or null. Counts as known from then on.
  const Json* Get(const char* key);
  double Number(const char* key, double low, double high, double fallback);
  int64_t Integer(const char* key, int64_t low, int64_t high, int64_t fallback);
  bool Flag(const char* key, bool fallback);
  std::string Text(const char* key);  // must be given
  // Members that must be absent, null or `only`, because they would change the answer in a way
  // that is not offered.
  void Refuse(const char* key, const Json& only);
  // Members that change nothing here.
  void Ignore(std::initializer_list<const char*> keys);
  // Throws ApiError for a member that nobody has asked for.
  void Finish() const;

 private:
  Json body_;
  std::set<std::string> known_;
};

// What both kinds of requests share.
struct CommonRequest {
  std::string model;
  int64_t n = 1;
  bool stream = false, include_usage = false;
  std::vector<std::string> stops;
  GenerateOptions options;  // sampling
};
// Reads temperature, top_p, top_k, min_p, repetition_penalty, seed, n, stop, stream, ...; defaults
// are `defaults`.
CommonRequest ReadCommon(RequestReader& reader, const GenerateOptions& defaults);

// Checked messages and tools of a chat, media inside as data: URLs: a row that data/ reads. Throws
// ApiError for everything that would need a file or the network.
nlohmann::ordered_json ReadConversation(RequestReader& reader);
// response_format; nothing for text.
std::optional<JsonGrammar> ReadResponseFormat(RequestReader& reader);

}  // namespace lapidary

#endif  // LAPIDARY_RECIPES_SERVE_REQUEST_H_
