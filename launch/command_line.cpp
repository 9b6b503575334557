#include "launch/command_line.h"

#include <CLI/CLI.hpp>

namespace tessera {

void add_verbs(CLI::App& app, Action& chosen) {
  add_config_verb(app, chosen);
  add_import_verb(app, chosen);
  add_publish_verb(app, chosen);
  add_logits_verb(app, chosen);
  add_eval_verb(app, chosen);
  add_generate_verb(app, chosen);
  add_launch_verb(app, chosen);
  add_tokenizer_verb(app, chosen);
  add_data_verb(app, chosen);
  add_train_verb(app, chosen);
  add_verify_verb(app, chosen);
  add_checkpoint_verb(app, chosen);
  add_bench_verb(app, chosen);
}

}  // namespace tessera
