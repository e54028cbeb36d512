// The `lapidary` program. Errors of the user's making: one line on stderr, exit code 2.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <new>

#include "autograd/base/error.h"
#include "recipes/commands.h"

int main(int argc, char** argv) {
  CLI::App cli("Lapidary: fine-tune Gemma 4 on a CPU and ship the result", "lapidary");
  cli.require_subcommand(1);
  cli.set_version_flag("--version", LAPIDARY_VERSION);
  lapidary::AddGenerate(cli);
  lapidary::AddInspect(cli);
  lapidary::AddMakeModel(cli);
  lapidary::AddMakeData(cli);
  lapidary::AddData(cli);
  lapidary::AddTokenize(cli);
  lapidary::AddExport(cli);
  lapidary::AddEval(cli);
  lapidary::AddCompare(cli);
  lapidary::AddTrain(cli);
  try {
    cli.parse(argc, argv);
    return 0;
  } catch (const CLI::ParseError& error) {
    return cli.exit(error) == 0 ? 0 : 2;
  } catch (const lapidary::Error& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
  } catch (const std::bad_alloc&) {
    std::fprintf(stderr,
                 "error: memory: must suffice; got none; try a shorter max_length or "
                 "gradient_checkpointing\n");
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
  }
  return 2;
}
