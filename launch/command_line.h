// The command line: one verb per file (launch/verbs/), each adding itself to the parser.
//
// A verb declares its options on the CLI::App it is given and sets `run`, which main() calls after parsing;
// what it returns is the process's exit code. Errors are thrown, and printed by main() alone.
#pragma once

#include <functional>

namespace CLI {
class App;
}

namespace tessera {

using Action = std::function<int()>;

// Adds every verb to `app`; after parsing, `chosen` holds the action of the verb on the command line.
void add_verbs(CLI::App& app, Action& chosen);

// The verbs.
void add_config_verb(CLI::App& app, Action& chosen);
void add_import_verb(CLI::App& app, Action& chosen);
void add_publish_verb(CLI::App& app, Action& chosen);
void add_logits_verb(CLI::App& app, Action& chosen);
void add_eval_verb(CLI::App& app, Action& chosen);
void add_generate_verb(CLI::App& app, Action& chosen);
void add_launch_verb(CLI::App& app, Action& chosen);
void add_tokenizer_verb(CLI::App& app, Action& chosen);
void add_data_verb(CLI::App& app, Action& chosen);
void add_train_verb(CLI::App& app, Action& chosen);
void add_verify_verb(CLI::App& app, Action& chosen);
void add_checkpoint_verb(CLI::App& app, Action& chosen);
void add_bench_verb(CLI::App& app, Action& chosen);
void add_bench_kernels_verb(CLI::App& bench, Action& chosen);  // under bench

}  // namespace tessera
