// Pages for people: plots of a survey, samples as the model gets them. No scripts, no other files.
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "autograd/base/error.h"
#include "data/image.h"
#include "data/survey.h"

namespace lapidary {
namespace {

constexpr const char* kHead =
    "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" "
    "content=\"width=device-width\"><title>";
constexpr const char* kStyle =
    "</title><style>body{font:15px/1.5 system-ui,sans-serif;max-width:960px;margin:2em auto;"
    "padding:0 1em;color:#222;background:#fff}h1{font-size:1.4em}h2{font-size:1.1em;margin-top:2em}"
    "table{border-collapse:collapse}td,th{padding:.15em .8em .15em 0;text-align:left;"
    "vertical-align:top}pre{white-space:pre-wrap;background:#f6f6f4;padding:1em;overflow:auto}"
    ".t{background:#cdeccd}.s{color:#8a5a00;background:#fff3d6}.e{color:#b00020}"
    "img,svg{margin:.3em .6em .3em 0;max-width:100%;vertical-align:top}"
    "@media(prefers-color-scheme:dark){body{color:#ddd;background:#191919}pre{background:#242424}"
    ".t{background:#23502a}.s{background:#4a3b12;color:#ffd98a}}</style></head><body>";

std::string Html(const std::string& text) {
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<uint8_t>(c);
    if (c == '<') {
      out += "&lt;";
    } else if (c == '>') {
      out += "&gt;";
    } else if (c == '&') {
      out += "&amp;";
    } else if (c == '"') {
      out += "&quot;";
    } else if (byte < 0x20 && c != '\n' && c != '\t') {
      out += "\xef\xbf\xbd";
    } else {
      out += c;
    }
  }
  return out;
}

std::string Base64(const std::string& bytes) {
  static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  for (size_t i = 0; i < bytes.size(); i += 3) {
    uint32_t v = 0;
    for (size_t k = 0; k < 3; ++k) {
      v = v << 8 | (i + k < bytes.size() ? static_cast<uint8_t>(bytes[i + k]) : 0);
    }
    for (size_t k = 0; k < 4; ++k) {
      out += i + k <= bytes.size() ? digits[v >> (18 - 6 * k) & 63] : '=';
    }
  }
  return out;
}

// Bars: (label, value).
std::string Bars(const std::vector<std::pair<std::string, int64_t>>& bars) {
  int64_t most = 1;
  for (const auto& [label, value] : bars) most = std::max(most, value);
  const int64_t height = 22 * static_cast<int64_t>(bars.size()) + 4;
  std::string out = StrCat("<svg viewBox=\"0 0 640 ", height, "\" width=\"640\" height=\"", height,
                           "\" font-size=\"13\" fill=\"currentColor\">");
  int64_t y = 0;
  for (const auto& [label, value] : bars) {
    const double width = 380.0 * static_cast<double>(value) / static_cast<double>(most);
    out += StrCat("<text x=\"150\" y=\"", y + 16, "\" text-anchor=\"end\">", Html(label),
                  "</text><rect x=\"160\" y=\"", y + 3, "\" width=\"", width,
                  "\" height=\"16\" fill=\"#3b7dd8\"/><text x=\"", 166 + width, "\" y=\"", y + 16,
                  "\">", value, "</text>");
    y += 22;
  }
  return out + "</svg>";
}

// Lengths in up to twelve classes of one width.
std::vector<std::pair<std::string, int64_t>> Histogram(const std::vector<int64_t>& values) {
  std::vector<std::pair<std::string, int64_t>> bars;
  if (values.empty()) return bars;
  const auto [low, high] = std::minmax_element(values.begin(), values.end());
  int64_t step = 1;
  for (int64_t k = 0; (*high - *low) / step >= 12; ++k) step = k % 3 == 1 ? step / 2 * 5 : step * 2;
  const int64_t first = *low / step;
  for (int64_t b = first; b <= *high / step; ++b) {
    bars.emplace_back(StrCat(b * step, step > 1 ? StrCat("-", (b + 1) * step - 1) : ""), 0);
  }
  for (const int64_t value : values) ++bars[value / step - first].second;
  return bars;
}

// The picture that rows [first, last) show, every second pixel of it.
std::string Thumbnail(const MediaRows& rows, int64_t first, int64_t last) {
  const auto patch = static_cast<int64_t>(std::lround(std::sqrt(rows.features / 3.0)));
  int64_t columns = 0, lines = 0;
  for (int64_t r = first; r < last; ++r) {
    columns = std::max<int64_t>(columns, rows.positions[r * 2] + 1);
    lines = std::max<int64_t>(lines, rows.positions[r * 2 + 1] + 1);
  }
  const int64_t scale = std::max<int64_t>(1, columns * patch / 240), side = patch / scale;
  if (side == 0 || columns * lines > 4096) return "";
  Image image = {.height = lines * side, .width = columns * side, .pixels = {}};
  image.pixels.resize(image.height * image.width * 3);
  for (int64_t r = first; r < last; ++r) {
    const int64_t x0 = rows.positions[r * 2] * side, y0 = rows.positions[r * 2 + 1] * side;
    const float* values = &rows.rows[r * rows.features];
    for (int64_t y = 0; y < side; ++y) {
      for (int64_t x = 0; x < side; ++x) {
        for (int64_t c = 0; c < 3; ++c) {
          const float v = values[(y * scale * patch + x * scale) * 3 + c];
          image.pixels[((y0 + y) * image.width + x0 + x) * 3 + c] =
              static_cast<uint8_t>(std::clamp(v * 255.0f + 0.5f, 0.0f, 255.0f));
        }
      }
    }
  }
  return StrCat("<img alt=\"\" width=\"", image.width, "\" src=\"data:image/png;base64,",
                Base64(EncodePng(image)), "\">");
}

// The greatest size of a sample in each of up to 300 stretches.
std::string Wave(const MediaRows& rows, int64_t first, int64_t last) {
  const int64_t begin = first * rows.features, count = (last - first) * rows.features;
  const int64_t columns = std::min<int64_t>(300, count);
  std::string out = "<svg width=\"300\" height=\"50\"><path stroke=\"#3b7dd8\" d=\"";
  for (int64_t x = 0; x < columns; ++x) {
    float peak = 0;
    for (int64_t i = count * x / columns; i < count * (x + 1) / columns; ++i) {
      peak = std::max(peak, std::abs(rows.rows[begin + i]));
    }
    const double half = 24.0 * std::min(1.0, static_cast<double>(peak)) + 0.5;
    out += StrCat("M", x, " ", 25 - half, "V", 25 + half);
  }
  return out + "\"/></svg>";
}

// Runs of rows at neighbouring tokens: one picture, frame or sound each.
template <class Show>
void Runs(const MediaRows& rows, const Show& show) {
  if (rows.rows.empty()) return;
  for (int64_t first = 0; first < rows.count();) {
    int64_t last = first + 1;
    while (last < rows.count() && rows.places[last] == rows.places[last - 1] + 1) ++last;
    show(first, last);
    first = last;
  }
}

std::string Row(const char* name, const std::string& value) {
  return StrCat("<tr><th>", name, "</th><td>", value, "</td></tr>");
}

}  // namespace

std::string SurveyHtml(const Survey& s) {
  const DataReport& r = s.report;
  std::string out = StrCat(kHead, "Data set", kStyle, "<h1>Data set</h1><table>");
  out += Row("format", Html(r.format));
  out += Row("records", StrCat(r.records, ": ", r.usable, " usable samples, ", r.dropped,
                               " dropped, ", r.cut, " cut or split"));
  out += Row("tokens", StrCat(r.tokens, ", trained ", r.trained, " (",
                              r.trained * 100 / std::max<int64_t>(1, r.tokens), " %)"));
  out += Row("length", StrCat("min ", r.shortest, ", median ", r.median, ", 95 % ", r.p95, ", max ",
                              r.longest));
  out += Row("also", StrCat(s.duplicates, " duplicates, ", s.empty_answers, " empty answers, ",
                            s.leaks, " leaks into the held-out data"));
  out += Row("epoch", EpochText(s));
  out += "</table><h2>Tokens of a record</h2>" + Bars(Histogram(s.lengths));
  for (const auto& [name, lengths] : {std::pair("pictures", &s.image_lengths),
                                      {"frames of clips", &s.video_lengths},
                                      {"sounds", &s.audio_lengths}}) {
    if (lengths->empty()) continue;
    out += StrCat("<h2>Tokens of the ", name, " of a record</h2>", Bars(Histogram(*lengths)));
  }
  out += "<h2>Tokens by kind</h2>" + Bars({{"text", s.text_tokens},
                                           {"image", s.image_tokens},
                                           {"video", s.video_tokens},
                                           {"audio", s.audio_tokens}});
  out += "<h2>Letters by script</h2>" +
         Bars(std::vector<std::pair<std::string, int64_t>>(s.scripts.begin(), s.scripts.end()));
  out += "<h2>Findings</h2><table>";
  constexpr size_t kShown = 500;
  for (size_t i = 0; i < std::min(kShown, s.findings.size()); ++i) {
    const Finding& f = s.findings[i];
    out += StrCat("<tr><td", f.error ? " class=\"e\"" : "", ">", Html(f.kind), "</td><td>",
                  Html(f.message), "</td></tr>");
  }
  if (s.findings.empty()) out += "<tr><td>none</td></tr>";
  return out + "</table><pre>" + Html(FoundText(s)) + "</pre></body></html>\n";
}

std::string SamplesHtml(const std::vector<Sample>& samples, const Tokenizer& tokenizer) {
  std::string out = StrCat(kHead, "Samples", kStyle,
                           "<h1>Samples</h1><p><span class=\"t\">trained</span> <span class=\"s\">"
                           "soft tokens of media</span></p>");
  for (const Sample& sample : samples) {
    out += StrCat("<h2>", Html(sample.where), "</h2><p>", sample.size(), " tokens, ",
                  sample.trained(), " trained</p>");
    Runs(sample.vision, [&](int64_t a, int64_t b) { out += Thumbnail(sample.vision, a, b); });
    Runs(sample.audio, [&](int64_t a, int64_t b) { out += Wave(sample.audio, a, b); });
    out += "<pre>";
    const auto n = static_cast<size_t>(sample.size());
    for (size_t i = 0; i < n;) {
      const bool trained = sample.weights[i] > 0, soft = sample.types[i] != kTextToken;
      size_t end = i + 1;
      while (end < n && (sample.weights[end] > 0) == trained &&
             (sample.types[end] != kTextToken) == soft) {
        ++end;
      }
      const std::string text =
          soft ? StrCat(tokenizer.Token(sample.ids[i]), " x ", end - i)
               : tokenizer.Decode(std::span<const int32_t>(sample.ids.data() + i, end - i));
      if (soft || trained) {
        out += StrCat("<span class=\"", soft ? "s" : "t", "\">", Html(text), "</span>");
      } else {
        out += Html(text);
      }
      i = end;
    }
    out += "</pre>";
  }
  return out + "</body></html>\n";
}

}  // namespace lapidary
