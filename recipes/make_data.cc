// lapidary make-data: the demonstration data set of the quick start.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "data/demo/demo_data.h"
#include "recipes/commands.h"

namespace lapidary {
namespace {

struct Args {
  std::string out;
  DemoDataOptions options;
  bool overwrite = false;
  bool json = false;
};

void Run(const Args& args) {
  const DemoDataSummary summary = WriteDemoData(args.out, args.options, args.overwrite);
  if (args.json) {
    nlohmann::ordered_json report = {{"out", args.out},
                                     {"media", summary.media},
                                     {"bytes", summary.bytes},
                                     {"examples", nlohmann::ordered_json::object()}};
    for (const auto& [file, count] : summary.files) report["examples"][file] = count;
    std::printf("%s\n", report.dump(1).c_str());
    return;
  }
  for (const auto& [file, count] : summary.files) {
    std::printf("%s/%s: %lld examples\n", args.out.c_str(), file.c_str(),
                static_cast<long long>(count));
  }
  std::printf("%lld pictures, sounds and clips, %.1f MB in all; overview in %s/sheet.png\n",
              static_cast<long long>(summary.media), summary.bytes * 1e-6, args.out.c_str());
}

}  // namespace

void AddMakeData(CLI::App& cli) {
  CLI::App* app = cli.add_subcommand(
      "make-data",
      "draw and synthesize a small multimodal data set (pictures, sounds, clips, tool calls)");
  auto args = std::make_shared<Args>();
  DemoDataOptions& o = args->options;
  app->add_option("--out", args->out, "folder to write, new or empty")->required();
  app->add_option("--seed", o.seed, "same seed, same bytes")->capture_default_str();
  app->add_option("--size", o.size, "training examples of each modality and task")
      ->capture_default_str();
  app->add_option("--held-out", o.held_out, "held-out examples of each modality and task")
      ->capture_default_str();
  app->add_option("--image-pixels", o.image_pixels, "edge of pictures and frames")
      ->capture_default_str();
  app->add_option("--video-frames", o.video_frames, "frames of a clip")->capture_default_str();
  app->add_option("--audio-samples", o.audio_samples, "samples of a sound at 16 kHz")
      ->capture_default_str();
  app->add_option("--noise", o.noise, "noise of pixels and samples, share of the full scale")
      ->capture_default_str();
  app->add_flag("--overwrite", args->overwrite, "write into a folder that has files");
  app->add_flag("--json", args->json, "report as JSON");
  app->callback([args] { Run(*args); });
}

}  // namespace lapidary
