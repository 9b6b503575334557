// Where verbs write: one rule for all of them, settled before the work begins.
//
// An output is a new file, an empty one, or one that Tessera wrote of the same kind, which is told from its
// content; --force is for the rest. What a verb reads is never written, whatever names and links say: files
// are compared by device and inode. "-", a device, a pipe and an open descriptor are written to as they are,
// from front to back, where the kind allows it. One thread.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "core/base/new_file.h"

namespace CLI {
class App;
}

namespace tessera {

struct OutputKind {
  const char* name;  // with what made it: "a token file of tessera data prepare"
  bool streams;      // is written from front to back
  // Whether Tessera wrote this file, as one of the kind. May throw Error: then it did not.
  bool (*wrote)(const std::filesystem::path& file);
};

const OutputKind& token_file_output();
const OutputKind& tokenizer_output();
const OutputKind& tokenizer_config_output();
const OutputKind& tokens_output();   // of data inspect
const OutputKind& logits_output();   // of logits
const OutputKind& timings_output();  // of bench kernels

// The metadata that tells Tessera's own safetensors files from others.
inline constexpr const char* tokens_writer = "tessera data inspect";
inline constexpr const char* logits_writer = "tessera logits";

// What a verb reads and writes.
class Outputs {
 public:
  // Adds --force to a verb.
  static void add_option(CLI::App& verb, bool& force);

  // `inputs`: files, and folders whose files all count; those that are not there do not matter here.
  Outputs(std::vector<std::filesystem::path> inputs, bool force)
      : inputs_(std::move(inputs)), force_(force) {}

  // Settles that the verb may write there, and returns where: the path, "-" replaced by /dev/stdout. Throws
  // Error with exit code 2 if it may not; `option` ("--out") begins the message.
  std::filesystem::path settle(const std::string& option, const std::string& path, const OutputKind& kind);

 private:
  void refuse_inputs(const std::string& what, const std::filesystem::path& file) const;
  std::vector<std::filesystem::path> inputs_, taken_;
  bool force_;
};

}  // namespace tessera
