#include <CLI/CLI.hpp>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "checkpoint/retention.h"
#include "checkpoint/store.h"
#include "core/base/error.h"
#include "core/base/log.h"
#include "core/base/progress.h"
#include "launch/command_line.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;

struct Arguments {
  std::string path;
  bool verify = false, tensors = false;
};

void print_row(const char* what, const std::string& text) {
  std::printf("  %-12s %s\n", what, text.c_str());
}

// What `train` keeps about the run; an import has only the model.
void print_run(const Json& meta) {
  const auto row = [&](const char* what, const char* key) {
    if (meta.contains(key)) print_row(what, meta.at(key).dump());
  };
  row("tokens", "tokens");
  row("updates", "optimizer_steps");
  row("skipped", "skipped");
  row("reduce groups", "reduce_groups");
  row("data", "data");
  row("kernels", "kernels");
  if (meta.contains("config")) print_row("config", meta.at("config").dump());
}

std::string shape_text(const std::vector<std::int64_t>& shape) {
  std::string text;
  for (const std::int64_t extent : shape) text += (text.empty() ? "" : ", ") + std::to_string(extent);
  return "[" + text + "]";
}

void print_tensors(const LoadedCheckpoint& checkpoint) {
  for (const TensorInfo& tensor : checkpoint.tensors())
    std::printf("  %-60s %-8s %-5s %s\n", tensor.name.c_str(), tensor.state.c_str(),
                std::string(name(tensor.dtype)).c_str(), shape_text(tensor.shape).c_str());
}

void print_checkpoint(const LoadedCheckpoint& checkpoint, const Arguments& arguments) {
  std::printf("%s\n", checkpoint.path().c_str());
  print_row("step", std::to_string(checkpoint.step()));
  print_row("holds",
            fmt::format("{} tensors, {} in {} shards", checkpoint.tensors().size(),
                        bytes_text(static_cast<double>(checkpoint.payload_bytes())), checkpoint.shards()));
  std::string files;
  for (const auto& [name, content] : checkpoint.files()) files += (files.empty() ? "" : ", ") + name;
  if (!files.empty()) print_row("files", files);
  print_run(checkpoint.meta());
  if (arguments.tensors) print_tensors(checkpoint);
}

void verify(const LoadedCheckpoint& checkpoint) {
  std::fflush(stdout);  // progress goes to standard error, and must not come in between
  Progress progress("verifying", static_cast<double>(checkpoint.payload_bytes()), "MB", 1e6);
  checkpoint.verify(0, 1, [&](std::uint64_t bytes) { progress.advance(static_cast<double>(bytes)); });
}

// One checkpoint, or all of a directory's: a bad one is told and does not hide the others.
int inspect(const Arguments& arguments) {
  std::vector<fs::path> paths;
  for (const CheckpointEntry& entry : list_checkpoints(arguments.path)) paths.push_back(entry.path);
  if (paths.empty()) paths.emplace_back(arguments.path);
  for (const CheckpointEntry& entry : list_incomplete(arguments.path))
    log::warn("'{}' has no manifest.json: incomplete, or no checkpoint", entry.path.string());
  int bad = 0;
  for (const fs::path& path : paths) try {
      const LoadedCheckpoint checkpoint = open_checkpoint(path);
      print_checkpoint(checkpoint, arguments);
      if (!arguments.verify) continue;
      verify(checkpoint);
      print_row("verified", "every byte has its hash");
    } catch (const Error& e) {
      if (paths.size() == 1) throw;
      ++bad;
      std::printf("  bad: %s\n", e.what());
    }
  if (bad > 0) fail("{} of {} checkpoints in '{}' are bad", bad, paths.size(), arguments.path);
  return 0;
}

}  // namespace

void add_checkpoint_verb(CLI::App& app, Action& chosen) {
  CLI::App* verb = app.add_subcommand("checkpoint", "Look at checkpoints");
  verb->require_subcommand(1);
  CLI::App* inspect_verb =
      verb->add_subcommand("inspect", "Show what a checkpoint holds, or each one of a directory");
  auto arguments = std::make_shared<Arguments>();
  inspect_verb->add_option("CKPT", arguments->path, "A checkpoint, or a directory of them")->required();
  inspect_verb->add_flag("--verify", arguments->verify, "Check every byte against its hash");
  inspect_verb->add_flag("--tensors", arguments->tensors, "List every tensor: name, state, dtype, shape");
  inspect_verb->footer("Example:\n  tessera checkpoint inspect checkpoints/demo --verify");
  inspect_verb->callback([arguments, &chosen] { chosen = [arguments] { return inspect(*arguments); }; });
}

}  // namespace tessera
