#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>

#include "launch/command_line.h"
#include "launch/config/config.h"

namespace tessera {

void add_config_verb(CLI::App& app, Action& chosen) {
  CLI::App* verb = app.add_subcommand("config", "Show a config with everything resolved, or its JSON Schema");
  verb->require_subcommand(1);

  struct Options {
    std::string path;
    std::vector<std::string> overrides;
  };
  const auto options = std::make_shared<Options>();
  CLI::App* show = verb->add_subcommand("show", "Print every key with its value, as YAML");
  show->add_option("CONFIG", options->path, "The config, a YAML file")->required();
  show->add_option("KEY=VALUE", options->overrides,
                   "Overrides, such as train.steps=10 or data.train.0.path=a.h5");
  show->footer("Example: tessera config show configs/demo.yaml train.steps=100");
  show->callback([options, &chosen] {
    chosen = [options] {
      std::fputs(config_yaml(load_config(options->path, options->overrides)).c_str(), stdout);
      return 0;
    };
  });

  CLI::App* schema =
      verb->add_subcommand("schema", "Print the JSON Schema (2020-12) of configs, for editors");
  schema->footer(
      "Example: tessera config schema > tessera.json, and as a config's first line\n"
      "  # yaml-language-server: $schema=tessera.json");
  schema->callback([&chosen] {
    chosen = [] {
      std::fputs(config_schema().c_str(), stdout);
      return 0;
    };
  });
}

}  // namespace tessera
