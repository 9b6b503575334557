#include "checkpoint/import.h"

#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>

#include "checkpoint/model_source.h"
#include "core/base/error.h"
#include "launch/command_line.h"
#include "launch/host_memory.h"

namespace tessera {

void add_import_verb(CLI::App& app, Action& chosen) {
  CLI::App* verb = app.add_subcommand("import", "Turn a Hugging Face directory into a checkpoint");
  struct Options {
    std::string from, to;
    bool force = false;
  };
  const auto options = std::make_shared<Options>();
  verb->add_option("HF_DIR", options->from, "Directory with config.json and safetensors")->required();
  verb->add_option("CKPT", options->to, "Directory for the checkpoint: new, empty, or with an earlier import")
      ->required();
  verb->add_flag("--force", options->force, "Write beside what CKPT holds, if that is no checkpoint");
  verb->footer(
      "Example: tessera import Llama-3.2-1B checkpoints/llama\n"
      "To continue from it on your own data, put `init: {from: checkpoints/llama}` into a config.");
  verb->callback([options, &chosen] {
    chosen = [options] {
      const ModelSource source = open_release(options->from);
      require_host_memory(4.0 * static_cast<double>(parameter_count(source.spec())),
                          fmt::format("'{}', in fp32,", options->from));
      std::printf("%s\n", import_release(options->from, options->to, options->force).c_str());
      return 0;
    };
  });
}

}  // namespace tessera
