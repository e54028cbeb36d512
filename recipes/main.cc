// The `lapidary` program. Errors of the user's making: one line on stderr, exit code 2.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <exception>
#include <new>
#include <string>
#include <vector>

#include "autograd/base/error.h"
#include "autograd/base/memory_info.h"
#include "recipes/commands.h"
#include "train/config.h"
#include "train/versions.h"

namespace {

// Messages of libraries may have several lines.
std::string OneLine(std::string text) {
  while (!text.empty() && text.back() == '\n') text.pop_back();
  for (char& c : text) {
    if (c == '\n') c = ' ';
  }
  return text;
}

// Throws Error with the nearest name if the first word is no command.
void CheckCommand(const CLI::App& cli, int argc, char** argv) {
  if (argc < 2 || argv[1][0] == '-') return;
  std::vector<std::string> names;
  std::string list;
  for (const CLI::App* app : cli.get_subcommands({})) {
    names.push_back(app->get_name());
    list += (list.empty() ? "" : ", ") + app->get_name();
  }
  if (std::find(names.begin(), names.end(), argv[1]) != names.end()) return;
  const std::string near = lapidary::NearestName(argv[1], names);
  throw lapidary::Error(lapidary::StrCat("lapidary: the command must be one of ", list, "; got '",
                                         argv[1], "'", near.empty() ? "" : "; try '" + near + "'"));
}

}  // namespace

int main(int argc, char** argv) {
  lapidary::TuneHeap();
  CLI::App cli("Lapidary: fine-tune Gemma 4 on a CPU and ship the result", "lapidary");
  cli.require_subcommand(1);
  cli.set_version_flag("--version", [] {
    std::string text =
        "lapidary " + lapidary::ProgramVersion() + " (" + lapidary::BuildText() + ")\nwrites:";
    for (const auto& [format, version] : lapidary::FormatVersions()) {
      text += "\n  " + format + ": " + version;
    }
    return text;
  });
  lapidary::AddGenerate(cli);
  lapidary::AddChat(cli);
  lapidary::AddServe(cli);
  lapidary::AddInspect(cli);
  lapidary::AddDoctor(cli);
  lapidary::AddMakeModel(cli);
  lapidary::AddMakeData(cli);
  lapidary::AddData(cli);
  lapidary::AddTokenize(cli);
  lapidary::AddExport(cli);
  lapidary::AddImatrix(cli);
  lapidary::AddVerify(cli);
  lapidary::AddEval(cli);
  lapidary::AddCompare(cli);
  lapidary::AddTrain(cli);
  lapidary::AddDistillCache(cli);
  lapidary::AddPlan(cli);
  lapidary::AddWatch(cli);
  lapidary::AddCompletion(cli);
  try {
    CheckCommand(cli, argc, argv);
    cli.parse(argc, argv);
    LAPIDARY_CHECK(std::fflush(stdout) == 0 && !std::ferror(stdout),
                   "standard output: must take all that is written; got ", std::strerror(errno));
    return 0;
  } catch (const CLI::RuntimeError& error) {
    return error.get_exit_code();  // a command that says by its code what it found
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return cli.exit(error);  // --help, --version
    std::string command = "lapidary";
    for (const CLI::App* app = &cli; !app->get_subcommands().empty();) {
      app = app->get_subcommands().front();
      command += " " + app->get_name();
    }
    std::fprintf(stderr,
                 "error: %s: the command line must be as --help says; got: %s; try %s --help\n",
                 command.c_str(), OneLine(error.what()).c_str(), command.c_str());
  } catch (const lapidary::Error& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
  } catch (const std::bad_alloc&) {
    std::fprintf(stderr,
                 "error: memory: must suffice; got none; try a shorter max_length or "
                 "gradient_checkpointing\n");
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: lapidary: must not fail in a library; got %s\n",
                 OneLine(error.what()).c_str());
  }
  return 2;
}
