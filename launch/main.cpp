#include <CLI/CLI.hpp>
#include <cstdio>

#include "core/base/error.h"
#include "core/base/log.h"
#include "launch/command_line.h"
#include "launch/limits.h"
#include "launch/signals.h"
#include "launch/version.h"

namespace {

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
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? 0 : static_cast<int>(tessera::ExitCode::usage);
  }
  if (!app.got_subcommand("train") && !app.got_subcommand("launch")) tessera::release_stop_signals();
  return action();
}

}  // namespace

int main(int argc, char** argv) {
  tessera::raise_open_files();
  try {
    return run(argc, argv);
  } catch (const tessera::Error& e) {
    tessera::log::error("{}", e.what());
    return static_cast<int>(e.code());
  } catch (const std::exception& e) {
    tessera::log::error("{}", e.what());
    return static_cast<int>(tessera::ExitCode::failure);
  }
}
