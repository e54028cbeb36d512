// `lapidary watch`: a run while it goes, in the terminal.
#include <sys/ioctl.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <memory>
#include <string>
#include <thread>

#include "recipes/commands.h"
#include "recipes/watch_page.h"
#include "train/run_watch.h"

namespace lapidary {
namespace {

struct WatchArgs {
  std::string run;
  double every = 2;
  int port = 0;  // 0: no page
  bool once = false;
};

volatile std::sig_atomic_t stopped = 0;

void Run(const WatchArgs& args) {
  const bool terminal = ::isatty(STDOUT_FILENO) == 1;
  winsize size = {};
  const auto text = [&](const RunView& view) {
    const bool known =
        terminal && ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
    return WatchText(view, known ? size.ws_col - 1 : 79, known ? size.ws_row : 24);
  };
  RunView view = ReadRun(args.run);
  if (args.port > 0) {
    std::signal(SIGINT, [](int) { stopped = 1; });
    std::signal(SIGTERM, [](int) { stopped = 1; });
    const int refresh_s = static_cast<int>(std::ceil(args.every));
    return ServePage(
        args.port, [&] { return WatchHtml(ReadRun(args.run), refresh_s); },
        [&] {
          std::printf("http://127.0.0.1:%d shows %s; Ctrl-C ends it\n", args.port,
                      args.run.c_str());
          std::fflush(stdout);
        },
        &stopped);
  }
  if (!terminal || args.once) {
    std::fputs(text(view).c_str(), stdout);
    return;
  }
  std::signal(SIGINT, [](int) { stopped = 1; });
  for (;;) {
    // From the top left; what is left of the last picture goes.
    std::printf("\x1b[H\x1b[J%s", text(view).c_str());
    std::fflush(stdout);
    if (view.finished || stopped) return;
    const auto until = std::chrono::steady_clock::now() + std::chrono::duration<double>(args.every);
    while (!stopped && std::chrono::steady_clock::now() < until) {
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
    if (stopped) return;
    view = ReadRun(args.run);
  }
}

}  // namespace

void AddWatch(CLI::App& cli) {
  CLI::App* app = cli.add_subcommand(
      "watch",
      "draw the curves, speed and time left of a run, as it goes; once if not in a terminal");
  auto args = std::make_shared<WatchArgs>();
  app->add_option("run", args->run, "the output_dir of a run")->required();
  app->add_option("--every", args->every, "seconds between pictures")
      ->capture_default_str()
      ->check(CLI::Range(0.1, 3600.0));
  app->add_flag("--once", args->once, "one picture, in a terminal too");
  app->add_option_function<int>(
         "--serve", [args](const int& port) { args->port = port; },
         "a page at this port of this machine alone (127.0.0.1), until Ctrl-C")
      ->check(CLI::Range(1, 65535));
  app->footer("example: lapidary watch out\n         lapidary watch out --serve 8090");
  app->callback([args] { Run(*args); });
}

}  // namespace lapidary
