#include "checkpoint/import.h"

#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>
#include <memory>

#include "checkpoint/model_source.h"
#include "core/base/error.h"
#include "core/base/log.h"
#include "data/tokenizer/tokenizer.h"
#include "launch/command_line.h"
#include "launch/host_memory.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;

// The weights can be used with token files of any origin, so a tokenizer that is of no use here is only told
// of.
void look_at_tokenizer(const ModelSource& source) {
  const fs::path path = fs::path(source.origin()) / "tokenizer.json";
  const auto& files = source.description().files;
  const auto file = files.find("tokenizer.json");
  if (file == files.end()) {
    log::warn("'{}' is not there: the checkpoint has no tokenizer", path.string());
    return;
  }
  try {
    const Tokenizer tokenizer = Tokenizer::load(path);
    if (tokenizer.vocab_size() > source.spec().vocab_size)
      log::warn(
          "'{}' has ids up to {}, but the model knows {} tokens: texts with those beyond cannot be used",
          path.string(), tokenizer.vocab_size() - 1, source.spec().vocab_size);
  } catch (const Error& e) {
    log::warn("the tokenizer is carried along, but Tessera cannot use it: {}", e.what());
  }
}

}  // namespace

void add_import_verb(CLI::App& app, Action& chosen) {
  CLI::App* verb = app.add_subcommand("import", "Turn a Hugging Face directory into a checkpoint");
  struct Options {
    std::string from, to;
    ImportOptions import;
  };
  const auto options = std::make_shared<Options>();
  verb->add_option("HF_DIR", options->from, "Directory with config.json and safetensors")->required();
  verb->add_option("CKPT", options->to, "Directory for the checkpoint: new, empty, or with an earlier import")
      ->required();
  verb->add_flag("--force", options->import.force, "Write beside what CKPT holds, if that is no checkpoint");
  verb->add_flag("--allow-nonfinite", options->import.allow_nonfinite,
                 "Take weights that are NaN or infinite, which are refused otherwise");
  verb->footer(
      "Example: tessera import Llama-3.2-1B checkpoints/llama\n"
      "To continue from it on your own data, put `init: {from: checkpoints/llama}` into a config.");
  verb->callback([options, &chosen] {
    chosen = [options] {
      const ModelSource source = open_release(options->from);
      require_host_memory(4.0 * static_cast<double>(parameter_count(source.spec())),
                          fmt::format("'{}', in fp32,", options->from));
      const fs::path checkpoint = import_release(source, options->to, options->import);
      look_at_tokenizer(source);
      std::printf("%s\n", checkpoint.c_str());
      return 0;
    };
  });
}

}  // namespace tessera
