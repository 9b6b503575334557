#include <CLI/CLI.hpp>
#include <map>
#include <nlohmann/json.hpp>

#include "checkpoint/retention.h"
#include "checkpoint/store.h"
#include "core/base/error.h"
#include "core/base/log.h"
#include "core/base/progress.h"
#include "core/base/standard_output.h"
#include "launch/command_line.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;

struct Arguments {
  std::string path;
  bool verify = false, tensors = false;
};

void print_row(const char* what, const std::string& text) {
  standard_output::print("  {:<12} {}\n", what, text);
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
  for (const std::int64_t extent : shape) text += (text.empty() ? "" : " x ") + std::to_string(extent);
  return text.empty() ? "one" : text;
}

std::int64_t elements_of(const std::vector<std::int64_t>& shape) {
  std::int64_t elements = 1;
  for (const std::int64_t extent : shape) elements *= extent;
  return elements;
}

// States of one tensor that have the same shape and dtype.
struct TensorRow {
  std::string name, shape, dtype, states;
  std::uint64_t bytes = 0;
};

std::vector<TensorRow> rows_of(const std::vector<TensorInfo>& tensors) {
  std::vector<TensorRow> rows;
  std::map<std::string, std::size_t> row_of;
  for (const TensorInfo& tensor : tensors) {
    const std::string shape = shape_text(tensor.shape);
    const std::string dtype(name(tensor.dtype));
    const auto [at, fresh] = row_of.try_emplace(tensor.name + "\n" + shape + "\n" + dtype, rows.size());
    if (fresh) rows.push_back({tensor.name, shape, dtype, "", 0});
    TensorRow& row = rows[at->second];
    row.states += (row.states.empty() ? "" : " ") + tensor.state;
    row.bytes += static_cast<std::uint64_t>(elements_of(tensor.shape)) * bytes_per_element(tensor.dtype);
  }
  return rows;
}

// A row per tensor under its heading, as wide as the widest, and the totals.
void print_tensors(const LoadedCheckpoint& checkpoint) {
  std::vector<TensorRow> rows = rows_of(checkpoint.tensors());
  std::map<std::string, std::int64_t> elements;  // by state
  std::uint64_t bytes = 0;
  for (const TensorInfo& tensor : checkpoint.tensors()) elements[tensor.state] += elements_of(tensor.shape);
  for (const TensorRow& row : rows) bytes += row.bytes;
  TensorRow widths{"tensor", "shape", "dtype", "states", 0};
  const auto widen = [](std::string& widest, const std::string& text) {
    if (text.size() > widest.size()) widest = text;
  };
  for (const TensorRow& row : rows) {
    widen(widths.name, row.name);
    widen(widths.shape, row.shape);
    widen(widths.dtype, row.dtype);
    widen(widths.states, row.states);
  }
  const auto print = [&](const TensorRow& row, const std::string& last) {
    standard_output::print("  {:<{}}  {:>{}}  {:<{}}  {:<{}}  {:>14}\n", row.name, widths.name.size(),
                           row.shape, widths.shape.size(), row.dtype, widths.dtype.size(), row.states,
                           widths.states.size(), last);
  };
  standard_output::write("\n");
  print({"tensor", "shape", "dtype", "states", 0}, "bytes");
  for (const TensorRow& row : rows) print(row, std::to_string(row.bytes));
  print({"total", "", "", "", 0}, std::to_string(bytes));
  std::string sums;
  for (const auto& [state, count] : elements)
    sums += fmt::format("{}{} {}", sums.empty() ? "" : ", ", state, count);
  print_row("elements", sums);
  standard_output::write("\n");
}

void print_checkpoint(const LoadedCheckpoint& checkpoint, bool with_tensors) {
  standard_output::print("{}\n", checkpoint.path().string());
  print_row("step", std::to_string(checkpoint.step()));
  print_row("holds",
            fmt::format("{} tensors, {} in {} shards", checkpoint.tensors().size(),
                        bytes_text(static_cast<double>(checkpoint.payload_bytes())), checkpoint.shards()));
  std::string files;
  for (const auto& [name, content] : checkpoint.files()) files += (files.empty() ? "" : ", ") + name;
  if (!files.empty()) print_row("files", files);
  print_run(checkpoint.meta());
  if (with_tensors) print_tensors(checkpoint);
}

void verify(const LoadedCheckpoint& checkpoint) {
  standard_output::flush();  // progress goes to standard error, and must not come in between
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
      print_checkpoint(checkpoint, arguments.tensors || paths.size() == 1);
      if (!arguments.verify) continue;
      verify(checkpoint);
      print_row("verified", "every byte has its hash");
    } catch (const Error& e) {
      if (paths.size() == 1 || e.code() == standard_output::reader_gone) throw;
      ++bad;
      standard_output::print("  bad: {}\n", e.what());
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
  inspect_verb->add_flag("--tensors", arguments->tensors,
                         "The table of tensors for each checkpoint of several; one always has it");
  inspect_verb->footer("Example:\n  tessera checkpoint inspect checkpoints/demo --verify");
  inspect_verb->callback([arguments, &chosen] { chosen = [arguments] { return inspect(*arguments); }; });
}

}  // namespace tessera
