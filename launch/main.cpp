#include <CLI/CLI.hpp>
#include <cstdio>
#include <sstream>

#include "core/base/error.h"
#include "core/base/log.h"
#include "core/base/standard_output.h"
#include "launch/command_line.h"
#include "launch/limits.h"
#include "launch/options.h"
#include "launch/signals.h"
#include "launch/version.h"

namespace {

using tessera::Error;
using tessera::ExitCode;
namespace standard_output = tessera::standard_output;

// Before the constructors of any library.
[[gnu::section(".preinit_array"), gnu::used]] void (*const block_signals_first)() = tessera::block_signals;

int run(int argc, char** argv) {
  CLI::App app("Tessera: pretrain open-weight language models on many ranks.", "tessera");
  app.require_subcommand(1);
  app.set_version_flag("--version", fmt::format("tessera {}", tessera::version));
  tessera::Action action;
  tessera::add_verbs(app, action);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& asked) {  // --help, --version
    std::ostringstream text;
    app.exit(asked, text);
    standard_output::write(text.str());
    return 0;
  } catch (const CLI::ParseError& e) {
    throw Error(tessera::explain(app, e), ExitCode::usage);
  }
  if (!app.got_subcommand("train") && !app.got_subcommand("launch")) tessera::release_stop_signals();
  return action();
}

int tell(const char* message, ExitCode code) {
  std::fflush(stdout);  // what was printed before comes first
  if (code != standard_output::reader_gone) tessera::log::error("{}", message);
  return static_cast<int>(code);
}

// What `work` returns, or the code of the error that it threw, told.
template <class Work>
int code_of(const Work& work) {
  try {
    return work();
  } catch (const Error& e) {
    return tell(e.what(), e.code());
  } catch (const std::exception& e) {
    return tell(tessera::one_line(e.what()).c_str(), ExitCode::failure);
  }
}

}  // namespace

int main(int argc, char** argv) {
  standard_output::prepare();
  tessera::raise_open_files();
  const int code = code_of([&] { return run(argc, argv); });
  if (code != 0) return code;
  return code_of([] {  // what was printed and did not get there
    standard_output::finish();
    return 0;
  });
}
